package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// A key that was read before a gap and is not written yet when the scan after it
// comes by must be read again: nobody was told of its change.
func TestScanAfterAGapDoesNotTrustWhatIsUnderWay(t *testing.T) {
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	link := redistest.NewLink(t, src.Addr())
	w := &world{src: src, dst: redistest.Start(t)}
	w.connect(t, link.Addr(), w.dst.Addr(), func(c *mirror.Config) {
		c.Timeout, c.Heartbeat = 20*time.Second, time.Second // few beats, so that not all workers are busy with one
	})
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)

	pairs := func(value string) (list []any) {
		for i := range 200 {
			list = append(list, fmt.Sprintf("k:%d", i), value)
		}
		return list
	}
	before := dumps(t, w)
	ok(t, w.dst.Stop())
	ok(t, src.Client(0).MSet(t.Context(), pairs("old")...).Err())
	// Some are read, and their copies wait in the target's sockets.
	redistest.Eventually(t, 10*time.Second, func() error {
		if calls := dumps(t, w) - before; calls < 20 {
			return fmt.Errorf("%d DUMPs", calls)
		}
		return nil
	}, "read")
	link.Refuse(true)
	link.Cut()
	w.awaitState(t, mirror.Resync)
	ok(t, src.Client(0).MSet(t.Context(), pairs("new")...).Err())
	link.Refuse(false)
	redistest.Eventually(t, 10*time.Second, func() error {
		if w.m.Progress().Databases[0].Scanned == 0 {
			return errors.New("not yet")
		}
		return nil
	}, "the scan has come by")
	ok(t, w.dst.Cont())
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
}

// TestScanFindsOnNeitherServerWhatIsUnderWay: a key that was read before it went without a word
// is on neither server when the scan that makes up for that comes by. The copy of it that is put
// into place only then must not stay.
func TestScanFindsOnNeitherServerWhatIsUnderWay(t *testing.T) {
	for name, goes := range map[string]func(*testing.T, *world, *redistest.Link){
		"in a gap": func(t *testing.T, w *world, link *redistest.Link) {
			link.Refuse(true)
			link.Cut()
			w.awaitState(t, mirror.Resync)
			ok(t, w.src.Client(0).Del(t.Context(), "big").Err())
			link.Refuse(false)
		},
		"with all others": func(t *testing.T, w *world, _ *redistest.Link) {
			ok(t, w.src.Client(0).FlushAll(t.Context()).Err())
			w.m.Rescan(-1, "flushed")
		},
	} {
		t.Run(name, func(t *testing.T) {
			src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
			link := redistest.NewLink(t, src.Addr())
			w := &world{src: src, dst: redistest.Start(t)}
			w.connect(t, link.Addr(), w.dst.Addr(), func(c *mirror.Config) { smallIsBig(c); c.Limits.Bytes = 1 })
			const size = 64 << 10
			ok(t, src.Client(0).Set(t.Context(), "big", strings.Repeat("v", size), 0).Err())
			ok(t, w.m.Follow(t.Context(), true))
			redistest.Eventually(t, 20*time.Second, func() error {
				if n := w.m.Progress().Databases[0].Bytes; n < size {
					return fmt.Errorf("%d bytes", n)
				}
				return nil
			}, "it was sent, and has hours to wait until it may be put into place")
			for range 3 { // behind these barriers, its copy's has come back
				_, _ = w.m.Settled(t.Context(), 0, nil)
			}
			before := calls(t, w.dst, "scan")
			goes(t, w, link)
			redistest.Eventually(t, 20*time.Second, func() error {
				if n := calls(t, w.dst, "scan") - before; n < 2 {
					return fmt.Errorf("%d databases", n)
				}
				return nil
			}, "the target is looked through for what the source does not have")
			drain(t, w.m)
			w.mustBeEqual(t)
		})
	}
}

// dumps says how often the source was asked for k:… by DUMP.
func dumps(t *testing.T, w *world) int {
	t.Helper()
	text, err := w.src.Client(0).Info(t.Context(), "commandstats").Result()
	ok(t, err)
	n := 0
	if i := indexAfter(text, "cmdstat_dump:calls="); i >= 0 {
		_, err = fmt.Sscanf(text[i:], "%d", &n)
		ok(t, err)
	}
	return n
}

func indexAfter(text, what string) int {
	for i := 0; i+len(what) <= len(text); i++ {
		if text[i:i+len(what)] == what {
			return i + len(what)
		}
	}
	return -1
}

