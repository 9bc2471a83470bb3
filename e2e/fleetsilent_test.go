package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// TestFleetSilentWrites: what a member's clients do that no notification tells of arrives on
// the other side as well, there and back.
func TestFleetSilentWrites(t *testing.T) {
	t.Parallel()
	s := newServers(t, keeping, keeping)
	s.c = newSidecar(t, setup{source: "redis://" + s.src.Addr(), target: "redis://" + s.dst.Addr()})
	s.c.start("")
	s.c.awaitReady()
	m := s.member("silent")
	m.start("")
	m.awaitOpen(router.Source)
	c := (&lookouts{}).client(m.addr)
	defer func() { _ = c.Close() }()
	ctx := context.Background()
	say := func(args ...any) any {
		t.Helper()
		v, err := c.Do(ctx, args...).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			t.Fatalf("%v: %v", args, err)
		}
		return v
	}
	want := func(what string, args ...any) {
		t.Helper()
		if got := fmt.Sprint(say(args...)); got != what {
			t.Errorf("%v: %s, want %s", args, got, what)
		}
	}
	say("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
	var ids []any
	for i := range 30 {
		ids = append(ids, say("XADD", "s", "*", "i", i))
	}
	acked := 0
	side := router.Source
	for round := range 4 {
		say("XREADGROUP", "GROUP", "g", "me", "COUNT", 5, "STREAMS", "s", ">")
		say("XACK", "s", "g", ids[acked], ids[acked+1])
		acked += 2
		say("FUNCTION", "LOAD", "REPLACE", fmt.Sprintf("#!lua name=lib\nredis.register_function('f', function() return %d end)", round))
		say("SELECT", 3)
		say("SET", "gone", round)
		say("FLUSHDB")
		say("SET", "here", round)
		say("SELECT", 0)
		sha := say("SCRIPT", "LOAD", fmt.Sprintf("return %d", round))
		redistest.Eventually(t, time.Minute, func() error { return s.switchOnce(side) }, "a switch away from the %s", side)
		side = side.Other()
		m.awaitOpen(side)
		pending := say("XPENDING", "s", "g").([]any)[0]
		if got := fmt.Sprint(pending); got != fmt.Sprint(5*(round+1)-acked) {
			t.Errorf("round %d: %s are pending, want %d", round, got, 5*(round+1)-acked)
		}
		want(fmt.Sprint(round), "FCALL", "f", 0)
		want(fmt.Sprint(round), "EVALSHA", sha, 0)
		say("SELECT", 3)
		want("<nil>", "GET", "gone")
		want(fmt.Sprint(round), "GET", "here")
		say("SELECT", 0)
		s.c.await("it goes on", func(st migration.Status) bool { return st.Ready })
	}
}
