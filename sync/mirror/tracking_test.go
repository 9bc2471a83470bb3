package mirror_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

func trackingWorld(t *testing.T, change func(*mirror.Config)) *world {
	t.Helper()
	w := &world{src: redistest.Start(t), dst: redistest.Start(t)} // without notifications
	none := map[string]int64{}
	w.connect(t, w.src.Addr(), w.dst.Addr(), func(c *mirror.Config) {
		c.Feed = mirror.FeedTracking
		c.Silent = func() (map[string]int64, map[string]int64) { return none, none }
		if change != nil {
			change(c)
		}
	})
	return w
}

// TestTrackingSeesWhatNotificationsSee goes through the ways in which keys change,
// commands and not. After each a barrier must be enough.
func TestTrackingSeesWhatNotificationsSee(t *testing.T) {
	w := trackingWorld(t, nil)
	ctx := t.Context()
	a, b := w.src.Client(0), w.src.Client(3)
	fill(t, a, 300)
	fill(t, b, 300)
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	if f := w.m.Progress().Feed; f != mirror.FeedTracking {
		t.Fatalf("the feed is %q", f)
	}
	blocked := make(chan error, 1)
	go func() { blocked <- a.BLPop(context.Background(), 10*time.Second, "queue").Err() }()
	step := map[string]func() error{
		"set, del": func() error { return do(ctx, a, "SET new 1|DEL s:1|UNLINK l:0|APPEND s:2 x|HDEL h:0 a") },
		"rename":   func() error { return do(ctx, b, "RENAME s:3 s:4|RENAMENX s:5 fresh") },
		"move":     func() error { return do(ctx, a, "SET moving 1|MOVE moving 3|COPY s:6 copied DB 3") },
		"past":     func() error { return do(ctx, a, "SET s:7 1 EXAT 1|EXPIREAT s:8 1") },
		"multi":    func() error { return do(ctx, a, "EVAL return(redis.call('incr','scripted')) 0") },
		"wake":     func() error { return do(ctx, a, "RPUSH queue 1 2") },
		"stream":   func() error { return do(ctx, a, "XADD st 1-1 f v|XGROUP CREATE st g 0|XDEL st 1-1") },
		"restore":  func() error { return do(ctx, a, "SORT l:10 STORE sorted|PFADD hll 1 2") },
	}
	for name, change := range step {
		ok(t, change())
		drain(t, w.m)
		w.mustBeEqual(t)
		if t.Failed() {
			t.Fatalf("after %s", name)
		}
	}
	ok(t, <-blocked)

	// Expiry, seen by nobody but the server itself.
	for i := range 200 {
		ok(t, b.Set(ctx, fmt.Sprintf("short:%d", i), 1, time.Duration(1+i%6)*time.Millisecond).Err())
	}
	redistest.Eventually(t, 10*time.Second, func() bool { return b.Keys(ctx, "short:*").Val() == nil || len(b.Keys(ctx, "short:*").Val()) == 0 }, "expired")
	redistest.Eventually(t, 10*time.Second, func() bool {
		drain(t, w.m)
		return len(w.dst.Client(5).Keys(ctx, "short:*").Val()) == 0
	}, "removed on the target")

	// Eviction.
	ok(t, a.ConfigSet(ctx, "maxmemory-policy", "allkeys-lru").Err())
	ok(t, a.ConfigSet(ctx, "maxmemory", "3mb").Err())
	for i := range 8000 {
		ok(t, a.Set(ctx, fmt.Sprintf("big:%d", i), strings.Repeat("x", 200), 0).Err())
	}
	if n := a.InfoMap(ctx, "stats").Val()["Stats"]["evicted_keys"]; n == "0" {
		t.Fatal("nothing was evicted")
	}
	ok(t, a.ConfigSet(ctx, "maxmemory", "0").Err())
	drain(t, w.m)
	w.mustBeEqual(t)

	ok(t, b.FlushDB(ctx).Err())
	redistest.Eventually(t, 10*time.Second, func() bool { return len(content(t, w.dst.Client(5))) == 0 }, "emptied")
	w.awaitState(t, mirror.Live)
	w.mustBeEqual(t)
}

// do runs commands that are separated by |.
func do(ctx context.Context, c *redis.Client, commands string) error {
	for cmd := range strings.SplitSeq(commands, "|") {
		var args []any
		for word := range strings.FieldsSeq(cmd) {
			args = append(args, word)
		}
		if err := c.Do(ctx, args...).Err(); err != nil {
			return fmt.Errorf("%s: %w", cmd, err)
		}
	}
	return nil
}

// TestTrackingBarrier has many writers, and asks for the barrier after their last
// reply: every key that was written must be there after it.
func TestTrackingBarrier(t *testing.T) {
	w := trackingWorld(t, nil)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	for round := range 30 {
		done := make(chan error, 4)
		for g := range 4 {
			go func() {
				pipe := w.src.Client(3 * (g % 2)).Pipeline()
				for i := range 200 {
					pipe.Set(context.Background(), fmt.Sprintf("b:%d:%d", g, i), round, 0)
				}
				_, err := pipe.Exec(context.Background())
				done <- err
			}()
		}
		for range 4 {
			ok(t, <-done)
		}
		drain(t, w.m)
		w.mustBeEqual(t)
	}
}

func TestTrackingLostIsAGap(t *testing.T) {
	src := redistest.Start(t)
	link := redistest.NewLink(t, src.Addr())
	w := &world{src: src, dst: redistest.Start(t)}
	w.connect(t, link.Addr(), w.dst.Addr(), func(c *mirror.Config) { c.Feed = mirror.FeedTracking })
	fill(t, src.Client(0), 300)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	link.Refuse(true)
	link.Cut()
	w.awaitState(t, mirror.Resync)
	ok(t, src.Client(0).Del(t.Context(), "s:1", "s:2").Err())
	link.Refuse(false)
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
}

// TestTrackingInstead has a server that hides its setting: nothing comes, and then
// something only for a part.
func TestTrackingInstead(t *testing.T) {
	for name, flags := range map[string]string{"none": "", "no hashes": "KEg$lszxet"} {
		t.Run(name, func(t *testing.T) {
			w := trackingWorld(t, func(c *mirror.Config) { c.Feed = mirror.FeedAuto })
			ok(t, w.src.Client(0).ConfigSet(t.Context(), "notify-keyspace-events", flags).Err())
			fill(t, w.src.Client(0), 100)
			ok(t, w.m.Follow(t.Context(), true))
			redistest.Eventually(t, 20*time.Second, func() error {
				if p := w.m.Progress(); p.Feed != mirror.FeedTracking || p.State != mirror.Live {
					return fmt.Errorf("feed %s, state %s (%s)", p.Feed, p.State, p.Reason)
				}
				return nil
			}, "tracking")
			ok(t, w.src.Client(0).HSet(t.Context(), "h:0", "a", "changed").Err())
			drain(t, w.m)
			w.mustBeEqual(t)
		})
	}
}
