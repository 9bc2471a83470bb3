package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
)

// longRun says that a test has the machine for itself, and its time: make e2e-long.
func longRun() bool { return os.Getenv("E2E_LONG") == "1" }

// seedKeys is how many keys the migration begins with; E2E_LONG asks for all.
func seedKeys() int {
	if longRun() {
		return 1_000_000
	}
	return 60_000
}

// seed fills the databases of s with n keys of every type, a third of them with
// an expiry between one and three hours away.
func seed(t *testing.T, s *redistest.Server, n int, dbs ...int) {
	t.Helper()
	const chunk = 2000
	type part struct{ db, from, to int }
	parts := make(chan part)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for p := range parts {
				pipe := s.Client(p.db).Pipeline()
				for k := p.from; k < p.to; k++ {
					queueKey(t.Context(), pipe, k)
				}
				cmds, err := pipe.Exec(t.Context())
				if err != nil {
					t.Errorf("seeding database %d, keys %d to %d (%d commands): %v", p.db, p.from, p.to, len(cmds), err)
				}
			}
		})
	}
	for i, db := range dbs {
		from, to := i*n/len(dbs), (i+1)*n/len(dbs)
		for ; from < to; from += chunk {
			parts <- part{db, from, min(from+chunk, to)}
		}
	}
	close(parts)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// queueKey makes key k, whose number decides type, size and expiry. Most are
// small; one in 10 000 has thousands of elements.
func queueKey(ctx context.Context, p redis.Pipeliner, k int) {
	size := 1 + k%5
	if k%10_000 < 7 { // one of each type
		size = 3000
	}
	values := func(format string) []any {
		list := make([]any, size)
		for i := range list {
			list[i] = fmt.Sprintf(format, k, i)
		}
		return list
	}
	var key string
	switch k % 7 {
	case 0:
		key = fmt.Sprintf("seed:string:%d", k)
		p.Set(ctx, key, strings.Repeat("binary\x00\r\n"+strconv.Itoa(k), size), 0)
	case 1:
		key = fmt.Sprintf("seed:list:%d", k)
		p.RPush(ctx, key, values("%d-%d")...)
	case 2:
		key = fmt.Sprintf("seed:set:%d", k)
		if k%2 == 0 { // an intset
			p.SAdd(ctx, key, values("%d%d")...)
		} else {
			p.SAdd(ctx, key, values("%d-%d")...)
		}
	case 3:
		key = fmt.Sprintf("seed:zset:%d", k)
		members := make([]redis.Z, size)
		for i := range members {
			members[i] = redis.Z{Score: float64(i) + 1/float64(k+3), Member: fmt.Sprintf("%d-%d", k, i)}
		}
		p.ZAdd(ctx, key, members...)
	case 4:
		key = fmt.Sprintf("seed:hash:%d", k)
		fields := make([]any, 0, 2*size)
		for i, v := range values("%d-%d") {
			fields = append(fields, "field"+strconv.Itoa(i), v)
		}
		p.HSet(ctx, key, fields...)
	case 5:
		key = fmt.Sprintf("seed:stream:%d", k)
		queueStream(ctx, p, key, k, size)
	case 6:
		key = fmt.Sprintf("seed:hll:%d", k)
		p.PFAdd(ctx, key, values("%d-%d")...)
	}
	if k%3 == 0 {
		p.PExpireAt(ctx, key, time.Now().Add(time.Hour+time.Duration(k%7_200_000)*time.Millisecond))
	}
}

// queueStream makes a stream with a deleted entry and two groups: one with
// entries that were delivered and not all acknowledged, to two consumers, one of
// which never read; the other one has read nothing.
func queueStream(ctx context.Context, p redis.Pipeliner, key string, k, size int) {
	for i := range size + 2 {
		p.XAdd(ctx, &redis.XAddArgs{Stream: key, ID: fmt.Sprintf("%d-%d", k+1, i+1), Values: []any{"n", i, "of", k}})
	}
	p.XGroupCreate(ctx, key, "readers", "0")
	p.XGroupCreate(ctx, key, "idle", "$")
	p.XGroupCreateConsumer(ctx, key, "readers", "sleepy")
	p.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "readers", Consumer: "c" + strconv.Itoa(k%3), Streams: []string{key, ">"}, Count: 2, Block: -1})
	p.XAck(ctx, key, "readers", fmt.Sprintf("%d-1", k+1))
	p.XDel(ctx, key, fmt.Sprintf("%d-2", k+1)) // it stays in the group's list
}

