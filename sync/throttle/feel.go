package throttle

import (
	"context"
	"math"
	"sync"
	"time"
)

// Served counts what clients were answered since some beginning.
type Served struct {
	Commands int64
	Time     time.Duration // the sum of how long each of them took
}

// feel finds the pace at which clients do not notice a scan. What a latency means
// nobody can tell without knowing the load, the servers and the machine. So the scan
// rests for a moment in each round, and the clients are compared with themselves:
// when they are served less often, or later, while it copies, it copies too fast.
// Additive and multiplicative steps keep it near the pace where that begins.
type feel struct {
	served func() Served
	rounds chan struct{} // has an element when keys have gone since the last round

	mu      sync.Mutex
	keys    float64 // a second; 0: no limit
	free    time.Time
	resting bool
	company bool  // somebody was served when it was last looked at, if only too few for a comparison
	gone    int64 // keys since the round began
}

const (
	workTime   = 150 * time.Millisecond
	settleTime = 5 * time.Millisecond // for what is under way when a rest begins
	restTime   = 40 * time.Millisecond
	aloneTime  = 2 * time.Second // until the next rest when nobody is there

	leastPace   = 1000 // keys a second: the copy must end
	firstPace   = 5000
	leastServed = 10 // commands in a rest, for a comparison

	slower = 1.35                  // a client may take this much longer
	grace  = 60 * time.Microsecond // and this
	rarer  = .93                   // and be served this much less often
)

func newFeel(served func() Served) *feel {
	return &feel{served: served, rounds: make(chan struct{}, 1)}
}

func (f *feel) pace() float64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys
}

// accompanied reports whether somebody was served of late.
func (f *feel) accompanied() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.company
}

// delay is Throttle's.
func (f *feel) delay(now time.Time, n int) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.resting {
		return time.Millisecond
	}
	if f.keys > 0 {
		if wait := f.free.Sub(now); wait > 0 {
			return wait
		}
		f.free = later(f.free, now).Add(time.Duration(float64(n) / f.keys * float64(time.Second)))
	}
	f.gone += int64(n)
	select {
	case f.rounds <- struct{}{}:
	default:
	}
	return 0
}

// window is what clients were given in a span of time.
type window struct {
	commands int64
	rate     float64 // a second
	mean     float64 // seconds
}

func (f *feel) watch(ctx context.Context, d time.Duration) (window, bool) {
	before, begun := f.served(), time.Now()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return window{}, false
	}
	after, took := f.served(), time.Since(begun)
	w := window{commands: after.Commands - before.Commands}
	f.mu.Lock()
	f.company = w.commands > 0
	f.mu.Unlock()
	w.rate = float64(w.commands) / took.Seconds()
	if w.commands > 0 {
		w.mean = (after.Time - before.Time).Seconds() / float64(w.commands)
	}
	return w, true
}

// run makes rounds while a scan copies. Each begins with a rest, so that a scan that
// begins among clients begins slowly.
func (f *feel) run(ctx context.Context) {
	var worked, rested smooth
	for first := true; ; first = false {
		select {
		case <-f.rounds:
		case <-ctx.Done():
			return
		}
		rest, ok := f.rested(ctx, first)
		if !ok {
			return
		}
		if rest.commands < leastServed { // nobody to be spared
			f.set(0)
			worked, rested = smooth{}, smooth{}
			if !f.unwatched(ctx) {
				return
			}
			continue
		}
		if f.pace() == 0 {
			f.set(firstPace)
		}
		f.mu.Lock()
		f.gone = 0
		f.mu.Unlock()
		work, ok := f.watch(ctx, workTime)
		if !ok {
			return
		}
		f.mu.Lock()
		speed := float64(f.gone) / workTime.Seconds()
		f.mu.Unlock()
		worked.add(work)
		rested.add(rest)
		f.decide(worked, rested, speed)
	}
}

// rested lets the scan rest and watches the clients.
func (f *feel) rested(ctx context.Context, first bool) (window, bool) {
	f.rest(true)
	defer f.rest(false)
	if !first {
		if _, ok := f.watch(ctx, settleTime); !ok {
			return window{}, false
		}
	}
	return f.watch(ctx, restTime)
}

// unwatched lets the scan go on as long as there is nobody who minds: until somebody
// comes, or for a while, as clients that are served no more look like none.
func (f *feel) unwatched(ctx context.Context) bool {
	for begun := time.Now(); time.Since(begun) < aloneTime; {
		w, ok := f.watch(ctx, workTime)
		if !ok || w.commands >= leastServed {
			return ok
		}
	}
	return true
}

// smooth is the mean of windows, of late ones more.
type smooth struct {
	n          int
	rate, mean float64
}

func (s *smooth) add(w window) {
	const weight = .35
	if s.n++; s.n == 1 {
		s.rate, s.mean = w.rate, w.mean
		return
	}
	s.rate += weight * (w.rate - s.rate)
	s.mean += weight * (w.mean - s.mean)
}

// decide sets the pace by a comparison; speed is how fast it went, in keys a second.
func (f *feel) decide(worked, rested smooth, speed float64) {
	felt := worked.mean > slower*rested.mean+grace.Seconds() || worked.rate < rarer*rested.rate
	f.mu.Lock()
	keys := f.keys
	f.mu.Unlock()
	switch {
	case felt:
		keys *= .8
	case keys < 2*speed: // only what is used can be known to be borne
		keys *= 1.1
	}
	f.set(math.Max(keys, leastPace))
}

func (f *feel) set(keys float64) {
	f.mu.Lock()
	f.keys = keys
	f.mu.Unlock()
}

func (f *feel) rest(on bool) {
	f.mu.Lock()
	f.resting = on
	f.mu.Unlock()
}
