package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

func (w *world) eventuallyViews(t *testing.T, what string, cond func(mirror.Views) bool) mirror.Views {
	t.Helper()
	var v mirror.Views
	redistest.Eventually(t, 10*time.Second, func() error {
		if v = w.m.Progress().Views; !cond(v) {
			return fmt.Errorf("%+v", v)
		}
		return nil
	}, "%s", what)
	return v
}

// proxied writes as a client of the proxy, if there were one, and says so.
func (w *world) proxied(t *testing.T, db int, key string) {
	t.Helper()
	ok(t, w.src.Client(db).HSet(t.Context(), key, "field", time.Now().UnixNano()).Err())
	w.m.Wrote([]mirror.Write{{DB: db, Key: []byte(key), Command: "hset", Sure: true}})
}

func TestWritesPastTheProxyAreShown(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) {
		c.Bypassing = func(context.Context) ([]string, error) { return []string{"10.0.0.1:5 name cron"}, nil }
	})
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	stop := time.Now().Add(time.Second)
	for i := 0; time.Now().Before(stop); i++ {
		w.proxied(t, 3*(i%2), fmt.Sprintf("mine:%d", i%50))
	}
	if v := w.m.Progress().Views; v.Bypassed+v.Unclear > 0 || len(v.Unannounced) > 0 {
		t.Errorf("all that was written was said, and yet: %+v", v)
	}

	ok(t, w.src.Client(3).Set(t.Context(), "foreign", 1, 0).Err())
	v := w.eventuallyViews(t, "the foreign write is shown", func(v mirror.Views) bool { return v.Bypassed > 0 && len(v.Clients) > 0 })
	if !slices.Equal(v.Databases, []int{3}) || !slices.Equal(v.Keys, []string{"foreign"}) || v.Clients[0] != "10.0.0.1:5 name cron" {
		t.Errorf("shown is %+v", v)
	}

	// What scripts write nobody can tell.
	before := v
	redistest.Eventually(t, 10*time.Second, func() bool {
		w.m.Wrote([]mirror.Write{{DB: 0}})
		ok(t, w.src.Client(0).Incr(t.Context(), "scripted").Err())
		return w.m.Progress().Views.Unclear > 0
	}, "what may have been a script is counted apart")
	if now := w.m.Progress().Views; now.Bypassed != before.Bypassed {
		t.Errorf("a script was taken for a foreign writer: %+v", now)
	}

	// What expires was written by nobody.
	ok(t, w.src.Client(0).Set(t.Context(), "short", 1, 5*time.Millisecond).Err())
	w.m.Wrote([]mirror.Write{{DB: 0, Key: []byte("short"), Command: "set", Sure: true}})
	redistest.Eventually(t, 5*time.Second, func() bool { return w.src.Client(0).Exists(t.Context(), "short").Val() == 0 }, "expired")
	drain(t, w.m)
	w.mustBeEqual(t)
}

func TestClassWithoutNotificationsIsNoticed(t *testing.T) {
	w := newWorld(t, nil) // CheckNotifications says nothing: the setting is hidden
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	for i := range 3 {
		w.proxied(t, 0, fmt.Sprintf("before:%d", i))
	}
	ok(t, w.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "KEg$lszxet").Err()) // no hashes
	// The heartbeat goes on as if nothing was. A proxied write without its event is
	// the first sign; it is copied although nobody was told.
	redistest.Eventually(t, 10*time.Second, func() error {
		w.proxied(t, 0, "untold")
		if w.m.Progress().Views.Unannounced["hset"] == 0 {
			return errors.New("not noticed")
		}
		return nil
	}, "a write without an event is noticed")
	w.awaitState(t, mirror.Resync)
	if r := w.m.Progress().Reason; !strings.Contains(r, "class h") {
		t.Errorf("the reason is %q", r)
	}
	w.proxied(t, 0, "also untold")
	ok(t, w.src.Client(0).HSet(t.Context(), "past the proxy", "f", 1).Err())
	redistest.Eventually(t, 10*time.Second, func() bool { return w.dst.Client(0).Exists(t.Context(), "also untold").Val() == 1 },
		"what the proxy saw is copied meanwhile")
	ok(t, w.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "KEA").Err())
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
}

// Without any traffic that the proxy sees, the classes are proved all the same.
func TestClassesAreProvedWithoutTraffic(t *testing.T) {
	for _, lacking := range []string{"$", "l", "s", "z", "h", "t", "g", "x"} {
		t.Run(lacking, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			ok(t, w.m.Follow(t.Context(), true))
			w.awaitState(t, mirror.Live)
			flags := strings.ReplaceAll("KEg$lszxet", lacking, "")
			ok(t, w.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", flags).Err())
			w.awaitState(t, mirror.Resync)
			ok(t, w.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "KEA").Err())
			w.awaitState(t, mirror.Live)
		})
	}
}

// A notification connection that is lost while the classes are proved is a gap, and not a
// server that does not notify: nobody goes over to CLIENT TRACKING for that.
func TestALostConnectionIsNoDeafness(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.Feed, c.Heartbeat = mirror.FeedAuto, 10*time.Millisecond })
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	admin := w.src.Client(0)
	for range 150 {
		redistest.Eventually(t, 10*time.Second, func() bool {
			return admin.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Val() > 0
		}, "the connection is there, and closed")
		if p := w.m.Progress(); p.Feed != mirror.FeedNotifications || strings.Contains(p.Reason, "do not arrive") {
			t.Fatalf("feed %s, state %s (%s)", p.Feed, p.State, p.Reason)
		}
	}
}

// While writers are paused, as a switch has them, no key expires: nobody is deaf for that.
func TestPausedWritersAreNoDeafness(t *testing.T) {
	w := newWorld(t, nil)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	admin := w.src.Client(0)
	// Among so many keys that expire one day, ours is hardly removed before it is looked at.
	ok(t, admin.ConfigSet(t.Context(), "hz", "1").Err())
	_, err := admin.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for i := range 5000 {
			p.Set(t.Context(), fmt.Sprint("volatile:", i), i, time.Hour)
		}
		return nil
	})
	ok(t, err)
	drain(t, w.m)
	gaps := w.m.Progress().Gaps
	for range 3 { // each longer than the time between two proofs
		ok(t, admin.Do(t.Context(), "CLIENT", "PAUSE", 700, "WRITE").Err())
		ok(t, admin.Set(t.Context(), "behind the pause", 1, 0).Err())
		beats := w.m.Progress().Recent.All
		redistest.Eventually(t, 10*time.Second, func() bool { return w.m.Progress().Recent.All > beats+5 }, "heartbeats go on")
	}
	if p := w.m.Progress(); p.Gaps != gaps {
		t.Errorf("%d gaps, before it were %d: %s", p.Gaps, gaps, p.Reason)
	}
}
