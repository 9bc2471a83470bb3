package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/router"
)

const largeValue = 80 << 20

// behind returns clients that share one connection: the first has asked for a
// large value that it does not read yet, and the second stands behind it.
func behind(t *testing.T) (w *world, large, small *raw) {
	t.Helper()
	w = newWorld(t, func(c *Config) { c.Shared, c.Loops = true, 1 })
	w.do(router.Source, 0, "SET", "large", strings.Repeat("v", largeValue))
	w.do(router.Source, 0, "SET", "small", "s")
	large, small = w.client(), w.client()
	small.want("GET small", bulk("s"))
	large.want("GET small", bulk("s"))
	if err := w.source.Stop(); err != nil { // until both are on their way
		t.Fatal(err)
	}
	before := w.proxy.Stats().Commands
	large.send("GET large")
	until(t, "the first is on its way", func() bool { return w.proxy.Stats().Commands == before+1 })
	small.send("GET small")
	until(t, "the second is on its way", func() bool { return w.proxy.Stats().Commands == before+2 })
	if err := w.source.Cont(); err != nil {
		t.Fatal(err)
	}
	return w, large, small
}

// spilled is how much waits in the loop for its guests.
func (w *world) spilled() (n int, paused bool) {
	l := w.proxy.eventLoops()[0]
	l.call(func() { n, paused = l.spill, len(l.paused) > 0 })
	return n, paused
}

func TestSlowReaderKeepsLittleMemory(t *testing.T) {
	w, large, small := behind(t)
	until(t, "the connection is read no further", func() bool { _, paused := w.spilled(); return paused })
	if n, _ := w.spilled(); n > spillMax+2*replySpace {
		t.Errorf("%d bytes are kept", n)
	}
	// Others go on, on another connection.
	other := w.client()
	other.want("GET small", bulk("s"))
	other.want("INCR n", ":1\r\n")

	head := fmt.Sprintf("$%d\r\n", largeValue)
	got := make([]byte, len(head)+largeValue+2)
	_ = large.conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(large.conn, got); err != nil {
		t.Fatal(err)
	}
	if string(got[:len(head)]) != head || strings.Count(string(got), "v") != largeValue {
		t.Error("the value is not what was stored")
	}
	small.expect(bulk("s"))
	small.want("GET small", bulk("s"))
	large.want("GET small", bulk("s"))
	until(t, "nothing is kept", func() bool { n, paused := w.spilled(); return n == 0 && !paused })
	until(t, "the connection is closed", func() bool {
		l, n := w.proxy.eventLoops()[0], 0
		l.call(func() { n = len(l.retired) })
		return n == 0
	})
}

func TestReaderOfNothingHoldsNobodyUp(t *testing.T) {
	_, large, small := behind(t)
	small.expect(bulk("s"))
	small.want("GET small", bulk("s"))
	if n, err := io.Copy(io.Discard, large.conn); err == nil && n >= largeValue {
		t.Errorf("the client that did not read got %d bytes", n)
	}
}

// TestSlowReaderHoldsOthersUpBriefly has the client in front read all the time, but
// so slowly that its value takes minutes.
func TestSlowReaderHoldsOthersUpBriefly(t *testing.T) {
	w, large, small := behind(t)
	until(t, "the connection is read no further", func() bool { _, paused := w.spilled(); return paused })
	_ = large.conn.SetReadDeadline(time.Time{})
	answered := make(chan struct{})
	var group sync.WaitGroup
	defer group.Wait()
	defer large.close()
	group.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for piece := make([]byte, 8<<10); ; <-tick.C {
			select {
			case <-answered:
				return
			default:
			}
			if _, err := large.conn.Read(piece); err != nil {
				t.Errorf("the slow client: %v", err)
				return
			}
		}
	})
	small.expect(bulk("s"))
	close(answered)
	small.want("GET small", bulk("s"))
}

func TestSlowReaderDoesNotHoldASwitchUp(t *testing.T) {
	w, large, small := behind(t)
	until(t, "the connection is read no further", func() bool { _, paused := w.spilled(); return paused })
	w.switchTo(router.Target)
	small.expect(bulk("s"))
	small.want("GET small", "$-1\r\n")
	head := fmt.Sprintf("$%d\r\n", largeValue)
	_ = large.conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(large.conn, make([]byte, len(head)+largeValue+2)); err != nil {
		t.Fatal(err)
	}
	large.want("GET small", "$-1\r\n")
}

func TestSlowReaderWithAConnectionOfItsOwn(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared, c.Loops = false, 1 })
	w.do(router.Source, 0, "SET", "large", strings.Repeat("v", largeValue))
	c := w.client()
	c.want("PING", "+PONG\r\n")
	c.send("GET large", "PING")
	until(t, "the connection is read no further", func() bool { _, paused := w.spilled(); return paused })
	if n, _ := w.spilled(); n > outboxHigh+2*replySpace {
		t.Errorf("%d bytes are kept", n)
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(c.conn, make([]byte, len(fmt.Sprintf("$%d\r\n", largeValue))+largeValue+2)); err != nil {
		t.Fatal(err)
	}
	c.expect("+PONG\r\n")
	c.want("PING", "+PONG\r\n")
}