// TestMillionKeys moves databases full of keys of every type while writers go
// on, and compares everything by other means than the program's own.
func TestMillionKeys(t *testing.T) {
	began := time.Now()
	lap := func(what string) {
		t.Logf("%-40s %7.1f s", what, time.Since(began).Seconds())
		began = time.Now()
	}
	src, dst := redistest.Start(t), redistest.Start(t)
	seed(t, src, seedKeys(), 0, 3, 7)
	lap(fmt.Sprintf("%d keys made", seedKeys()))
	photos := photograph(t, src, 0, 3, 7)
	lap("photographed")

	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: dbmap, extra: []string{"--cutover.wait_ready", "1m"}})
	c.start("")
	c.await("serving", func(migration.Status) bool { return true })
	through := startLoad(t, history.Config{Addr: c.addr, Databases: []int{0, 3, 7}, Writers: 8, Prefix: "app", MaxRate: 200})
	direct := startLoad(t, history.Config{Addr: src.Addr(), Databases: []int{0, 3, 7}, Writers: 1, Prefix: "direct", MaxRate: 200})
	awaitCopied(t, c)
	lap("copied, under load")
	s := must[migration.Status](t)(c.status())
	for _, d := range s.Databases {
		t.Logf("database %d→%d: %d keys scanned, %d copied, %d bytes, %.0f keys/s", d.Source, d.Target, d.Scanned, d.Copied, d.Bytes, d.Rate)
	}
	through.h.TakeStall()
	r, err := c.cutover()
	if err != nil {
		t.Fatal(err)
	}
	moreAcked(t, through, 500)
	t.Logf("cut over: held %.1f ms, longest client stall %v, %d keys compared while frozen", r.Held, through.h.TakeStall(), r.Checked)
	lap("cut over")

	t.Logf("through the proxy: %s", through.mustHold(t, dst.Addr(), mapping(dbmap)))
	t.Logf("past the proxy: %s", direct.mustHold(t, dst.Addr(), mapping(dbmap)))
	if s := through.h.Stats(); s.Errors > 0 {
		t.Errorf("clients of the proxy saw %d errors, the last: %s", s.Errors, s.LastError)
	}
	lap("histories verified on the target")
	comparePhotos(t, photos, dst)
	lap("compared with the photographs")

	// Nobody may read the source before the fence is down; nobody writes now.
	c.end(false)
	equalSides(t, src, dst, dbmap)
	nothingElse(t, dst)
	lap("both sides compared")
}

// photoEvery is the share of the seed keys whose values are noted before the
// migration knows of them: one in so many. All are counted.
const photoEvery = 10

// photo is what a source database held before.
type photo struct {
	db     int
	seeds  int
	states map[string]state
}

func photograph(t *testing.T, s *redistest.Server, dbs ...int) []photo {
	t.Helper()
	var photos []photo
	for _, db := range dbs {
		p := photo{db: db, states: make(map[string]state)}
		keys := must[[]string](t)(allKeys(t.Context(), s.Client(db)))
		p.seeds = len(keys)
		var some []string
		for i := 0; i < len(keys); i += photoEvery {
			some = append(some, keys[i])
		}
		for chunk := range slices.Chunk(some, 500) {
			for i, st := range must[[]state](t)(states(t.Context(), s.Client(db), chunk)) {
				p.states[chunk[i]] = st
			}
		}
		photos = append(photos, p)
	}
	return photos
}

// comparePhotos looks for every photographed key in the mapped database of the
// target. The comparison of both servers alone would not see what both have lost.
func comparePhotos(t *testing.T, photos []photo, dst *redistest.Server) {
	t.Helper()
	kinds := make(map[string]int)
	expiring := 0
	for _, p := range photos {
		to := mapping(dbmap)(p.db)
		keys := must[[]string](t)(allKeys(t.Context(), dst.Client(to)))
		seeds := 0
		for _, k := range keys {
			if strings.HasPrefix(k, "seed:") {
				seeds++
			}
		}
		if seeds != p.seeds {
			t.Errorf("database %d→%d: %d of %d seed keys are on the target", p.db, to, seeds, p.seeds)
		}
		for chunk := range slices.Chunk(slices.Sorted(maps.Keys(p.states)), 500) {
			for i, now := range must[[]state](t)(states(t.Context(), dst.Client(to), chunk)) {
				was := p.states[chunk[i]]
				if !was.same(now) {
					t.Errorf("database %d→%d, key %q: was %v on the source, is %v on the target", p.db, to, chunk[i], was, now)
				}
				kinds[now.kind]++
				if now.expires > 0 {
					expiring++
				}
			}
		}
	}
	t.Logf("photographed keys by type: %v, with an expiry: %d", kinds, expiring)
}

// awaitCopied is awaitReady with more patience: the copy of a million keys takes
// its time.
func awaitCopied(t *testing.T, c *sidecar) {
	t.Helper()
	redistest.Eventually(t, 5*time.Minute, func() error {
		s, err := c.status()
		if err == nil && !s.Ready {
			err = fmt.Errorf("phase %s, reasons %q", s.Phase, s.Reasons)
		}
		return err
	}, "copied")
}

// nothingElse checks that the target has keys in the mapped databases alone, so
// that nothing went by the source's numbers.
func nothingElse(t *testing.T, dst *redistest.Server) {
	t.Helper()
	for db := range 16 {
		if db == 0 || db == 1 || db == 5 {
			continue
		}
		if n, err := dst.Client(db).DBSize(t.Context()).Result(); err != nil || n > 0 {
			t.Errorf("database %d of the target holds %d keys (%v), nothing is mapped there", db, n, err)
		}
	}
}
