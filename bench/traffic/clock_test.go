package traffic

import (
	"context"
	"testing"
	"time"
)

// The clock is told what time it is, so each second here is one of its own.
func TestClock(t *testing.T) {
	c, now := newClock(), time.Now()
	fast, slow := c.line(250), c.line(20)
	// turns are those that a worker has in d when it takes each at once; nil takes none.
	turns := func(l *line, d time.Duration) (n int) {
		for until := now.Add(d); now.Before(until); {
			now = now.Add(tickEvery)
			c.strike(now)
			if l == nil {
				continue
			}
			select {
			case <-l.turn:
				n++
			default:
			}
		}
		return n
	}
	if n := turns(fast, time.Second); n < 248 || n > 251 {
		t.Errorf("%d turns in a second, of 250", n)
	}
	// With what it has missed of the second before: one waits, three are made up for.
	if n := turns(slow, time.Second); n < 20 || n > 24 {
		t.Errorf("%d turns in a second, of 20", n)
	}
	turns(nil, 20*time.Second) // fast has worked on one operation all the time
	if n := turns(fast, 50*time.Millisecond); n < 30 || n > 51 {
		t.Errorf("%d turns after it could not work for long", n)
	}
	if n := turns(fast, time.Second); n < 245 || n > 251 {
		t.Errorf("%d turns in a second, of 250, when it has caught up", n)
	}
}

// A worker's turn comes by itself, and none comes after the end.
func TestClockRuns(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	c := newClock()
	l := c.line(1000)
	ended := make(chan struct{})
	go func() { defer close(ended); c.run(ctx) }()
	for range 3 {
		if !l.await(ctx) {
			t.Fatal("no turn")
		}
	}
	stop()
	<-ended
	if l.await(ctx) {
		t.Error("a turn after the end")
	}
}
