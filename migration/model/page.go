package model

import (
	"fmt"
	"strings"
	"sync"
)

// Findings is what trying the protocol whole, and without each rule, came to.
type Findings struct {
	Whole   []Result // by scenario
	Without [nRules]Result
}

// Try explores everything, the scenarios in their quick bounds or in the deep ones,
// and without each rule in the quick ones. Two explorations run at a time: each may
// take some hundred megabytes.
func Try(deep bool) Findings {
	f := Findings{Whole: make([]Result, len(Scenarios))}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 2)
	explore := func(into *Result, m *Model) {
		slots <- struct{}{}
		wg.Go(func() {
			*into = m.Explore()
			<-slots
		})
	}
	for i, sc := range Scenarios {
		if deep {
			f.Whole[i] = New(sc.Deep).Explore()
		} else {
			explore(&f.Whole[i], New(sc.Quick))
		}
	}
	for i := range f.Without {
		explore(&f.Without[i], New(find(Rules[i].In).Quick, Rule(i)))
	}
	wg.Wait()
	return f
}

// Page writes the findings as docs/model.md.
func (f Findings) Page() string {
	var b strings.Builder
	b.WriteString(`# The protocol as a model

<!-- Written by go test ./migration/model -update; a test fails when it is out of date. -->

` + "`migration/model`" + ` is the protocol of a switch as states and steps: two servers with their
data, fences and control keys, coordinators that take the steps of
[the switch](operating.md), crash at any of them and are superseded, sidecars that go by
what they have read, a client that bypasses them, and a network that delays, repeats and
forgets. Every order in which all that can happen is tried, within the bounds of each
scenario, and in every state must hold:

`)
	for _, p := range properties[1:] {
		fmt.Fprintf(&b, "- never: %s\n", p)
	}
	b.WriteString("- and from every state the end can still be reached: no switch and no client hangs for ever\n")
	b.WriteString(`
What a server had acknowledged and then lost by itself, in a crash or a failover, does not
count as lost; what it kept does. So do writes past the proxy, unless they went to a
server that was left and had lost its fence in a restart.

| scenario | what happens in it | at most | states | moves | depth |
|---|---|---|---|---|---|
`)
	for i, r := range f.Whole {
		verdict := ""
		if r.Why != "" {
			verdict = " **broken: " + r.Why + "**"
		}
		fmt.Fprintf(&b, "| %s | %s%s | %s | %d | %d | %d |\n", Scenarios[i].Name, Scenarios[i].What, verdict, Scenarios[i].Quick, r.States, r.Moves, r.Depth)
	}
	b.WriteString(`
These are the bounds that ` + "`make test`" + ` has time for. ` + "`make model`" + ` tries wider ones: more
writers, more switches in a row, more faults in one history; where there is no room for
all of that, the first four million states.

Left out is one pair of faults that the protocol does not survive: a target without
replicas, or whose replicas are lost with it, that loses drained copies in a crash after
the journal is written, while the coordinator dies as well. Nobody drains again after the
journal, so what only the source kept then stays there, fenced. Replicas or an append-only
file that is synced always (appendfsync always) on the target prevent it. Who finishes the
switch finds out by the record on the target, and copies nothing over what the source has
(` + "`migration/settle.go` `commitAgain`" + `).

Left out is also the fence F2 (min-replicas-to-write), which refuses our own writes with the
others. So under it the decision is written on the entered server alone, and that the fence
stands is looked at just before, on another connection. A server that is left and restarts
within those milliseconds has forgotten the setting. Clients of the proxy wait meanwhile; a
client past it may write there until the guard has raised the fence again, and that write is
not carried over. The fence F3 (ACL) has no such moment. Who takes over under F2 and has
found the switch on the servers, not in a state file of its own, takes nothing back before
the entered server can be asked.

## What each rule is for

Without any one of these rules the model fails. Each history below is one of the shortest
that shows it: S is the source and T the target; a and b are writes that a client has
pipelined through sidecar 1, c one through sidecar 2, x one that bypasses the proxy; on the
right is what the servers hold, when it has changed. Where the client gives up, b is not
pipelined, but its next write, through sidecar 2.
`)
	for i, r := range f.Without {
		rule := Rules[i]
		fmt.Fprintf(&b, "\n### %s%s\n\n%s In the code: %s.\n\nWithout it %s:\n\n", strings.ToUpper(rule.Name[:1]), rule.Name[1:], rule.Says, rule.Code, r.Why)
		for _, line := range r.Trace {
			b.WriteString("    " + line + "\n")
		}
	}
	return b.String()
}
