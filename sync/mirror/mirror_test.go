package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	// go-redis tries a node that is gone once a second, up to a second longer than its client lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// world is a source, a target and a mirror between them, 0→0 and 3→5.
type world struct {
	src, dst *redistest.Server
	from, to *conn.Pool
	m        *mirror.Mirror
	now      atomic.Pointer[mirror.Mirror] // m, for those who ask at any time
}

func newWorld(t *testing.T, change func(*mirror.Config)) *world {
	t.Helper()
	w := &world{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")),
		dst: redistest.Start(t),
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), change)
	return w
}

func (w *world) connect(t *testing.T, from, to string, change func(*mirror.Config)) {
	t.Helper()
	w.from = conn.New(config.Endpoint{Network: "tcp", Address: from}, "t:source", 2*time.Second)
	w.to = conn.New(config.Endpoint{Network: "tcp", Address: to}, "t:target", 2*time.Second)
	dm, err := router.NewDBMap(map[int]int{0: 0, 3: 5})
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(context.Context) error { return nil }
	cfg := mirror.Config{
		From: w.from, To: w.to, Map: dm, Name: "source", Workers: 2, Batch: 64, ScanCount: 100, DirtyLimit: 100_000,
		Heartbeat: 50 * time.Millisecond, Timeout: 2 * time.Second,
		EnsureNotifications: nothing, CheckNotifications: nothing,
	}
	if change != nil {
		change(&cfg)
	}
	w.m = mirror.New(cfg, slog.New(slog.DiscardHandler))
	w.now.Store(w.m)
	t.Cleanup(func() {
		w.m.Stop()
		_ = w.from.Close()
		_ = w.to.Close()
	})
}

func (w *world) awaitState(t *testing.T, want mirror.State) {
	t.Helper()
	redistest.Eventually(t, 20*time.Second, func() error {
		if p := w.m.Progress(); p.State != want {
			return fmt.Errorf("state %s (%s), want %s: %+v", p.State, p.Reason, want, p.Errors)
		}
		return nil
	}, "state %s", want)
}

