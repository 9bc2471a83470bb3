package verify

import (
	"context"
	"sync"
	"time"
)

// throttle bounds a rate of things a second. What is let through counts afterwards,
// so that things of any size get through. Safe for concurrent use.
type throttle struct {
	rate func() float64 // nil or 0: no bound

	mu   sync.Mutex
	free time.Time // when the next one may go
}

// wait returns when n things may be done.
func (t *throttle) wait(ctx context.Context, n float64) error {
	if t.rate == nil {
		return ctx.Err()
	}
	rate := t.rate()
	if rate <= 0 {
		return ctx.Err()
	}
	t.mu.Lock()
	now := time.Now()
	if t.free.Before(now) {
		t.free = now
	}
	pause := t.free.Sub(now)
	t.free = t.free.Add(time.Duration(n / rate * float64(time.Second)))
	t.mu.Unlock()
	return sleep(ctx, pause)
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