// TestWhoeverNoticesTheRestart has the heart beat notice that the server that is copied
// to has restarted, and asks only then: what a drain has filled is still not there.
func TestWhoeverNoticesTheRestart(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	ok(t, w.src.Client(0).Set(ctx, "k", "v", 0).Err())
	ok(t, w.m.Follow(ctx, true))
	drain(t, w.m)
	if again, err := w.m.Restarted(ctx); err != nil || again {
		t.Fatalf("restarted %v, %v", again, err)
	}
	ok(t, w.m.Freeze(ctx))
	gaps := w.m.Progress().Gaps
	w.dst.Kill()
	ok(t, w.dst.Restart(ctx))
	redistest.Eventually(t, 20*time.Second, func() bool { return w.m.Progress().Gaps > gaps }, "the restart is noticed")
	if again, err := w.m.Restarted(ctx); err != nil || !again {
		t.Fatalf("restarted %v, %v", again, err)
	}
	filled := func() error {
		p := w.dst.Client(0).Pipeline()
		holds := w.m.Filled(ctx, p)
		_, err := p.Exec(ctx)
		return errors.Join(err, holds())
	}
	if filled() == nil {
		t.Error("the process that came back is taken for the one that was filled")
	}
	w.m.Thaw()
	drain(t, w.m)
	ok(t, filled())
	if again, err := w.m.Restarted(ctx); err != nil || again {
		t.Fatalf("restarted %v, %v", again, err)
	}
	if got := w.dst.Client(0).Get(ctx, "k").Val(); got != "v" {
		t.Errorf("k is %q after a drain to the server that had lost it", got)
	}
}

// TestNotificationsOffForAMoment: that no event of one heartbeat came is proof enough that
// others were lost, although the next one is told of again.
func TestNotificationsOffForAMoment(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.Heartbeat = 300 * time.Millisecond }) // the setting is hidden
	ctx, admin := t.Context(), w.src.Client(0)
	ok(t, admin.Set(ctx, "k", "old", 0).Err())
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	beat := func() { w.awaitBeat(t) }
	beat()
	ok(t, admin.ConfigSet(ctx, "notify-keyspace-events", "").Err())
	ok(t, admin.Set(ctx, "k", "new", 0).Err())
	beat()
	ok(t, admin.ConfigSet(ctx, "notify-keyspace-events", "KEA").Err())
	redistest.Eventually(t, 10*time.Second, func() bool { return w.m.Progress().Gaps > 0 }, "it is a gap")
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
	gaps := w.m.Progress().Gaps
	beat()
	beat()
	if p := w.m.Progress(); p.Gaps != gaps || p.State != mirror.Live {
		t.Errorf("%d gaps instead of %d, state %s (%s)", p.Gaps, gaps, p.State, p.Reason)
	}
}

// awaitBeat returns when the next heartbeat was written.
func (w *world) awaitBeat(t *testing.T) {
	t.Helper()
	beat := func() string { return w.src.Client(0).Get(t.Context(), mirror.HeartbeatPrefix+"source").Val() }
	before := beat()
	redistest.Eventually(t, 20*time.Second, func() bool { return beat() != before }, "a heartbeat is written")
}

// TestDrainBehindAMissingBeat: notifications were off during one heartbeat, and a drain comes
// before the next one could show that. What was written meanwhile is found all the same.
func TestDrainBehindAMissingBeat(t *testing.T) {
	for name, later := range map[string]func(*testing.T, *world){
		"before the next beat":     func(*testing.T, *world) {},
		"right after it was heard": func(t *testing.T, w *world) { w.awaitBeat(t) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *mirror.Config) { c.Heartbeat = 3 * time.Second }) // the setting is hidden
			w.switchOff(t)
			later(t, w)
			drain(t, w.m)
			w.mustBeEqual(t)
			if w.m.Progress().Gaps == 0 {
				t.Error("it is no gap")
			}
		})
	}
}

// TestDrainSaysWhichBeatIsMissing: where the scan that makes up for it takes too long, whoever
// has waited is told what it was for.
func TestDrainSaysWhichBeatIsMissing(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.Heartbeat, c.Timeout = 3*time.Second, 20*time.Second })
	w.switchOff(t)
	ok(t, w.dst.Stop())
	short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if err := w.m.Drain(short); err == nil || !strings.Contains(err.Error(), "the event of a heartbeat on "+w.from.String()+" did not come") {
		t.Errorf("the drain: %v", err)
	}
	ok(t, w.dst.Cont())
	drain(t, w.m)
	w.mustBeEqual(t)
}

// switchOff has a change and one heartbeat go by while the notifications of a mirror that was
// live are off.
func (w *world) switchOff(t *testing.T) {
	t.Helper()
	ctx, admin := t.Context(), w.src.Client(0)
	ok(t, admin.Set(ctx, "k", "old", 0).Err())
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.awaitBeat(t)
	drain(t, w.m)
	ok(t, admin.ConfigSet(ctx, "notify-keyspace-events", "").Err())
	ok(t, admin.Set(ctx, "k", "new", 0).Err())
	w.awaitBeat(t)
	ok(t, admin.ConfigSet(ctx, "notify-keyspace-events", "KEA").Err())
}
