package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestServerIsBackForMany has many clients come at the same moment to a server of which
// nobody knows yet that it is back: the first one finds out, and all are served.
func TestServerIsBackForMany(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t)
		var away atomic.Bool
		away.Store(true)
		w := newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) {
			c.Upstreams[0].Dial = func(ctx context.Context) (net.Conn, error) {
				if away.Load() {
					return nil, syscall.ECONNREFUSED
				}
				far := time.NewTimer(20 * time.Millisecond)
				defer far.Stop()
				<-far.C
				return new(net.Dialer).DialContext(ctx, "tcp", source.Addr())
			}
		})
		c := w.client()
		c.tryWrite(words("MULTI"))
		if got := c.ends(); got != "" {
			t.Fatalf("the client was told %q", got)
		}
		away.Store(false)
		d := &w.proxy.dampers[router.Source]
		until(t, "it may be tried again", func() bool {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.err != nil && time.Since(d.at) > redialWait
		})
		var many []*raw
		for range 20 {
			c := w.client()
			c.tryWrite(words("MULTI"))
			many = append(many, c)
		}
		for _, c := range many {
			c.expect(ok)
		}
	})
}

// TestSeveredConnectionIsNotTakenFromThePool has a client need a connection between the
// moment at which those to its old server are known and that at which they are closed.
func TestSeveredConnectionIsNotTakenFromThePool(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared = true })
	c := w.client()
	c.want("MULTI", ok)
	c.want("EXEC", "*0\r\n")
	w.shares()
	until(t, "the connection is in the pool", func() bool { return w.pooled() == 1 })
	p := &w.proxy.pool
	p.mu.Lock()
	for _, list := range p.links {
		for _, k := range list {
			k.severed.Store(true)
		}
	}
	p.mu.Unlock()
	c.want("MULTI", ok)
	c.want("EXEC", "*0\r\n")
}

// TestOnlyOneConnectionIsSetAside has two ways at once make a session ready for a switch:
// the connection that is not used is closed.
func TestOnlyOneConnectionIsSetAside(t *testing.T) {
	w := newWorld(t)
	s := newSession(w.proxy, 1, nil)
	var ends []net.Conn
	for range 2 {
		here, there := net.Pipe()
		l := &link{srv: w.proxy, conn: here, side: router.Target}
		w.proxy.addLink(l)
		s.setAside(l, &s.warm)
		ends = append(ends, there)
	}
	s.mu.Lock()
	s.ended = true
	s.mu.Unlock()
	here, there := net.Pipe()
	s.setAside(&link{srv: w.proxy, conn: here}, &s.warm)
	for _, end := range []net.Conn{ends[0], there} {
		_ = end.SetReadDeadline(time.Now().Add(patience))
		if _, err := end.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Error("a connection that nobody will use is open:", err)
		}
	}
	_ = ends[1].SetReadDeadline(time.Now())
	if _, err := ends[1].Read(make([]byte, 1)); !isTimeout(err) {
		t.Error("the connection that waits is not open:", err)
	}
	s.warm.close()
}

func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }

// TestClientWithTLSThatComesAtTheEnd has clients be through with their handshake when all
// is being closed: so are they.
func TestClientWithTLSThatComesAtTheEnd(t *testing.T) {
	w := newWorld(t)
	w.stop()
	<-w.stopped
	for range 100 {
		here, there := net.Pipe()
		plain, err := w.proxy.unwrap(tls.Server(here, new(tls.Config)))
		if err != nil {
			t.Fatal(err)
		}
		_ = plain.SetReadDeadline(time.Now().Add(patience))
		if _, err := plain.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatal("it is not closed:", err)
		}
		_, _ = plain.Close(), there.Close()
	}
	w.proxy.serving.Wait()
}