// content reads a database as key → type and DUMP, our own keys left out.
func content(t *testing.T, c *redis.Client) map[string]string {
	t.Helper()
	out := make(map[string]string)
	iter := c.Scan(t.Context(), 0, "*", 1000).Iterator()
	for iter.Next(t.Context()) {
		if k := iter.Val(); !strings.HasPrefix(k, mirror.KeyPrefix) {
			d, err := c.Dump(t.Context(), k).Result()
			if err != nil && !errors.Is(err, redis.Nil) {
				t.Fatal(err)
			}
			if err == nil {
				out[k] = d
			}
		}
	}
	if err := iter.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// sameSet reports whether a key is a set, and the same on both servers: each dumps the
// members in its own order.
func sameSet(t *testing.T, a, b *redis.Client, key string) bool {
	t.Helper()
	if a.Type(t.Context(), key).Val() != "set" || b.Type(t.Context(), key).Val() != "set" {
		return false
	}
	return slices.Equal(plain(t, a, key), plain(t, b, key))
}

func (w *world) mustBeEqual(t *testing.T) {
	t.Helper()
	for from, to := range map[int]int{0: 0, 3: 5} {
		a, b := content(t, w.src.Client(from)), content(t, w.dst.Client(to))
		for k := range a {
			if a[k] != b[k] && (b[k] == "" || !sameSet(t, w.src.Client(from), w.dst.Client(to), k)) {
				t.Errorf("database %d→%d: key %q differs (there: %v)", from, to, k, b[k] != "")
			}
		}
		for k := range b {
			if _, ok := a[k]; !ok {
				t.Errorf("database %d→%d: key %q is only on the target", from, to, k)
			}
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// long leaves a test to the runs that are not -short: the race detector, which makes it
// many times as long, sees what it runs in others.
func long(t *testing.T, why string) {
	t.Helper()
	if testing.Short() {
		t.Skip("not with -short: " + why)
	}
}

func drain(t *testing.T, m *mirror.Mirror) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := m.Drain(ctx); err != nil {
		t.Fatal(err)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, c *redis.Client, n int) {
	t.Helper()
	pipe := c.Pipeline()
	for i := range n {
		pipe.Set(t.Context(), fmt.Sprintf("s:%d", i), i, 0)
		if i%10 == 0 {
			pipe.RPush(t.Context(), fmt.Sprintf("l:%d", i), 1, 2, 3)
			pipe.HSet(t.Context(), fmt.Sprintf("h:%d", i), "a", i)
		}
	}
	_, err := pipe.Exec(t.Context())
	ok(t, err)
}

func TestScanAndTail(t *testing.T) {
	w := newWorld(t, nil)
	fill(t, w.src.Client(0), 2000)
	fill(t, w.src.Client(3), 500)
	fill(t, w.src.Client(4), 10)                                             // not mapped
	ok(t, w.dst.Client(0).Set(t.Context(), "extra", "stays never", 0).Err()) // not on the source
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
	if n := w.dst.Client(4).DBSize(t.Context()).Val(); n != 0 {
		t.Fatalf("%d keys of an unmapped database were copied", n)
	}

	c := w.src.Client(3)
	ok(t, c.Del(t.Context(), "s:1", "l:0").Err())
	ok(t, c.Rename(t.Context(), "s:2", "s:3").Err())
	ok(t, c.Set(t.Context(), "short", 1, 2*time.Millisecond).Err())
	ok(t, c.Set(t.Context(), "past", 1, 0).Err())
	ok(t, c.ExpireAt(t.Context(), "past", time.Unix(1, 0)).Err())
	ok(t, w.src.Client(0).Move(t.Context(), "s:77", 3).Err()) // exists there: not moved
	ok(t, w.src.Client(0).Do(t.Context(), "COPY", "s:5", "copied", "DB", 3).Err())
	redistest.Eventually(t, 5*time.Second, func() error {
		if c.Exists(t.Context(), "short").Val() != 0 {
			return errors.New("short is still there")
		}
		return nil
	}, "expiry")
	drain(t, w.m)
	w.mustBeEqual(t)
}

func TestSetAndDeleteStormLeavesNothing(t *testing.T) {
	w := newWorld(t, nil)
	ok(t, w.m.Follow(t.Context(), true))
	done := make(chan error, 8)
	for g := range 8 {
		go func() {
			c := w.src.Client(0)
			for i := range 500 {
				k := fmt.Sprintf("storm:%d", (g*131+i*7)%400)
				if err := c.Set(t.Context(), k, i, 0).Err(); err != nil {
					done <- err
					return
				}
				if err := c.Del(t.Context(), k).Err(); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 8 {
		ok(t, <-done)
	}
	drain(t, w.m)
	w.mustBeEqual(t)
	if n := len(content(t, w.dst.Client(0))); n != 0 {
		t.Fatalf("%d deleted keys live on", n)
	}
}

func TestFeedLossIsAGapThatIsRepairedBothWays(t *testing.T) {
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	link := redistest.NewLink(t, src.Addr())
	w := &world{src: src, dst: redistest.Start(t)}
	w.connect(t, link.Addr(), w.dst.Addr(), nil)
	fill(t, src.Client(0), 300)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)

	link.Refuse(true)
	link.Cut()
	w.awaitState(t, mirror.Resync)
	if r := w.m.Progress().Reason; r == "" {
		t.Error("a gap without a reason")
	}
	ok(t, src.Client(0).Del(t.Context(), "s:1", "s:2").Err()) // nobody is told
	ok(t, src.Client(0).Set(t.Context(), "new", 1, 0).Err())
	link.Refuse(false)
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
	if w.m.Progress().Gaps == 0 {
		t.Error("the gap was not counted")
	}
}

func TestTargetAwayAndBackWithoutItsData(t *testing.T) {
	w := newWorld(t, nil)
	fill(t, w.src.Client(0), 500)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	w.dst.Kill()
	fill(t, w.src.Client(3), 200)
	ok(t, w.src.Client(0).Del(t.Context(), "s:1").Err())
	ok(t, w.dst.Restart(t.Context())) // empty: it keeps nothing on disk
	redistest.Eventually(t, 20*time.Second, func() error {
		if n := len(content(t, w.dst.Client(0))); n < 500 {
			return fmt.Errorf("%d keys are back", n)
		}
		return nil
	}, "copied again")
	drain(t, w.m)
	w.mustBeEqual(t)
}

// A source that comes back empty must not take the only copy with it.
func TestSourceThatCameBackEmptyIsNotMirrored(t *testing.T) {
	w := newWorld(t, nil)
	fill(t, w.src.Client(0), 500)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	before := len(content(t, w.dst.Client(0)))
	w.src.Kill()
	ok(t, w.src.Restart(t.Context())) // empty: it keeps nothing on disk
	redistest.Eventually(t, 20*time.Second, func() error {
		if p := w.m.Progress(); p.State != mirror.Resync || !strings.Contains(p.Reason, "lost its data") {
			return fmt.Errorf("state %s, reason %q", p.State, p.Reason)
		}
		return nil
	}, "the loss is noticed")
	if n := len(content(t, w.dst.Client(0))); n != before {
		t.Fatalf("%d of %d keys are left of the only copy", n, before)
	}
	fill(t, w.src.Client(0), 500) // its data is brought back
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)

	other := &world{src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")), dst: w.dst}
	other.connect(t, other.src.Addr(), w.dst.Addr(), nil)
	if err := other.m.Follow(t.Context(), true); err == nil || !strings.Contains(err.Error(), "lost its data") {
		t.Fatalf("a fresh start over an empty source: %v", err)
	}
}

func TestStalledTargetDoesNotGetOldWritesLate(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.Timeout = 200 * time.Millisecond })
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	for round := range 3 {
		ok(t, w.dst.Stop())
		for i := range 50 {
			ok(t, w.src.Client(0).Set(t.Context(), "reg", fmt.Sprintf("%d-%d", round, i), 0).Err())
		}
		redistest.Eventually(t, 10*time.Second, func() error {
			if len(w.m.Progress().Errors) == 0 {
				return errors.New("no time-out noticed yet")
			}
			return nil
		}, "time-out")
		ok(t, w.src.Client(0).Set(t.Context(), "reg", fmt.Sprintf("%d-last", round), 0).Err())
		ok(t, w.dst.Cont())
		drain(t, w.m)
		w.mustBeEqual(t)
	}
}

func TestOverflowBecomesAScan(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.DirtyLimit = 50 })
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	ok(t, w.dst.Stop())
	fill(t, w.src.Client(0), 3000)
	ok(t, w.src.Client(0).Del(t.Context(), "s:9").Err())
	if n := w.m.Progress().Dirty; n > 400 { // the limit, and what the scan has in hand
		t.Errorf("%d dirty keys are held, the limit is 50 a database and a few batches", n)
	}
	ok(t, w.dst.Cont())
	drain(t, w.m)
	w.mustBeEqual(t)
}

// Deletions of which no mark was kept are found by the second half of a scan: nobody may
// take all for brought across before that is through.
func TestOverflowIsNotOverBeforeItsScan(t *testing.T) {
	w := &world{src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")), dst: redistest.Start(t)}
	link := redistest.NewLink(t, w.dst.Addr())
	w.connect(t, w.src.Addr(), link.Addr(), func(c *mirror.Config) { c.DirtyLimit = 50 })
	fill(t, w.src.Client(0), 3000)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	link.SetDelay(3 * time.Millisecond)
	pipe := w.src.Client(0).Pipeline()
	for i := range 2000 {
		pipe.Del(t.Context(), fmt.Sprintf("s:%d", i))
	}
	_, err := pipe.Exec(t.Context())
	ok(t, err)
	drain(t, w.m)
	w.mustBeEqual(t)
}

func TestSilentNotificationsAreNoticed(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) {
		check := func(ctx context.Context) error {
			got, err := c.From.DB(0).ConfigGet(ctx, "notify-keyspace-events").Result()
			if err == nil && got["notify-keyspace-events"] == "" {
				return &mirror.NotificationsOff{Need: "KEA", Command: "CONFIG SET"}
			}
			return nil
		}
		c.CheckNotifications = check
	})
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	ok(t, w.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "").Err())
	ok(t, w.src.Client(0).Set(t.Context(), "unseen", 1, 0).Err())
	w.awaitState(t, mirror.Resync)
	ok(t, w.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "KEA").Err())
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
}

