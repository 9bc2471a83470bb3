package proxy

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/internal/redistest"
	"golang.org/x/sys/unix"
)

// TestBusyClientsShareAgain has clients that need connections of their own for a
// moment, as all do that speak RESP3, and then ask again as soon as they are
// answered: they must not keep those connections for as long as they are busy.
func TestBusyClientsShareAgain(t *testing.T) {
	if !epoll.Supported {
		t.Skip("without epoll nothing is shared")
	}
	source := redistest.Start(t)
	link := redistest.NewLink(t, source.Addr())
	link.SetDelay(time.Millisecond) // no answer is there at once, as on a busy machine
	w := newWorldOn(t, source, redistest.Start(t), func(c *Config) {
		c.Upstreams[0].Dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", link.Addr())
		}
	})
	const clients = 4
	var list []*raw
	for i := range clients {
		c := w.client()
		if i%2 == 0 {
			c.do("HELLO 3")
		} else {
			c.want("MULTI", ok)
			c.want("EXEC", "*0\r\n")
		}
		list = append(list, c)
	}
	var wg sync.WaitGroup
	for i, c := range list {
		wg.Go(func() {
			n := 0
			until(t, "it has no session of its own", func() bool {
				n++
				c.want(fmt.Sprintf("SET key%d %d", i, n), ok)
				c.send(fmt.Sprintf("GET key%d", i), "ECHO then")
				c.expect(bulk(fmt.Sprint(n)))
				c.expect(bulk("then"))
				return len(w.proxy.snapshotSessions()) == 0
			})
		})
	}
	wg.Wait()
}

// TestHomeComingWithALostConnection has a client come back to its loop with a
// connection that cannot be watched: it gets another one.
func TestHomeComingWithALostConnection(t *testing.T) {
	if !epoll.Supported {
		t.Skip("without epoll nobody comes back")
	}
	w := newWorld(t, func(c *Config) { c.Shared, c.Loops = false, 1 })
	w.client().want("PING", "+PONG\r\n")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := epoll.Give(pair[1])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c := &raw{t: t, conn: conn}
	w.proxy.mu.Lock()
	w.proxy.clients++
	w.proxy.mu.Unlock()
	l := w.proxy.eventLoops()[0]
	l.call(func() {
		const none = 1 << 16 // no descriptor
		g := &guest{id: 1000, fd: pair[0]}
		l.attach(g, &link{srv: w.proxy, route: l.route}, none)
		l.welcome(g)
	})
	c.want("PING", "+PONG\r\n")
}

// TestClientThatCameWithoutDescriptors has a client come when there is no descriptor left to
// take it into a loop with: it gets there once there are some.
func TestClientThatCameWithoutDescriptors(t *testing.T) {
	if !epoll.Supported {
		t.Skip("without epoll nobody shares")
	}
	eachMode(t, func(t *testing.T, mode setting) {
		some := make(chan struct{})
		w := newWorld(t, mode, func(c *Config) {
			dial := c.Upstreams[0].Dial
			c.Upstreams[0].Dial = func(ctx context.Context) (net.Conn, error) {
				<-some
				return dial(ctx)
			}
		})
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		c := dialRaw(t, listener.Addr().String())
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		until(t, "it serves", func() bool { return len(w.proxy.eventLoops()) > 0 })
		w.proxy.mu.Lock()
		w.proxy.clients++
		w.proxy.mu.Unlock()
		var before unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Fatal(err)
		}
		none := before
		none.Cur = 0
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
			t.Fatal(err)
		}
		w.proxy.begin(1000, conn, "")
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
			t.Fatal(err)
		}
		n := len(w.proxy.snapshotSessions())
		close(some)
		if n != 1 {
			t.Fatalf("%d sessions", n)
		}
		until(t, "it has no session of its own", func() bool {
			c.want("PING", "+PONG\r\n")
			return len(w.proxy.snapshotSessions()) == 0
		})
		c.want("INCR n", ":1\r\n")
		c.want("MULTI", ok)
		c.want("EXEC", "*0\r\n")
	})
}
