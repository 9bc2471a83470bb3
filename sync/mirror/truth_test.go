package mirror_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// A target that takes nothing: the oldest change is as old as it is, in whichever
// database, and the mirror does not call itself live for long.
func TestAgeOfTheOldestChange(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.Timeout = 20 * time.Second })
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	redistest.Eventually(t, 10*time.Second, func() error {
		p := w.m.Progress()
		if p.Oldest > 100*time.Millisecond || p.Recent.Beats < 3 || p.Recent.P50 <= 0 || p.Recent.P99 < p.Recent.P50 {
			return fmt.Errorf("oldest %v, lags %+v", p.Oldest, p.Recent)
		}
		return nil
	}, "nothing old, and lags that were measured")

	ok(t, w.dst.Stop())
	begun := time.Now()
	ok(t, w.src.Client(3).Set(t.Context(), "waits", 1, 0).Err())
	written := time.Now()
	var p mirror.Progress
	redistest.Eventually(t, 20*time.Second, func() error {
		before := time.Since(written)
		p = w.m.Progress()
		db3, after := p.Databases[1], time.Since(begun)
		if db3.Dirty == 0 || db3.InHand == 0 {
			return fmt.Errorf("nothing is dirty: %+v", db3)
		}
		// The mark is a moment younger than the write.
		if db3.Oldest > after || db3.Oldest < before-500*time.Millisecond {
			return fmt.Errorf("the age is %v, between %v and %v it should be", db3.Oldest, before, after)
		}
		if p.State != mirror.Behind {
			return fmt.Errorf("state %s after %v", p.State, after)
		}
		return nil
	}, "behind")
	if p.Lag < 4*time.Second || p.Oldest < p.Databases[1].Oldest {
		t.Errorf("lag %v, oldest %v", p.Lag, p.Oldest)
	}
	ok(t, w.dst.Cont())
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
}
