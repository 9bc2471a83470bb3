package mirror_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// TestSourceAtItsMaxmemory: a source that takes no write has nothing on its way to the
// target, and is no reason to take the copy for one that is behind.
func TestSourceAtItsMaxmemory(t *testing.T) {
	w := newWorld(t, nil)
	ctx, c := t.Context(), w.src.Client(0)
	fill(t, c, 100)
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)

	ok(t, c.ConfigSet(ctx, "maxmemory", "1").Err())
	refused := func() int {
		for _, e := range w.m.Progress().Errors {
			if e.Kind == "heartbeat" && strings.Contains(e.Text, "maxmemory") {
				return e.Count
			}
		}
		return 0
	}
	// More than so many beats of 50 ms without a proof are too many.
	redistest.Eventually(t, time.Minute, func() error {
		if n := refused(); n < 130 {
			return fmt.Errorf("%d beats were refused: %+v", n, w.m.Progress().Errors)
		}
		return nil
	}, "beats are refused")
	if p := w.m.Progress(); p.State != mirror.Live || p.Lag > 5*time.Second || p.Gaps > 0 {
		t.Errorf("state %s (%s), lag %v, %d gaps", p.State, p.Reason, p.Lag, p.Gaps)
	}
	drain(t, w.m)
	w.mustBeEqual(t)

	ok(t, c.Del(ctx, "s:1").Err()) // that it takes
	ok(t, c.ConfigSet(ctx, "maxmemory", "0").Err())
	ok(t, c.Set(ctx, "after", 1, 0).Err())
	drain(t, w.m)
	w.mustBeEqual(t)
	before := w.m.Progress().Recent.All
	redistest.Eventually(t, 10*time.Second, func() bool { return w.m.Progress().Recent.All > before }, "beats arrive again")
}

// TestDeadFeedOfAFullSource: that a feed is alive is found out without a beat too.
func TestDeadFeedOfAFullSource(t *testing.T) {
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	link := redistest.NewLink(t, src.Addr())
	w := &world{src: src, dst: redistest.Start(t)}
	w.connect(t, link.Addr(), w.dst.Addr(), nil)
	ctx := t.Context()
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	ok(t, src.Client(0).ConfigSet(ctx, "maxmemory", "1").Err())
	redistest.Eventually(t, 10*time.Second, func() error {
		for _, e := range w.m.Progress().Errors {
			if e.Kind == "heartbeat" {
				return nil
			}
		}
		return errors.New("not yet")
	}, "a beat is refused")
	link.Swallow(func() bool { return true }) // those that are open now: what comes later gets through
	redistest.Eventually(t, 20*time.Second, func() error {
		if p := w.m.Progress(); p.Gaps == 0 {
			return fmt.Errorf("state %s: %+v", p.State, p.Errors)
		}
		return nil
	}, "the dead feed is dropped")
	w.awaitState(t, mirror.Live)
}

// TestFullSourceIsNamed: a copy that cannot begin says why.
func TestFullSourceIsNamed(t *testing.T) {
	w := newWorld(t, nil)
	ok(t, w.src.Client(0).ConfigSet(t.Context(), "maxmemory", "1").Err())
	if err := w.m.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), "maxmemory") || !strings.Contains(err.Error(), "raise") {
		t.Errorf("it says %v", err)
	}
}
