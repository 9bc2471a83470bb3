package mirror_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// many databases go into database 0 of the target, each under a prefix of its own.
const many = 16

func prefixOf(db int) string { return fmt.Sprintf("{c%d}:", db) }

// crowd is a world in which databases share one.
type crowd struct {
	src, dst *redistest.Server
	from, to *conn.Pool
	dbs      router.DBMap
	strange  map[string]string // keys of others on the target
}

func newCrowd(t *testing.T) *crowd {
	t.Helper()
	w := &crowd{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")),
		dst: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")),
	}
	w.from = conn.New(config.Endpoint{Network: "tcp", Address: w.src.Addr()}, "t:source", 5*time.Second)
	w.to = conn.New(config.Endpoint{Network: "tcp", Address: w.dst.Addr()}, "t:target", 5*time.Second)
	t.Cleanup(func() {
		_ = w.from.Close()
		_ = w.to.Close()
	})
	pairs := make(map[int]router.Place)
	for db := range many {
		pairs[db] = router.Place{Prefix: prefixOf(db)}
	}
	var err error
	if w.dbs, err = router.NewDBMap(pairs); err != nil {
		t.Fatal(err)
	}
	c := w.dst.Client(0)
	for i, key := range []string{"other", "k1", "{c1}", "{c99}:k1", "{c1:k1", "c1}:k1"} {
		w.must(t, c.Set(t.Context(), key, i, 0).Err())
	}
	w.must(t, c.HSet(t.Context(), "{c}:hash", "f", 1).Err())
	w.strange = w.others(t)
	return w
}

func (w *crowd) must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mirror starts one that copies from a side, with a scan or from now on.
func (w *crowd) mirror(t *testing.T, from router.Side, feed string, scan bool) *mirror.Mirror {
	t.Helper()
	nothing := func(context.Context) error { return nil }
	cfg := mirror.Config{
		From: w.from, To: w.to, Side: from, Map: w.dbs, Name: from.String(), Feed: feed, Workers: 2, Batch: 64, ScanCount: 100, DirtyLimit: 100_000,
		BigKey: 64 << 10, Heartbeat: 50 * time.Millisecond, Timeout: 5 * time.Second, EnsureNotifications: nothing, CheckNotifications: nothing,
	}
	if from == router.Target {
		cfg.From, cfg.To = w.to, w.from
	}
	m := mirror.New(cfg, slog.New(slog.DiscardHandler))
	t.Cleanup(m.Stop)
	w.must(t, m.Listen(t.Context()))
	if !scan {
		w.must(t, m.Rebase(t.Context()))
	}
	w.must(t, m.Follow(t.Context(), scan))
	return m
}

// raw reads the keys of the target's database as they are there.
func (w *crowd) raw(t *testing.T) map[string]string { return readAll(t, w.dst.Client(0)) }

// readAll reads a database as text: each key's value and expiry. Keys that expire within
// seconds count as gone.
func readAll(t *testing.T, c *redis.Client) map[string]string {
	t.Helper()
	ctx := t.Context()
	out := make(map[string]string)
	for k := range content(t, c) {
		at := c.PExpireTime(ctx, k).Val()
		if at == -2*time.Nanosecond || at > 0 && time.Until(time.UnixMilli(at.Milliseconds())) < 10*time.Second {
			continue
		}
		var value any
		switch kind := c.Type(ctx, k).Val(); kind {
		case "string":
			value = c.Get(ctx, k).Val()
		case "set":
			members := c.SMembers(ctx, k).Val()
			slices.Sort(members)
			value = members
		case "hash":
			value = c.HGetAll(ctx, k).Val()
		case "list":
			value = c.LRange(ctx, k, 0, -1).Val()
		case "zset":
			value = c.ZRangeWithScores(ctx, k, 0, -1).Val()
		case "stream":
			value = c.XRange(ctx, k, "-", "+").Val()
		default:
			t.Fatalf("key %q is of type %q", k, kind)
		}
		out[k] = fmt.Sprint(value, " until ", at)
	}
	return out
}