// A scan that somebody asks for while nothing is told does not make up for that: what is
// changed behind it is still unknown when notifications are switched on again.
func TestScanDuringSilenceProvesNothing(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) {
		c.Heartbeat = 300 * time.Millisecond
		c.CheckNotifications = func(ctx context.Context) error {
			got, err := c.From.DB(0).ConfigGet(ctx, "notify-keyspace-events").Result()
			if err == nil && got["notify-keyspace-events"] == "" {
				return &mirror.NotificationsOff{Need: "KEA", Command: "CONFIG SET"}
			}
			return nil
		}
	})
	src := w.src.Client(0)
	fill(t, src, 50)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	for round := range 3 {
		marker, unseen := fmt.Sprintf("marker:%d", round), fmt.Sprintf("unseen:%d", round)
		ok(t, src.ConfigSet(t.Context(), "notify-keyspace-events", "").Err())
		w.awaitState(t, mirror.Resync)
		ok(t, src.Set(t.Context(), marker, 1, 0).Err())
		w.m.Rescan(-1, "a flush of another database")
		redistest.Eventually(t, 20*time.Second, func() bool { return w.dst.Client(0).Exists(t.Context(), marker).Val() == 1 }, "scanned")
		ok(t, src.Set(t.Context(), unseen, 1, 0).Err())
		ok(t, src.Del(t.Context(), fmt.Sprintf("s:%d", round)).Err())
		ok(t, src.ConfigSet(t.Context(), "notify-keyspace-events", "KEA").Err())
		drain(t, w.m)
		w.mustBeEqual(t)
	}
}