func TestWindowGoesByTheSizeOfReplies(t *testing.T) {
	var g guest
	if g.window() != unknown {
		t.Error("the window of a new client is", g.window())
	}
	g.weigh(5)
	if g.window() != deepest {
		t.Error("the window of a client with small replies is", g.window())
	}
	for range 50 {
		g.weigh(1 << 20)
	}
	if n := g.window(); n > 3 || n < 1 {
		t.Error("the window of a client with large replies is", n)
	}
	g.weigh(1 << 40)
	if g.window() != 1 {
		t.Error("nothing goes any more:", g.window())
	}
	for range 200 {
		g.weigh(5)
	}
	if g.window() != deepest {
		t.Error("the window does not open again:", g.window())
	}
}

// TestClientIsNotAskedForWhileItsServerIsDialled has a client send before its own
// upstream is connected. The loop must not be woken by that again and again.
func TestClientIsNotAskedForWhileItsServerIsDialled(t *testing.T) {
	dialled := make(chan struct{})
	w := newWorld(t, func(c *Config) {
		c.Shared = false
		dial := c.Upstreams[0].Dial
		c.Upstreams[0].Dial = func(ctx context.Context) (net.Conn, error) {
			select {
			case <-dialled:
				return dial(ctx)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	})
	c := w.client()
	c.send("PING")
	until(t, "the kernel is not asked for the client", func() bool {
		asked := 1
		for _, l := range w.proxy.eventLoops() {
			l.call(func() {
				for g := range l.guests {
					asked = int(g.interest)
				}
			})
		}
		return asked == 0
	})
	close(dialled)
	c.expect("+PONG\r\n")
}

// TestRepliesThatAreThereDoNotWaitForTheGate has a client need a connection of its own while
// the gate is shut, and read only then what it was answered before.
func TestRepliesThatAreThereDoNotWaitForTheGate(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared, c.Loops = true, 1 })
	value := strings.Repeat("v", 32<<10)
	w.do(router.Source, 0, "SET", "k", value)
	c := w.client()
	asked := int64(0)
	until(t, "replies wait for the client", func() bool {
		c.send("GET k")
		asked++
		until(t, "it is answered", func() bool { return w.proxy.Stats().Commands == asked && w.gate.Inside() == 0 })
		n, _ := w.spilled()
		return n > 0
	})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.proxy.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	c.send("MULTI")
	until(t, "the client is to have a connection of its own", func() bool { return len(w.proxy.snapshotSessions()) == 1 })
	replies := make([]byte, int(asked)*len(bulk(value)))
	_ = c.conn.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.ReadFull(c.conn, replies); err != nil || string(replies) != strings.Repeat(bulk(value), int(asked)) {
		t.Fatalf("%d bytes of %d, %v", n, len(replies), err)
	}
	w.proxy.Release(w.gate.Route())
	c.expect(ok)
	c.want("EXEC", "*0\r\n")
}

// TestSlowSubscriberDoesNotHoldASwitchUp has a subscriber that does not read be all that is
// there when a switch begins: no command is in flight.
func TestSlowSubscriberDoesNotHoldASwitchUp(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		sub := w.client()
		sub.want("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
		there := w.server(router.Source).Client(0)
		defer func() { _ = there.Close() }()
		pad, n := strings.Repeat("x", 16<<10), 0
		until(t, "the subscriber is stuck", func() bool {
			if err := there.Publish(context.Background(), "c", fmt.Sprintf("%06d%s", n, pad)).Err(); err != nil {
				t.Fatal(err)
			}
			n++
			return slices.ContainsFunc(w.proxy.snapshotSessions(), func(s *session) bool { return s.out.stuck(time.Now()) > 50*time.Millisecond })
		})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.proxy.Prepare(ctx, router.Target); err != nil {
			t.Fatal(err)
		}
		route := router.Route{Side: router.Target, Epoch: 1, Map: w.dbs}
		// It reads nothing until the switch is made: what waited for it would wait for ever.
		if err := w.proxy.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		if err := w.proxy.Align(ctx, route); err != nil {
			t.Fatal(err)
		}
		w.proxy.Release(route)
		w.do(router.Target, 0, "PUBLISH", "c", fmt.Sprintf("%06d%s", n, pad))
		for i := range n + 1 {
			want := fmt.Sprintf("%06d%s", i, pad)
			if got := sub.next(); !strings.HasSuffix(got, "\r\n"+want+"\r\n") {
				t.Fatalf("message %d is %.60q", i, got)
			}
		}
		sub.quiet("*2\r\n$4\r\npong\r\n$0\r\n\r\n")
	})
}