// others are the keys of the target that have no prefix of ours.
func (w *crowd) others(t *testing.T) map[string]string {
	t.Helper()
	out := w.raw(t)
	maps.DeleteFunc(out, func(key, _ string) bool { _, _, mapped := w.dbs.SourceOf(0, key); return mapped })
	return out
}

// mustBeEqual drains and compares all databases, and what belongs to others.
func (w *crowd) mustBeEqual(t *testing.T, m *mirror.Mirror) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.Drain(ctx); err != nil {
		t.Fatalf("%v: %+v", err, m.Progress())
	}
	there, total := w.raw(t), 0
	for db := range many {
		here := readAll(t, w.src.Client(db))
		total += len(here)
		for key, value := range here {
			if got := there[prefixOf(db)+key]; got != value {
				t.Errorf("key %q of database %d is on the target %q, not %q", key, db, got, value)
			}
		}
		for key := range there {
			if name, ours := strings.CutPrefix(key, prefixOf(db)); ours && here[name] == "" {
				t.Errorf("the target has %q, and database %d no %q", key, db, name)
			}
		}
	}
	if got := w.others(t); !maps.Equal(got, w.strange) {
		t.Errorf("others' keys were %v and are %v", w.strange, got)
	}
	if total < many {
		t.Errorf("only %d keys were compared", total)
	}
	if t.Failed() {
		t.Logf("%+v", m.Progress())
		t.FailNow()
	}
}

// alter makes a random change of a key of one of few names.
func alter(ctx context.Context, c *redis.Client, r *rand.Rand, prefix string) error {
	key, other := fmt.Sprintf("%sk%d", prefix, r.IntN(40)), fmt.Sprintf("%sk%d", prefix, r.IntN(40))
	big := prefix + "big"
	switch r.IntN(12) {
	case 0, 1:
		return c.Set(ctx, key, r.IntN(1000), 0).Err()
	case 2:
		return c.Set(ctx, key, r.IntN(1000), time.Hour).Err()
	case 3, 4:
		return c.Unlink(ctx, key).Err()
	case 5:
		p := c.TxPipeline()
		p.Del(ctx, key)
		p.ZAdd(ctx, key, redis.Z{Score: r.Float64(), Member: r.IntN(9)})
		_, err := p.Exec(ctx)
		return err
	case 6:
		p := c.TxPipeline()
		p.Del(ctx, key)
		p.SAdd(ctx, key, r.IntN(9), "x", "y")
		_, err := p.Exec(ctx)
		return err
	case 7:
		_ = c.Rename(ctx, key, other).Err() // there may be none
		return nil
	case 8:
		return c.PExpire(ctx, key, time.Duration(1+r.IntN(20))*time.Millisecond).Err()
	case 9:
		p := c.TxPipeline()
		p.Del(ctx, key)
		p.XAdd(ctx, &redis.XAddArgs{Stream: key, Values: []any{"f", r.IntN(9)}})
		_, err := p.Exec(ctx)
		return err
	case 10:
		return c.HSet(ctx, big, fmt.Sprint("f", r.IntN(3000)), r.IntN(1000)).Err()
	default:
		return c.RPush(ctx, prefix+"list", strings.Repeat("x", 100)).Err()
	}
}

