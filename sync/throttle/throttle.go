// Package throttle says how fast a scan may copy: as fast as it goes, or as clients bear it, or as it was told.
// It owns the limits, the pause, and the measuring of what clients feel.
// It never copies, never holds up a change that a client made, and never a drain.
package throttle

import (
	"context"
	"sync"
	"time"
)

// Limits are what an operator sets. 0 is no limit.
type Limits struct {
	Keys  int64 `json:"keys_per_second"`
	Bytes int64 `json:"bytes_per_second"`
}

// Throttle is one for all scans of a mirror. All methods are safe for concurrent use.
type Throttle struct {
	feel *feel // nil: nobody watches the clients
	ear  *ear  // nil: nobody watches the servers

	mu      sync.Mutex
	limits  Limits
	paused  bool
	urgent  int           // drains that must not wait
	free    time.Time     // when the next keys may go by the limits
	changed chan struct{} // closed and replaced when whoever waits must look again
}

// New returns a throttle. served counts what clients were answered, see Served; with
// nil the scan goes as fast as the limits let it.
func New(l Limits, served func() Served) *Throttle {
	t := &Throttle{limits: l, changed: make(chan struct{})}
	if served != nil {
		t.feel = newFeel(served)
	}
	return t
}

// Heed has scans be so slow that none of the probes takes longer than most, but for one
// in a hundred. It is called before Run, if at all.
func (t *Throttle) Heed(most time.Duration, probes ...Probe) { t.ear = newEar(most, probes) }

// Run watches the clients and the servers until ctx ends.
func (t *Throttle) Run(ctx context.Context) {
	var both sync.WaitGroup
	defer both.Wait()
	if t.ear != nil {
		both.Go(func() { t.ear.run(ctx) })
	}
	if t.feel != nil {
		t.feel.run(ctx)
	}
}

// Batch returns how many keys may go at once, at most most: fewer while clients
// are served, so that none of them waits behind many.
func (t *Throttle) Batch(most int) int {
	switch {
	case t.feel != nil && t.feel.pace() > 0 || t.ear != nil && t.ear.pace() > 0:
		return min(most, gentleBatch)
	case t.feel != nil && t.feel.accompanied():
		return min(most, max(gentleBatch, most/fewClients))
	}
	return most
}

// gentleBatch is how many keys go at once while clients may feel it: about a tenth of a
// millisecond of a server's time.
const gentleBatch = 32

// fewClients is by how much fewer keys go at once where clients are served, but too few to
// tell what they feel. Where the other server is far away, many make up for the way.
const fewClients = 8

// Wait waits until n more keys may be copied. The error is ctx's cause.
func (t *Throttle) Wait(ctx context.Context, n int) error {
	for {
		t.mu.Lock()
		wait, changed := t.delay(n), t.changed
		t.mu.Unlock()
		if wait == 0 {
			return nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
}

// forever is how long a pause may last without anybody looking.
const forever = time.Hour

// delay returns how long n keys must wait before they ask again, and when it is 0
// counts them.
func (t *Throttle) delay(n int) time.Duration {
	if t.urgent > 0 {
		return 0
	}
	if t.paused {
		return forever
	}
	now := time.Now()
	if wait := t.free.Sub(now); wait > 0 {
		return wait
	}
	if t.ear != nil {
		if wait := t.ear.wait(now); wait > 0 {
			return wait
		}
	}
	if t.feel != nil {
		if wait := t.feel.delay(now, n); wait > 0 {
			return wait
		}
	}
	if t.ear != nil {
		t.ear.went(now, n)
	}
	if t.limits.Keys > 0 {
		t.free = later(t.free, now).Add(time.Duration(n) * time.Second / time.Duration(t.limits.Keys))
	}
	return 0
}

// later is when what waits behind before may begin: an idle time is not made up for
// by a burst of more than a moment.
func later(before, now time.Time) time.Time {
	if earliest := now.Add(-burst); before.Before(earliest) {
		return earliest
	}
	return before
}

const burst = 10 * time.Millisecond

// Spent tells how many bytes were copied, so that the next ones wait for them.
func (t *Throttle) Spent(bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limits.Bytes > 0 {
		t.free = later(t.free, time.Now()).Add(time.Duration(float64(bytes) / float64(t.limits.Bytes) * float64(time.Second)))
	}
}

// Set changes the limits from now on.
func (t *Throttle) Set(l Limits) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limits, t.free = l, time.Time{}
	t.wake()
}

// Pause stops scans, or lets them go on. Changes that clients make are still carried.
func (t *Throttle) Pause(on bool) { t.set(func() { t.paused = on }) }

// Hurry lets everything go, paused or not, until the function that it returns is
// called, once.
func (t *Throttle) Hurry() (end func()) {
	t.set(func() { t.urgent++ })
	return func() { t.set(func() { t.urgent-- }) }
}

func (t *Throttle) set(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	t.wake()
}

func (t *Throttle) wake() { // with mu held
	close(t.changed)
	t.changed = make(chan struct{})
}

// Status is what a throttle does at the moment.
type Status struct {
	Limits
	Paused bool `json:"paused"`
	// Pace is how many keys a second are let through for the clients' sake, 0
	// while they feel nothing.
	Pace int64 `json:"pace"`
	// Held is how many are let through for a server's sake, 0 while none is slow; then
	// Slow is its address, and SlowMS how much longer a PING takes there than the
	// quickest, the 99th percentile.
	Held   int64   `json:"held"`
	Slow   string  `json:"slow,omitempty"`
	SlowMS float64 `json:"slow_ms,omitempty"`

	// What follows is the schedule's, and filled in by who keeps it. Window is the one
	// that is open, "" for none. Until is when that changes, zero for never.
	Scheduled bool      `json:"scheduled,omitempty"` // there is a schedule
	Window    string    `json:"window,omitempty"`
	Until     time.Time `json:"until,omitzero"`
	// Manual says that an operator's word counts instead of it.
	Manual bool `json:"manual,omitempty"`
}

// Status returns it.
func (t *Throttle) Status() Status {
	t.mu.Lock()
	s := Status{Limits: t.limits, Paused: t.paused}
	t.mu.Unlock()
	if t.feel != nil {
		s.Pace = int64(t.feel.pace())
	}
	if t.ear != nil {
		s.Held = int64(t.ear.pace())
		slow, p99 := t.ear.slowest()
		s.Slow, s.SlowMS = slow, float64(p99.Microseconds())/1000
	}
	return s
}
