package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// pace is how often a client sends that is to have something in flight when the
// traffic is moved. All together must leave the processor something to do.
const pace = 250 * time.Millisecond

// paced calls f, in turn with the clock, until the row ends; every call is finished.
func (a *act) paced(f func()) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		f()
		select {
		case <-a.stop:
			return
		case <-tick.C:
		}
	}
}

// finish has the helpers end, and the row too if one of them found something.
func (a *act) finish() {
	a.quit()
	a.helpers.Wait()
	a.check()
}

// pipelines: most clients send one pipeline after another, of commands whose answers
// tell their place; a quarter leaves half a command in the proxy at each switch.
func pipelines(a *act) {
	const deep = 10
	all := a.clients(rowSessions())
	rounds := a.rounds(len(all))
	for i, p := range all {
		key := fmt.Sprintf("pipe:%d", i)
		if i%4 == 0 {
			continue
		}
		a.helper(func() {
			at := 0
			a.paced(func() {
				var wire strings.Builder
				for k := range deep {
					wire.WriteString(command("INCR", key) + command("ECHO", strconv.Itoa(at+k)) + command("GET", key))
				}
				p.write(wire.String())
				for range deep {
					at++
					p.expect("INCR in a pipeline", fmt.Sprintf(":%d\r\n", at))
					p.expect("ECHO in a pipeline", bulk(strconv.Itoa(at-1)))
					p.expect("GET in a pipeline", bulk(strconv.Itoa(at)))
				}
				rounds.add(i)
			})
		})
	}
	half := func(i int) (first, rest string) {
		whole := command("RPUSH", fmt.Sprintf("pipe:half:%d", i), "x") + command("LLEN", fmt.Sprintf("pipe:half:%d", i))
		cut := 1 + (i/4)%(len(whole)-1) // at every place, with as many clients
		return whole[:cut], whole[cut:]
	}
	for s := range 2 {
		for i := 0; i < len(all); i += 4 {
			first, _ := half(i)
			all[i].write(first)
		}
		a.next(all)
		a.each(all, func(i int, p *peer) {
			if i%4 > 0 {
				return
			}
			_, rest := half(i)
			p.write(rest)
			for range 2 {
				p.expect("the command that was sent in halves", fmt.Sprintf(":%d\r\n", s+1))
			}
		})
		rounds.goOn()
	}
	a.finish()
	a.each(all, func(i int, p *peer) {
		if i%4 > 0 {
			p.want(bulk(strconv.FormatInt(rounds.of(i)*deep, 10)), "GET", fmt.Sprintf("pipe:%d", i))
		}
	})
}

const (
	queued    = "+QUEUED\r\n"
	execAbort = "-EXECABORT Transaction discarded because of previous errors.\r\n"
	scriptOf  = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
)

