package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

func idOf(c *raw) string { return strings.Trim(c.do("CLIENT ID"), ":\r\n") }

// TestTrackingRedirectedAcross: what one connection remembers another one hears of, on
// each server, by the id that it was told on the first.
func TestTrackingRedirectedAcross(t *testing.T) {
	for _, proto := range []string{"2", "3"} {
		t.Run("RESP"+proto, func(t *testing.T) {
			w := newWorld(t)
			for range 5 { // the ids of the two servers are not to be the same
				w.do(router.Target, 0, "PING")
			}
			hears, reads, late, both := w.client(), w.client(), w.client(), w.client()
			for _, c := range []*raw{hears, reads, late, both} {
				c.send("HELLO " + proto)
				c.next()
			}
			id := idOf(hears)
			invalid := func(key string) string { return ">2\r\n$10\r\ninvalidate\r\n" + key }
			all := "_\r\n"
			if proto == "2" {
				hears.send("SUBSCRIBE __redis__:invalidate")
				hears.next()
				invalid = func(key string) string { return "*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n" + key }
				all = "$-1\r\n"
			}
			own := idOf(both)
			reads.want("CLIENT TRACKING ON REDIRECT "+id, ok)
			both.want("CLIENT TRACKING ON BCAST PREFIX own: REDIRECT "+own, ok)
			if proto == "2" {
				both.send("SUBSCRIBE __redis__:invalidate")
				both.next()
			}
			// What the server itself says when everything may have changed.
			reads.want("FLUSHALL", ok)
			hears.expect(invalid(all))
			both.expect(invalid(all))
			side := router.Source
			for i := range 3 {
				reads.want("GET a", map[string]string{"2": "$-1\r\n", "3": "_\r\n"}[proto])
				side = side.Other()
				w.switchTo(side)
				hears.expect(invalid(all))
				both.expect(invalid(all))
				if i == 0 {
					late.want("CLIENT TRACKING ON BCAST PREFIX late: REDIRECT "+id, ok)
				}
				reads.do("GET a")
				db := w.do(side, 0, "SET", "a", "1")
				w.do(side, 0, "DEL", "a")
				if db != "OK" {
					t.Fatal(db)
				}
				hears.expect(invalid("*1\r\n$1\r\na\r\n"))
				w.do(side, 0, "SET", "late:1", "1")
				hears.expect(invalid("*1\r\n$6\r\nlate:1\r\n"))
				w.do(side, 0, "SET", "own:1", "1")
				both.expect(invalid("*1\r\n$5\r\nown:1\r\n"))
			}
			// Who hears is gone: its clients go on, and nobody else hears instead.
			hears.close()
			until(t, "it is gone", func() bool {
				w.proxy.names.mu.Lock()
				defer w.proxy.names.mu.Unlock()
				return len(w.proxy.names.told) == 1
			})
			w.switchTo(side.Other())
			both.expect(invalid(all))
			late.want("SET late:1 2", ok)
			reads.want("GET late:1", bulk("2"))
			w.do(side.Other(), 0, "SET", "own:2", "1")
			both.expect(invalid("*1\r\n$5\r\nown:2\r\n"))
		})
	}
}

// TestUnblockByTheIDOfBefore: an id that a client was told before the switch means the
// same client after it.
func TestUnblockByTheIDOfBefore(t *testing.T) {
	w := newWorld(t)
	blocks, app := w.client(), w.client()
	id := idOf(blocks)
	blocks.send("BLPOP q 0")
	w.blockedOn(router.Source, "blpop")
	for range 3 {
		w.do(router.Target, 0, "PING")
	}
	w.switchTo(router.Target)
	w.blockedOn(router.Target, "blpop")
	app.want("CLIENT UNBLOCK "+id+" ERROR", ":1\r\n")
	blocks.expect("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")
	app.want("CLIENT KILL ID "+id, ":1\r\n")
	if got := blocks.next(); got != "EOF" {
		t.Errorf("got %q", got)
	}
	app.want("CLIENT UNBLOCK "+id+" ERROR", ":0\r\n")
}

