package mirror_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// pushWide makes a list of few elements, each of 100 kB that do not become less by compression.
func pushWide(t *testing.T, c *redis.Client, key string, n int) {
	t.Helper()
	rnd := rand.NewChaCha8([32]byte{})
	for range n {
		elem := make([]byte, 100_000)
		_, _ = rnd.Read(elem)
		ok(t, c.RPush(t.Context(), key, elem).Err())
	}
}

// TestLargeKeysOfASourceThatTellsNoSizes: one that the target would not take in one piece is
// copied all the same, and keeps nothing else from being.
func TestLargeKeysOfASourceThatTellsNoSizes(t *testing.T) {
	w := &world{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"), redistest.WithRenamed("MEMORY", ""), redistest.WithConfig("rdbcompression", "no")),
		dst: redistest.Start(t, redistest.WithConfig("proto-max-bulk-len", "64mb")),
	}
	patient := func(s *redistest.Server, name string) *conn.Pool { // 70 MB take their time on a busy machine
		p := conn.New(config.Endpoint{Network: "tcp", Address: s.Addr()}, name, 30*time.Second)
		t.Cleanup(func() { _ = p.Close() })
		return p
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), func(c *mirror.Config) {
		c.From, c.To = patient(w.src, "t:patient:source"), patient(w.dst, "t:patient:target")
		c.Timeout, c.Heartbeat = 30*time.Second, time.Second
	})
	pushWide(t, w.src.Client(0), "list", 700)
	fill(t, w.src.Client(0), 500)
	ok(t, w.m.Follow(t.Context(), true))
	redistest.Eventually(t, time.Minute, func() error {
		if p := w.m.Progress(); p.State != mirror.Live {
			return fmt.Errorf("state %s (%s): %+v", p.State, p.Reason, p.Errors)
		}
		return nil
	}, "live")
	for _, e := range w.m.Progress().Errors {
		t.Errorf("%s: %s", e.Kind, e.Text)
	}
	w.sameKeys(t, "list", "s:7", "l:10")
}

// TestSizesAfterABusyMoment: a source that was busy with a script when it was asked for
// sizes is asked again.
func TestSizesAfterABusyMoment(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.Heartbeat = time.Second })
	ctx, c := t.Context(), w.src.Client(0)
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)

	ok(t, w.m.Freeze(ctx))
	ok(t, c.RPush(ctx, "small", 1).Err())
	ok(t, c.ConfigSet(ctx, "lua-time-limit", "100").Err())
	o := redistest.Options(w.src.Addr(), 0)
	o.ReadTimeout = time.Minute
	runner := redis.NewClient(o)
	defer func() { _ = runner.Close() }()
	ended := make(chan error, 1)
	go func() { ended <- runner.Eval(t.Context(), "while true do end", nil).Err() }()
	redistest.Eventually(t, 10*time.Second, func() bool {
		err := c.Ping(ctx).Err()
		return err != nil && strings.HasPrefix(err.Error(), "BUSY")
	}, "busy")
	w.m.Thaw()
	redistest.Eventually(t, 10*time.Second, func() error {
		for _, e := range w.m.Progress().Errors {
			if e.Kind == "copy" && strings.Contains(e.Text, "BUSY") {
				return nil
			}
		}
		return errors.New("not yet")
	}, "a copy has met the script")
	ok(t, c.ScriptKill(ctx).Err())
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the script ended with %v", err)
	}

	before := dumps(t, w)
	drain(t, w.m)
	pushWide(t, c, "list", 10)
	drain(t, w.m)
	w.sameKeys(t, "small", "list")
	for range 20 { // an element more of a key that was found to be big is added to it
		pushWide(t, c, "list", 1)
		drain(t, w.m)
	}
	if n := dumps(t, w) - before; n > 8 {
		t.Errorf("the source was asked %d times for a whole value", n)
	}
	w.sameKeys(t, "list")
}
