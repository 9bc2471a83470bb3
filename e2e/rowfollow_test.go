package e2e

import (
	"fmt"
	"strconv"
	"time"
)

// followers read streams from their end on. Most of them wait for something that comes
// after the switch only; others read all the time, and every entry is counted.
func followers(a *act) {
	shared := rowSessions() / 4 // readers of a stream
	all := a.clients(rowSessions() + 2*shared)
	apps := a.clients(2)
	look := a.direct()
	quiet := all[:rowSessions()]
	a.each(quiet, func(i int, _ *peer) {
		if i%4 < 2 { // otherwise it is not there yet
			apps[i%2].want(bulk("5-1"), "XADD", fmt.Sprintf("follow:%d", i), "5-1", "f", "old")
		}
	})
	for s := range 2 {
		a.each(quiet, func(i int, p *peer) {
			key := fmt.Sprintf("follow:%d", i)
			p.askID()
			if i%3 == 0 {
				p.send("XREAD", "BLOCK", "0", "STREAMS", key+":none", key, "0-0", "$")
			} else {
				p.send("XREAD", "COUNT", "10", "BLOCK", "100000", "STREAMS", key, "$")
			}
			p.awaitBlocked(look)
		})
		if s == 0 {
			a.follow(all[len(quiet):], shared)
		}
		a.next(quiet)
		look.close()
		look = a.direct()
		a.each(quiet, func(i int, p *peer) {
			key, id := fmt.Sprintf("follow:%d", i), fmt.Sprintf("%d-1", 10+s)
			apps[i%2].want(bulk(id), "XADD", key, id, "f", "new")
			p.expect("what came after the switch", a.read(key, array(bulk(id), bulks("f", "new"))))
		})
	}
	a.finish()
}

// follow has each of the clients read a stream that grows, from $ on.
func (a *act) follow(list []*peer, shared int) {
	for from := 0; from < len(list); from += shared {
		readers := list[from:min(from+shared, len(list))]
		key := fmt.Sprintf("follow:busy:%d", from)
		ready := make(chan struct{}, len(readers))
		writer := a.client()
		writer.want(bulk("1-1"), "XADD", key, "1-1", "n", "0")
		a.helper(func() {
			last := 0
			a.paced(func() {
				for range 3 {
					last++
					id := fmt.Sprintf("%d-1", 1+last)
					writer.want(bulk(id), "XADD", key, id, "n", strconv.Itoa(last))
				}
			})
			id := fmt.Sprintf("%d-1", 2+last)
			writer.want(bulk(id), "XADD", key, id, "n", "end")
		})
		for _, p := range readers {
			if p.n%2 == 1 {
				p.want(ok, "SELECT", "0")
			}
			a.helper(func() {
				at, id := 0, "$"
				for {
					p.send("XREAD", "BLOCK", "0", "STREAMS", key, id)
					el := p.elements(p.next())
					if a.proto == 2 {
						el = p.elements(el[0])
					}
					for _, e := range p.elements(el[1]) {
						entry := p.elements(e)
						id = p.text(entry[0])
						text := p.text(p.elements(entry[1])[1])
						if text == "end" {
							if want := fmt.Sprintf("%d-1", 2+at); id != want {
								p.failf("the last entry of %s is %s and came after entry %d, want %s", key, id, at, want)
							}
							return
						}
						n, _ := strconv.Atoi(text)
						if at != 0 && n != at+1 || n < 1 {
							p.failf("entry %d of %s came after entry %d", n, key, at)
						}
						if at == 0 {
							ready <- struct{}{}
						}
						at = n
					}
				}
			})
		}
		for range readers { // all have begun
			select {
			case <-ready:
			case <-time.After(peerPatience):
				a.failf("the readers of %s do not begin", key)
			}
		}
	}
}
