package mirror_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// TestSmallOverBigWithoutRestore: where RESTORE is refused, and known to be, a big value whose
// place a short string takes is freed in the background all the same.
func TestSmallOverBigWithoutRestore(t *testing.T) {
	w := &world{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")),
		dst: redistest.Start(t, redistest.WithRenamed("RESTORE", ""), redistest.WithConfig("lazyfree-lazy-server-del", "no")),
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), smallIsBig)
	c, ctx := w.src.Client(0), t.Context()
	grow(t, c, "set", 0, 4000)
	fill(t, c, 2000)
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	for i := range 100 { // by these it is known that there is no RESTORE
		ok(t, c.RPush(ctx, fmt.Sprintf("l:%d", i), i).Err())
	}
	drain(t, w.m)
	before := infoNumber(t, w.dst.Client(0), "memory", "lazyfreed_objects")
	_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.Del(ctx, "set")
		p.Set(ctx, "set", "small", 0)
		return nil
	})
	ok(t, err)
	drain(t, w.m)
	w.sameKeys(t, "set")
	redistest.Eventually(t, 5*time.Second, func() error {
		if n := infoNumber(t, w.dst.Client(0), "memory", "lazyfreed_objects"); n == before {
			return fmt.Errorf("%d values were freed in the background", n)
		}
		return nil
	}, "the big value is freed in the background")
}
