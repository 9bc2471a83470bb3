package mirror_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// fillMortal makes n keys that expire in hours.
func fillMortal(t *testing.T, c redis.Cmdable, n int) {
	t.Helper()
	for from := 0; from < n; from += 500 {
		pipe := c.Pipeline()
		for i := from; i < min(n, from+500); i++ {
			pipe.Set(t.Context(), fmt.Sprintf("m:%d", i), strings.Repeat("v", 200), time.Duration(i+3600)*time.Second)
		}
		_, err := pipe.Exec(t.Context())
		ok(t, err)
	}
}

// number finds one in the answer to INFO.
func number(t *testing.T, c *redis.Client, section, field string) int {
	t.Helper()
	text, err := c.Info(t.Context(), section).Result()
	ok(t, err)
	at := indexAfter(text, "\n"+field+":")
	if at < 0 {
		t.Fatalf("INFO %s does not tell %s", section, field)
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.SplitN(text[at:], "\n", 2)[0]))
	ok(t, err)
	return n
}

// squeeze has a server evict more than a hundred keys. It goes on to until its memory is
// given back.
func squeeze(t *testing.T, c *redis.Client) (giveBack func()) {
	t.Helper()
	ctx, before := t.Context(), number(t, c, "stats", "evicted_keys")
	ok(t, c.ConfigSet(ctx, "maxmemory-policy", "volatile-ttl").Err())
	ok(t, c.ConfigSet(ctx, "maxmemory", strconv.Itoa(number(t, c, "memory", "used_memory")-2<<20)).Err())
	redistest.Eventually(t, 20*time.Second, func() bool { return number(t, c, "stats", "evicted_keys")-before > 100 }, "keys are evicted")
	return func() { ok(t, c.ConfigSet(ctx, "maxmemory", "0").Err()) }
}

func filledNow(t *testing.T, w *world, ask func(m *mirror.Mirror, p redis.Pipeliner) func() error) error {
	t.Helper()
	p := w.dst.Client(0).Pipeline()
	holds := ask(w.m, p)
	_, err := p.Exec(t.Context())
	return errors.Join(err, holds())
}

// TestTargetThatEvicts: what the target has thrown away for want of memory is there again
// before anybody takes the copy for whole.
func TestTargetThatEvicts(t *testing.T) {
	w := newWorld(t, nil)
	ctx, c := t.Context(), w.dst.Client(0)
	fillMortal(t, w.src.Client(0), 20_000)
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	whole := func(m *mirror.Mirror, p redis.Pipeliner) func() error { return m.Whole(ctx, p) }
	filled := func(m *mirror.Mirror, p redis.Pipeliner) func() error { return m.Filled(ctx, p) }
	ok(t, filledNow(t, w, whole))

	giveBack := squeeze(t, c)
	if err := filledNow(t, w, whole); err == nil || !strings.Contains(err.Error(), "evicted") {
		t.Errorf("it is taken for whole: %v", err)
	}
	ok(t, filledNow(t, w, filled)) // it is the same process
	redistest.Eventually(t, 20*time.Second, func() error {
		if p := w.m.Progress(); p.State != mirror.Resync || !strings.Contains(p.Reason, "evicts") {
			return fmt.Errorf("state %s (%s)", p.State, p.Reason)
		}
		return nil
	}, "it is told")
	giveBack()
	drain(t, w.m)
	if have := number(t, c, "stats", "evicted_keys"); have == 0 {
		t.Error("nothing was evicted: the test does not test what it says")
	}
	w.mustBeEqual(t)
	ok(t, filledNow(t, w, whole))
	w.awaitState(t, mirror.Live)
}

// TestDrainNoticesEviction: a drain looks by itself, whoever has not looked yet.
func TestDrainNoticesEviction(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.Heartbeat = 200 * time.Millisecond })
	fillMortal(t, w.src.Client(0), 20_000)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	squeeze(t, w.dst.Client(0))()
	drain(t, w.m)
	w.mustBeEqual(t)
}

// TestServerThatWasLeftEvicts: a server that was left, and is a cache, evicts as it did when it
// was served. The copy to it goes on, and it is told.
func TestServerThatWasLeftEvicts(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.Side = router.Target; c.Map = identity(t) })
	ctx, c := t.Context(), w.dst.Client(0)
	fillMortal(t, w.src.Client(0), 20_000)
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	defer squeeze(t, c)()
	redistest.Eventually(t, 20*time.Second, func() error {
		for _, e := range w.m.Progress().Errors {
			if e.Kind == "evicted" {
				return nil
			}
		}
		return errors.New("not yet")
	}, "it is told")
	drain(t, w.m)
	ok(t, filledNow(t, w, func(m *mirror.Mirror, p redis.Pipeliner) func() error { return m.Whole(ctx, p) }))
	if p := w.m.Progress(); p.State != mirror.Live || p.Gaps > 0 {
		t.Errorf("state %s (%s), %d gaps", p.State, p.Reason, p.Gaps)
	}
}

func identity(t *testing.T) router.DBMap {
	t.Helper()
	dm, err := router.NewDBMap(map[int]int{0: 0})
	ok(t, err)
	return dm
}

// TestMasterThatEvicts: of a cluster each master is looked at.
func TestMasterThatEvicts(t *testing.T) {
	f := newFleet(t, 0, map[int]router.Place{0: {}}, nil)
	fillMortal(t, f.src.Client(0), 8_000)
	ok(t, f.m.Follow(t.Context(), true))
	f.drain(t)
	giveBack := squeeze(t, f.dst.On(f.dst.Servers[1]))
	if err := f.m.Whole(t.Context(), nil)(); err == nil || !strings.Contains(err.Error(), "evicted") {
		t.Errorf("it is taken for whole: %v", err)
	}
	if p := f.m.Progress(); p.State != mirror.Resync || !strings.Contains(p.Reason, f.dst.Servers[1].Addr()) {
		t.Errorf("state %s (%s)", p.State, p.Reason)
	}
	giveBack()
	f.drain(t)
	f.equal(t)
	ok(t, f.m.Whole(t.Context(), nil)())
}
