package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// TestReadyWithABigSetThatScriptsChange: a sorted set of some megabytes that a script
// changes all the time, as a queue keeps what it has done, is copied as a whole again and
// again and now and then put off. That keeps nobody from switching, and clients wait for
// no more than that copy.
func TestReadyWithABigSetThatScriptsChange(t *testing.T) {
	const members = 60_000
	src, dst := redistest.Start(t), redistest.Start(t)
	pad := strings.Repeat("m", 80)
	pipe := src.Client(0).Pipeline()
	for i := range members {
		pipe.ZAdd(t.Context(), "done", redis.Z{Score: float64(i), Member: fmt.Sprintf("%s:%d", pad, i)})
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0", extra: []string{"--cutover.max_stall", "1m"}})
	c.start("")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	client := redis.NewClient(redistest.Options(c.addr, 0))
	defer func() { _ = client.Close() }()
	redistest.Eventually(t, 20*time.Second, func() error { return client.Ping(t.Context()).Err() }, "the sidecar listens")
	type end struct {
		n   int64
		err error
	}
	ended := make(chan end, 1)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := int64(members); ; i++ {
			err := client.Eval(context.WithoutCancel(ctx), `return redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])`, []string{"done"}, i, fmt.Sprintf("%s:%d", pad, i)).Err()
			if err != nil {
				ended <- end{i, err}
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				ended <- end{i + 1, nil}
				return
			}
		}
	}()
	st := c.await("ready while a change is put off", func(st migration.Status) bool {
		return st.Ready && len(st.Big) == 1 && st.OldestMS > 500 // cutover.max_lag
	})
	r, err := c.cutover()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready with a change of %.0f ms ago: %+v; held for %.1f ms", st.OldestMS, st.Big, r.Held)
	stop()
	last := <-ended
	if last.err != nil {
		t.Fatal(last.err)
	}
	if n := must[int64](t)(dst.Client(0).ZCard(t.Context(), "done").Result()); n != last.n {
		t.Errorf("the target has %d members, want %d", n, last.n)
	}
}
