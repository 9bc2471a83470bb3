package e2e

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestFewRoundTripsUnderTheHold has both servers far away, so that what clients wait for is
// the way there and back, and counts how often a switch goes it one time after another.
func TestFewRoundTripsUnderTheHold(t *testing.T) {
	const (
		roundTrip = 24 * time.Millisecond
		most      = 15 // ten, and what a slow machine adds
	)
	src, dst := redistest.Start(t), redistest.Start(t)
	from, to := redistest.NewLink(t, src.Addr()), redistest.NewLink(t, dst.Addr())
	c := newSidecar(t, setup{source: "redis://" + from.Addr(), target: "redis://" + to.Addr(), dbmap: "0=0,3=5", extra: []string{"--cutover.max_stall", "1m", "--cutover.max_lag", "10s", "--sync.heartbeat", "20s"}})
	c.start("")
	c.awaitReady()
	client := redis.NewClient(&redis.Options{Addr: c.addr, Protocol: 3, ReadTimeout: time.Minute})
	t.Cleanup(func() { _ = client.Close() })
	for _, cmd := range []redis.Cmder{
		client.Set(t.Context(), "k", "v", 0), client.RPush(t.Context(), "l", "a", "b"), client.Eval(t.Context(), "return 1", nil),
	} {
		if cmd.Err() != nil {
			t.Fatal(cmd.Err())
		}
	}
	sub := client.Subscribe(t.Context(), "news")
	t.Cleanup(func() { _ = sub.Close() })
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	popped := make(chan error, 1)
	go func() { popped <- client.BLPop(t.Context(), 0, "empty").Err() }()
	var held [2][2]float64 // there and back, near and far
	for i, delay := range []time.Duration{0, roundTrip / 2} {
		from.SetDelay(delay)
		to.SetDelay(delay)
		for side := range 2 {
			c.awaitReady()
			r, err := c.ask(router.Side(side), admin.SwitchRequest{})
			if err != nil {
				t.Fatal(err)
			}
			held[side][i] = r.Held
			t.Logf("with %v: %v", delay, r.Steps)
		}
	}
	from.SetDelay(0)
	to.SetDelay(0)
	for side, way := range []string{"cutover", "rollback"} {
		trips := (held[side][1] - held[side][0]) / (float64(roundTrip) / float64(time.Millisecond))
		t.Logf("%s: %.1f round trips (%.1f ms, near %.1f ms)", way, trips, held[side][1], held[side][0])
		if trips > most {
			t.Errorf("%s: clients wait for %.1f round trips, one after another, and not for %d at most", way, trips, most)
		}
	}
	if err := client.RPush(t.Context(), "empty", "x").Err(); err != nil {
		t.Fatal(err)
	}
	if err := <-popped; err != nil {
		t.Error(err)
	}
}
