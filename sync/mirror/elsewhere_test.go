package mirror_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// newElsewhere is a world whose source can be exchanged for an empty server, at the same
// address, while the connections to it stay: so it is where a host has died without a word,
// or an address has moved.
func newElsewhere(t *testing.T, to ...redistest.Option) (w *world, exchange func()) {
	t.Helper()
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	empty := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	link := redistest.NewLink(t, src.Addr())
	w = &world{src: src, dst: redistest.Start(t, to...)}
	w.connect(t, link.Addr(), w.dst.Addr(), func(c *mirror.Config) {
		c.Heartbeat, c.BigKey = time.Hour, 64<<10 // no beat, which would notice
	})
	return w, func() {
		link.SetUpstream(empty.Addr())
		killIdle(t, w)
	}
}

// killIdle closes the connections of the mirror's to the source but for those of the pipe and
// the feed: who reads by another one has to connect.
func killIdle(t *testing.T, w *world) {
	t.Helper()
	c := w.src.Client(0)
	list, err := c.ClientList(t.Context()).Result()
	ok(t, err)
	for line := range strings.Lines(list) {
		field := make(map[string]string)
		for f := range strings.FieldsSeq(line) {
			name, value, _ := strings.Cut(f, "=")
			field[name] = value
		}
		if field["name"] != "crossfade:t:source" || slices.Contains([]string{"dump", "pexpiretime", "getrange"}, field["cmd"]) {
			continue
		}
		ok(t, c.ClientKillByFilter(t.Context(), "ID", field["id"]).Err())
	}
}

// TestNothingIsReadFromAnotherServerAtTheAddress: a key that another server lacks, which has
// come up at the same address, is not missing.
func TestNothingIsReadFromAnotherServerAtTheAddress(t *testing.T) {
	t.Run("by type", func(t *testing.T) {
		w, exchange := newElsewhere(t, redistest.WithRenamed("RESTORE", ""))
		ctx := t.Context()
		touch := func() {
			pipe := w.src.Client(0).Pipeline()
			for i := range lostKeys {
				pipe.RPush(ctx, fmt.Sprintf("l:%d", i), "x")
			}
			_, err := pipe.Exec(ctx)
			ok(t, err)
		}
		touch()
		ok(t, w.m.Follow(ctx, true))
		w.awaitState(t, mirror.Live)
		touch() // and now they go without RESTORE from the beginning
		drain(t, w.m)
		ok(t, w.m.Freeze(ctx))
		touch()
		exchange()
		w.m.Thaw()
		awaitLosses(t, w, "lost its data", 2)
		if n := w.dst.Client(0).Exists(ctx, lists()...).Val(); n != lostKeys {
			t.Errorf("%d of %d keys are left of the only copy", n, lostKeys)
		}
	})
	t.Run("big", func(t *testing.T) {
		w, exchange := newElsewhere(t)
		ctx := t.Context()
		fillLost(t, w, "small")
		for range 100 {
			ok(t, w.src.Client(0).RPush(ctx, "big", strings.Repeat("x", 10_000)).Err())
		}
		ok(t, w.m.Follow(ctx, true))
		w.awaitState(t, mirror.Live)
		drain(t, w.m)
		exchange()
		ok(t, w.src.Client(0).RPush(ctx, "big", "more").Err()) // it is still followed
		awaitLosses(t, w, "lost its data", 2)
		if n := w.dst.Client(0).LLen(ctx, "big").Val(); n < 100 {
			t.Errorf("%d elements are left of the only copy", n)
		}
	})
	t.Run("functions", func(t *testing.T) {
		w, exchange := newElsewhere(t)
		ctx := t.Context()
		ok(t, w.src.Client(0).FunctionLoad(ctx, "#!lua name=lib\nredis.register_function('f', function() return 1 end)").Err())
		ok(t, w.m.Follow(ctx, true))
		w.awaitState(t, mirror.Live)
		drain(t, w.m)
		ok(t, w.m.CarryFunctions(ctx))
		exchange()
		err := w.m.CarryFunctions(ctx)
		for range 3 { // a connection of before may be found to have ended
			if err == nil || strings.Contains(err.Error(), "is not followed again yet") {
				break
			}
			err = w.m.CarryFunctions(ctx)
		}
		if err == nil || !strings.Contains(err.Error(), "is not followed again yet") {
			t.Errorf("functions of another server: %v", err)
		}
		if list := functions(t, w.dst.Client(0)); len(list) != 1 {
			t.Errorf("the libraries on the target are %q", list)
		}
	})
	t.Run("scan", func(t *testing.T) {
		w, exchange := newElsewhere(t)
		ctx := t.Context()
		fillLost(t, w, "old")
		ok(t, w.m.Follow(ctx, true))
		w.awaitState(t, mirror.Live)
		drain(t, w.m)
		exchange()
		w.m.Rescan(-1, "it is asked for")
		awaitLosses(t, w, "lost its data", 2)
		mustHaveLost(t, w, "old")
		if p := w.m.Progress(); p.Databases[0].ScanComplete {
			t.Error("a scan of another server is taken for one of the source")
		}
	})
}

// TestConnectionsOfAnEarlierSource: the server that was followed lives on at another address,
// and is not asked any more once the one that has taken its place is followed.
func TestConnectionsOfAnEarlierSource(t *testing.T) {
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	next := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	link := redistest.NewLink(t, src.Addr())
	w := &world{src: src, dst: redistest.Start(t)}
	w.connect(t, link.Addr(), w.dst.Addr(), func(c *mirror.Config) { c.Heartbeat = time.Hour })
	ctx := t.Context()
	fillLost(t, w, "old")
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)

	w.src = next
	fillLost(t, w, "new")
	link.SetUpstream(next.Addr())
	killFeed(t, src) // only the feed finds out
	redistest.Eventually(t, 20*time.Second, func() bool { return w.m.Progress().Gaps > 0 }, "the feed is lost")
	drain(t, w.m)
	mustHaveLost(t, w, "new")
	fillLost(t, w, "newer")
	drain(t, w.m)
	mustHaveLost(t, w, "newer")
	w.mustBeEqual(t)
}

func lists() (keys []string) {
	for i := range lostKeys {
		keys = append(keys, fmt.Sprintf("l:%d", i))
	}
	return keys
}

func functions(t *testing.T, c *redis.Client) (names []string) {
	t.Helper()
	list, err := c.FunctionList(t.Context(), redis.FunctionListQuery{}).Result()
	ok(t, err)
	for _, lib := range list {
		names = append(names, lib.Name)
	}
	return names
}
