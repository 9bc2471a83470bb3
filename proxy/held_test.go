package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/router"
)

// TestHalfClosedWhileHeld has clients send all they have to say while the gate is shut,
// and close their end: it is run once, on the other side, and answered.
func TestHalfClosedWhileHeld(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		plain, queues, listens, resets := w.client(), w.client(), w.client(), w.client()
		plain.want("SET k source", ok)
		queues.want("MULTI", ok)
		queues.want("INCR n", "+QUEUED\r\n")
		listens.do("SUBSCRIBE a")
		resets.want("MULTI", ok)
		resets.want("INCR never", "+QUEUED\r\n")
		resets.send("RESET") // answered or not
		w.switchTo(router.Target, func() {
			plain.send("APPEND k 1", "GET k", "INCR m", "INCR m")
			queues.send("INCR n", "EXEC", "GET n")
			listens.send("SUBSCRIBE b", "PING", "UNSUBSCRIBE", "ECHO 2")
			resets.send("INCR m", "EXEC")
			for _, c := range []*raw{plain, queues, listens, resets} {
				if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
		})
		for _, want := range []string{":1\r\n", bulk("1"), ":", ":", "EOF"} {
			if got := plain.next(); !strings.HasPrefix(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		for _, want := range []string{"+QUEUED\r\n", "*2\r\n:1\r\n:2\r\n", bulk("2"), "EOF"} {
			queues.expect(want)
		}
		for _, want := range []string{"*3\r\n" + bulk("subscribe") + bulk("b"), "*2\r\n" + bulk("pong"), "*3\r\n" + bulk("unsubscribe"), "*3\r\n" + bulk("unsubscribe"), bulk("2"), "EOF"} {
			if got := listens.next(); !strings.HasPrefix(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		for _, want := range []string{"+RESET\r\n", ":", "-ERR EXEC without MULTI\r\n", "EOF"} {
			if got := resets.next(); !strings.HasPrefix(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		if got := fmt.Sprint(w.do(router.Target, 0, "MGET", "k", "m", "n", "never"), w.do(router.Source, 0, "MGET", "k", "m", "n", "never")); got != "[1 3 2 <nil>] [source <nil> <nil> <nil>]" {
			t.Errorf("there is %s", got)
		}
	})
}

// TestLargeValuesThroughSwitches has a client be in the middle of sending one large value
// and another in the middle of getting one when a switch comes, there and back.
func TestLargeValuesThroughSwitches(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		const size = 24 << 20
		w := newWorld(t, mode)
		value := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		sends, gets := w.client(), w.client()
		for _, side := range []router.Side{router.Target, router.Source, router.Target} {
			from := side.Other()
			w.do(from, 0, "SET", "got", value)
			wire := wireOf([]byte("SET"), []byte("sent:"+from.String()), value)
			sends.write(wire[:size/2])
			until(t, "the value is on its way", func() bool { return w.proxy.streaming.Load() == 1 })
			gets.send("GET got", "SET after "+from.String(), "GET got")
			switched := make(chan struct{})
			go func() {
				defer close(switched)
				w.switchTo(side)
			}()
			until(t, "the switch is under way", func() bool { return w.proxy.whole.Load() })
			sends.write(wire[size/2:])
			sends.expect(ok)
			sends.write(wireOf([]byte("SET"), []byte("sent:after"), value))
			sends.expect(ok)
			<-switched
			for _, want := range []string{bulk(string(value)), ok} {
				if got := gets.next(); got != want {
					t.Fatalf("got %d bytes, want %d", len(got), len(want))
				}
			}
			if got := gets.next(); got != bulk(string(value)) && got != "$-1\r\n" {
				t.Fatalf("got %d bytes", len(got))
			}
			if got := w.do(from, 0, "STRLEN", "sent:"+from.String()); fmt.Sprint(got) != fmt.Sprint(size) {
				t.Errorf("the %s has %v bytes", from, got)
			}
			both := fmt.Sprint(w.do(from, 0, "GETRANGE", "sent:after", -4, -1), w.do(side, 0, "GETRANGE", "sent:after", -4, -1))
			if strings.Count(both, "cdef") != 1 {
				t.Errorf("the next value is where %q says", both)
			}
			w.do(router.Source, 0, "FLUSHALL")
			w.do(router.Target, 0, "FLUSHALL")
		}
	})
}

// TestHalfACommandIsNoCommand has a client vanish in the middle of a large value while a
// switch waits for it: nothing of it is written, and the switch goes on.
func TestHalfACommandIsNoCommand(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		wire := wireOf([]byte("SET"), []byte("half"), make([]byte, 8<<20))
		for _, side := range []router.Side{router.Target, router.Source} {
			c := w.client()
			c.write(wire[:4<<20])
			until(t, "the value is on its way", func() bool { return w.proxy.streaming.Load() == 1 })
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			if err := w.proxy.Prepare(ctx, side); err != nil {
				t.Fatal(err)
			}
			settled := make(chan error, 1)
			go func() { settled <- w.proxy.Settle(ctx) }()
			if err := c.conn.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := <-settled; err != nil {
				t.Fatal(err)
			}
			cancel()
			c.expect("EOF")
			w.switchTo(side)
			if got := fmt.Sprint(w.do(side, 0, "EXISTS", "half"), w.do(side.Other(), 0, "EXISTS", "half")); got != "0 0" {
				t.Errorf("there is %s", got)
			}
		}
	})
}

// TestServerEndsSharedConnections has a client kill all connections of the server but its
// own, shared ones too, and the server itself after that.
func TestServerEndsSharedConnections(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		kills, others := w.client(), make([]*raw, 8)
		for i := range others {
			others[i] = w.client()
			others[i].want(fmt.Sprintf("SET k%d v", i), ok)
		}
		for range 3 {
			if got := kills.do("CLIENT KILL TYPE normal SKIPME yes"); got[0] != ':' {
				t.Fatalf("got %q", got)
			}
			for i, c := range others {
				// With a connection of its own a client is closed with that.
				c.send(fmt.Sprintf("GET k%d", i))
				if got := c.next(); got != bulk("v") && got != "EOF" {
					t.Fatalf("client %d got %q", i, got)
				}
			}
			for i := range others {
				others[i] = w.client()
				others[i].want(fmt.Sprintf("GET k%d", i), bulk("v"))
			}
		}
		kills.send("SHUTDOWN NOSAVE")
		kills.expect("EOF")
		until(t, "all connections are gone", func() bool { return len(w.proxy.UpstreamAddrs(router.Source)) == 0 })
	})
}
