package mirror_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/throttle"
)

// calls says how often a server was given one of commands since the last reset.
func calls(t *testing.T, s *redistest.Server, commands ...string) (n int) {
	t.Helper()
	text, err := s.Client(0).Info(t.Context(), "commandstats").Result()
	ok(t, err)
	for _, c := range commands {
		prefix := "cmdstat_" + c + ":calls="
		if i := indexAfter(text, prefix); i >= 0 {
			var one int
			_, err = fmt.Sscanf(text[i:], "%d", &one)
			ok(t, err)
			n += one
		}
	}
	return n
}

// written are the commands by which a copy of a small key is written or removed.
var written = []string{"restore", "unlink", "del", "set", "rename"}

func resetStats(t *testing.T, servers ...*redistest.Server) {
	t.Helper()
	for _, s := range servers {
		ok(t, s.Client(0).ConfigResetStat(t.Context()).Err())
	}
}

// populate makes n keys of all kinds in database 0, every tenth with an expiry.
func populate(t *testing.T, c *redis.Client, n int) {
	t.Helper()
	ctx := t.Context()
	p := c.Pipeline()
	for i := range n {
		k := fmt.Sprintf("k:%d", i)
		switch i % 6 {
		case 0:
			p.Set(ctx, k, strings.Repeat("v", i%300), 0)
		case 1:
			p.RPush(ctx, k, i, "a", "b")
		case 2:
			p.SAdd(ctx, k, i, "a", "b")
		case 3:
			p.ZAdd(ctx, k, redis.Z{Score: float64(i) / 7, Member: "m"})
		case 4:
			p.HSet(ctx, k, "f", i, "g", "w")
		case 5:
			p.XAdd(ctx, &redis.XAddArgs{Stream: k, Values: []any{"f", i}})
		}
		if i%10 == 0 {
			p.PExpire(ctx, k, time.Hour+time.Duration(i)*time.Second)
		}
		if p.Len() > 1000 || i == n-1 {
			_, err := p.Exec(ctx)
			ok(t, err)
		}
	}
}

// spoil makes some keys of every kind of difference, and returns how many.
func spoil(t *testing.T, w *world) int {
	t.Helper()
	ctx, src, dst := t.Context(), w.src.Client(0), w.dst.Client(0)
	const each = 20
	for i := range each {
		at := func(n int) string { return fmt.Sprintf("k:%d", n+60*i) }
		ok(t, src.Append(ctx, at(0), "changed").Err())
		ok(t, src.RPush(ctx, at(1), "more").Err())
		ok(t, src.Del(ctx, at(2)).Err())                                                        // gone at the source
		ok(t, dst.Del(ctx, at(3)).Err())                                                        // missing on the target
		ok(t, dst.HSet(ctx, at(4), "f", "theirs").Err())                                        // changed on the target
		ok(t, src.Expire(ctx, at(5), 5*time.Hour).Err())                                        // an expiry that there is not
		ok(t, src.Persist(ctx, at(30)).Err())                                                   // one that is not there any more
		ok(t, src.PExpire(ctx, at(10), 30*time.Hour).Err())                                     // another one
		ok(t, dst.Set(ctx, fmt.Sprint("extra:", i), "v", 0).Err())                              // extra on the target
		ok(t, src.Set(ctx, fmt.Sprint("new:", i), "v", 0).Err())                                // new at the source
		ok(t, src.XGroupCreate(ctx, at(11), fmt.Sprint("g", time.Now().UnixNano()), "0").Err()) // a group
		ok(t, src.Rename(ctx, at(12), at(12)+":elsewhere").Err())                               // two of them
		ok(t, src.Do(ctx, "COPY", at(7), at(13), "REPLACE").Err())                              // another value
	}
	return 14 * each
}

// expiriesAreEqual compares them to the millisecond; mustBeEqual does not look at them.
func (w *world) expiriesAreEqual(t *testing.T) {
	t.Helper()
	ctx, a, b := t.Context(), w.src.Client(0), w.dst.Client(0)
	for _, k := range a.Keys(ctx, "*").Val() {
		if strings.HasPrefix(k, mirror.KeyPrefix) {
			continue
		}
		if x, y := a.PExpireTime(ctx, k).Val(), b.PExpireTime(ctx, k).Val(); x != y {
			t.Errorf("%s expires at %v and at %v", k, x, y)
		}
	}
}

// stop ends the mirror as if there had never been one.
func (w *world) stop() {
	w.m.Stop()
	_ = w.from.Close()
	_ = w.to.Close()
}

