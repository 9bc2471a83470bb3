package traffic

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	tickEvery = time.Millisecond
	// makeUp is how much of its time a worker makes up for that it could not work in.
	makeUp = 100 * time.Millisecond
)

// clock gives all workers their turns, evenly, by one timer: one for each of them would
// wake the machine up for every single operation, and so be a part of what is measured.
// Safe for concurrent use.
type clock struct {
	mu    sync.Mutex
	lines []*line
}

// line is one worker's.
type line struct {
	every time.Duration
	due   time.Time // the next turn; the clock's
	turn  chan struct{}
}

func newClock() *clock { return new(clock) }

// line returns a new one of so many turns a second.
func (c *clock) line(rate float64) *line {
	every := time.Duration(float64(time.Second) / max(rate, 1))
	l := &line{every: every, turn: make(chan struct{}, 1)}
	l.due = time.Now().Add(rand.N(every)) // not all at once
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, l)
	return l
}

// run gives turns until ctx ends.
func (c *clock) run(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.strike(time.Now())
		case <-ctx.Done():
			return
		}
	}
}

// strike gives a turn to everybody who is due and has had the last one.
func (c *clock) strike(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		if l.due.After(now) {
			continue
		}
		if missed := now.Add(-makeUp); l.due.Before(missed) {
			l.due = missed
		}
		select {
		case l.turn <- struct{}{}:
			l.due = l.due.Add(l.every)
		default: // it works still
		}
	}
}

// await waits for the worker's next turn; false is that ctx has ended.
func (l *line) await(ctx context.Context) bool {
	select {
	case <-l.turn:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
