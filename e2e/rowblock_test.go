package e2e

import (
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// waits is a command that blocks for key, how it is served, and what it answers then.
type waits struct {
	ask   func(key, timeout string) []string
	serve func(key string) []string
	reply func(a *act, key string) string
}

func member(key string) []string { return []string{"ZADD", key, "1.5", "m"} }
func pushed(key string) []string { return []string{"RPUSH", key, "e"} }

// scored is the answer with a sorted set's member, whose score RESP3 has a type for.
func (a *act) score() string {
	if a.proto == 3 {
		return ",1.5\r\n"
	}
	return bulk("1.5")
}

func poppedMember(a *act, key string) string  { return array(bulk(key), bulk("m"), a.score()) }
func poppedElement(_ *act, key string) string { return bulks(key, "e") }

var blocking = []waits{
	{func(k, t string) []string { return []string{"BLPOP", k + ":other", k, t} }, pushed, poppedElement},
	{func(k, t string) []string { return []string{"BRPOP", k, t} }, pushed, poppedElement},
	{func(k, t string) []string { return []string{"BLMOVE", k, k + ":to", "LEFT", "RIGHT", t} }, pushed, func(*act, string) string { return bulk("e") }},
	{func(k, t string) []string { return []string{"BRPOPLPUSH", k, k + ":to", t} }, pushed, func(*act, string) string { return bulk("e") }},
	{func(k, t string) []string { return []string{"BLMPOP", t, "2", k + ":other", k, "LEFT", "COUNT", "3"} }, pushed,
		func(_ *act, k string) string { return array(bulk(k), bulks("e")) }},
	{func(k, t string) []string { return []string{"BZPOPMIN", k, t} }, member, poppedMember},
	{func(k, t string) []string { return []string{"BZPOPMAX", k + ":other", k, t} }, member, poppedMember},
	{func(k, t string) []string { return []string{"BZMPOP", t, "1", k, "MIN"} }, member,
		func(a *act, k string) string { return array(bulk(k), array(array(bulk("m"), a.score()))) }},
	{func(k, t string) []string {
		return []string{"XREADGROUP", "GROUP", "g", "c", "COUNT", "5", "BLOCK", inMS(t), "STREAMS", k, ">"}
	}, func(k string) []string { return []string{"XADD", k, "9-1", "f", "v"} },
		func(a *act, k string) string { return a.read(k, array(bulk("9-1"), bulks("f", "v"))) }},
}

// inMS turns seconds into milliseconds.
func inMS(seconds string) string {
	v, _ := strconv.ParseFloat(seconds, 64)
	return strconv.Itoa(int(v * 1000))
}

// read is what XREAD answers: an array, or since RESP3 a map.
func (a *act) read(key string, entries ...string) string {
	if a.proto == 3 {
		return "%1\r\n" + bulk(key) + array(entries...)
	}
	return array(array(bulk(key), array(entries...)))
}

// waiters are blocked at both switches: for ever, for some seconds, in line for the same
// keys, and as workers that are never idle.
func waiters(a *act) {
	look := a.direct()
	all := a.clients(rowSessions)
	apps := a.clients(2)
	a.each(all, func(_ int, p *peer) { p.askID() })
	lines := []*line{
		{name: "BLPOP", list: all[0:20], ask: []string{"BLPOP", "wait:line", "wait:line2", "0"}},
		{name: "BLMOVE", list: all[20:40], ask: []string{"BLMOVE", "wait:line3", "wait:taken", "LEFT", "RIGHT", "0"}},
		{name: "XREADGROUP", list: all[40:60], ask: []string{"XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "BLOCK", "0", "STREAMS", "wait:stream", ">"}},
	}
	for _, app := range apps {
		app.want(ok, "XGROUP", "CREATE", "wait:stream", "g", "$", "MKSTREAM")
	}
	for _, l := range lines {
		for _, p := range l.list {
			p.send(l.ask...)
			p.awaitBlocked(look)
		}
	}
	forever, brief, workers := all[60:120], all[120:150], all[150:200]
	asks := make([]func() string, len(forever))
	a.each(forever, func(i int, p *peer) { asks[i] = a.wait(p, apps[p.n%2], look, "0") })
	a.work(workers)
	timed := a.briefs(brief, look)

	a.next()
	a.timeOut(timed)
	a.each(forever, func(i int, p *peer) {
		if i%2 == 0 {
			p.expect("what it waited for, after the cutover", asks[i]())
		}
	})
	for _, l := range lines {
		l.serve(a, apps, 0, len(l.list)/2)
	}

	a.next()
	a.each(forever, func(i int, p *peer) {
		if i%2 == 1 {
			p.expect("what it has waited for since before the cutover", asks[i]())
		}
	})
	for _, l := range lines {
		l.serve(a, apps, len(l.list)/2, len(l.list))
	}
	a.each(slices.Concat(brief, forever), func(_ int, p *peer) {
		p.want("+PONG\r\n", "PING") // and nothing else before it
	})
	a.finish()
}

// wait has p wait by one of the commands, and returns what serves it and says what it
// is to get.
func (a *act) wait(p, app, look *peer, timeout string) (serve func() string) {
	key := fmt.Sprintf("wait:%d", p.n)
	w := blocking[p.n%len(blocking)]
	ask := w.ask(key, timeout)
	if ask[0] == "XREADGROUP" {
		app.want(ok, "XGROUP", "CREATE", key, "g", "$", "MKSTREAM")
	}
	p.send(ask...)
	p.awaitBlocked(look)
	return func() string {
		if got := app.do(w.serve(key)...); got[0] == '-' {
			a.failf("%q: %q", w.serve(key), got)
		}
		return w.reply(a, key)
	}
}

// line is clients that wait for the same, one after another, by the same command.
type line struct {
	name string
	list []*peer
	ask  []string
}

// serve gives something to those of the line from one place on up to another, all of
// whom must get it in their order. Those with odd numbers are in another database, so
// there is a line in each.
func (l *line) serve(a *act, apps []*peer, from, to int) {
	for i := from; i < to; i++ {
		p := l.list[i]
		app, what := apps[p.n%2], strconv.Itoa(i)
		switch l.name {
		case "XREADGROUP":
			app.want(bulk(fmt.Sprintf("%d-1", 100+i)), "XADD", "wait:stream", fmt.Sprintf("%d-1", 100+i), "n", what)
		default:
			app.send("RPUSH", l.ask[1], what)
			if got := app.next(); got[0] != ':' {
				a.failf("RPUSH: %q", got)
			}
		}
	}
	for i := from; i < to; i++ {
		p, what := l.list[i], strconv.Itoa(i)
		switch l.name {
		case "XREADGROUP":
			p.expect("its turn at the stream", a.read("wait:stream", array(bulk(fmt.Sprintf("%d-1", 100+i)), bulks("n", what))))
			p.want(":1\r\n", "XACK", "wait:stream", "g", fmt.Sprintf("%d-1", 100+i))
		case "BLMOVE":
			p.expect("its turn to move", bulk(what))
		default:
			p.expect("its turn at the list", bulks(l.ask[1], what))
		}
	}
}

// brief is a client that waits for what never comes.
type brief struct {
	*peer
	ask   []string
	takes time.Duration
	since time.Time
}

// briefs has clients wait for some seconds, and returns when a second of them is over.
func (a *act) briefs(list []*peer, look *peer) []brief {
	all := make([]brief, len(list))
	a.each(list, func(i int, p *peer) {
		w := blocking[i%(len(blocking)-1)] // not by a group: that would have to be there
		takes := []string{"3", "2.75", "2.9"}[i%3]
		all[i] = brief{peer: p, ask: w.ask("wait:never", takes), since: time.Now()}
		all[i].takes, _ = time.ParseDuration(takes + "s")
		p.send(all[i].ask...)
		p.awaitBlocked(look)
	})
	a.client().want(a.nullArray(), "BLPOP", "wait:never", "1")
	return all
}

// timeOut expects nothing for them, no sooner than they have asked for, and before one
// who asks after the switch for less: they have waited a second longer already.
func (a *act) timeOut(all []brief) {
	type returned struct {
		brief
		at time.Time
	}
	late := a.client()
	late.send("BLPOP", "wait:never", "2.5")
	done := make(chan returned, len(all))
	for _, b := range all {
		a.helper(func() {
			b.expect("nothing, in time", a.nullArray())
			done <- returned{b, time.Now()}
		})
	}
	late.expect("nothing for who came last", a.nullArray())
	end := time.Now()
	for range all {
		select {
		case b := <-done:
			if took := b.at.Sub(b.since); took < b.takes-50*time.Millisecond {
				b.failf("%q came back after %v", b.ask, took)
			}
			if b.at.After(end) {
				b.failf("%q came back %v after who had asked for less after the switch", b.ask, b.at.Sub(end))
			}
		case <-time.After(peerPatience):
			a.failf("a client that was blocked with a timeout never came back")
		}
	}
}

// work has workers take jobs from a list and from a stream, all the time. Each job is
// to be done once, by whomever; the counting is done when the row ends.
func (a *act) work(workers []*peer) {
	const jobs = "wait:jobs"
	boss := a.clients(2)[1]
	boss.want(ok, "XGROUP", "CREATE", jobs+":stream", "g", "$", "MKSTREAM")
	var sent atomic.Int64
	done := make([]map[string]int, len(workers))
	a.helper(func() {
		a.paced(func() {
			for range 5 {
				n := strconv.FormatInt(sent.Add(1), 10)
				boss.write(command("RPUSH", jobs, n) + command("XADD", jobs+":stream", "*", "n", n))
				if got := boss.next(); got[0] != ':' {
					boss.failf("RPUSH: %q", got)
				}
				if got := boss.next(); got[0] != '$' {
					boss.failf("XADD: %q", got)
				}
			}
		})
		for range workers { // the last job of each kind of worker
			boss.write(command("RPUSH", jobs, "end") + command("XADD", jobs+":stream", "*", "n", "end"))
			boss.next()
			boss.next()
		}
	})
	var ended atomic.Int64
	for i, p := range workers {
		if p.n%2 == 0 {
			p.want(ok, "SELECT", "3")
		}
		done[i] = make(map[string]int)
		a.helper(func() {
			for {
				var job string
				if i%2 == 0 {
					p.send("BLPOP", jobs, "0")
					job = p.text(p.elements(p.next())[1])
				} else {
					p.send("XREADGROUP", "GROUP", "g", fmt.Sprintf("c%d", i), "COUNT", "1", "BLOCK", "0", "STREAMS", jobs+":stream", ">")
					job = p.job(jobs + ":stream")
				}
				if job == "end" {
					break
				}
				done[i][job]++
			}
			if ended.Add(1) < int64(len(workers)) {
				return
			}
			for kind := range 2 {
				all := make(map[string]int)
				for i := kind; i < len(workers); i += 2 {
					for job, n := range done[i] {
						all[job] += n
					}
				}
				for n := range sent.Load() {
					if job := strconv.FormatInt(n+1, 10); all[job] != 1 {
						p.failf("job %s was done %d times (0: list, 1: stream: %d)", job, all[job], kind)
					}
				}
			}
			if left := p.text(p.elements(p.do("XPENDING", jobs+":stream", "g"))[0]); left != strconv.Itoa(len(workers)/2) {
				p.failf("%s jobs of the stream are not acknowledged, want the %d last ones", left, len(workers)/2)
			}
		})
	}
}

// job reads the one entry that XREADGROUP brings, and acknowledges it, but not the last.
func (p *peer) job(key string) string {
	el := p.next()
	var entries string
	if parts := p.elements(el); p.a.proto == 3 {
		entries = parts[1]
	} else {
		entries = p.elements(parts[0])[1]
	}
	entry := p.elements(p.elements(entries)[0])
	job := p.text(p.elements(entry[1])[1])
	if job != "end" {
		p.want(":1\r\n", "XACK", key, "g", p.text(entry[0]))
	}
	return job
}

// followers read streams from their end on. Half of them wait for something that comes
// after the switch only; the others read all the time, and every entry is counted.
func followers(a *act) {
	const shared = 50 // readers of a stream
	all := a.clients(rowSessions)
	apps := a.clients(2)
	look := a.direct()
	quiet := all[:rowSessions/2]
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
		a.next()
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
