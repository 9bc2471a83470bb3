package mirror_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// TestDeletedBigKeyGoesAtOnce: to take away what is gone costs nothing, so it does not wait for
// the time that a copy of the whole would have its share of; what comes in its place does.
func TestDeletedBigKeyGoesAtOnce(t *testing.T) {
	w := &world{src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")), dst: redistest.Start(t)}
	to := redistest.NewLink(t, w.dst.Addr())
	to.SetDelay(20 * time.Millisecond)
	w.connect(t, w.src.Addr(), to.Addr(), smallIsBig)
	c, ctx := w.src.Client(0), t.Context()
	grow(t, c, "hash", 0, 8000)
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	putOff := func() {
		t.Helper()
		redistest.Eventually(t, 5*time.Second, func() error {
			if list := w.m.Progress().Big; len(list) != 1 || list[0].Wait < 2*time.Second {
				return fmt.Errorf("%+v", list)
			}
			return nil
		}, "a copy of the whole is put off")
	}
	ok(t, c.HSet(ctx, "hash", "by", "nobody").Err()) // nobody says which field it was
	putOff()
	ok(t, c.Del(ctx, "hash").Err())
	redistest.Eventually(t, 1500*time.Millisecond, func() error {
		if w.dst.Client(0).Exists(ctx, "hash").Val() > 0 {
			return errors.New("it is still there")
		}
		return nil
	}, "the deleted key is gone on the target")
	redistest.Eventually(t, 5*time.Second, func() error {
		if p := w.m.Progress(); p.Dirty > 0 {
			return fmt.Errorf("%d keys are dirty", p.Dirty)
		}
		return nil
	}, "nothing is left of it to be done")
	grow(t, c, "hash", 0, 8000)
	putOff()
	ok(t, c.Del(ctx, "hash").Err())
	grow(t, c, "hash", 0, 4000)
	drain(t, w.m)
	w.sameKeys(t, "hash")
}