func TestNotificationsThatNeverComeRefuseToListen(t *testing.T) {
	w := newWorld(t, nil)
	ok(t, w.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "").Err())
	if err := w.m.Listen(t.Context()); err == nil {
		t.Fatal("listening although no event comes")
	}
}

func TestForeignFlushIsFoundByCounting(t *testing.T) {
	none := map[string]int64{}
	w := newWorld(t, func(c *mirror.Config) {
		c.Silent = func() (map[string]int64, map[string]int64) { return none, none }
	})
	fill(t, w.src.Client(0), 300)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	ok(t, w.src.Client(0).FlushDB(t.Context()).Err()) // no event says so
	redistest.Eventually(t, 10*time.Second, func() error {
		if n := len(content(t, w.dst.Client(0))); n != 0 {
			return fmt.Errorf("%d keys are left", n)
		}
		return nil
	}, "flush carried")
	if w.m.Progress().Gaps == 0 {
		t.Error("the flush was not noticed as a gap")
	}
}

// A server that counts anew has not counted what others ran just before, or hides it in
// what is known to be old.
func TestForeignFlushBehindAReset(t *testing.T) {
	none := map[string]int64{}
	w := newWorld(t, func(c *mirror.Config) {
		c.Silent = func() (map[string]int64, map[string]int64) { return none, none }
	})
	fill(t, w.src.Client(0), 300)
	for range 3 {
		ok(t, w.src.Client(4).FlushDB(t.Context()).Err()) // before anybody counts
	}
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	_, err := w.src.Client(0).Pipelined(t.Context(), func(p redis.Pipeliner) error {
		p.ConfigResetStat(t.Context())
		p.FlushDB(t.Context())
		return nil
	})
	ok(t, err)
	redistest.Eventually(t, 10*time.Second, func() error {
		if n := len(content(t, w.dst.Client(0))); n != 0 {
			return fmt.Errorf("%d keys are left", n)
		}
		return nil
	}, "flush carried")
	w.awaitState(t, mirror.Live)
	if n := w.m.Progress().Gaps; n != 1 {
		t.Errorf("%d gaps", n)
	}
}

func TestFreezeKeepsMarksAndThawGoesOn(t *testing.T) {
	w := newWorld(t, nil)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	ok(t, w.m.Freeze(t.Context()))
	ok(t, w.src.Client(0).Set(t.Context(), "while frozen", 1, 0).Err())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := w.m.Drain(ctx); err == nil {
		t.Fatal("drained although frozen")
	}
	if n := w.dst.Client(0).Exists(t.Context(), "while frozen").Val(); n != 0 {
		t.Fatal("written although frozen")
	}
	w.m.Thaw()
	drain(t, w.m)
	w.mustBeEqual(t)
}

