package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

const (
	truthHeartbeat = 200 * time.Millisecond // as newSidecar sets it
	truthLag       = 500 * time.Millisecond // cutover.max_lag, as newPeers sets it
	markKey        = "truth:mark"
)

// knowWithin is how long a change may be missing on the target while the sidecar still
// calls itself ready: two heartbeats until what no event tells is known, and the lag that
// a switch allows. The rest is for a machine that is busy, with other tests where the
// cases are not run by themselves.
var knowWithin = 2*truthHeartbeat + truthLag + scaled(time.Second, 3*time.Second)

// truth asks the sidecar how it is, all the while, and looks at the target for
// changes that the sidecar owes: it must not call itself ready while one has been
// missing for longer than it can take to know of it. A mark of its own, written
// past the proxy again and again, is always among them.
type truth struct {
	c        *sidecar
	src, dst *redis.Client
	stop     context.CancelFunc
	done     chan struct{}

	mu      sync.Mutex
	owed    []claim
	lies    []string
	samples int
	ready   int
	longest time.Duration // that something was missing while it called itself ready
	last    migration.Status
}

// claim is a change that the source has acknowledged and the target must show.
type claim struct {
	what  string
	since time.Time
	there func(context.Context) (bool, error)
}

// watchTruth begins. from and to are clients of one mapped pair of databases.
func watchTruth(t *testing.T, c *sidecar, from, to *redis.Client) *truth {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &truth{c: c, src: from, dst: to, stop: cancel, done: make(chan struct{})}
	go w.run(ctx)
	t.Cleanup(func() {
		cancel()
		<-w.done
	})
	return w
}

// owe says that the source has just acknowledged a change.
func (w *truth) owe(what string, there func(context.Context) (bool, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.owed = append(w.owed, claim{what: what, since: time.Now(), there: there})
}

func (w *truth) run(ctx context.Context) {
	defer close(w.done)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	marked, shown := 0, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if marked == shown {
			short, cancel := context.WithTimeout(ctx, time.Second)
			n := marked + 1
			if w.src.Set(short, markKey, n, 0).Err() == nil {
				marked = n
				w.owe(fmt.Sprintf("mark %d", n), func(ctx context.Context) (bool, error) {
					v, err := w.dst.Get(ctx, markKey).Result()
					if errors.Is(err, redis.Nil) {
						return false, nil
					}
					if got, _ := strconv.Atoi(v); got >= n {
						shown = n
						return true, nil
					}
					return false, err
				})
			}
			cancel()
		}
		w.sample(ctx)
	}
}

// sample asks for the status first and looks at the target second: what is
// missing then was missing when the sidecar spoke.
func (w *truth) sample(ctx context.Context) {
	at := time.Now()
	s, err := w.c.status()
	w.mu.Lock()
	owed := w.owed
	w.owed = nil
	if err == nil {
		w.samples++
		w.last = s
		if s.Ready {
			w.ready++
		}
	}
	w.mu.Unlock()
	var still []claim
	for _, c := range owed {
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		there, readErr := c.there(short)
		cancel()
		if there {
			continue
		}
		still = append(still, c)
		if ctx.Err() != nil || err != nil || !s.Ready {
			continue
		}
		missing := at.Sub(c.since)
		w.longest = max(w.longest, missing)
		if missing > knowWithin {
			w.lie(fmt.Sprintf("ready (phase %s, lag %.1f ms, %d dirty) although %s has been missing for %v (%v)",
				s.Phase, s.LagMS, s.Dirty, c.what, missing.Round(time.Millisecond), readErr))
		}
	}
	w.mu.Lock()
	w.owed = append(still, w.owed...)
	w.mu.Unlock()
}

func (w *truth) lie(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lies) < 5 {
		w.lies = append(w.lies, text)
	}
}

// settled waits until the sidecar, asked later than it can take to know of the
// last change, says that it is ready and nothing is dirty. It was told the truth
// by then, or the test fails.
func (w *truth) settled(t *testing.T) {
	t.Helper()
	w.stop()
	<-w.done
	last := time.Now()
	redistest.Eventually(t, 2*time.Minute, func() error {
		at := time.Now()
		s, err := w.c.status()
		switch {
		case err != nil:
			return err
		case at.Sub(last) < knowWithin:
			return errors.New("asked too early")
		case !s.Ready || s.Dirty > 0:
			return fmt.Errorf("phase %s, ready %v, %d dirty, reasons %q, errors %+v", s.Phase, s.Ready, s.Dirty, s.Reasons, s.Errors)
		}
		w.last = s
		return nil
	}, "ready, and nothing dirty")
	if len(w.lies) > 0 {
		t.Errorf("the sidecar did not tell the truth: %q", w.lies)
	}
	t.Logf("%d samples, %d of them ready; %d gaps; nothing was missing for longer than %v meanwhile",
		w.samples, w.ready, w.last.Gaps, w.longest.Round(time.Millisecond))
}
