package e2e

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestFewRoundTripsUnderTheHold has both servers far away, so that what clients wait for is
// the way there and back, and counts how often a switch goes it one time after another. A
// replica of the server that is left, as far away, costs none more: it is fenced beside it.
func TestFewRoundTripsUnderTheHold(t *testing.T) {
	t.Run("alone", func(t *testing.T) { countRoundTrips(t, false) })
	t.Run("with a replica", func(t *testing.T) { countRoundTrips(t, true) })
}

func countRoundTrips(t *testing.T, replicated bool) {
	const (
		roundTrip = 24 * time.Millisecond
		most      = 15 // ten, and what a slow machine adds
	)
	src, dst := redistest.Start(t), redistest.Start(t)
	from, to := redistest.NewLink(t, src.Addr()), redistest.NewLink(t, dst.Addr())
	links := []*redistest.Link{from, to}
	ways := []string{"cutover", "rollback"}
	if replicated {
		links = append(links, replicaBehindLink(t, src))
		ways = ways[:1] // into a server with replicas a switch waits for these
	}
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
		for _, l := range links {
			l.SetDelay(delay)
		}
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
	for _, l := range links {
		l.SetDelay(0)
	}
	for side, way := range ways {
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

// replicaBehindLink starts a replica that is reached by a link.
func replicaBehindLink(t *testing.T, master *redistest.Server) *redistest.Link {
	t.Helper()
	r := redistest.Start(t)
	l := redistest.NewLink(t, r.Addr())
	host, port, err := net.SplitHostPort(l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	c := r.Client(0)
	do(t, c, "CONFIG", "SET", "replica-announce-ip", host)
	do(t, c, "CONFIG", "SET", "replica-announce-port", port)
	do(t, c, "REPLICAOF", "127.0.0.1", master.Port())
	redistest.Eventually(t, 30*time.Second, func() bool {
		return strings.Contains(master.Client(0).Info(t.Context(), "replication").Val(), "port="+port+",state=online")
	}, "the replica follows")
	return l
}
