package e2e

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
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

// TestShadowReadsUnderWrites asks the target for every read as well while clients write
// and read the same keys: no difference is reported. Those that are then planted on the
// target are each found by reading the key, and nothing else is; what no read tells is all
// that a comparison finds then. A switch ends it.
func TestShadowReadsUnderWrites(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	fillStill(t, src.Client(0), 300)
	fillStill(t, src.Client(3), 100)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0,3=5", extra: []string{"--verify.rate", "0", "--shadow.percent", "100"}})
	c.start("")
	c.awaitReady()
	var written atomic.Int64
	began := time.Now()
	writeAlways(t, c.addr, &written)
	stop := readAlways(t, c.addr)
	ask := func() admin.ShadowReply {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return must[admin.ShadowReply](t)(c.admin.Shadow(ctx, admin.ShadowRequest{}))
	}
	redistest.Eventually(t, 2*time.Minute, func() error {
		if r := ask(); r.State != "on" || r.Equal < 50_000 || r.Behind == 0 {
			return fmt.Errorf("%s, %s: %d the same, %d behind, %+v", r.State, r.Why, r.Equal, r.Behind, r.Asked)
		}
		return nil
	}, "many reads, some of them before the change was there")
	r := ask()
	t.Logf("at %d writes/s: %d asked, %d the same, %d behind, %d unsettled, %d open, %d skipped", int64(float64(written.Load())/time.Since(began).Seconds()),
		r.Asked.Reads, r.Equal, r.Behind, r.Unsettled, r.Open, r.Asked.Skipped)
	stop()
	redistest.Eventually(t, time.Minute, func() error {
		if r := ask(); r.Open > 0 {
			return fmt.Errorf("%d are open", r.Open)
		}
		return nil
	}, "every read judged")
	if r := ask(); r.Differing != 0 || r.Keys != 0 || r.Asked.Failed != 0 {
		t.Fatalf("nothing was planted: %+v, %+v", r.ShadowStatus, r.Asked)
	}
	everyReadCounts(t, ask())

	all := plantStill(t, dst.Client(0))
	seen := map[string]string{ // by which read each can be seen
		"still:str:299": "GET", "still:str:2": "PEXPIRETIME", "still:str:3": "TTL", "still:str:4": "EXISTS", "still:extra": "STRLEN",
		"still:list:1": "LLEN", "still:list:2": "LRANGE 0 -1", "still:hash:1": "HGETALL", "still:set:1": "SMEMBERS", "still:zset:1": "ZSCORE a",
		"still:stream:1": "XPENDING g", "still:stream:3": "XPENDING g", "still:stream:5": "XLEN",
		"still:stream:6": "XPENDING g",
	}
	unseen := map[string]value.Kind{ // none that is asked of both tells a consumer without entries, or a stream's last id
		"still:stream:2": all["still:stream:2"], "still:stream:4": all["still:stream:4"],
	}
	if len(seen)+len(unseen) != len(all) {
		t.Fatalf("%d differences are planted, and %d are to be found", len(all), len(seen)+len(unseen))
	}
	want := make(map[string]value.Kind)
	for key := range seen {
		want[key] = all[key]
	}
	client := redis.NewClient(redistest.Options(c.addr, 0))
	defer func() { _ = client.Close() }()
	read := func() {
		for key, command := range seen {
			words := strings.Fields(command)
			args := []any{words[0], key}
			for _, w := range words[1:] {
				args = append(args, w)
			}
			_ = client.Do(t.Context(), args...).Err()
		}
	}
	found := make(map[string]value.Kind)
	redistest.Eventually(t, time.Minute, func() error {
		read()
		for _, e := range ask().Examples {
			if kind, known := found[e.Key]; known && kind != e.Kind {
				t.Errorf("%q: %s and %s", e.Key, kind, e.Kind)
			}
			found[e.Key] = e.Kind
		}
		if len(found) < len(want) {
			return fmt.Errorf("found %v", found)
		}
		return nil
	}, "every planted difference found")
	if !maps.Equal(found, want) {
		t.Errorf("found %v, not %v", found, want)
	}
	redistest.Eventually(t, time.Minute, func() error {
		before := ask()
		read()
		if r := ask(); r.Open > 0 || r.Keys != before.Keys || r.Equal < before.Equal+int64(len(seen)) {
			return fmt.Errorf("%d open, %d keys, %d the same", r.Open, r.Keys, r.Equal)
		}
		return nil
	}, "what was found is mended, and read without a difference")
	r = ask()
	for _, e := range r.Examples {
		if strings.Contains(e.Words, "xxx") || e.Command == "" {
			t.Errorf("%+v", e)
		}
	}
	if r.Keys != int64(len(want)) {
		t.Errorf("%d differences, not %d", r.Keys, len(want))
	}
	everyReadCounts(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rest := make(map[string]value.Kind)
	for _, e := range must[verify.Report](t)(c.admin.Verify(ctx, admin.VerifyRequest{Repair: true})).Databases[0].Examples {
		rest[string(e.Key)] = e.Kind
	}
	if !maps.Equal(rest, unseen) {
		t.Errorf("behind what reads have found a comparison finds %v, want %v", rest, unseen)
	}
	shadowsAcross(t, c, client, ask)
}

// everyReadCounts: a read that was answered differently has come to one end.
func everyReadCounts(t *testing.T, r admin.ShadowReply) {
	t.Helper()
	if sum := r.Behind + r.Differing + r.Unsettled + r.LeftOut + int64(r.Open); sum != r.Asked.Differed {
		t.Errorf("%d reads were answered differently, and %d have come to an end: %+v", r.Asked.Differed, sum, r.ShadowStatus)
	}
	var behind, differing, unsettled int64
	for _, f := range r.Families {
		behind, differing, unsettled = behind+f.Behind, differing+f.Differing, unsettled+f.Unsettled
	}
	if behind != r.Behind || differing != r.Differing || unsettled != r.Unsettled {
		t.Errorf("the families' sums are others: %+v", r.ShadowStatus)
	}
}

// shadowsAcross: a cutover and a rollback end shadow reads, and cost no client anything.
func shadowsAcross(t *testing.T, c *sidecar, client *redis.Client, ask func() admin.ShadowReply) {
	t.Helper()
	must[migration.Report](t)(c.cutover())
	c.await("a reason", func(s migration.Status) bool { return strings.Contains(s.Shadow.Why, "on the target") })
	before := ask()
	for range 100 {
		if err := client.Get(t.Context(), "still:str:1").Err(); err != nil {
			t.Fatal(err)
		}
	}
	if r := ask(); r.State != "waiting" || !strings.Contains(r.Why, "on the target") || r.Asked.Reads != before.Asked.Reads || r.Asked.Connections != 0 {
		t.Errorf("after the cutover: %s, %s, %+v", r.State, r.Why, r.Asked)
	}
	c.awaitReady()
	must[migration.Report](t)(c.rollback())
	c.await("a reason", func(s migration.Status) bool { return strings.Contains(s.Shadow.Why, "fenced") })
	c.awaitReady()
	must[migration.Report](t)(c.cutover())
	if r := ask(); r.Differing != before.Differing {
		t.Errorf("switches are no difference: %+v", r.Examples)
	}
}

// readAlways reads what writeAlways writes, and what nobody writes, until stop is called.
func readAlways(t *testing.T, addr string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for n := range 4 {
		wg.Go(func() {
			c := redis.NewClient(redistest.Options(addr, 3*(n%2)))
			defer func() { _ = c.Close() }()
			rng := rand.New(rand.NewPCG(uint64(n), 9))
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for ctx.Err() == nil {
				p := c.Pipeline()
				for range 5 {
					k := rng.IntN(2000)
					p.Get(ctx, fmt.Sprint("w:hot:", k%3))
					p.Get(ctx, fmt.Sprint("w:ttl:", k))
					p.LRange(ctx, fmt.Sprint("w:list:", k%200), 0, -1)
					p.HGetAll(ctx, fmt.Sprint("w:hash:", k))
					p.ZRangeWithScores(ctx, fmt.Sprint("w:zset:", k), 0, -1)
					p.SMembers(ctx, fmt.Sprint("w:set:", k))
					p.MGet(ctx, fmt.Sprint("w:str:", k), fmt.Sprint("still:str:", k%100), "nothing")
					p.XLen(ctx, fmt.Sprint("w:stream:", k%4))
					p.PTTL(ctx, fmt.Sprint("still:str:", k%100))
					p.XRange(ctx, fmt.Sprint("still:stream:", k%100), "-", "+")
				}
				if _, err := p.Exec(ctx); err != nil && ctx.Err() == nil && err != redis.Nil { //nolint:errorlint // as the library returns it
					t.Errorf("reading: %v", err)
					return
				}
				select {
				case <-tick.C:
				case <-ctx.Done():
				}
			}
		})
	}
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	t.Cleanup(stop)
	return stop
}

// TestShadowReadsThatAreWordedDifferently: on a target that answers a command in another
// way although it holds the same, as another version may, that is a difference too.
func TestShadowReadsThatAreWordedDifferently(t *testing.T) {
	src := redistest.Start(t)
	dst := redistest.Start(t, redistest.WithRenamed("EXPIRETIME", "OLDEXPIRETIME"), redistest.WithRenamed("TTL", "EXPIRETIME"))
	fillStill(t, src.Client(0), 10)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0", extra: []string{"--verify.rate", "0", "--shadow.percent", "100"}})
	c.start("")
	c.awaitReady()
	client := redis.NewClient(redistest.Options(c.addr, 0))
	defer func() { _ = client.Close() }()
	redistest.Eventually(t, time.Minute, func() error {
		_ = client.Do(t.Context(), "EXPIRETIME", "still:str:1").Err()
		_ = client.Get(t.Context(), "still:str:2").Err()
		s, err := c.status()
		if err == nil && len(s.Shadow.Examples) == 0 {
			err = fmt.Errorf("%+v", s.Shadow)
		}
		return err
	}, "the difference found")
	s := must[migration.Status](t)(c.status()).Shadow
	if e := s.Examples[0]; e.Kind != "reply" || e.Key != "still:str:1" || e.Command != "expiretime" || s.Differing == 0 {
		t.Errorf("%+v, %+v", e, s)
	}
}
