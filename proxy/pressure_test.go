package proxy

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestDeepPipelineOfLargeReplies asks for much more than may wait in the proxy,
// and reads it late: it waits in the server, and all of it comes.
func TestDeepPipelineOfLargeReplies(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, func(c *Config) { c.OutputLimit, c.Loops = 12<<20, 1 })
		value := bytes.Repeat([]byte("x"), 1<<20)
		w.do(router.Source, 0, "SET", "big", value)
		slow, other := w.client(), w.client()
		other.want("PING", "+PONG\r\n")
		const n = 200
		slow.write(bytes.Repeat(words("GET", "big"), n))
		held := func() (bytes int64, paused bool) {
			for _, l := range w.proxy.eventLoops() {
				l.call(func() {
					paused = paused || len(l.paused) > 0
					for g := range l.guests {
						bytes += g.holds()
					}
				})
			}
			return bytes, paused
		}
		until(t, "the upstream is read no further", func() bool { _, paused := held(); return paused })
		for range 100 {
			other.want("PING", "+PONG\r\n")
		}
		for range n {
			if got := slow.next(); len(got) < 1<<20 || got[10:len(got)-2] != string(value) {
				t.Fatalf("a reply of %d bytes: %.40q", len(got), got)
			}
		}
		slow.want("GET none", "$-1\r\n")
		if n, paused := held(); paused || n > 12<<20 {
			t.Errorf("afterwards %d bytes are held; paused: %v", n, paused)
		}
	})
}

// TestClientThatNeverReads is closed by the limit of the server, or by ours where
// others wait for replies behind its own; those get theirs.
func TestClientThatNeverReads(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t, redistest.WithConfig("client-output-buffer-limit", "normal", "16mb", "0", "0"))
		w := newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) { c.OutputLimit, c.Loops = 8<<20, 1 })
		w.do(router.Source, 0, "SET", "big", bytes.Repeat([]byte("x"), 1<<20))
		for range 2 {
			deaf, behind, other := w.client(), w.client(), w.client()
			behind.want("GET none", "$-1\r\n")
			if err := source.Stop(); err != nil {
				t.Fatal(err)
			}
			n := 15
			if !w.proxy.cfg.Shared {
				n = 100
			}
			deaf.write(bytes.Repeat(words("GET", "big"), n))
			before := w.gate.Inside()
			until(t, "it is in flight", func() bool { return w.gate.Inside() > before || before > 0 })
			behind.send("GET none")
			if err := source.Cont(); err != nil {
				t.Fatal(err)
			}
			behind.expect("$-1\r\n")
			behind.want("PING", "+PONG\r\n") // so that its last command is no GET
			if !w.proxy.cfg.Shared {         // nobody else is concerned: it is the server that holds the replies
				until(t, "the server has closed it", func() bool {
					other.want("PING", "+PONG\r\n")
					return !strings.Contains(fmt.Sprint(w.do(router.Source, 0, "CLIENT", "LIST")), "cmd=get")
				})
				if got := deaf.ends(); len(got) > 99<<20 {
					t.Errorf("the client got %d bytes before the end", len(got))
				}
			}
			until(t, "the client that does not read is closed", func() bool {
				other.want("PING", "+PONG\r\n")
				return w.proxy.Stats().Clients == 2
			})
			behind.close()
			other.close()
			until(t, "the others are gone", func() bool { return w.proxy.Stats().Clients == 0 })
		}
	})
}

// TestSwitchWhilePaused does not wait for the client that does not read.
func TestSwitchWhilePaused(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		w.do(router.Source, 0, "SET", "big", bytes.Repeat([]byte("x"), 1<<20))
		c := w.client()
		const n = 100
		c.write(bytes.Repeat(words("GET", "big"), n))
		until(t, "the upstream is read no further", func() bool {
			paused := false
			for _, l := range w.proxy.eventLoops() {
				l.call(func() { paused = paused || len(l.paused) > 0 })
			}
			return paused
		})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := w.proxy.Hold(ctx); err != nil {
			t.Fatal(err)
		}
		w.epoch++
		w.proxy.Release(router.Route{Side: router.Target, Epoch: w.epoch, Map: w.dbs})
		for range n {
			if got := c.next(); len(got) < 1<<20 {
				t.Fatalf("got %.40q", got)
			}
		}
		c.want("GET big", "$-1\r\n")
	})
}
