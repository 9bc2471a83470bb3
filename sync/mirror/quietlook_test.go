package mirror_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// fillPlain sets n keys that no silent command changes.
func (q *quiet) fillPlain(t *testing.T, n int) {
	t.Helper()
	for at := 0; at < n; at += 10_000 {
		pipe := q.src.Client(0).Pipeline()
		for i := range 10_000 {
			pipe.Set(t.Context(), fmt.Sprint("k", at+i), "v", 0)
		}
		_, err := pipe.Exec(t.Context())
		ok(t, err)
	}
}

func (q *quiet) awaitFound(t *testing.T) {
	t.Helper()
	redistest.Eventually(t, 30*time.Second, func() error {
		if p := q.m.Progress(); p.Searching || p.State != mirror.Live {
			return fmt.Errorf("the mirror is %s, searching: %v (%+v)", p.State, p.Searching, p.Errors)
		}
		return nil
	}, "the streams are known")
}

// A client of the proxy that waited for entries when the counting began may hide another's
// command, and nobody knows before the hold has ended its wait. The database is looked
// through before that.
func TestStreamsAreLookedForBeforeTheyAreOwed(t *testing.T) {
	q := newQuiet(t, func(c *mirror.Config) { c.Heartbeat = 20 * time.Millisecond; c.ScanCount = 1000 })
	q.stream(t, 0, "s")
	q.fillPlain(t, 50_000)
	q.forwarded.Store(1) // waits
	ok(t, q.m.Follow(t.Context(), true))
	q.awaitState(t, mirror.Live)
	q.awaitFound(t)
	before := calls(t, q.src, "scan")
	q.ack(t, 0, "s", 1) // counted at the end of the wait
	q.finished.Store(1)
	ok(t, q.m.Near(t.Context()))
	drain(t, q.m)
	if n := calls(t, q.src, "scan") - before; n > 0 {
		t.Errorf("%d SCANs while clients wait", n)
	}
	q.pending(t, 0, "s", 9)
}

// A pause of the copy, and limits, do not keep a switch from coming about.
func TestStreamsAreLookedForDuringAPause(t *testing.T) {
	q := newQuiet(t, func(c *mirror.Config) { c.Heartbeat = 20 * time.Millisecond; c.ScanCount = 10 })
	q.stream(t, 0, "s")
	q.fillPlain(t, 10_000)
	q.follow(t)
	q.m.Throttle().Pause(true)
	q.ack(t, 0, "s", 1)
	redistest.Eventually(t, 30*time.Second, func() error {
		if p := q.dst.Client(0).XPending(t.Context(), "s", "g").Val(); p == nil || p.Count != 9 {
			return fmt.Errorf("pending: %+v", p)
		}
		return nil
	}, "the stream is copied")
	q.awaitFound(t)
}

// More streams than can be copied one by one are brought across by a scan.
func TestTooManyStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("makes a hundred thousand streams")
	}
	const streams = 100_500
	q := newQuiet(t, func(c *mirror.Config) {
		c.Heartbeat, c.ScanCount, c.DirtyLimit = 20*time.Millisecond, 1000, 1_000_000
	})
	ctx, c := t.Context(), q.src.Client(0)
	for at := 0; at < streams; at += 500 {
		pipe := c.Pipeline()
		for i := range 500 {
			pipe.XGroupCreateMkStream(ctx, fmt.Sprint("s", at+i), "g", "0")
		}
		_, err := pipe.Exec(ctx)
		ok(t, err)
	}
	ok(t, c.Del(ctx, "s1").Err())
	q.stream(t, 0, "s1")
	q.follow(t)
	q.ack(t, 0, "s1", 1)
	redistest.Eventually(t, 60*time.Second, func() error {
		if p := q.m.Progress(); p.Gaps == 0 || p.State != mirror.Live || p.Searching {
			return fmt.Errorf("the mirror is %s after %d gaps, searching: %v", p.State, p.Gaps, p.Searching)
		}
		return nil
	}, "a scan")
	drain(t, q.m)
	q.pending(t, 0, "s1", 9)
}

