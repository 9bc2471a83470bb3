package e2e

import (
	"context"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/sync/value"
	"github.com/crossfade/crossfade/sync/verify"
)

// writesPerSecond is what goes through the proxy while both sides are compared.
const writesPerSecond = 10_000

// verifyRate is how many writes a second must have been made during a comparison for it to
// count, and how many comparisons are tried for that. In a long run it is the whole rate.
func verifyRate() (least float64, tries int) {
	if longRun() {
		return writesPerSecond, 20
	}
	return writesPerSecond / 10, 10
}

// TestVerifyUnderWrites compares both sides while clients write through the proxy:
// nothing is reported. What is then planted on the target, all kinds, is found, and
// nothing else; and a repair mends it all.
func TestVerifyUnderWrites(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	fillStill(t, src.Client(0), 1500)
	fillStill(t, src.Client(3), 300)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0,3=5", extra: []string{"--verify.interval", "1s", "--verify.rate", "20000"}})
	c.start("")
	c.awaitReady()
	var written atomic.Int64
	writeAlways(t, c.addr, &written)

	// compare also says how many writes a second were made meanwhile.
	compare := func(repair bool) (verify.Report, float64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		before, began := written.Load(), time.Now()
		r, err := c.admin.Verify(ctx, admin.VerifyRequest{Repair: repair})
		if err != nil {
			t.Fatal(err)
		}
		rate := float64(written.Load()-before) / time.Since(began).Seconds()
		d := r.Databases[0]
		t.Logf("%d keys in %.1f s at %.0f writes/s: %d looked at again, %d watched, %d followed, %d moving, %d undecided; stale %v",
			r.Keys, r.Seconds, rate, d.Again, d.Watched, d.Followed, r.Moving, r.Undecided, r.Stale)
		return r, rate
	}
	least, tries := verifyRate()
	var rates []float64
	for n := 0; n < 2; tries-- {
		if tries == 0 {
			t.Fatalf("the writers did not reach %.0f writes/s during two comparisons, but %.0f: nothing is said of them then", least, rates)
		}
		r, rate := compare(false)
		if !r.OK() || r.Differing != 0 || !r.Stale {
			t.Fatalf("nothing was planted, %.0f writes/s were made, and stale is %v:\n%s", rate, r.Stale, r)
		}
		rates = append(rates, rate)
		if rate >= least {
			n++
		}
	}
	redistest.Eventually(t, time.Minute, func() error {
		s, err := c.status()
		if b := s.Verify.Background; err == nil && b.Walks == 0 {
			err = fmt.Errorf("%s, %+v", b.State, b.Progress)
		}
		return err
	}, "a walk in the background")
	if s, err := c.status(); err != nil || s.Verify.Background.Alarms != 0 || s.Verify.Background.Last.Differing != 0 {
		t.Fatalf("in the background: %+v, %v", s.Verify.Background, err)
	}

	want := plantStill(t, dst.Client(0))
	found := make(map[string]value.Kind)
	r, rate := compare(true)
	for _, e := range r.Databases[0].Examples {
		found[string(e.Key)] = e.Kind
	}
	s := must[migration.Status](t)(c.status())
	// The background may have been there first, or at the same time: then a key is in both
	// accounts. None may be in neither, or be found where nothing was planted.
	first := s.Verify.Background.Alarms
	planted := maps.Clone(found)
	maps.DeleteFunc(planted, func(key string, kind value.Kind) bool { return want[key] != kind })
	missed := int64(len(want) - len(planted))
	if len(planted) != len(found) || r.Differing != int64(len(found)) || missed > first || first > int64(len(want)) {
		t.Errorf("at %.0f writes/s found %v, and %d in the background, not %v\n%s", rate, found, first, want, r)
	}
	if !r.OK() || r.Repaired != r.Differing {
		t.Errorf("not mended at %.0f writes/s:\n%s", rate, r)
	}
	if r, rate := compare(false); !r.OK() || r.Differing != 0 {
		t.Errorf("after the repair, at %.0f writes/s:\n%s", rate, r)
	}
}

// fillStill writes keys of all types that nobody writes again.
func fillStill(t *testing.T, c *redis.Client, n int) {
	t.Helper()
	ctx := t.Context()
	p := c.Pipeline()
	for i := range n {
		p.Do(ctx, "SET", fmt.Sprint("still:str:", i), strings.Repeat("x", i%300), "PXAT", 4_000_000_000_000+i)
		p.Do(ctx, "RPUSH", fmt.Sprint("still:list:", i), "a", "b", i)
		p.Do(ctx, "HSET", fmt.Sprint("still:hash:", i), "f", i, "g", 1)
		p.Do(ctx, "SADD", fmt.Sprint("still:set:", i), "a", i)
		p.Do(ctx, "ZADD", fmt.Sprint("still:zset:", i), "0.1", "a", i, "b")
		p.Do(ctx, "XADD", fmt.Sprint("still:stream:", i), "1-1", "f", i)
		p.Do(ctx, "XGROUP", "CREATE", fmt.Sprint("still:stream:", i), "g", "0")
		p.Do(ctx, "XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", fmt.Sprint("still:stream:", i), ">")
	}
	if _, err := p.Exec(ctx); err != nil {
		t.Fatal(err)
	}
}

