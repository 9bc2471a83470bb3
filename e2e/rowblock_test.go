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
	n := rowSessions() / 20 * 2 // an even number of them in a line
	look := a.direct()
	all := a.clients(14 * n)
	apps := a.clients(2)
	a.each(all, func(_ int, p *peer) { p.askID() })
	lines := []*line{
		{name: "BLPOP", list: all[:n], ask: []string{"BLPOP", "wait:line", "wait:line2", "0"}},
		{name: "BLMOVE", list: all[n : 2*n], ask: []string{"BLMOVE", "wait:line3", "wait:taken", "LEFT", "RIGHT", "0"}},
		{name: "XREADGROUP", list: all[2*n : 3*n], ask: []string{"XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "BLOCK", "0", "STREAMS", "wait:stream", ">"}},
	}
	for _, app := range apps {
		app.want(ok, "XGROUP", "CREATE", "wait:stream", "g", "$", "MKSTREAM")
	}
	for _, l := range lines {
		l.queue(look, len(l.list))
	}
	forever, brief, workers := all[3*n:10*n], all[10*n:11*n], all[11*n:]
	blocked := slices.Concat(all[:3*n], forever) // at both switches, whatever else goes on
	asks := make([]func() string, len(forever))
	a.each(forever, func(i int, p *peer) { asks[i] = a.wait(p, apps[p.n%2], look, fmt.Sprintf("wait:%d", p.n)) })
	a.work(workers)
	timed := a.briefs(brief, look)

	a.next(blocked)
	a.timeOut(timed)
	look = a.direct()
	a.each(forever, func(i int, p *peer) {
		if i%2 == 0 {
			p.expect("what it waited for, after the cutover", asks[i]())
			p.askID()
			asks[i] = a.wait(p, apps[p.n%2], look, fmt.Sprintf("wait:%d:again", p.n))
		}
	})
	for _, l := range lines {
		half := len(l.list) / 2
		l.serve(a, apps, 0, half)
		a.each(l.list[:half], func(_ int, p *peer) { p.askID() })
		l.queue(look, half) // behind those who have waited since before the cutover
	}
	a.each(brief, func(_ int, p *peer) { p.askID() })
	timed = a.briefs(brief, look)

	a.next(blocked)
	a.timeOut(timed)
	a.each(forever, func(i int, p *peer) {
		p.expect("what it has waited for, some since before the cutover", asks[i]())
	})
	for _, l := range lines {
		l.serve(a, apps, len(l.list)/2, len(l.list)+len(l.list)/2)
	}
	a.each(slices.Concat(brief, forever), func(_ int, p *peer) {
		p.want("+PONG\r\n", "PING") // and nothing else before it
	})
	a.finish()
}

// wait has p wait for key by one of the commands, for ever, and returns what serves it and
// says what it is to get.
func (a *act) wait(p, app, look *peer, key string) (serve func() string) {
	w := blocking[p.n%len(blocking)]
	ask := w.ask(key, "0")
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

// queue has the first n clients wait, one behind the other.
func (l *line) queue(look *peer, n int) {
	for _, p := range l.list[:n] {
		p.send(l.ask...)
		p.awaitBlocked(look)
	}
}

// serve gives something to those of the line from one place on up to another, all of
// whom must get it in their order. Those with odd numbers are in another database, so
// there is a line in each. Places behind the last are those of who has come again.
func (l *line) serve(a *act, apps []*peer, from, to int) {
	for i := from; i < to; i++ {
		p := l.list[i%len(l.list)]
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
		p, what := l.list[i%len(l.list)], strconv.Itoa(i)
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
