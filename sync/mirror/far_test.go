package mirror_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// TestFarServers copies between servers that are far from each other and from us: what
// chooses the sizes of batches by itself must be ahead of the size that is right for
// servers nearby.
func TestFarServers(t *testing.T) {
	long(t, "it compares times")
	const keys = 20_000
	took := func(batch, scan int) time.Duration {
		w := &world{
			src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")),
			dst: redistest.Start(t),
		}
		pipe := w.src.Client(3).Pipeline()
		for i := range keys {
			pipe.Set(t.Context(), fmt.Sprintf("key:%d", i), i, 0)
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
		from, to := redistest.NewLink(t, w.src.Addr()), redistest.NewLink(t, w.dst.Addr())
		from.SetDelay(25 * time.Millisecond)
		to.SetDelay(25 * time.Millisecond)
		w.connect(t, from.Addr(), to.Addr(), func(c *mirror.Config) {
			c.Workers, c.Batch, c.ScanCount, c.Heartbeat = 2, batch, scan, time.Second
		})
		began := time.Now()
		ok(t, w.m.Follow(t.Context(), true))
		w.awaitState(t, mirror.Live)
		d := time.Since(began)
		w.mustBeEqual(t)
		return d
	}
	near := took(256, 1000)
	far := took(0, 0)
	t.Logf("%d keys took %v, with batches for servers nearby %v", keys, far.Round(time.Millisecond), near.Round(time.Millisecond))
	if far > near*4/5 {
		t.Error("larger batches have made no difference")
	}
}
