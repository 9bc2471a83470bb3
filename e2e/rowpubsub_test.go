package e2e

import (
	"fmt"
	"strconv"
	"strings"
)

// audience is clients that hear one publisher.
type audience struct {
	publish string // the command
	channel string
	listen  [][]string // what each of them says
	hears   int        // how many messages of one that is published
	list    []*peer
}

// listeners hear publishers that go on through both switches; every message is
// counted, in order, and every PUBLISH must reach all.
func listeners(a *act) {
	share := rowSessions() / 4
	all := a.clients(rowSessions() + share)
	audiences := []*audience{
		{publish: "PUBLISH", channel: "hear:plain", listen: [][]string{{"SUBSCRIBE", "hear:plain"}}, hears: 1},
		{publish: "PUBLISH", channel: "hear:pattern", listen: [][]string{{"PSUBSCRIBE", "hear:p?ttern*"}}, hears: 1},
		{publish: "PUBLISH", channel: "hear:both", listen: [][]string{{"SUBSCRIBE", "hear:other", "hear:both"}, {"PSUBSCRIBE", "hear:both*"}}, hears: 2},
		{publish: "SPUBLISH", channel: "hear:shard", listen: [][]string{{"SSUBSCRIBE", "hear:shard"}}, hears: 1},
	}
	for k, au := range audiences {
		au.list = all[k*share : (k+1)*share]
		a.each(au.list, func(_ int, p *peer) {
			for _, words := range au.listen {
				p.send(words...)
				for range words[1:] {
					if got := p.next(); !strings.Contains(got, "subscribe") {
						p.failf("%q: %q", words, got)
					}
				}
			}
		})
	}
	rounds := a.rounds(len(audiences) + 1)
	for k, au := range audiences {
		a.address(au, func() { rounds.add(k) })
	}
	for _, p := range all[len(audiences)*share:] {
		a.comeAndGo(p, func() { rounds.add(len(audiences)) })
	}
	for range 2 {
		rounds.goOn()
		a.next(all[:len(audiences)*share])
		rounds.goOn()
	}
	a.finish()
}

// address publishes numbers to an audience until the row ends, and has all of it listen.
func (a *act) address(au *audience, done func()) {
	speaker := a.client()
	reach := fmt.Sprintf(":%d\r\n", len(au.list)*au.hears)
	a.helper(func() {
		last := 0
		a.paced(func() {
			last++
			speaker.want(reach, au.publish, au.channel, strconv.Itoa(last))
			done()
		})
		speaker.want(reach, au.publish, au.channel, "end")
	})
	for _, p := range au.list {
		a.helper(func() { p.listen(au) })
	}
}

// listen hears to the end. In RESP3 it has other things to do meanwhile: half of the
// clients count, the others do so in transactions that are left open for a while.
func (p *peer) listen(au *audience) {
	var due []string // answers that are yet to come
	next := func() string {
		for {
			got := p.next()
			if p.a.proto == 2 || got[0] == '>' {
				return got
			}
			if len(due) == 0 || got != due[0] {
				p.failf("a subscriber is answered %q, and expects %.1q", got, due)
			}
			due = due[1:]
		}
	}
	counted, step := 0, 0
	work := func() {
		key := fmt.Sprintf("hear:%d", p.n)
		steps := []string{command("INCR", key)}
		if p.n%2 == 0 {
			steps = []string{command("MULTI"), command("INCR", key), command("PING"), command("EXEC")}
		}
		answers := [][]string{{ok, queued, queued, array(fmt.Sprintf(":%d\r\n", counted+1), "+PONG\r\n")}, {fmt.Sprintf(":%d\r\n", counted+1)}}
		at := step % len(steps)
		p.write(steps[at])
		due = append(due, answers[p.n%2][at])
		if step++; step%len(steps) == 0 {
			counted++
		}
	}
	closing := false
	for at := 1; !closing; at++ {
		text := strconv.Itoa(at)
		for k := range au.hears {
			got := next()
			if k == 0 && got == au.message(p.a, 0, "end") {
				text, closing = "end", true
			}
			if want := au.message(p.a, k, text); got != want {
				p.failf("message %s, its copy %d: got %q, want %q", text, k, got, want)
			}
		}
		if p.a.proto == 3 && at%4 == p.n%4 {
			work()
		}
	}
	if p.a.proto == 2 {
		p.want("*2\r\n$4\r\npong\r\n$0\r\n\r\n", "PING") // and no message before it
		return
	}
	for p.n%2 == 0 && step%4 != 0 {
		work()
	}
	for len(due) > 0 {
		p.expect("the last answers to a subscriber", due[0])
		due = due[1:]
	}
	p.want("+PONG\r\n", "PING")
}

// message is the k-th message of what is published once: that of the channel comes
// before those of patterns.
func (au *audience) message(a *act, k int, text string) string {
	words := au.listen[k]
	if words[0] == "PSUBSCRIBE" {
		return a.head(4) + bulk("pmessage") + bulk(words[1]) + bulk(au.channel) + bulk(text)
	}
	kind := "message"
	if words[0] == "SSUBSCRIBE" {
		kind = "smessage"
	}
	return a.head(3) + bulk(kind) + bulk(au.channel) + bulk(text)
}

// comeAndGo subscribes and unsubscribes all the time, so that some of that is under way
// whenever the traffic is moved, and never hears anything.
func (a *act) comeAndGo(p *peer, done func()) {
	kept, name := fmt.Sprintf("hear:kept:%d", p.n), fmt.Sprintf("hear:none:%d", p.n)
	confirm := func(kind, name string, n int) string {
		return a.head(3) + bulk(kind) + bulk(name) + fmt.Sprintf(":%d\r\n", n)
	}
	p.send("SUBSCRIBE", kept)
	p.expect("SUBSCRIBE", confirm("subscribe", kept, 1))
	a.helper(func() {
		a.paced(func() {
			p.write(command("SUBSCRIBE", name) + command("PSUBSCRIBE", name) + command("UNSUBSCRIBE", name) + command("PUNSUBSCRIBE", name))
			p.expect("SUBSCRIBE", confirm("subscribe", name, 2))
			p.expect("PSUBSCRIBE", confirm("psubscribe", name, 3))
			p.expect("UNSUBSCRIBE", confirm("unsubscribe", name, 2))
			p.expect("PUNSUBSCRIBE", confirm("punsubscribe", name, 1))
			done()
		})
	})
}
