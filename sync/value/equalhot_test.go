package value

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// Big collections that never stand still are compared by their elements.
func TestElementsOfWhatNeverStandsStill(t *testing.T) {
	src, dst := two(t)
	const n = 20_000
	for _, c := range []*redis.Client{src, dst} {
		many(t, c, n, "SADD", "set", func(i int) []any { return []any{fmt.Sprint("m", i)} })
		many(t, c, n, "HSET", "hash", func(i int) []any { return []any{fmt.Sprint("m", i), i} })
		many(t, c, n, "ZADD", "zset", func(i int) []any { return []any{float64(i) / 7, fmt.Sprint("m", i)} })
	}
	stop := make(chan struct{})
	var writer sync.WaitGroup
	var rounds atomic.Int64
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			m := fmt.Sprint("new", i)
			for _, c := range []*redis.Client{src, dst} { // the target a moment later
				p := c.Pipeline()
				p.SAdd(t.Context(), "set", m)
				p.SRem(t.Context(), "set", fmt.Sprint("new", i-50))
				p.HSet(t.Context(), "hash", "m1", i, m, i)
				p.HDel(t.Context(), "hash", fmt.Sprint("new", i-50))
				p.ZIncrBy(t.Context(), "zset", 0.1, "m1")
				if _, err := p.Exec(context.Background()); err != nil && t.Context().Err() == nil {
					t.Error(err)
				}
			}
			rounds.Add(1)
		}
	})
	// What was written before is there when the writer has made another round on both.
	wait := func() {
		before := rounds.Load()
		redistest.Eventually(t, 20*time.Second, func() bool { return rounds.Load() >= before+2 }, "the writer goes on")
	}
	c := &Comparer{}
	elements := func(key string, arrives bool) (Diff, bool) {
		t.Helper()
		d, decided, err := c.Elements(t.Context(), src, dst, false, key, func(context.Context) (bool, error) {
			wait()
			return arrives, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return d, decided
	}
	for _, key := range []string{"set", "hash", "zset"} {
		if d, decided := elements(key, false); decided && !d.Equal() {
			t.Errorf("%s: %+v", key, d)
		}
	}
	if d, decided := elements("set", true); !decided || !d.Equal() {
		t.Errorf("the set: %+v, decided %v", d, decided)
	}
	run(t, dst, "SREM", "set", "m5")
	run(t, dst, "HSET", "hash", "more", 1)
	run(t, dst, "ZADD", "zset", 1.5, "m7")
	// More than are looked at one by one.
	many(t, src, n, "SADD", "others", func(i int) []any { return []any{fmt.Sprint("m", i)} })
	many(t, dst, n, "SADD", "others", func(i int) []any { return []any{fmt.Sprint("o", i)} })
	many(t, src, n, "SADD", "missing", func(i int) []any { return []any{fmt.Sprint("m", i)} })
	many(t, dst, n, "SADD", "extra", func(i int) []any { return []any{fmt.Sprint("m", i)} })
	for _, key := range []string{"set", "hash", "zset", "others", "missing", "extra"} {
		if d, decided := elements(key, true); !decided || d.Kind != Value {
			t.Errorf("%s with a planted difference: %+v, decided %v", key, d, decided)
		}
		if d, decided := elements(key, false); decided {
			t.Errorf("%s, where nobody knows what has arrived: %+v", key, d)
		}
	}
	close(stop)
	writer.Wait()
}