// seldom has the heart beat so seldom that it does not show in counts.
func seldom(c *mirror.Config) { c.Heartbeat = 2 * time.Second }

// TestRescanWritesWhatDiffers compares what is written after a gap, and after a restart
// of the sidecar, with what is different.
func TestRescanWritesWhatDiffers(t *testing.T) {
	const keys = 6000
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	link := redistest.NewLink(t, src.Addr())
	w := &world{src: src, dst: redistest.Start(t)}
	w.connect(t, link.Addr(), w.dst.Addr(), seldom)
	populate(t, src.Client(0), keys)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	if p := w.m.Progress().Databases[0]; p.Equal > 0 || p.Copied < keys {
		t.Fatalf("the first copy: %+v", p)
	}
	checked := func(t *testing.T, differ int) {
		t.Helper()
		w.awaitState(t, mirror.Live)
		drain(t, w.m)
		w.mustBeEqual(t)
		w.expiriesAreEqual(t)
		n := calls(t, w.dst, written...)
		p := w.m.Progress().Databases[0]
		t.Logf("%d of %d keys differed: %d were written, %d equal", differ, keys, n, p.Equal)
		if n > differ+keys/10 {
			t.Errorf("%d keys were written", n)
		}
		if p.Equal < keys-int64(differ)-keys/10 {
			t.Errorf("%d keys were found equal", p.Equal)
		}
	}
	t.Run("gap", func(t *testing.T) {
		link.Refuse(true)
		link.Cut()
		w.awaitState(t, mirror.Resync)
		differ := spoil(t, w)
		resetStats(t, w.dst)
		link.Refuse(false)
		checked(t, differ)
	})
	t.Run("restart", func(t *testing.T) {
		w.stop()
		populate(t, src.Client(0), keys/3)
		differ := spoil(t, w) + keys/3
		resetStats(t, w.dst)
		w.connect(t, link.Addr(), w.dst.Addr(), seldom)
		ok(t, w.m.Follow(t.Context(), true))
		checked(t, differ)
	})
}

// TestRescanGoesOnFromACopy stops a first copy half way. What had been copied is not
// written again.
func TestRescanGoesOnFromACopy(t *testing.T) {
	const keys = 6000
	w := newWorld(t, func(c *mirror.Config) { seldom(c); c.Limits.Keys = 3000 })
	populate(t, w.src.Client(0), keys)
	ok(t, w.m.Follow(t.Context(), true))
	redistest.Eventually(t, 20*time.Second, func() bool { return w.m.Progress().Databases[0].Copied > keys/2 }, "half of it copied")
	w.stop()
	have := int(w.dst.Client(0).DBSize(t.Context()).Val())
	if have > keys-keys/6 {
		t.Skipf("%d keys were copied before it could be stopped", have)
	}
	resetStats(t, w.dst)
	w.connect(t, w.src.Addr(), w.dst.Addr(), seldom)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
	n := calls(t, w.dst, written...)
	t.Logf("%d of %d keys were copied, then %d", have, keys, n)
	if n > keys-have+keys/10 {
		t.Errorf("%d keys were copied before the restart, and %d of %d after it", have, n, keys)
	}
}

// TestRescanOfWhatDiffers: where nothing is equal, hardly anything is compared.
func TestRescanOfWhatDiffers(t *testing.T) {
	const keys = 12_000
	w := newWorld(t, func(c *mirror.Config) { seldom(c); c.Batch = 32 })
	ctx := t.Context()
	fill := func(c *redis.Client, value string) {
		p := c.Pipeline()
		for i := range keys {
			p.Set(ctx, fmt.Sprintf("k:%d", i), value, 0)
		}
		_, err := p.Exec(ctx)
		ok(t, err)
	}
	fill(w.src.Client(0), "new")
	fill(w.dst.Client(0), "old")
	resetStats(t, w.dst)
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	n := calls(t, w.dst, "dump") // before those of the comparison below
	w.mustBeEqual(t)
	t.Logf("%d of %d keys were compared", n, keys)
	if n > keys/4 {
		t.Errorf("%d of %d keys were compared although they differ", n, keys)
	}
}

