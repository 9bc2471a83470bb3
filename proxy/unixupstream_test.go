package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestUpstreamsOverUnixSockets has both servers be reached over their unix sockets, with
// clients in every state, and the traffic switched there and back.
func TestUpstreamsOverUnixSockets(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		servers := [2]*redistest.Server{redistest.Start(t, redistest.WithUnixSocket()), redistest.Start(t, redistest.WithUnixSocket())}
		w := newWorldOn(t, servers[0], servers[1], mode, func(c *Config) {
			for side, s := range servers {
				c.Upstreams[side].Dial = func(ctx context.Context) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, "unix", s.SocketPath())
				}
			}
		})
		plain, queues, listens, blocks, resp3 := w.client(), w.client(), w.client(), w.client(), w.client()
		plain.want("SELECT 3", ok)
		plain.want("SET where source", ok)
		queues.want("MULTI", ok)
		queues.want("INCR n", "+QUEUED\r\n")
		listens.want("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
		blocks.send("BLPOP q 0")
		w.blockedOn(router.Source, "blpop")
		if got := resp3.do("HELLO 3"); !strings.HasPrefix(got, "%") {
			t.Fatalf("got %q", got)
		}
		resp3.want("CLIENT SETNAME me", ok)
		large := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
		for _, side := range []router.Side{router.Target, router.Source} {
			w.switchTo(side)
			there := fmt.Sprint(w.do(side, 0, "CLIENT", "LIST"))
			if n := strings.Count(there, servers[side].SocketPath()+":0 "); n < 4 {
				t.Errorf("%d connections to the %s are over its socket: %s", n, side, there)
			}
			plain.want("SET where "+side.String(), ok)
			if got := w.do(side, map[router.Side]int{router.Source: 3, router.Target: 5}[side], "GET", "where"); got != side.String() {
				t.Errorf("%v was written on the %s", got, side)
			}
			queues.want("EXEC", "*1\r\n:1\r\n")
			queues.want("MULTI", ok)
			w.do(side, 0, "DEL", "n")
			queues.want("INCR n", "+QUEUED\r\n")
			w.do(side, 0, "PUBLISH", "c", side.String())
			listens.expect("*3\r\n" + bulk("message") + bulk("c") + bulk(side.String()))
			w.blockedOn(side, "blpop")
			resp3.want("CLIENT GETNAME", bulk("me"))
			resp3.want("HGETALL none", "%0\r\n")
			plain.write(wireOf([]byte("SET"), []byte("large"), large))
			plain.expect(ok)
			plain.want("GET large", bulk(string(large)))
		}
		w.do(router.Source, 0, "RPUSH", "q", "e")
		blocks.expect("*2\r\n" + bulk("q") + bulk("e"))
		blocks.want("PING", "+PONG\r\n")

		// It is lost, and comes back.
		queues.want("EXEC", "*1\r\n:1\r\n")
		servers[router.Source].Kill()
		if got := listens.ends(); got != "" {
			t.Errorf("the subscriber was told %q", got)
		}
		restart(t, servers[router.Source])
		w.awaitServed()
	})
}
