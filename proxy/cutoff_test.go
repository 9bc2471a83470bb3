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

// TestCutOffAtTheLimit has a client ask for 200 MB and read nothing, with no limit of time:
// it is closed once more than output_limit waits for it, and the others go on. On shared
// connections that is at once. With a connection of its own the rest waits in the server;
// what cannot wait there is what comes while the gate is shut, for a switch.
func TestCutOffAtTheLimit(t *testing.T) {
	const limit, asked = 2 << 20, 200
	eachMode(t, func(t *testing.T, mode setting) {
		for what, first := range map[string]string{"a plain client": "PING", "one with a connection of its own": "WATCH none"} {
			t.Run(what, func(t *testing.T) {
				w := newWorld(t, mode, func(c *Config) { c.OutputLimit, c.OutputTimeout = limit, 0 })
				w.do(router.Source, 0, "SET", "big", bytes.Repeat([]byte("x"), 1<<20))
				deaf := w.client()
				_ = deaf.conn.(*net.TCPConn).SetReadBuffer(64 << 10)
				deaf.do(first)
				others := []*raw{w.client(), w.client(), w.client()}
				n := 0
				othersGoOn := func() {
					n++
					for i, c := range others {
						c.want(fmt.Sprintf("APPEND other%d .", i), fmt.Sprintf(":%d\r\n", n))
					}
				}
				othersGoOn()
				before := w.proxy.Stats().Commands
				deaf.write(bytes.Repeat(words("GET", "big"), asked))
				if !w.proxy.cfg.Shared || first != "PING" {
					until(t, "all is in flight", func() bool {
						othersGoOn()
						return w.proxy.Stats().Commands >= before+int64(asked+n*len(others))-int64(len(others))
					})
					if got := w.proxy.Numbers(); got.Overflowed != 0 || got.Clients != 1+len(others) {
						t.Fatalf("%d were closed at the limit, %d are left, although the rest can wait in the server", got.Overflowed, got.Clients)
					}
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					defer cancel()
					if err := w.proxy.Hold(ctx); err != nil {
						t.Fatal(err)
					}
					w.proxy.Release(w.gate.Route())
				}
				until(t, "the client that does not read is closed", func() bool {
					othersGoOn()
					return w.proxy.Stats().Clients == len(others)
				})
				othersGoOn()
				if got := w.proxy.Numbers().Overflowed; got != 1 {
					t.Errorf("%d clients were closed at the limit", got)
				}
				var said []string
				for line := range strings.Lines(w.logs.end(1 << 20)) {
					if strings.Contains(line, "closing a client that does not read its replies") {
						said = append(said, line)
					}
				}
				if len(said) != 1 || !strings.Contains(said[0], "client="+deaf.conn.LocalAddr().String()) ||
					!strings.Contains(said[0], fmt.Sprintf("more_than=%d", limit)) || strings.Contains(said[0], " for=") {
					t.Errorf("the log says %q", said)
				}
			})
		}
	})
}
