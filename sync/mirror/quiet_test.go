package mirror_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// quiet is a mirror that counts silent commands; nobody looks unless the test drains.
type quiet struct {
	*world
	forwarded, finished atomic.Int64 // XACK by the proxy
}

func newQuiet(t *testing.T, change func(*mirror.Config)) *quiet {
	t.Helper()
	q := new(quiet)
	q.world = newWorld(t, func(c *mirror.Config) {
		c.Heartbeat = time.Minute
		c.Silent = func() (map[string]int64, map[string]int64) {
			f := q.finished.Load()
			return map[string]int64{"xack": q.forwarded.Load()}, map[string]int64{"xack": f}
		}
		if change != nil {
			change(c)
		}
	})
	return q
}

func (q *quiet) follow(t *testing.T) {
	t.Helper()
	ok(t, q.m.Follow(t.Context(), true))
	q.awaitState(t, mirror.Live)
	drain(t, q.m)
}

// stream makes one of ten entries, all of them pending.
func (q *quiet) stream(t *testing.T, db int, key string) {
	t.Helper()
	c := q.src.Client(db)
	for i := range 10 {
		ok(t, c.XAdd(t.Context(), &redis.XAddArgs{Stream: key, ID: fmt.Sprintf("1-%d", i+1), Values: []string{"f", "v"}}).Err())
	}
	ok(t, c.XGroupCreate(t.Context(), key, "g", "0").Err())
	ok(t, c.XReadGroup(t.Context(), &redis.XReadGroupArgs{Group: "g", Consumer: "c", Streams: []string{key, ">"}}).Err())
}

func (q *quiet) ack(t *testing.T, db int, key string, n int) {
	t.Helper()
	if did, err := q.src.Client(db).XAck(t.Context(), key, "g", fmt.Sprintf("1-%d", n)).Result(); err != nil || did != 1 {
		t.Fatalf("%d acknowledged, %v", did, err)
	}
}

func (q *quiet) pending(t *testing.T, db int, key string, want int64) {
	t.Helper()
	p, err := q.dst.Client(db).XPending(t.Context(), key, "g").Result()
	if err != nil || p.Count != want {
		t.Errorf("%s: %+v are pending on the target, want %d (%v)", key, p, want, err)
	}
}

// What is run past the proxy, or by scripts, arrives whenever the stream came to be.
func TestSilentCommandsOfOthersAreCarried(t *testing.T) {
	for _, feed := range []string{mirror.FeedNotifications, mirror.FeedTracking} {
		t.Run(feed, func(t *testing.T) {
			q := newQuiet(t, func(c *mirror.Config) { c.Feed = feed })
			q.stream(t, 0, "old")
			q.stream(t, 3, "other")
			q.follow(t)
			q.ack(t, 0, "old", 1)
			q.ack(t, 3, "other", 1)
			drain(t, q.m)
			q.pending(t, 0, "old", 9)
			q.pending(t, 5, "other", 9)
			c := q.src.Client(0)
			ctx := t.Context()
			q.stream(t, 0, "new")
			ok(t, c.Rename(ctx, "old", "named").Err())
			ok(t, c.Copy(ctx, "named", "copied", 0, false).Err())
			ok(t, c.Restore(ctx, "restored", 0, c.Dump(ctx, "named").Val()).Err())
			ok(t, c.Move(ctx, "restored", 3).Err())
			ok(t, c.Set(ctx, "was a string", 1, 0).Err())
			drain(t, q.m)
			for _, key := range []string{"new", "named", "copied"} {
				q.ack(t, 0, key, 2)
			}
			q.ack(t, 3, "restored", 2)
			drain(t, q.m)
			q.pending(t, 0, "new", 9)
			q.pending(t, 0, "named", 8)
			q.pending(t, 0, "copied", 8)
			q.pending(t, 5, "restored", 8)
			ok(t, c.Del(ctx, "was a string").Err())
			q.stream(t, 0, "was a string")
			drain(t, q.m)
			q.ack(t, 0, "was a string", 1)
			drain(t, q.m)
			q.pending(t, 0, "was a string", 9)
			if n := q.m.Progress().Gaps; n > 0 {
				t.Errorf("%d gaps", n)
			}
		})
	}
}

// Of groups that others make, move and end, and of ids that they set, CLIENT TRACKING does
// not tell.
func TestGroupsOfOthersAreCarried(t *testing.T) {
	for _, feed := range []string{mirror.FeedNotifications, mirror.FeedTracking} {
		t.Run(feed, func(t *testing.T) {
			q := newQuiet(t, func(c *mirror.Config) { c.Feed = feed })
			for _, key := range []string{"a", "b"} {
				q.stream(t, 0, key)
			}
			q.follow(t)
			c, ctx := q.src.Client(0), t.Context()
			for _, change := range []func() error{
				func() error { return c.XGroupCreate(ctx, "a", "late", "0").Err() },
				func() error { return c.XGroupSetID(ctx, "b", "g", "1-3").Err() },
				func() error { return c.XGroupCreateConsumer(ctx, "a", "late", "idle").Err() },
				func() error { return c.XGroupDelConsumer(ctx, "a", "g", "c").Err() },
				func() error { return c.XGroupDestroy(ctx, "b", "g").Err() },
				func() error { return c.Do(ctx, "XSETID", "b", "7-7").Err() },
			} {
				ok(t, change())
				drain(t, q.m)
				q.same(t, "a")
				q.same(t, "b")
			}
			if n := q.m.Progress().Gaps; n > 0 {
				t.Errorf("%d gaps", n)
			}
		})
	}
}