// transactions are in the middle of MULTI at both switches, each in another way.
func transactions(a *act) {
	const ways = 8 // and those of the last are now and then in none
	all := a.clients((rowSessions() + ways - 2) / (ways - 1) * ways)
	rounds := a.rounds(len(all))
	kinds := [ways]func(p *peer, key string, s int) (then func()){
		// EXEC runs what was queued, all of it, once.
		func(p *peer, key string, s int) func() {
			p.want(ok, "MULTI")
			p.want(queued, "INCR", key)
			p.want(queued, "RPUSH", key+":list", "a", "b")
			return func() {
				p.want(queued, "GET", key)
				p.want(array(fmt.Sprintf(":%d\r\n", s+1), fmt.Sprintf(":%d\r\n", 2*s+2), bulk(strconv.Itoa(s+1))), "EXEC")
			}
		},
		// An error before the switch spoils it after the switch.
		func(p *peer, key string, _ int) func() {
			p.want(ok, "MULTI")
			p.want("-ERR wrong number of arguments for 'get' command\r\n", "GET")
			p.want(queued, "SET", key, "never")
			return func() { p.want(execAbort, "EXEC"); p.want(":0\r\n", "EXISTS", key) }
		},
		func(p *peer, key string, _ int) func() {
			p.want(ok, "MULTI")
			p.want(queued, "SET", key, "never")
			return func() { p.want(ok, "DISCARD"); p.want(":0\r\n", "EXISTS", key) }
		},
		// A command that blocks does not, there.
		func(p *peer, key string, _ int) func() {
			p.want(ok, "MULTI")
			p.want(queued, "BLPOP", key, "0")
			p.want(queued, "RPUSH", key, "x")
			p.want(queued, "BLPOP", key, "0")
			return func() { p.want(array(a.nullArray(), ":1\r\n", bulks(key, "x")), "EXEC") }
		},
		// What the target does not know spoils it there. The way back has no such command.
		func(p *peer, key string, s int) func() {
			p.want(ok, "MULTI")
			p.want(queued, "SET", key, strconv.Itoa(s))
			if s == 1 {
				return func() { p.want(array(ok), "EXEC"); p.want(bulk("1"), "GET", key) }
			}
			p.want(queued, "LOLWUT", "VERSION", "5")
			return func() { p.want(execAbort, "EXEC"); p.want(":0\r\n", "EXISTS", key) }
		},
		// Another database inside.
		func(p *peer, key string, s int) func() {
			p.want(ok, "MULTI")
			p.want(queued, "SELECT", "7")
			p.want(queued, "INCR", key)
			return func() {
				p.want(queued, "SELECT", "3")
				p.want(queued, "INCR", key+":three")
				one := fmt.Sprintf(":%d\r\n", s+1)
				p.want(array(ok, one, ok, one), "EXEC")
				p.want(bulk(strconv.Itoa(s+1)), "GET", key+":three")
			}
		},
		// Scripts.
		func(p *peer, key string, s int) func() {
			p.want(ok, "MULTI")
			p.want(queued, "EVAL", scriptOf, "1", key, "5")
			p.want(queued, "PUBLISH", "nobody", "x")
			return func() { p.want(array(fmt.Sprintf(":%d\r\n", 5*(s+1)), ":0\r\n"), "EXEC") }
		},
		// Whole transactions, one after another: the switch comes anywhere in between.
		nil,
	}
	var open []*peer
	for i, p := range all {
		if key := fmt.Sprintf("multi:%d", i); kinds[i%len(kinds)] != nil {
			open = append(open, p)
		} else {
			a.helper(func() {
				n := 0
				a.paced(func() {
					n++
					p.write(command("MULTI") + command("INCR", key) + command("RPUSH", key+":list", strconv.Itoa(n)) + command("EXEC"))
					p.expect("MULTI", ok)
					p.expect("INCR", queued)
					p.expect("RPUSH", queued)
					p.expect("EXEC", array(fmt.Sprintf(":%d\r\n", n), fmt.Sprintf(":%d\r\n", n)))
					rounds.add(i)
				})
			})
		}
	}
	for s := range 2 {
		then := make([]func(), len(all))
		a.each(all, func(i int, p *peer) {
			if begin := kinds[i%len(kinds)]; begin != nil {
				then[i] = begin(p, fmt.Sprintf("multi:%d", i), s)
			}
		})
		a.next(open)
		a.each(all, func(i int, _ *peer) {
			if then[i] != nil {
				then[i]()
			}
		})
		rounds.goOn()
	}
	a.finish()
}

// watchers have keys watched at both switches.
func watchers(a *act) {
	all := a.clients((rowSessions() + 4) / 5 * 6) // a sixth watches nothing any more
	var watching []*peer
	for i, p := range all {
		if i%6 != 2 {
			watching = append(watching, p)
		}
	}
	others := a.clients(2)
	for s := range 2 {
		was := bulk(strconv.Itoa(s))
		a.each(all, func(i int, p *peer) {
			key := fmt.Sprintf("watch:%d", i)
			p.want(ok, "SET", key, strconv.Itoa(s))
			p.want(ok, "WATCH", key, key+":other")
			switch i % 6 {
			case 1:
				p.want(ok, "MULTI")
				p.want(queued, "SET", key, "never")
			case 2:
				p.want(ok, "UNWATCH")
			case 3: // it would have been nil anyway
				others[i%2].want(ok, "SET", key, strconv.Itoa(s))
			case 4:
				p.want(ok, "MULTI")
				p.want("-ERR wrong number of arguments for 'get' command\r\n", "GET")
			case 5:
				p.want(ok, "MULTI")
				p.want(queued, "SET", key, "never")
			}
		})
		a.next(watching)
		a.each(all, func(i int, p *peer) {
			key := fmt.Sprintf("watch:%d", i)
			switch i % 6 {
			case 0, 3: // nothing was queued before
				p.want(ok, "MULTI")
				p.want(queued, "SET", key, "never")
				p.want(a.nullArray(), "EXEC")
			case 1:
				p.want(queued, "APPEND", key, "never")
				p.want(a.nullArray(), "EXEC")
			case 2: // nothing is watched any more
				p.want(ok, "MULTI")
				p.want(queued, "GET", key)
				p.want(array(was), "EXEC")
			case 4:
				p.want(execAbort, "EXEC")
			case 5:
				p.want(ok, "DISCARD")
				p.want(ok, "MULTI")
				p.want(queued, "GET", key)
				p.want(array(was), "EXEC")
			}
			p.want(was, "GET", key)
			// From here on watching is what it was.
			p.want(ok, "WATCH", key)
			p.want(ok, "MULTI")
			p.want(queued, "INCR", key)
			p.want(array(fmt.Sprintf(":%d\r\n", s+1)), "EXEC")
			p.want(ok, "WATCH", key)
			others[i%2].want(ok, "SET", key, "0")
			p.want(ok, "MULTI")
			p.want(queued, "SET", key, "never")
			p.want(a.nullArray(), "EXEC")
		})
	}
}
