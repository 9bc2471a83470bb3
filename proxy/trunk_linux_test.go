package proxy

import (
	"strings"
	"testing"

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
		all := commands * len(bulk("x"))
		held, answered, done := make(chan *trunk), make(chan struct{}), make(chan struct{})
		waiting := func(tr *trunk) int {
			n, err := unix.IoctlGetInt(tr.fd, unix.TIOCINQ)
			if err != nil {
				t.Error(err)
			}
			return n
		}
		go func() {
			defer close(done)
			l.call(func() { // nothing else is done in the loop meanwhile
				l.replies = make([]byte, size)
				var tr *trunk
				for g := range l.guests {
					tr = g.trunk
				}
				l.flush(tr)
				held <- tr
				<-answered
				before := waiting(tr)
				l.trunkEvent(tr, epoll.Read)
				if n := before - waiting(tr); n != mostReads*size {
					t.Errorf("%d bytes were read at once", n)
				}
			})
		}()
		tr := <-held
		func() {
			defer func() { close(answered); <-done }()
			if err := source.Cont(); err != nil {
				t.Error(err)
			}
			until(t, "it is answered", func() bool { return waiting(tr) >= all })
		}()
		if got := c.transcript(strings.Repeat(bulk("x"), commands)); !strings.HasPrefix(got, "$") {
			t.Errorf("got %q", got)
		}
		c.want("PING", "+PONG\r\n")
	})
}
