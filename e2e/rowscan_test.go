package e2e

import (
	"fmt"
	"strconv"
	"strings"
)

// scanners are in the middle of an iteration at both switches. Nothing that was there
// all the time may be missed, and every iteration must come to its end.
func scanners(a *act) {
	const many = 1500
	app := a.client()
	app.want(ok, "SELECT", "7") // where nobody else is
	var wire strings.Builder
	for i := range many {
		n := strconv.Itoa(i)
		wire.WriteString(command("SET", "scan:"+n, n) + command("HSET", "scan hash", "f"+n, n) +
			command("SADD", "scan set", "m"+n) + command("ZADD", "scan zset", n, "m"+n))
	}
	app.write(wire.String())
	for range 4 * many {
		if got := app.next(); got[0] == '-' {
			app.failf("planting: %q", got)
		}
	}
	all := a.clients(rowSessions())
	a.each(all, func(_ int, p *peer) { p.want(ok, "SELECT", "7") })
	for range 2 {
		scans := make([]*scan, len(all))
		a.each(all, func(i int, p *peer) {
			scans[i] = &scan{peer: p, kind: i % 4, cursor: "0", seen: make(map[string]bool)}
			for range 1 + i%7 { // at another place each
				if scans[i].step(); scans[i].cursor == "0" {
					p.failf("the iteration has ended already")
				}
			}
		})
		a.next(all)
		a.each(all, func(i int, _ *peer) {
			s := scans[i]
			for calls := 0; s.cursor != "0"; calls++ {
				if s.step(); calls > 20*many/scanCount {
					s.failf("the iteration does not end")
				}
			}
			for i := range many {
				if name := fmt.Sprintf("%s%d", scanOf[s.kind].prefix, i); !s.seen[name] {
					s.failf("%s: %q was not seen, nor %d others", scanOf[s.kind].words[0], name, many-s.found(many)-1)
				}
			}
		})
	}
}

const scanCount = 100

var scanOf = []struct {
	words  []string // before and after the cursor
	prefix string
	pairs  bool
}{
	{[]string{"SCAN", "MATCH", "scan:*"}, "scan:", false},
	{[]string{"HSCAN", "scan hash"}, "f", true},
	{[]string{"SSCAN", "scan set"}, "m", false},
	{[]string{"ZSCAN", "scan zset"}, "m", true},
}

// scan is one iteration.
type scan struct {
	*peer
	kind   int
	cursor string
	seen   map[string]bool
}

func (s *scan) step() {
	words := scanOf[s.kind].words
	var ask []string
	if s.kind == 0 {
		ask = append([]string{words[0], s.cursor}, words[1:]...)
	} else {
		ask = append(append([]string{}, words...), s.cursor)
	}
	answer := s.elements(s.do(append(ask, "COUNT", strconv.Itoa(scanCount))...))
	s.cursor = s.text(answer[0])
	if strings.HasPrefix(answer[1], "*0") {
		return
	}
	every := 1
	if scanOf[s.kind].pairs {
		every = 2
	}
	for i, el := range s.elements(answer[1]) {
		if i%every == 0 {
			s.seen[s.text(el)] = true
		}
	}
}

// found is how many of the names have been seen.
func (s *scan) found(many int) (n int) {
	for i := range many {
		if s.seen[fmt.Sprintf("%s%d", scanOf[s.kind].prefix, i)] {
			n++
		}
	}
	return n
}
