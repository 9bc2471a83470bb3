package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/internal/redistest"
	"golang.org/x/sys/unix"
)

// TestOneUpstreamHoldsNoLoop has an upstream have said much more than is read of one in a
// round: its loop comes to its other clients, and to the rest in the rounds that follow.
func TestOneUpstreamHoldsNoLoop(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		const size, commands = 64, 500
		source := redistest.Start(t)
		w := newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) { c.Loops = 1 })
		c := w.client()
		c.want("ECHO x", bulk("x")) // so that it may have much in flight
		if err := source.Stop(); err != nil {
			t.Fatal(err)
		}
		for range commands {
			c.send("ECHO x")
		}
		until(t, "all is in flight", func() bool { return w.proxy.Stats().Commands == commands+1 })
		l := w.proxy.eventLoops()[0]
		l.call(func() {
			l.replies = make([]byte, size)
			var tr *trunk
			for g := range l.guests {
				tr = g.trunk
			}
			waiting := func() int {
				n, err := unix.IoctlGetInt(tr.fd, unix.TIOCINQ)
				if err != nil {
					t.Error(err)
				}
				return n
			}
			l.flush(tr)
			if err := source.Cont(); err != nil {
				t.Error(err)
			}
			all := commands * len(bulk("x"))
			for deadline := time.Now().Add(patience); waiting() < all; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Error("it is not answered")
					return
				}
			}
			l.trunkEvent(tr, epoll.Read)
			if n := all - waiting(); n != mostReads*size {
				t.Errorf("%d bytes were read at once", n)
			}
		})
		if got := c.transcript(strings.Repeat(bulk("x"), commands)); !strings.HasPrefix(got, "$") {
			t.Errorf("got %q", got)
		}
		c.want("PING", "+PONG\r\n")
	})
}
