package proxy

import (
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestRefusedRepliesAreSilencedToo: where no fence is found for what was refused, its replies
// come late, and the client gets those that it would get from the server.
func TestRefusedRepliesAreSilencedToo(t *testing.T) {
	for name, lines := range map[string][]string{
		"off":           {"CLIENT REPLY OFF", "SET k 1", "INCR n", "SET k 2", "DEL n", "CLIENT REPLY ON"},
		"off at last":   {"CLIENT REPLY OFF", "INCR n", "SET k 2", "CLIENT REPLY ON"},
		"one skipped":   {"CLIENT REPLY SKIP", "SET k 1", "INCR n", "GET n"},
		"several":       {"CLIENT REPLY SKIP", "SET k 1", "SET k 2", "INCR n", "GET n"},
		"before an ON":  {"CLIENT REPLY SKIP", "SET k 1", "CLIENT REPLY ON", "GET n"},
		"before a SKIP": {"CLIENT REPLY SKIP", "SET k 1", "CLIENT REPLY SKIP", "INCR n", "GET n"},
		"in turn":       {"CLIENT REPLY SKIP", "INCR n", "SET k 1", "GET n"},
		"transaction":   {"CLIENT REPLY OFF", "MULTI", "SET k 1", "EXEC", "CLIENT REPLY ON", "GET n"},
	} {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode setting) {
				f := newFencedWorld(t, mode)
				f.admin("ACL", "SETUSER", "app", "-set")
				said := func(addr string) string {
					c := dialRaw(t, addr)
					defer c.close()
					c.want("AUTH app secret", ok)
					c.want("DEL n", ":0\r\n")
					c.send(lines...)
					c.send("DEL n", "ECHO \""+marker+"\"")
					return c.transcript(marker)
				}
				want := said(f.source.Addr())
				compare(t, said(f.proxy.Addr().String()), want)
			})
		})
	}
}

// TestRefusedBeforeOursIsAnswered: what the proxy itself answers between commands that were
// refused and such as were not is not lost.
func TestRefusedBeforeOursIsAnswered(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		dbs, err := router.NewDBMap(map[int]int{0: 0, 3: 5})
		if err != nil {
			t.Fatal(err)
		}
		target := redistest.Start(t, redistest.WithACL("app on >secret ~* &* +@all -set"))
		w := newWorldMapped(t, redistest.Start(t), target, router.Route{Side: router.Target, Epoch: 1, Map: dbs}, mode, func(c *Config) {
			c.Refused = func() {}
		})
		c := w.client()
		c.want("AUTH app secret", ok)
		c.send("CLIENT REPLY SKIP", "PING", "SET k 1", "SELECT 7", "INCR n", "PING", "SET k 1", "SELECT 7", "CLIENT REPLY OFF", "SET k 1", "SELECT 7", "INCR n", "CLIENT REPLY ON", "PING")
		for _, want := range []string{"-NOPERM", "-ERR Crossfade: database 7", ":1", "+PONG", "-NOPERM", "-ERR Crossfade: database 7", "+OK", "+PONG"} {
			if got := c.next(); !strings.HasPrefix(got, want) {
				t.Fatalf("got %q, want %q", got, want)
			}
		}
	})
}
