package mirror_test

import (
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/value"
)

// TestStrayTemporaryKeys: what a process that was killed has left of a big key is removed by the
// scan of the next one, which leaves its own alone, and what is only called alike.
func TestStrayTemporaryKeys(t *testing.T) {
	w := &world{src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")), dst: redistest.Start(t)}
	to := redistest.NewLink(t, w.dst.Addr())
	to.SetDelay(10 * time.Millisecond)
	w.connect(t, w.src.Addr(), to.Addr(), smallIsBig)
	ctx := t.Context()
	grow(t, w.src.Client(0), "hash", 0, 8000)
	for _, db := range []int{0, 5} {
		grow(t, w.dst.Client(db), "set", 0, 1000)
		ok(t, w.dst.Client(db).Rename(ctx, "set", value.TempPrefix+"left").Err())
	}
	ok(t, w.dst.Client(0).Set(ctx, "crossfade:temporary", 1, 0).Err())
	ok(t, w.m.Follow(ctx, true))
	redistest.Eventually(t, 10*time.Second, func() bool {
		n := w.dst.Client(0).Exists(ctx, value.TempPrefix+"left").Val()
		return n+w.dst.Client(5).Exists(ctx, value.TempPrefix+"left").Val() == 0
	}, "what was left is removed")
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.sameKeys(t, "hash")
	if p := w.m.Progress(); len(p.Errors) > 0 {
		t.Errorf("errors: %+v", p.Errors)
	}
	if w.dst.Client(0).Exists(ctx, "crossfade:temporary").Val() == 0 {
		t.Error("another key is gone")
	}
}
