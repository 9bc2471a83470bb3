package main

import (
	"fmt"
	"slices"
	"strings"
)

// claim is what is said of crossfade, and whether this run bears it out.
type claim struct {
	text  string
	pass  bool
	proof string // the figures
}

func (c claim) String() string {
	verdict := "FAIL"
	if c.pass {
		verdict = "PASS"
	}
	return fmt.Sprintf("%s  %s: %s", verdict, c.text, c.proof)
}

// results are those of one run, in the order of the cells.
type results []*result

func (rs results) of(name string) *result {
	i := slices.IndexFunc(rs, func(r *result) bool { return r.cell.name == name })
	if i < 0 {
		return nil
	}
	return rs[i]
}

// peersIn are the other proxies that a cell is compared with: those that the distribution has,
// which must have been measured, and others that were.
func (r *result) peersIn() []string {
	var names []string
	for _, p := range peers {
		if r.has(p.name) || p.name == haproxy.name || p.name == "twemproxy" {
			names = append(names, p.name)
		}
	}
	return names
}

// claims are all about GET and SET; one whose cells were not measured is left out.
func (rs results) claims() []claim {
	var list []claim
	each := func(suffix string, check func(*result) claim) {
		for _, op := range []string{"get", "set"} {
			if r := rs.of(op + suffix); r != nil && r.has(direct) && r.has(shared) {
				c := check(r)
				c.text = r.cell.name + ", " + c.text
				list = append(list, c)
			}
		}
	}
	each("", func(r *result) claim { return r.least(0.9) })
	each("", func(r *result) claim { return r.ahead(r.peersIn()) })
	each("-p16", func(r *result) claim { return r.least(0.85) })
	each("-p16", func(r *result) claim { return r.ahead([]string{haproxy.name}) })
	each("-c500", func(r *result) claim { return r.least(1.1) })
	each("-4k", func(r *result) claim { return r.least(0.8) })
	each("-1m", func(r *result) claim { return r.ahead([]string{haproxy.name}) })
	each("-c1", (*result).latency)
	each("", (*result).serverTime)
	for _, suffix := range []string{"", "-p16", "-c500", "-4k", "-1m"} {
		each(suffix, (*result).pinnedAhead)
	}
	return list
}

// least says that the shared way does a share of what the direct one does.
func (r *result) least(share float64) claim {
	got := r.ratio(shared, direct, rateOf)
	return claim{fmt.Sprintf("shared at least %.2f of direct", share), got >= share, fmt.Sprintf("%.2f", got)}
}

// ahead says that the shared way does at least as much as others do.
func (r *result) ahead(others []string) claim {
	c := claim{text: "shared ahead of " + strings.Join(others, ", "), pass: len(others) > 0}
	var proof []string
	for _, other := range others {
		if !r.has(other) {
			c.pass = false
			proof = append(proof, other+" was not measured")
			continue
		}
		c.pass = c.pass && r.ratio(shared, other, rateOf) >= 1
		proof = append(proof, fmt.Sprintf("%s %.2f", other, r.ratio(other, direct, rateOf)))
	}
	if len(others) == 0 {
		c.text, proof = "shared ahead of others", []string{"none was measured"}
	}
	c.proof = fmt.Sprintf("%.2f of direct; %s", r.ratio(shared, direct, rateOf), strings.Join(proof, ", "))
	return c
}

// pinnedAhead says that connections of their own cost no more than at haproxy.
func (r *result) pinnedAhead() claim {
	got := r.ratio(pinned, haproxy.name, rateOf)
	return claim{"pinned at least haproxy's rate", got >= 1, fmt.Sprintf("%.2f times; %.2f and %.2f of direct",
		got, r.ratio(pinned, direct, rateOf), r.ratio(haproxy.name, direct, rateOf))}
}

// latency says what a single client waits longer, by medians over the rounds.
func (r *result) latency() claim {
	const most = 10 // µs
	added := func(way string) float64 { return 1000 * (r.over(way, p50Of) - r.over(direct, p50Of)) }
	ours, theirs := added(shared), added(haproxy.name)
	return claim{fmt.Sprintf("shared adds at most haproxy's p50 + %d µs", most), r.has(haproxy.name) && ours <= theirs+most,
		fmt.Sprintf("%.0f µs; haproxy %.0f µs", ours, theirs)}
}

// serverTime says what is spared the server.
func (r *result) serverTime() claim {
	got := r.ratio(shared, direct, serverOf)
	return claim{"server CPU a request, shared at most half of direct", got > 0 && got <= 0.5,
		fmt.Sprintf("%.2f; %.1f and %.1f µs", got, r.over(shared, serverOf), r.over(direct, serverOf))}
}