// changes makes n of them in each database, at the same time.
func (w *crowd) changes(t *testing.T, side router.Side, n int) {
	t.Helper()
	var wg sync.WaitGroup
	for db := range many {
		wg.Go(func() {
			c, prefix := w.src.Client(db), ""
			if side == router.Target {
				c, prefix = w.dst.Client(0), prefixOf(db)
			}
			r := rand.New(rand.NewPCG(uint64(db), uint64(n)))
			for range n {
				if err := alter(t.Context(), c, r, prefix); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// fill gives each database some keys of the same names, one of them big.
func (w *crowd) fill(t *testing.T) {
	t.Helper()
	for db := range many {
		p := w.src.Client(db).Pipeline()
		for i := range 100 {
			p.Set(t.Context(), fmt.Sprint("still", i), fmt.Sprint(db, i), 0)
		}
		if db%5 == 0 {
			for i := range 3000 {
				p.HSet(t.Context(), "big", fmt.Sprint("f", i), strings.Repeat("v", 40))
			}
		}
		if _, err := p.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPlaces copies 16 databases into one in which others have keys, while they change,
// and back.
func TestPlaces(t *testing.T) {
	w := newCrowd(t)
	w.fill(t)
	there := w.mirror(t, router.Source, "", true)
	w.changes(t, router.Source, 150)
	w.mustBeEqual(t, there)
	w.changes(t, router.Source, 100)
	w.mustBeEqual(t, there)

	// What is gone without a word is found by the scan, and nothing else is.
	w.must(t, w.src.Client(5).FlushDB(t.Context()).Err())
	w.must(t, w.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "").Err())
	w.must(t, w.src.Client(1).Del(t.Context(), "still1", "still2", "k1").Err())
	w.must(t, w.src.Client(1).Set(t.Context(), "late", 1, 0).Err())
	w.must(t, w.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "KEA").Err())
	there.Rescan(-1, "this test wants it")
	w.must(t, w.src.Client(5).Set(t.Context(), "after", 1, 0).Err())
	w.mustBeEqual(t, there)
	there.Stop()

	back := w.mirror(t, router.Target, "", false)
	w.changes(t, router.Target, 150)
	w.must(t, w.dst.Client(0).Set(t.Context(), "stranger", 1, 0).Err())
	w.must(t, w.dst.Client(0).Set(t.Context(), "{c99}:stranger", 1, 0).Err())
	w.must(t, w.dst.Client(0).Rename(t.Context(), prefixOf(3)+"still1", prefixOf(4)+"moved").Err())
	w.must(t, w.dst.Client(0).Rename(t.Context(), prefixOf(3)+"still2", "taken away").Err())
	w.strange = w.others(t)
	w.mustBeEqual(t, back)
	if n := w.src.Client(4).Exists(t.Context(), "moved").Val(); n != 1 {
		t.Error("a key that was renamed into another prefix did not come to that database")
	}
	w.must(t, w.src.Client(7).Set(t.Context(), "astray", 1, 0).Err())
	w.must(t, w.src.Client(7).Del(t.Context(), "still7").Err())
	back.Rescan(7, "this test wants it")
	w.mustBeEqual(t, back)
	back.Stop()
}

// TestPlacesTracked: CLIENT TRACKING says nothing of databases, but the names tell.
func TestPlacesTracked(t *testing.T) {
	w := newCrowd(t)
	w.fill(t)
	there := w.mirror(t, router.Source, mirror.FeedTracking, true)
	w.changes(t, router.Source, 60)
	w.mustBeEqual(t, there)
	there.Stop()
	back := w.mirror(t, router.Target, mirror.FeedTracking, true)
	w.changes(t, router.Target, 60)
	w.must(t, w.dst.Client(0).Set(t.Context(), "stranger", 1, 0).Err())
	w.strange = w.others(t)
	w.mustBeEqual(t, back)
	back.Stop()
}

// TestPlacesByType copies without RESTORE: temporary keys are nobody's.
func TestPlacesByType(t *testing.T) {
	w := newCrowd(t)
	w.fill(t)
	w.must(t, w.dst.Client(0).Do(t.Context(), "ACL", "SETUSER", "default", "-restore").Err())
	there := w.mirror(t, router.Source, "", true)
	w.changes(t, router.Source, 60)
	w.mustBeEqual(t, there)
	for key := range w.raw(t) {
		if _, _, mapped := w.dbs.SourceOf(0, key); !mapped && w.strange[key] == "" {
			t.Errorf("key %q was left behind", key)
		}
	}
	there.Stop()
}
