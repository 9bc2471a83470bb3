package proxy

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// giveUp begins a switch and undoes it.
func (w *world) giveUp(side router.Side) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	old := w.gate.Route()
	if err := w.proxy.Prepare(ctx, side); err != nil {
		w.t.Fatal(err)
	}
	if err := w.proxy.Hold(ctx); err != nil {
		w.t.Fatal(err)
	}
	route := old
	route.Side, route.Epoch = side, old.Epoch+1
	if err := w.proxy.Align(ctx, route); err != nil {
		w.t.Fatal(err)
	}
	w.proxy.Release(old)
}

func TestSwitchUndone(t *testing.T) {
	w := newWorld(t)
	multi, watch, sub, tracking, blocked, sub3 := w.client(), w.client(), w.client(), w.client(), w.client(), w.client()
	multi.want("MULTI", ok)
	multi.want("INCR n", "+QUEUED\r\n")
	watch.want("WATCH k", ok)
	sub.want("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
	sub3.do("HELLO 3")
	sub3.want("SUBSCRIBE c", ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
	sub3.want("MULTI", ok)
	sub3.want("INCR n3", "+QUEUED\r\n")
	tracking.do("HELLO 3")
	tracking.want("CLIENT TRACKING ON", ok)
	tracking.want("GET tr", "_\r\n")
	blocked.send("BLPOP q 0")
	w.blockedOn(router.Source, "blpop")
	for range 3 {
		w.giveUp(router.Target)
	}
	multi.want("EXEC", "*1\r\n:1\r\n")
	watch.send("MULTI", "SET k 1", "EXEC")
	for _, want := range []string{ok, "+QUEUED\r\n", "*1\r\n+OK\r\n"} {
		watch.expect(want)
	}
	w.do(router.Source, 0, "PUBLISH", "c", "one")
	sub.expect("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$3\r\none\r\n")
	sub.quiet("*2\r\n$4\r\npong\r\n$0\r\n\r\n")
	sub3.expect(">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$3\r\none\r\n")
	sub3.want("EXEC", "*1\r\n:1\r\n")
	tracking.quiet("+PONG\r\n")
	w.do(router.Source, 0, "SET", "tr", "1")
	tracking.expect(">2\r\n$10\r\ninvalidate\r\n*1\r\n$2\r\ntr\r\n")
	w.do(router.Source, 0, "RPUSH", "q", "e")
	blocked.expect("*2\r\n$1\r\nq\r\n$1\r\ne\r\n")
	until(t, "the target is left", func() bool { return len(w.proxy.UpstreamAddrs(router.Target)) == 0 })
	if n := strings.Count(fmt.Sprint(w.do(router.Target, 0, "CLIENT", "LIST")), "\n"); n > 1 {
		t.Fatalf("%d connections are left on the target", n)
	}
}

// TestNoCredentialsBecomeTheOperators: a source without a password, a target with one.
func TestNoCredentialsBecomeTheOperators(t *testing.T) {
	target := redistest.Start(t, redistest.WithPassword("tp"))
	w := newWorldOn(t, redistest.Start(t), target, func(c *Config) { c.Upstreams[1].Password = "tp" })
	w.dbs, _ = router.NewDBMap(map[int]int{0: 5})
	w.gate.Open(router.Route{Map: w.dbs})
	c := w.client()
	c.want("SET a 1", ok)
	ctx := context.Background()
	if err := w.proxy.Prepare(ctx, router.Target); err != nil {
		t.Fatal(err)
	}
	if err := w.proxy.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	w.proxy.Release(router.Route{Side: router.Target, Epoch: 1, Map: w.dbs})
	fresh := w.client()
	for _, cl := range []*raw{c, fresh} {
		cl.want("SET a 2", ok)
		cl.want("RESET", "+RESET\r\n")
		cl.want("GET a", bulk("2"))
	}
	five := target.ClientAs("default", "tp", 5)
	defer func() { _ = five.Close() }()
	if five.Get(ctx, "a").Val() != "2" {
		t.Fatal("written into the wrong database")
	}
}

// TestHoldOfManyBlocked is the race that a command has not begun to block yet.
func TestHoldOfManyBlocked(t *testing.T) {
	w := newWorld(t)
	clients := make([]*raw, 100)
	for i := range clients {
		clients[i] = w.client()
		clients[i].want("PING", "+PONG\r\n")
	}
	side := router.Source
	for i, c := range clients {
		c.send(fmt.Sprintf("BLPOP q%d 0", i))
	}
	for range 6 { // the first one at once
		side = side.Other()
		w.switchTo(side)
	}
	for i := range clients {
		w.do(side, 0, "RPUSH", fmt.Sprintf("q%d", i), "e")
	}
	for i, c := range clients {
		key := fmt.Sprintf("q%d", i)
		c.expect("*2\r\n" + bulk(key) + "$1\r\ne\r\n")
		c.want("PING", "+PONG\r\n")
	}
}

// TestWarmConnectionsDied: the target closed them while they waited.
func TestWarmConnectionsDied(t *testing.T) {
	w := newWorld(t)
	a, b := w.client(), w.client()
	a.want("SELECT 3", ok)
	b.want("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
	ctx := context.Background()
	if err := w.proxy.Prepare(ctx, router.Target); err != nil {
		t.Fatal(err)
	}
	if err := w.proxy.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	route := router.Route{Side: router.Target, Epoch: 1, Map: w.dbs}
	if err := w.proxy.Align(ctx, route); err != nil {
		t.Fatal(err)
	}
	w.do(router.Target, 0, "CLIENT", "KILL", "TYPE", "normal")
	w.do(router.Target, 0, "CLIENT", "KILL", "TYPE", "pubsub")
	w.proxy.Release(route)
	a.want("SET in3 1", ok)
	w.do(router.Target, 0, "PUBLISH", "c", "m")
	b.expect("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")
	if w.do(router.Target, 5, "GET", "in3") != "1" {
		t.Fatal("written into the wrong database")
	}
}

// TestSwitchGivenUpWithWritesPaused has a write wait at the server for so long that
// its shared connection takes no more commands, and a switch given up for it.
func TestSwitchGivenUpWithWritesPaused(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared, c.Loops = true, 1 })
	c, other := w.client(), w.client()
	c.want("GET a", "$-1\r\n")
	w.do(router.Source, 0, "CLIENT", "PAUSE", 60000, "WRITE")
	c.send("INCR a")
	until(t, "others go on with another connection", func() bool {
		l, n := w.proxy.eventLoops()[0], 0
		l.call(func() { n = len(l.retired) })
		return n == 1
	})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	old := w.gate.Route()
	if err := w.proxy.Hold(ctx); err == nil {
		t.Fatal("the gate got empty")
	}
	w.proxy.Release(old)
	other.want("GET a", "$-1\r\n")
	w.do(router.Source, 0, "CLIENT", "UNPAUSE")
	c.expect(":1\r\n")
	c.want("INCR a", ":2\r\n")
}

// TestQueuedByABusyServer: a command that would block is queued in a transaction by a server
// that is busy for long. Nobody is closed for it when a switch is given up meanwhile.
func TestQueuedByABusyServer(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.want("MULTI", ok)
	if err := w.source.Stop(); err != nil {
		t.Fatal(err)
	}
	c.send("BLPOP q 0")
	until(t, "it is on its way", func() bool { return w.gate.Inside() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 2*queuedLong)
	defer cancel()
	old := w.gate.Route()
	if err := w.proxy.Hold(ctx); err == nil {
		t.Fatal("the gate got empty")
	}
	w.proxy.Release(old)
	if err := w.source.Cont(); err != nil {
		t.Fatal(err)
	}
	c.expect("+QUEUED\r\n")
	c.want("EXEC", "*1\r\n*-1\r\n")
}

// TestResetWhileHeld has clients reset their connections while they wait for a
// switch: they are let go at once, and what they wanted does not happen.
func TestResetWhileHeld(t *testing.T) {
	w := newWorld(t)
	w.do(router.Source, 0, "RPUSH", "q", "e")
	c, other := w.client(), w.client()
	c.want("PING", "+PONG\r\n")
	other.want("PING", "+PONG\r\n")
	ctx := context.Background()
	if err := w.proxy.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	c.send("LPOP q")
	other.send("LLEN q")
	until(t, "both wait", func() bool {
		n := 0
		for _, l := range w.proxy.eventLoops() {
			l.call(func() { n += len(l.gated) })
		}
		return n == 2
	})
	_ = c.conn.(*net.TCPConn).SetLinger(0)
	c.close()
	until(t, "the client is gone", func() bool { return w.proxy.Stats().Clients == 1 })
	w.proxy.Release(router.Route{Map: w.dbs})
	other.expect(":1\r\n")
}
