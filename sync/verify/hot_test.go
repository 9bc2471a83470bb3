package verify

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/value"
)

// always calls write again and again until the test ends, and counts.
func always(t *testing.T, pause time.Duration, write func(ctx context.Context, n int64) error) *atomic.Int64 {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var rounds atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := int64(1); ctx.Err() == nil; n++ {
			if err := write(ctx, n); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			rounds.Add(1)
			_ = sleep(ctx, pause) // or it has ended
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return &rounds
}

// push writes commands to a server at once.
func push(ctx context.Context, c *redis.Client, cmds ...[]any) error {
	_, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, cmd := range cmds {
			p.Do(ctx, cmd...)
		}
		return nil
	})
	return err
}

// TestBigOnesThatNeverStandStill compares big keys that the follower has not, has as
// another type or with a part that stays wrong, while all are written all the time.
func TestBigOnesThatNeverStandStill(t *testing.T) {
	for _, known := range []bool{false, true} {
		t.Run(fmt.Sprintf("what has arrived is known: %v", known), func(t *testing.T) {
			s := start(t)
			src, dst, ctx := s.src[0], s.dst[0], t.Context()
			const n = 20_000
			for from := 0; from < n; from += 1000 {
				stream, hash, list, queue, other := [][]any{}, []any{"HSET", "hash"}, []any{"RPUSH", "list"}, []any{"RPUSH", "queue"}, []any{"HSET", "other"}
				for i := range 100 {
					stream = append(stream, []any{"XADD", "stream", fmt.Sprintf("%d-1", from+i+1), "f", strings.Repeat("v", 1000)})
				}
				for i := from; i < from+1000; i++ {
					hash, list, queue, other = append(hash, fmt.Sprint("f", i), i), append(list, fmt.Sprint("element", i)), append(queue, fmt.Sprint("element", i)), append(other, fmt.Sprint("f", i), i)
				}
				if err := push(ctx, src, append(stream, hash, list, queue, other)...); err != nil {
					t.Fatal(err)
				}
				other[1] = "hash" // a copy of it
				if err := push(ctx, dst, hash, queue); err != nil {
					t.Fatal(err)
				}
				for i := 3; i < len(other); i += 2 {
					other[i] = "wrong"
				}
				other[1] = "other"
				if err := push(ctx, dst, other); err != nil {
					t.Fatal(err)
				}
			}
			for _, key := range []string{"followed", "altered"} {
				run(t, src, "COPY", "stream", key)
				run(t, src, "XGROUP", "CREATE", key, "g", 0)
				if err := dst.Restore(ctx, key, 0, src.Dump(ctx, key).Val()).Err(); err != nil {
					t.Fatal(err)
				}
			}
			run(t, dst, "XDEL", "altered", "77-1")
			run(t, dst, "HSET", "hash", "f7", "wrong")
			run(t, dst, "LSET", "queue", n/2, "wrong")
			run(t, dst, "SET", "list", "a string")
			rounds := always(t, 5*time.Millisecond, func(ctx context.Context, n int64) error {
				id := fmt.Sprintf("%d-1", 1_000_000+n)
				both := [][]any{
					{"HSET", "hash", "f1", n}, {"HSET", "other", "new", n}, {"RPUSH", "queue", n}, {"XADD", "followed", "MAXLEN", "2005", id, "n", n}, {"XADD", "altered", id, "n", n},
					{"XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", "altered", ">"},
				}
				if err := push(ctx, src, append(both, []any{"XADD", "stream", "*", "n", n}, []any{"RPUSH", "list", n})...); err != nil {
					return err
				}
				return push(ctx, dst, both...)
			})
			again := func(ctx context.Context) error {
				before := rounds.Load()
				return redistest.Within(20*time.Second, func() bool { return rounds.Load() >= before+2 || ctx.Err() != nil })
			}
			cfg := s.config(map[int]int{0: 0})
			cfg.Big, cfg.Settle = 256<<10, 60*time.Millisecond
			if known {
				cfg.Settled = func(ctx context.Context, _ int, keys []string) ([]bool, error) {
					out := make([]bool, len(keys))
					for i := range out {
						out[i] = true
					}
					return out, again(ctx) // what was written before is on both sides then
				}
			}
			r, err := Run(ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			found := make(map[string]value.Kind)
			for _, e := range r.Databases[0].Examples {
				found[string(e.Key)] = e.Kind
			}
			for key, want := range map[string]value.Kind{"stream": value.Missing, "hash": value.Value, "list": value.Type, "other": value.Value, "altered": value.Value, "followed": value.Same} {
				if found[key] != want {
					t.Errorf("%s: %q, not %q", key, found[key], want)
				}
			}
			if found["queue"] != value.Unsure && found["queue"] != value.Value || r.Moving > 0 || r.Verdict != Different {
				t.Errorf("%s", r)
			}
		})
	}
}

// TestWhoWritesToTheFollower changes a stream on the follower faster than it can be read,
// while it is at rest where it belongs.
func TestWhoWritesToTheFollower(t *testing.T) {
	a, b := redistest.Start(t), redistest.Start(t)
	src, dst := a.Client(0), b.Client(0)
	fill(t, 3, src, dst)
	always(t, 0, func(ctx context.Context, _ int64) error {
		return dst.XAdd(ctx, &redis.XAddArgs{Stream: "stream:1", MaxLen: 20, Values: []any{"by", "another"}}).Err()
	})
	link := redistest.NewLink(t, b.Addr())
	link.SetDelay(5 * time.Millisecond) // there is time to write from one command to the next
	far := redis.NewClient(redistest.Options(link.Addr(), 0))
	defer func() { _ = far.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := Run(ctx, Config{
		Source: func(router.Place) *redis.Client { return src }, Target: func(router.Place) *redis.Client { return far },
		Databases: map[int]router.Place{0: {}}, Settle: 10 * time.Millisecond, Rounds: 3,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Databases[0].Examples) != 1 || r.Databases[0].Examples[0].Key != "stream:1" || r.OK() || r.Differing != 1 {
		t.Errorf("%s", r)
	}
}

// TestOneThatMovesIsNotMended has a repair that does nothing, and a key that is written on
// both sides from when it was found.
func TestOneThatMovesIsNotMended(t *testing.T) {
	s := start(t)
	run(t, s.src[0], "SET", "k", 1)
	run(t, s.dst[0], "SET", "k", 1_000_000_000)
	cfg := s.config(map[int]int{0: 0})
	cfg.OnDiffer = func(int, string, value.Diff) {
		for _, c := range []*redis.Client{s.src[0], s.dst[0]} {
			always(t, 0, func(ctx context.Context, _ int64) error { return c.Incr(ctx, "k").Err() })
		}
	}
	cfg.Repair = func(context.Context, int, []string) error { return nil }
	r, err := Run(t.Context(), cfg)
	if err != nil || r.Left() != 1 || r.Moving != 0 || r.Databases[0].Examples[0].Repaired || r.OK() {
		t.Errorf("%v, %s", err, r)
	}
}

// TestMoreThanAreWatched has more keys that move than may be watched: of those nobody can
// say that they are equal, and one that does not follow is found among them.
func TestMoreThanAreWatched(t *testing.T) {
	s := start(t)
	const keys = 20
	for i := range keys {
		run(t, s.dst[0], "SET", fmt.Sprint("apart", i), 1_000_000_000)
	}
	for _, c := range []*redis.Client{s.src[0], s.dst[0]} {
		always(t, time.Millisecond, func(ctx context.Context, _ int64) error {
			var cmds [][]any
			for i := range keys {
				cmds = append(cmds, []any{"INCR", fmt.Sprint("apart", i)})
			}
			if c == s.src[0] {
				cmds = append(cmds, []any{"INCR", "dead"})
			}
			return push(ctx, c, cmds...)
		})
	}
	redistest.Eventually(t, 10*time.Second, func() bool { return s.src[0].Exists(t.Context(), "dead").Val() == 1 }, "the writers")
	cfg := s.config(map[int]int{0: 0})
	cfg.Databases, cfg.Settle, cfg.Parallel = map[int]router.Place{0: {}}, 50*time.Millisecond, 8
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	w := newWalk(cfg, 0)
	w.watchMost = 3
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := Report{Complete: true, Sample: 1, Databases: []Database{w.report}}
	r.finish()
	if r.Differing != 1 || r.Undecided+r.Moving != keys || r.Undecided < keys-3 {
		t.Errorf("%d differ, %d undecided, %d move\n%s", r.Differing, r.Undecided, r.Moving, r)
	}
	for _, e := range r.Databases[0].Examples {
		if e.Kind != value.Unsure && e.Key != "dead" || e.Kind == value.Unsure && !strings.Contains(e.Words, "than can be watched") {
			t.Errorf("%+v", e)
		}
	}
}
