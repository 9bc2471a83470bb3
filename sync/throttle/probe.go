package throttle

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Probe asks a server the least that can be asked.
type Probe struct {
	Server string // its address
	// Ask returns when the server has answered, or ctx has ended. It is called by one
	// goroutine.
	Ask func(ctx context.Context) error
	// Close is called once after the last Ask; nil: there is nothing to be closed.
	Close func()
}

// A probe goes every probeEvery while there is a scan; probeKept of them make a p99.
const (
	probeEvery = 10 * time.Millisecond
	probeKept  = 100
	probeRound = 250 * time.Millisecond
	probeLeast = 80 // answers before anything is decided
	probeFew   = 3  // … once this long has passed
	probeWait  = 2 * time.Second
	probeFirst = 5 // that go before any scan, to know how quick a server is
)

// ear listens to servers, and finds the pace at which none takes longer than it may,
// beyond the time of its quickest answer, which is the way there: for who is not a client
// of ours, and for a target that others use already.
type ear struct {
	most   time.Duration
	probes []*listener

	mu   sync.Mutex
	keys float64       // a second; 0: no limit
	deaf int           // servers of which it is not known yet how quick they are
	own  time.Duration // what they take without much of us, as far as that is known of late
	free time.Time
	gone int64     // keys since the round began
	last time.Time // when keys went
}

// listener is the latest answers of one server.
type listener struct {
	Probe
	mu   sync.Mutex
	took []time.Duration // a ring
	next int
	more int           // since the last decision
	from time.Time     // when that was
	best time.Duration // the quickest of all
}

func newEar(most time.Duration, probes []Probe) *ear {
	e := &ear{most: most, deaf: len(probes)}
	for _, p := range probes {
		e.probes = append(e.probes, &listener{Probe: p})
	}
	return e
}

// wait is how long n keys must wait.
func (e *ear) wait(now time.Time) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.deaf > 0:
		return 2 * time.Millisecond
	case e.keys == 0:
		return 0
	}
	return max(0, e.free.Sub(now))
}

// knows notes that one more server was asked before any scan.
func (e *ear) knows() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deaf--
}

// went counts n keys.
func (e *ear) went(now time.Time, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone += int64(n)
	e.last = now
	if e.keys > 0 {
		e.free = later(e.free, now).Add(time.Duration(float64(n) / e.keys * float64(time.Second)))
	}
}

func (e *ear) pace() float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.keys
}

// scanning reports whether keys went of late.
func (e *ear) scanning() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.last.IsZero() && time.Since(e.last) < time.Second
}

func (e *ear) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, l := range e.probes {
		all.Go(func() {
			l.listen(ctx, e)
			if l.Close != nil {
				l.Close()
			}
		})
	}
	tick := time.NewTicker(probeRound)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			e.decide()
		case <-ctx.Done():
			return
		}
	}
}

func (l *listener) listen(ctx context.Context, e *ear) {
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for first := probeFirst; ; first-- {
		if first == 0 {
			e.knows()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if first <= 0 && !e.scanning() {
			continue
		}
		begun := time.Now()
		err := l.Ask(ctx)
		took := time.Since(begun)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			l.add(took, true)
		case took > e.most: // no answer is a late one; one that fails at once says nothing
			l.add(took, false)
		}
	}
}

func (l *listener) add(d time.Duration, answered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.took) < probeKept {
		l.took = append(l.took, d)
	} else {
		l.took[l.next] = d
	}
	l.next = (l.next + 1) % probeKept
	l.more++
	if answered && (l.best == 0 || d < l.best) {
		l.best = d
	}
}

// p99 returns how long the slowest but one in a hundred took, beyond the quickest; ok is
// false where too few answers are new.
func (l *listener) p99(least int) (d time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	late := l.more >= probeFew && time.Since(l.from) > probeWait // a slow server answers seldom
	if len(l.took) == 0 || l.more < least && !late {
		return 0, false
	}
	sorted := slices.Sorted(slices.Values(l.took))
	return sorted[max(0, min(len(sorted)*98/100, len(sorted)-2))] - l.best, true
}

// forget has the next decision wait for answers at the new pace.
func (l *listener) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.took, l.next, l.more, l.from = l.took[:0], 0, 0, time.Now()
}

// decide sets the pace. A server that is slow without us is slow at the least pace too:
// that is its own, and what it may take is counted from there.
func (e *ear) decide() {
	var worst time.Duration
	heard := false
	for _, l := range e.probes {
		d, ok := l.p99(probeLeast)
		worst, heard = max(worst, d), heard || ok
	}
	e.mu.Lock()
	speed := float64(e.gone) / probeRound.Seconds()
	e.gone = 0
	keys := e.keys
	idle := e.last.IsZero() || time.Since(e.last) >= time.Second
	switch {
	case idle: // no scan: the next one begins anew
		keys = 0
	case !heard:
	case worst > e.most+e.own && keys == leastPace:
		e.own = worst
	case worst > e.most+e.own && keys == 0:
		keys = max(leastPace, .5*speed)
	case worst > e.most+e.own:
		keys = max(leastPace, .7*keys)
	case keys > 0:
		if worst < (e.most+e.own)/2 {
			keys *= 1.6
		}
		if keys *= 1.2; keys > 4*speed && speed > 0 { // something else holds it
			keys = 0
		}
	}
	if heard && worst < e.own { // it has become better
		e.own -= (e.own - worst) / 4
	}
	changed := keys != e.keys
	e.keys = keys
	e.mu.Unlock()
	if changed {
		for _, l := range e.probes {
			l.forget()
		}
	}
}

// slowest returns the server that takes longest, while scans are held for its sake.
func (e *ear) slowest() (server string, p99 time.Duration) {
	if e.pace() == 0 {
		return "", 0
	}
	for _, l := range e.probes {
		if d, _ := l.p99(0); d >= p99 {
			server, p99 = l.Server, d
		}
	}
	return server, p99
}
