package throttle

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// after lets so much of a bubble's time pass.
func after(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// TestHeedsServers has a server answer later the faster the scan is.
func TestHeedsServers(t *testing.T) {
	const way = 70 * time.Millisecond
	for _, c := range []struct {
		name        string
		bears       float64 // keys a second at which it answers 20 ms later
		least, most float64
	}{
		{"a strong one", 1e9, 90_000, 100_100},
		{"a weak one", 20_000, 8_000, 22_000},
		{"one that bears little", 1200, .7 * leastPace, 2.5 * leastPace},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &clients{seen: time.Now()}
				th := New(Limits{}, nil)
				th.Heed(20*time.Millisecond, Probe{Server: "far", Ask: func(ctx context.Context) error {
					server.mu.Lock()
					server.pass()
					late := time.Duration(server.speed / c.bears * float64(20*time.Millisecond))
					server.mu.Unlock()
					after(ctx, way+min(late, time.Second))
					return ctx.Err()
				}})
				if got := keysPerSecond(t, th, server); got < c.least || got > c.most {
					t.Errorf("%.0f keys/s, not %.0f to %.0f", got, c.least, c.most)
				}
			})
		})
	}
}

// TestSlowByItself has a server be slow now and then whatever the scan does.
func TestSlowByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &clients{seen: time.Now()}
		th := New(Limits{}, nil)
		n := 0
		th.Heed(20*time.Millisecond, Probe{Server: "busy", Ask: func(ctx context.Context) error {
			if n++; n%10 == 9 {
				after(ctx, 200*time.Millisecond)
			}
			return ctx.Err()
		}})
		if got := keysPerSecond(t, th, server); got < 3*leastPace {
			t.Errorf("%.0f keys/s, for a server that gains nothing by it", got)
		}
	})
}

// TestRefusalsSayNothing has a far server be away at first: how quickly that is said must
// not be taken for how quick the server is.
func TestRefusalsSayNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &clients{seen: time.Now()}
		closed, n := 0, 0
		th := New(Limits{}, nil)
		th.Heed(20*time.Millisecond, Probe{Server: "far", Close: func() { closed++ }, Ask: func(ctx context.Context) error {
			if n++; n < 20 {
				return errors.New("connection refused")
			}
			after(ctx, 70*time.Millisecond)
			return nil
		}})
		if got := keysPerSecond(t, th, server); got < 90_000 {
			t.Errorf("%.0f keys/s to a server that is well", got)
		}
		if closed != 1 {
			t.Errorf("closed %d times", closed)
		}
	})
}

// TestHeedsNothingByItself leaves a server that is slow without us alone once nothing is
// scanned.
func TestHeedsNothingByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		th := New(Limits{}, nil)
		th.Heed(time.Millisecond, Probe{Ask: func(ctx context.Context) error {
			after(ctx, time.Duration(asked.Add(1)%2)*10*time.Millisecond)
			return nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			th.Run(ctx)
			close(done)
		}()
		for range 300 {
			scan(ctx, t, th, 100, func(int) {})
			after(ctx, 10*time.Millisecond)
		}
		if s := th.Status(); s.Held == 0 || s.SlowMS < 5 {
			t.Errorf("not held back: %+v", s)
		}
		after(ctx, 5*time.Second)
		before := asked.Load()
		after(ctx, time.Minute)
		if s := th.Status(); s.Held != 0 || asked.Load() != before {
			t.Errorf("a server was asked %d times for nothing: %+v", asked.Load()-before, s)
		}
		cancel()
		<-done
	})
}
