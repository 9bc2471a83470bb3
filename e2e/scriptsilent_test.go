package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestSilentWritesInScripts has a function acknowledge through the proxy all the time: no
// gap while nobody else is there, and the switch is made.
func TestSilentWritesInScripts(t *testing.T) {
	t.Parallel()
	src, dst := redistest.Start(t), redistest.Start(t)
	c := newSidecar(t, setup{source: "redis://" + src.Addr(), target: "redis://" + dst.Addr()})
	c.start("")
	c.awaitReady()
	ctx := t.Context()
	app := redis.NewClient(&redis.Options{Addr: c.addr, MaxRetries: -1})
	defer func() { _ = app.Close() }()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(app.XGroupCreateMkStream(ctx, "s", "g", "0").Err())
	check(app.FunctionLoad(ctx, "#!lua name=lib\nredis.register_function('ack', function(keys, args) return redis.call('XACK', keys[1], 'g', args[1]) end)").Err())
	n := 0
	acks := func() {
		t.Helper()
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); n++ {
			id := fmt.Sprintf("1-%d", n+1)
			check(app.XAdd(ctx, &redis.XAddArgs{Stream: "s", ID: id, Values: []string{"f", "v"}}).Err())
			check(app.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "g", Consumer: "c", Streams: []string{"s", ">"}}).Err())
			check(app.FCall(ctx, "ack", []string{"s"}, id).Err())
		}
	}
	acks()
	if s, err := c.status(); err != nil || s.Gaps > 0 {
		t.Errorf("functions through the proxy: %+v, %v", s, err)
	}
	if _, err := c.cutover(); err != nil {
		t.Fatal(err)
	}
	if left := dst.Client(0).XPending(ctx, "s", "g").Val(); left == nil || left.Count > 0 {
		t.Errorf("pending after the switch: %+v", left)
	}
}