// CLIENT TRACKING tells of every write as of what may be a stream by now.
func TestStreamsAreFoundWhileEverythingIsWritten(t *testing.T) {
	q := newQuiet(t, func(c *mirror.Config) {
		c.Feed, c.Heartbeat, c.DirtyLimit = mirror.FeedTracking, 50*time.Millisecond, 1_000_000
	})
	ctx, c := t.Context(), q.src.Client(0)
	q.stream(t, 0, "s")
	q.fillPlain(t, 20_000)
	q.follow(t)
	var writer sync.WaitGroup
	stop := make(chan struct{})
	defer func() { close(stop); writer.Wait() }()
	writer.Go(func() {
		every := 10 * time.Millisecond
		if testing.Short() { // and slow, by the race detector
			every *= 3
		}
		pace := time.NewTicker(every)
		defer pace.Stop()
		for n := 0; ; n += 100 {
			select {
			case <-stop:
				return
			case <-pace.C:
			}
			pipe := c.Pipeline()
			for i := range 100 {
				pipe.Set(ctx, fmt.Sprint("w", (n+i)%300_000), n, 0)
			}
			if _, err := pipe.Exec(ctx); err != nil {
				return
			}
		}
	})
	for i := range 3 {
		q.ack(t, 0, "s", i+1)
		redistest.Eventually(t, 60*time.Second, func() error {
			p, err := q.dst.Client(0).XPending(ctx, "s", "g").Result()
			if err == nil && p.Count != int64(9-i) {
				err = fmt.Errorf("%d pending, %+v", p.Count, q.m.Progress().Errors)
			}
			return err
		}, "acknowledgement %d arrives", i+1)
	}
	redistest.Eventually(t, 30*time.Second, func() error {
		if q.m.Progress().Searching {
			return fmt.Errorf("still searching: %+v", q.m.Progress().Errors)
		}
		return nil
	}, "the streams are known")
}

// What is owed to the target is not said to be settled there.
func TestOwedStreamsAreNotSettled(t *testing.T) {
	q := newQuiet(t, nil)
	const streams = 200
	keys := make([]string, streams)
	for i := range keys {
		keys[i] = fmt.Sprint("s", i)
		q.stream(t, 0, keys[i])
	}
	q.follow(t)
	q.ack(t, 0, "s0", 1)
	drain(t, q.m) // they are known from here on
	all := func() (n int) {
		settled, err := q.m.Settled(t.Context(), 0, keys)
		ok(t, err)
		for _, yes := range settled {
			if yes {
				n++
			}
		}
		return n
	}
	if n := all(); n != streams {
		t.Errorf("%d of %d are settled after a drain", n, streams)
	}
	q.ack(t, 0, "s1", 1)
	q.m.CountNow()
	if n := all(); n != 0 {
		t.Errorf("%d are settled that may have been changed", n)
	}
	drain(t, q.m)
	if n := all(); n != streams {
		t.Errorf("%d of %d are settled after another drain", n, streams)
	}
}

// An old process lives on behind the connections that it has: what is asked to prove the
// feed goes to the one that the feed comes from.
func TestBeatsGoToTheProcessThatIsFollowed(t *testing.T) {
	src := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	next := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	link := redistest.NewLink(t, src.Addr())
	w := &world{src: src, dst: redistest.Start(t)}
	w.connect(t, link.Addr(), w.dst.Addr(), func(c *mirror.Config) { c.Heartbeat = 20 * time.Millisecond })
	ctx := t.Context()
	fillLost(t, w, "old")
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.src = next
	fillLost(t, w, "new")
	link.SetUpstream(next.Addr())
	killFeed(t, src)
	redistest.Eventually(t, 20*time.Second, func() error {
		p := w.m.Progress()
		if v := w.dst.Client(0).Get(ctx, "k:0").Val(); v != "new" || p.State != mirror.Live {
			return fmt.Errorf("the value is %q, the mirror %s (%s)", v, p.State, p.Reason)
		}
		return nil
	}, "the new process is followed")
	before, gaps := [2]int{calls(t, src, "set"), calls(t, next, "set")}, w.m.Progress().Gaps
	redistest.Eventually(t, 20*time.Second, func() bool { return calls(t, next, "set") > before[1]+30 }, "beats")
	if n := calls(t, src, "set") - before[0]; n > 0 {
		t.Errorf("%d beats go to the old process", n)
	}
	if p := w.m.Progress(); p.Gaps != gaps || p.State != mirror.Live {
		t.Errorf("%s after %d gaps and then %d: %s", p.State, gaps, p.Gaps, p.Reason)
	}
}

// killFeed cuts the connection off by which a mirror hears of a server's changes.
func killFeed(t *testing.T, s *redistest.Server) {
	t.Helper()
	list, err := s.Client(0).ClientList(t.Context()).Result()
	ok(t, err)
	for line := range strings.Lines(list) {
		if strings.Contains(line, "name=crossfade:t:source:feed ") {
			id := strings.TrimPrefix(strings.Fields(line)[0], "id=")
			ok(t, s.Client(0).ClientKillByFilter(t.Context(), "ID", id).Err())
		}
	}
}