func TestFunctionsAreCarriedAndRemoved(t *testing.T) {
	w := newWorld(t, nil)
	code := "#!lua name=lib\nredis.register_function('f', function() return 1 end)"
	ok(t, w.src.Client(0).FunctionLoad(t.Context(), code).Err())
	ok(t, w.m.Follow(t.Context(), true))
	ok(t, w.m.CarryFunctions(t.Context()))
	if got := w.dst.Client(0).FCall(t.Context(), "f", nil).Val(); got != int64(1) {
		t.Fatalf("f answers %v on the target", got)
	}
	ok(t, w.src.Client(0).FunctionDelete(t.Context(), "lib").Err())
	ok(t, w.m.CarryFunctions(t.Context()))
	if list := w.dst.Client(0).FunctionList(t.Context(), redis.FunctionListQuery{}).Val(); len(list) != 0 {
		t.Fatalf("the target still has %v", list)
	}
}

func TestRebaseForgetsWhatCameBefore(t *testing.T) {
	w := newWorld(t, nil)
	ok(t, w.m.Listen(t.Context()))
	ok(t, w.src.Client(0).Set(t.Context(), "before", 1, 0).Err())
	ok(t, w.m.Rebase(t.Context()))
	ok(t, w.src.Client(0).Set(t.Context(), "after", 1, 0).Err())
	ok(t, w.m.Follow(t.Context(), false))
	drain(t, w.m)
	got := content(t, w.dst.Client(0))
	if _, there := got["before"]; there || got["after"] == "" {
		t.Fatalf("copied: before %v, after %v; want only after", there, got["after"] != "")
	}
}

// TestFreezeHoldsFunctions: nothing of ours is written under a freeze, functions neither.
func TestFreezeHoldsFunctions(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	ok(t, w.m.Freeze(ctx))
	ok(t, w.src.Client(0).FunctionLoad(ctx, "#!lua name=lib\nredis.register_function('f', function() return 1 end)").Err())
	w.m.FunctionsChanged()
	beats := func() (n int) {
		_, err := fmt.Sscanf(w.src.Client(0).Get(ctx, mirror.HeartbeatPrefix+"source").Val(), "%d", &n)
		ok(t, err)
		return n
	}
	for range 5 { // each has the target looked after as well
		last := beats()
		redistest.Eventually(t, 10*time.Second, func() bool { return beats() > last }, "the next beat")
	}
	if list := functions(t, w.dst.Client(0)); len(list) != 0 {
		t.Errorf("carried under a freeze: %q", list)
	}
	w.m.Thaw()
	redistest.Eventually(t, 10*time.Second, func() bool { return len(functions(t, w.dst.Client(0))) == 1 }, "functions are carried")
}

// TestStopsBesideADeadTarget: who is stopped while keys go one by one to a server that does not
// answer does not try all of them first.
func TestStopsBesideADeadTarget(t *testing.T) {
	w := &world{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")),
		dst: redistest.Start(t, redistest.WithRenamed("RESTORE", "")),
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), func(c *mirror.Config) { c.Timeout = 500 * time.Millisecond })
	add := func() {
		p := w.src.Client(0).Pipeline()
		for i := range 1000 {
			p.XAdd(t.Context(), &redis.XAddArgs{Stream: fmt.Sprint("stream:", i), Values: []string{"f", "v"}})
		}
		_, err := p.Exec(t.Context())
		ok(t, err)
	}
	add() // by now it is known that there is no RESTORE
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	ok(t, w.dst.Stop())
	defer func() { ok(t, w.dst.Cont()) }()
	add()
	redistest.Eventually(t, 30*time.Second, func() error {
		if len(w.m.Progress().Errors) == 0 {
			return errors.New("no time-out noticed yet")
		}
		return nil
	}, "time-out")
	stopped := make(chan struct{})
	go func() { w.m.Stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(30 * time.Second):
		t.Error("it does not stop")
	}
}
