package proxy

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// atSockets has both servers be reached over their unix sockets, where they list all
// connections with one address.
func atSockets(servers [2]*redistest.Server) setting {
	return func(c *Config) {
		for side, s := range servers {
			c.Upstreams[side].Nameless = true
			c.Upstreams[side].Dial = func(ctx context.Context) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", s.SocketPath())
			}
		}
	}
}

// knowsOurs waits until the proxy tells by id each connection to a side's socket, and no
// other one.
func (w *world) knowsOurs(side router.Side) {
	w.t.Helper()
	var list string
	until(w.t, "all connections are known", func() bool {
		there := make(map[string]struct{})
		list = fmt.Sprint(w.do(side, 0, "CLIENT", "LIST"))
		for line := range strings.Lines(list) {
			if id, rest, _ := strings.Cut(line, " "); strings.HasPrefix(rest, "addr="+w.server(side).SocketPath()+":0 ") {
				there[id] = struct{}{}
			}
		}
		return len(there) > 0 && maps.Equal(there, w.proxy.UpstreamAddrs(side))
	})
}

// TestConnectionsToSocketsAreKnown has clients in every state, one of them of a user who may
// not ask for its id, on shared connections and on their own: each connection to a server's
// socket is told from others' there, before and after a switch, and who blocks is woken for
// it, not closed.
func TestConnectionsToSocketsAreKnown(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		acl := redistest.WithACL("default on nopass ~* &* +@all", "poor on >poor ~* &* +@all -client")
		servers := [2]*redistest.Server{redistest.Start(t, redistest.WithUnixSocket(), acl), redistest.Start(t, redistest.WithUnixSocket(), acl)}
		w := newWorldOn(t, servers[0], servers[1], mode, atSockets(servers))
		plain, queues, listens, poor, resp3 := w.client(), w.client(), w.client(), w.client(), w.client()
		plain.want("SET a 1", ok)
		queues.want("MULTI", ok)
		listens.want("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
		resp3.do("HELLO 3")
		resp3.want("SELECT 3", ok)
		resp3.want("CLIENT TRACKING ON", ok)
		poor.want("AUTH poor poor", ok)
		poor.send("BLPOP q 0")
		w.blockedOn(router.Source, "blpop")
		w.knowsOurs(router.Source)
		for _, side := range []router.Side{router.Target, router.Source} {
			w.switchTo(side)
			w.blockedOn(side, "blpop")
			plain.want("SET a 1", ok)
			w.knowsOurs(side)
		}
		w.do(router.Source, 0, "RPUSH", "q", "e")
		poor.expect("*2\r\n" + bulk("q") + bulk("e"))
	})
}

// TestAskingForIDsIsNotHeldAgainstUsers: nobody is written down for a command of ours that
// they have no right to, in the log of what users were refused.
func TestAskingForIDsIsNotHeldAgainstUsers(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		acl := redistest.WithACL("default on nopass ~* &* +@all -client", "poor on >poor ~* &* +@all -client", "admin on >admin +@all")
		servers := [2]*redistest.Server{redistest.Start(t, redistest.WithUnixSocket(), acl), redistest.Start(t, redistest.WithUnixSocket(), acl)}
		w := newWorldOn(t, servers[0], servers[1], mode, atSockets(servers))
		plain, poor, resp3 := w.client(), w.client(), w.client()
		plain.want("SET a 1", ok)
		poor.want("AUTH poor poor", ok)
		poor.want("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
		resp3.do("HELLO 3 AUTH poor poor")
		resp3.want("MULTI", ok)
		for _, side := range []router.Side{router.Source, router.Target} {
			if side == router.Target {
				w.switchTo(side)
			}
			plain.want("GET none", "$-1\r\n")
			until(t, "the connections are known", func() bool { return len(w.proxy.UpstreamAddrs(side)) >= 3 })
			admin := dialRaw(t, servers[side].Addr())
			admin.want("AUTH admin admin", ok)
			admin.want("ACL LOG", "*0\r\n")
		}
	})
}

// TestLateConnectionsToSocketsAreKnown: a server tells nobody its id who has yet to
// authenticate, but who has done so is asked for.
func TestLateConnectionsToSocketsAreKnown(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		secret := redistest.WithPassword("secret")
		servers := [2]*redistest.Server{redistest.Start(t, redistest.WithUnixSocket(), secret), redistest.Start(t, redistest.WithUnixSocket(), secret)}
		w := newWorldOn(t, servers[0], servers[1], mode, atSockets(servers))
		first, second, third := w.client(), w.client(), w.client()
		first.want("AUTH secret", ok)
		second.send("PING", "AUTH wrong", "AUTH secret", "PING", "MULTI")
		for _, want := range []string{"-NOAUTH", "-WRONGPASS", ok, "+PONG\r\n", ok} {
			if got := second.next(); !strings.HasPrefix(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
		if got := third.do("HELLO 3 AUTH default secret"); !strings.HasPrefix(got, "%") {
			t.Fatalf("got %q", got)
		}
		third.want("SUBSCRIBE c", ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
		w.knowsOurs(router.Source)
		w.switchTo(router.Target)
		w.knowsOurs(router.Target)
	})
}
