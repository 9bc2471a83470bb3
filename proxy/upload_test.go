package proxy

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/router"
)

// uploads begins to send a large value and returns what of it is left.
func uploads(t *testing.T, w *world, c *raw, key string) (rest []byte) {
	t.Helper()
	wire := wireOf([]byte("SET"), []byte(key), make([]byte, 4<<20))
	before := w.proxy.streaming.Load()
	c.write(wire[:2<<20])
	until(t, "the value is on its way", func() bool { return w.proxy.streaming.Load() == before+1 })
	return wire[2<<20:]
}

// starved reports for how long the session of c has waited for more of its value.
func (w *world) starved(c *raw) time.Duration {
	for _, s := range w.proxy.snapshotSessions() {
		if s.peer() == c.conn.LocalAddr().String() {
			return s.starvedFor()
		}
	}
	return 0
}

// TestWhoHasBegunAndDoesNotGoOn has one client stop in the middle of a large value and one
// send on slowly while a switch waits: the error names the slow one, which goes on, the
// other is closed, and nothing of its value is written.
func TestWhoHasBegunAndDoesNotGoOn(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		const patience = 400 * time.Millisecond
		w := newWorld(t, mode, func(c *Config) { c.streamPatience = patience })
		stays, slow := w.client(), w.client()
		uploads(t, w, stays, "half")
		rest := uploads(t, w, slow, "whole")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := w.proxy.Prepare(ctx, router.Target); err != nil {
			t.Fatal(err)
		}
		settled := make(chan error, 1)
		for named := false; !named; {
			go func() { settled <- w.proxy.Settle(ctx) }()
			tick := time.NewTicker(patience / 8)
			for waits := true; waits; {
				select {
				case err := <-settled:
					if err == nil || !strings.Contains(err.Error(), slow.conn.LocalAddr().String()) {
						t.Fatalf("a switch that waits for %s: %v", slow.conn.LocalAddr(), err)
					}
					waits, named = false, !strings.Contains(err.Error(), stays.conn.LocalAddr().String())
				case <-tick.C:
					slow.write(rest[:100])
					rest = rest[100:]
				}
			}
			tick.Stop()
		}
		stays.expect("EOF")
		slow.write(rest)
		slow.expect(ok)
		if err := w.proxy.Settle(ctx); err != nil {
			t.Error(err)
		}
		if log := w.logs.end(1 << 20); strings.Count(log, "does not go on") != 1 {
			t.Errorf("who was closed:\n%s", log)
		}
		w.proxy.Release(w.gate.Route())
		slow.want("EXISTS half whole", ":1\r\n")
	})
}

// TestPausedUploadIsNoSilentServer has a client pause in the middle of a large value for
// longer than the server may be silent: the server owes no answer meanwhile.
func TestPausedUploadIsNoSilentServer(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		const limit = 100 * time.Millisecond
		w := newWorld(t, mode, func(c *Config) { c.UpstreamTimeout = limit })
		c := w.client()
		rest := uploads(t, w, c, "paused")
		for _, more := range []int{1 << 20, len(rest) - 1<<20} {
			until(t, "the pause is long enough", func() bool { return w.starved(c) > 2*watchEvery+limit })
			c.write(rest[:more])
			rest = rest[more:]
			if len(rest) > 0 {
				until(t, "it has been read", func() bool { return w.starved(c) < watchEvery })
			}
		}
		c.expect(ok)
		if log := w.logs.end(1 << 20); strings.Contains(log, "does not answer") {
			t.Errorf("who was distrusted:\n%s", log)
		}
	})
}