// TestRescanOfBigKeys: those that are equal are not written, and those that are not are.
func TestRescanOfBigKeys(t *testing.T) {
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	link := redistest.NewLink(t, src.Addr())
	w := &world{src: src, dst: redistest.Start(t)}
	big := func(c *mirror.Config) { seldom(c); c.BigKey = 16 << 10 }
	w.connect(t, link.Addr(), w.dst.Addr(), big)
	ctx, c := t.Context(), src.Client(0)
	for _, kind := range bigTypes {
		grow(t, c, kind, 0, 3000)
	}
	ok(t, c.XGroupCreate(ctx, "stream", "g", "0").Err())
	ok(t, c.Expire(ctx, "set", time.Hour).Err())
	for i := range 100 { // so that the database is none that is empty
		ok(t, c.Set(ctx, fmt.Sprint("small:", i), i, 0).Err())
	}
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.sameKeys(t, bigTypes...)

	gap := func(change func()) {
		t.Helper()
		resetStats(t, w.dst)
		link.Refuse(true)
		link.Cut()
		w.awaitState(t, mirror.Resync)
		change()
		link.Refuse(false)
		w.awaitState(t, mirror.Live)
		drain(t, w.m)
		w.sameKeys(t, bigTypes...)
		w.expiriesAreEqual(t)
	}
	growing := []string{"rpush", "rpushx", "append", "sadd", "zadd", "hset", "xadd", "rename"}
	gap(func() {})
	if n := calls(t, w.dst, growing...); n > 0 {
		t.Errorf("%d commands wrote what was there", n)
	}
	before := w.m.Progress().Databases[0]
	if before.Equal < int64(len(bigTypes)) {
		t.Errorf("%d keys were equal", before.Equal)
	}
	// The list is known from its comparison: what is added follows by itself.
	resetStats(t, w.dst)
	ok(t, c.RPush(ctx, "list", "one more").Err())
	ok(t, c.Append(ctx, "string", "one more").Err())
	drain(t, w.m)
	w.sameKeys(t, "list", "string")
	if n := calls(t, w.dst, "rpush", "rename"); n > 0 {
		t.Errorf("a list and a string to which a little was added were written anew, by %d commands", n)
	}
	gap(func() {
		ok(t, c.Expire(ctx, "set", 3*time.Hour).Err())
		ok(t, c.LSet(ctx, "list", 1500, "other").Err())
		ok(t, c.ZAdd(ctx, "zset", redis.Z{Score: 0.25, Member: "new"}).Err())
		ok(t, w.dst.Client(0).HSet(ctx, "hash", "0000000005", "theirs").Err())
	})
	if n := calls(t, w.dst, "rename"); n > 2*4 {
		t.Errorf("%d renames for 4 big keys that differed", n)
	}
	gap(func() {
		ok(t, c.Del(ctx, "set").Err())
		ok(t, c.Set(ctx, "hash", "small now", 0).Err())
	})
}

// TestGapDuringAScan: what a scan has not come to when a gap outdates it is not looked
// at twice, and the scans come to an end however many gaps there are.
func TestGapDuringAScan(t *testing.T) {
	const keys = 6000
	w := newWorld(t, func(c *mirror.Config) { seldom(c); c.Limits.Keys = 3000 })
	populate(t, w.src.Client(0), keys)
	ctx := t.Context()
	ok(t, w.m.Follow(ctx, true))
	looked := func() int64 {
		p := w.m.Progress().Databases[0]
		return p.Equal + p.Copied
	}
	redistest.Eventually(t, 20*time.Second, func() bool { return looked() > keys/4 }, "a quarter of it copied")
	at := looked()
	w.m.Rescan(0, "a test")
	w.m.Throttle().Set(throttle.Limits{})
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
	t.Logf("%d keys at the gap, %d in the end, of %d", at, looked(), keys)
	if n := looked(); n > keys+at+keys/3 {
		t.Errorf("%d keys were looked at, after a gap at %d of %d", n, at, keys)
	}

	// Gaps all the time: one of two scans gets through.
	ok(t, w.src.Client(0).FlushDB(ctx).Err())
	w.m.Rescan(0, "FLUSHDB")
	w.awaitState(t, mirror.Live)
	populate(t, w.src.Client(0), keys)
	drain(t, w.m)
	extra := []string{"extra:1", "extra:2"}
	for _, k := range extra {
		ok(t, w.dst.Client(0).Set(ctx, k, "v", 0).Err())
	}
	redistest.Eventually(t, 30*time.Second, func() error {
		w.m.Rescan(0, "a test")
		n, err := w.dst.Client(0).Exists(ctx, extra...).Result()
		if err == nil && n > 0 {
			err = errors.New("extra keys are still there")
		}
		return err
	}, "a scan comes to its end")
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
}