// TestMessagesBehindAnOpenTransaction: what was published before the switch is heard, also
// by who has a transaction open and messages on their way.
func TestMessagesBehindAnOpenTransaction(t *testing.T) {
	source := redistest.Start(t)
	link := redistest.NewLink(t, source.Addr())
	w := newWorldOn(t, source, redistest.Start(t), func(c *Config) { c.Upstreams[0].Dial = newDialer(link.Addr()) })
	c := w.client()
	c.do("HELLO 3")
	c.send("SUBSCRIBE news", "MULTI", "INCR n")
	for range 3 {
		c.next()
	}
	link.SetDelayDown(200 * time.Millisecond)
	for i := range 3 {
		w.do(router.Source, 0, "PUBLISH", "news", i)
	}
	w.switchTo(router.Target)
	w.do(router.Target, 0, "PUBLISH", "news", 3)
	for i := range 4 {
		c.expect(">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n" + bulk(fmt.Sprint(i)))
	}
	c.want("EXEC", "*1\r\n:1\r\n")
	// When it is given up, the transaction is as it was.
	link.SetDelayDown(0)
	c.want("MULTI", ok)
	c.want("INCR n", "+QUEUED\r\n")
	ctx := t.Context()
	if err := w.proxy.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	route := w.gate.Route()
	back := route
	back.Side, back.Epoch = router.Source, route.Epoch+1
	if err := w.proxy.Align(ctx, back); err != nil {
		t.Fatal(err)
	}
	w.proxy.Release(route)
	c.want("EXEC", "*1\r\n:2\r\n")
}

// TestUnblockByTheIDOfATransaction: an id that a client was told inside a transaction, by
// CLIENT ID or by CLIENT INFO, means the same client after a switch.
func TestUnblockByTheIDOfATransaction(t *testing.T) {
	for _, c := range []struct{ asks, proto string }{{"CLIENT ID", "2"}, {"CLIENT INFO", "2"}, {"CLIENT INFO", "3"}} {
		t.Run(c.asks+" RESP"+c.proto, func(t *testing.T) {
			w := newWorld(t)
			if older(version(t, w.source), 6, 2) && c.asks == "CLIENT INFO" {
				t.Skip("this server has no CLIENT INFO")
			}
			blocks, app := w.client(), w.client()
			blocks.send("HELLO " + c.proto)
			blocks.next()
			blocks.send("MULTI", "PING", c.asks, "PING")
			for range 4 {
				blocks.next()
			}
			reply := []byte(blocks.do("EXEC"))
			n, known := idIn(resp.Elements(reply)[1])
			if !known {
				t.Fatalf("EXEC is answered with %q", reply)
			}
			id := fmt.Sprint(n)
			blocks.send("BLPOP q 0")
			w.blockedOn(router.Source, "blpop")
			for range 3 { // the ids of the two servers are not to be the same
				w.do(router.Target, 0, "PING")
			}
			w.switchTo(router.Target)
			w.blockedOn(router.Target, "blpop")
			app.want("CLIENT UNBLOCK "+id+" ERROR", ":1\r\n")
			blocks.expect("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")
		})
	}
}

// TestUnblockAfterAHoldGivenUp: a client that a switch could not wake, which was then given
// up, is woken by another client's CLIENT UNBLOCK.
func TestUnblockAfterAHoldGivenUp(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Unblock = func(context.Context, router.Side, []int64) error { return nil } // it came too early
	})
	blocks, app := w.client(), w.client()
	id := idOf(blocks)
	blocks.send("BLPOP q 0")
	w.blockedOn(router.Source, "blpop")
	old := w.gate.Route()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := w.proxy.Hold(ctx); err == nil {
		t.Fatal("the gate got empty")
	}
	w.proxy.Release(old)
	w.proxy.grace.Store(1) // it is over long since
	app.want("CLIENT UNBLOCK "+id+" ERROR", ":1\r\n")
	blocks.expect("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")
}