// same compares what a stream in database 0 says of itself.
func (q *quiet) same(t *testing.T, key string) {
	t.Helper()
	var said [2]string
	for i, s := range []*redistest.Server{q.src, q.dst} {
		stream, err := s.Client(0).XInfoStream(t.Context(), key).Result()
		ok(t, err)
		groups, err := s.Client(0).XInfoGroups(t.Context(), key).Result()
		ok(t, err)
		said[i] = fmt.Sprintf("last id %s, groups %+v", stream.LastGeneratedID, groups)
	}
	if said[0] != said[1] {
		t.Errorf("stream %s: %s on the source, on the target %s", key, said[0], said[1])
	}
}

// With heartbeats, streams are carried while nobody drains, gone ones are forgotten, and
// one that comes to be in the meantime is not.
func TestSilentCommandsOfOthersAreCarriedInTheEnd(t *testing.T) {
	q := newQuiet(t, func(c *mirror.Config) { c.Heartbeat = 5 * time.Millisecond })
	const streams = 200
	for i := range streams {
		q.stream(t, 0, fmt.Sprint("s", i))
	}
	q.follow(t)
	for i := range streams {
		q.ack(t, 0, fmt.Sprint("s", i), 1)
	}
	await := func(key string, want int64) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; {
			p, err := q.dst.Client(0).XPending(t.Context(), key, "g").Result()
			if err == nil && p.Count == want {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%s: %+v, %v, want %d", key, p, err, want)
			}
		}
	}
	for i := range streams {
		await(fmt.Sprint("s", i), 9)
	}
	for i := range streams {
		key := fmt.Sprint("s", i)
		ok(t, q.src.Client(0).Del(t.Context(), key).Err())
		q.stream(t, 0, key)
		q.ack(t, 0, key, 1)
	}
	drain(t, q.m)
	for i := range streams {
		q.pending(t, 0, fmt.Sprint("s", i), 9)
	}
}

// A gap makes what was known of the streams worthless.
func TestSilentCommandsOfOthersAfterAGap(t *testing.T) {
	q := newQuiet(t, nil)
	q.stream(t, 0, "old")
	q.follow(t)
	q.ack(t, 0, "old", 1)
	drain(t, q.m)
	none, err := q.src.Client(0).ConfigGet(t.Context(), "notify-keyspace-events").Result()
	ok(t, err)
	ok(t, q.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", "").Err())
	q.stream(t, 0, "unheard")
	ok(t, q.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", none["notify-keyspace-events"]).Err())
	q.m.Rescan(0, "the test says so")
	drain(t, q.m)
	q.ack(t, 0, "unheard", 1)
	drain(t, q.m)
	q.pending(t, 0, "unheard", 9)
}

// A command of the proxy that is in flight hides one of others, be it when the counting
// begins or later; and one whose outcome nobody will know hides it for ever.
func TestSilentCommandsOfOthersBehindOnesInFlight(t *testing.T) {
	q := newQuiet(t, nil)
	q.stream(t, 0, "s")
	q.forwarded.Store(1) // will be refused
	q.follow(t)
	q.ack(t, 0, "s", 1)
	drain(t, q.m)
	q.pending(t, 0, "s", 9)
	q.forwarded.Store(0)
	drain(t, q.m)
	q.forwarded.Store(1) // was lost with its connection
	q.ack(t, 0, "s", 2)
	drain(t, q.m)
	q.pending(t, 0, "s", 8)
}

// A server that counts anew may have run as many silent commands again as it had, which are
// others' now.
func TestAsManyCommandsAsBeforeTheCountBeganAnew(t *testing.T) {
	q := newQuiet(t, nil)
	q.stream(t, 0, "s")
	ok(t, q.src.Client(0).ConfigResetStat(t.Context()).Err()) // nothing of that shows later
	q.follow(t)
	q.forwarded.Store(1)
	q.ack(t, 0, "s", 1) // by the proxy
	q.finished.Store(1)
	q.m.Silent(0, "s")
	q.m.CountNow()
	drain(t, q.m)
	q.pending(t, 0, "s", 9)
	ok(t, q.src.Client(0).ConfigResetStat(t.Context()).Err())
	q.ack(t, 0, "s", 2) // past it
	q.m.CountNow()
	if n := q.m.Progress().Gaps; n != 1 {
		t.Errorf("%d gaps", n)
	}
	drain(t, q.m)
	q.pending(t, 0, "s", 8)
}
