package mirror_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/throttle"
)

// A pause is the scan's: what clients change meanwhile is carried, whatever the scan has
// found already, and nothing that only the scan owes counts as a change that waits.
func TestPausedScanHoldsUpNoChange(t *testing.T) {
	w := newWorld(t, nil)
	ctx, src := t.Context(), w.src.Client(0)
	populate(t, src, 500)
	w.m.Throttle().Pause(true)
	ok(t, w.m.Follow(ctx, true))
	redistest.Eventually(t, 20*time.Second, func() bool { return w.m.Progress().Databases[0].Scanned > 0 }, "a page of the scan")
	keys := content(t, src)
	for k := range keys {
		ok(t, src.Del(ctx, k).Err())
		ok(t, src.Set(ctx, k, "changed", 0).Err())
	}
	redistest.Eventually(t, 20*time.Second, func() error {
		for k := range keys {
			if v, err := w.dst.Client(0).Get(ctx, k).Result(); v != "changed" {
				return fmt.Errorf("%s: %q, %w", k, v, err)
			}
		}
		if p := w.m.Progress(); p.Databases[0].ScanComplete || p.Dirty > 0 {
			return fmt.Errorf("%d keys wait: %+v", p.Dirty, p.Databases[0])
		}
		return nil
	}, "changes are carried through a pause")
	w.m.Throttle().Pause(false)
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
}

// Nor do big keys wait that a client changes, be they on the scan's way already or new,
// when all those who copy for the scan wait for a limit.
func TestSlowScanHoldsUpNoBigKey(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { smallIsBig(c); c.Limits.Bytes = 1 })
	ctx, src := t.Context(), w.src.Client(0)
	const found, size = 12, 64 << 10
	var keys []string
	for i := range found {
		keys = append(keys, fmt.Sprint("big:", i))
		ok(t, src.Set(ctx, keys[i], strings.Repeat("v", size), 0).Err())
	}
	ok(t, w.m.Follow(ctx, true))
	redistest.Eventually(t, 20*time.Second, func() error {
		if p := w.m.Progress(); len(p.Big) < found/2 || p.Databases[0].Bytes < size {
			return fmt.Errorf("%d big keys, %d bytes", len(p.Big), p.Databases[0].Bytes)
		}
		return nil
	}, "some were sent, and all have hours to wait")
	redistest.Eventually(t, 20*time.Second, func() bool {
		p := w.m.Progress()
		return p.Dirty >= found/2 && p.Oldest == 0
	}, "what only the scan owes is no change that waits")
	carried := func(keys ...string) {
		redistest.Eventually(t, 20*time.Second, func() error {
			for _, k := range keys {
				if a, b := src.StrLen(ctx, k).Val(), w.dst.Client(0).StrLen(ctx, k).Val(); a != b {
					return fmt.Errorf("%s: %d bytes, not %d", k, b, a)
				}
			}
			return nil
		}, "changes of big keys are carried")
	}
	ok(t, src.Set(ctx, "big:new", strings.Repeat("w", size), 0).Err())
	carried("big:new")
	for _, k := range keys {
		ok(t, src.Append(ctx, k, "more").Err())
	}
	carried(keys...)
	w.m.Throttle().Set(throttle.Limits{})
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
}
