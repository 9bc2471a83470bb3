package proxy

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// connectionsOf counts the connections to a server but for the one that asks.
func connectionsOf(w *world, s *redistest.Server) int {
	w.t.Helper()
	c := s.Client(0)
	defer func() { _ = c.Close() }()
	list, err := c.ClientList(context.Background()).Result()
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Count(list, "\n") - 1
}

// TestSever: the old server lives on, and no client's connection to it is left. Who has
// something there is closed, and nobody is answered by it any more.
func TestSever(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		first, second := redistest.Start(t), redistest.Start(t)
		var addr atomic.Value
		addr.Store(first.Addr())
		w := newWorldOn(t, first, second, mode, dialing(func() string { return addr.Load().(string) }))
		w.do(router.Target, 0, "SET", "who", "second")
		idle, queued, blocked, listens, watches := w.client(), w.client(), w.client(), w.client(), w.client()
		idle.want("SET who first", ok)
		queued.want("MULTI", ok)
		queued.want("SET who queued", "+QUEUED\r\n")
		watches.want("WATCH who", ok)
		listens.want("SUBSCRIBE c", "*3\r\n"+bulk("subscribe")+bulk("c")+":1\r\n")
		blocked.send("BLPOP nothing 0")
		w.blockedOn(router.Source, "blpop")

		addr.Store(second.Addr())
		w.proxy.Sever(router.Source)
		for name, c := range map[string]*raw{"queued": queued, "blocked": blocked, "listening": listens, "watching": watches} {
			if got := c.ends(); got != "" {
				t.Errorf("the %s client was told %q", name, got)
			}
		}
		until(t, "no connection to the old server is left", func() bool { return connectionsOf(w, first) == 0 })
		idle.tryWrite(words("GET", "who"))
		if got := idle.next(); w.proxy.cfg.Shared && got != bulk("second") || !w.proxy.cfg.Shared && got != "EOF" {
			t.Errorf("the idle client got %q", got)
		}
		w.client().want("GET who", bulk("second"))
		if got := w.do(router.Source, 0, "GET", "who"); got != "first" {
			t.Errorf("the old server has %v", got)
		}
	})
}

// TestSeverSparesTheOtherSide: connections to the other side, prepared ones too, stay.
func TestSeverSparesTheOtherSide(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		c, inMulti := w.client(), w.client()
		c.want("SET k v", ok)
		w.switchTo(router.Target)
		inMulti.want("MULTI", ok)
		w.proxy.Sever(router.Source)
		inMulti.want("SET k 2", "+QUEUED\r\n")
		inMulti.want("EXEC", "*1\r\n"+ok)
		c.want("GET k", bulk("2"))
	})
}

// TestSeverWhileDialling: a connection that was being made to the old server meanwhile is
// not used.
func TestSeverWhileDialling(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		first, second := redistest.Start(t), redistest.Start(t)
		var late atomic.Bool
		made, goOn := make(chan struct{}), make(chan struct{})
		w := newWorldOn(t, first, second, mode, func(c *Config) {
			c.Upstreams[0].Dial = func(ctx context.Context) (net.Conn, error) {
				if !late.CompareAndSwap(false, true) {
					return new(net.Dialer).DialContext(ctx, "tcp", second.Addr())
				}
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", first.Addr())
				close(made)
				<-goOn
				return conn, err
			}
		})
		c := w.client()
		c.send("SET k v")
		<-made
		w.proxy.Sever(router.Source)
		close(goOn)
		if got := c.ends(); got != "" {
			t.Errorf("the client was told %q", got)
		}
		w.awaitServed()
		w.client().want("SET k v", ok)
		if got := w.do(router.Source, 0, "EXISTS", "k"); got != int64(0) {
			t.Errorf("the old server was written to: %v", got)
		}
	})
}