// plantStill changes the target behind the copy's back and returns what is to be found.
func plantStill(t *testing.T, dst *redis.Client) map[string]value.Kind {
	t.Helper()
	up := strconv.FormatFloat(math.Nextafter(0.1, 1), 'g', 17, 64)
	_, err := dst.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
		for _, cmd := range [][]any{
			{"SETRANGE", "still:str:299", 100, "y"}, {"PEXPIREAT", "still:str:2", 4_000_000_001_002}, {"PERSIST", "still:str:3"}, {"DEL", "still:str:4"},
			{"SET", "still:extra", 1}, {"DEL", "still:list:1"}, {"SET", "still:list:1", 1}, {"LSET", "still:list:2", 1, "c"}, {"HSET", "still:hash:1", "f", "x"},
			{"SADD", "still:set:1", "more"}, {"ZADD", "still:zset:1", up, "a"}, {"XGROUP", "DESTROY", "still:stream:1", "g"},
			{"XGROUP", "CREATECONSUMER", "still:stream:2", "g", "new"}, {"XACK", "still:stream:3", "g", "1-1"}, {"XSETID", "still:stream:4", "2-0"}, {"XADD", "still:stream:5", "*", "f", 1},
			{"XCLAIM", "still:stream:6", "g", "new", 0, "1-1"},
		} {
			p.Do(t.Context(), cmd...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]value.Kind{
		"still:str:299": value.Value, "still:str:2": value.Expiry, "still:str:3": value.Expiry, "still:str:4": value.Missing, "still:extra": value.Extra,
		"still:list:1": value.Type, "still:list:2": value.Value, "still:hash:1": value.Value, "still:set:1": value.Value, "still:zset:1": value.Value,
		"still:stream:1": value.Group, "still:stream:2": value.Group, "still:stream:3": value.Group, "still:stream:4": value.Value, "still:stream:5": value.Value,
		"still:stream:6": value.Group,
	}
}

// writeAlways writes through the proxy until the test ends: many keys, some hot ones
// and short-lived ones, and groups that read and acknowledge.
func writeAlways(t *testing.T, addr string, written *atomic.Int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	const writers, burst = 4, 50
	for w := range writers {
		wg.Go(func() {
			c := redis.NewClient(redistest.Options(addr, 3*(w%2)))
			defer func() { _ = c.Close() }()
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			stream := fmt.Sprint("w:stream:", w)
			_ = c.XGroupCreateMkStream(ctx, stream, "g", "0").Err()
			tick := time.NewTicker(time.Second * burst * writers / writesPerSecond)
			defer tick.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				p := c.Pipeline()
				for i := range burst {
					k := rng.IntN(2000)
					switch i % 10 {
					case 0:
						p.Do(ctx, "INCR", fmt.Sprint("w:hot:", k%3))
					case 1:
						p.Do(ctx, "SET", fmt.Sprint("w:ttl:", k), n, "PX", 1+k%50)
					case 2:
						p.Do(ctx, "LPUSH", fmt.Sprint("w:list:", k%200), n)
					case 3:
						p.Do(ctx, "RPOP", fmt.Sprint("w:list:", k%200))
					case 4:
						p.Do(ctx, "HINCRBY", fmt.Sprint("w:hash:", k), k%7, 1)
					case 5:
						p.Do(ctx, "ZINCRBY", fmt.Sprint("w:zset:", k), "0.1", k%9)
					case 6:
						p.Do(ctx, "SADD", fmt.Sprint("w:set:", k), n%50)
					case 7:
						p.Do(ctx, "DEL", fmt.Sprint("w:set:", rng.IntN(2000)))
					default:
						p.Do(ctx, "SET", fmt.Sprint("w:str:", k), n)
					}
				}
				p.Do(ctx, "XADD", stream, "MAXLEN", 100, fmt.Sprint(n+1, "-1"), "n", n)
				p.Do(ctx, "XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", stream, ">")
				p.Do(ctx, "XACK", stream, "g", fmt.Sprint(max(0, n-10), "-1"))                 // some are always pending
				if _, err := p.Exec(ctx); err != nil && ctx.Err() == nil && err != redis.Nil { //nolint:errorlint // as the library returns it
					t.Errorf("writing: %v", err)
					return
				}
				written.Add(burst + 3)
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
}
