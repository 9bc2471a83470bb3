package proxy

import (
	"fmt"
	"regexp"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestSwitchWhilePooledConnectionsAreInUse has the pool know a kind of connection
// of which none is idle.
func TestSwitchWhilePooledConnectionsAreInUse(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	for range 2 {
		c.want("MULTI", ok)
		c.want("EXEC", "*0\r\n")
		if *upstreams == "shared" {
			until(t, "the client is shared again", func() bool { return len(w.proxy.snapshotSessions()) == 0 })
		}
	}
	c.want("MULTI", ok)
	w.switchTo(router.Target)
	c.want("EXEC", "*0\r\n")
}

// TestPoolKnowsLikeConnections has a client say what every library says of itself:
// the connections of two that say the same are alike.
func TestPoolKnowsLikeConnections(t *testing.T) {
	w := newWorld(t)
	st := newState()
	st.info = map[string][]byte{"lib-name": []byte("a"), "lib-ver": []byte("1")}
	key := bearingKey(router.Source, w.proxy.setup(&st, w.gate.Route(), whole))
	for range 64 {
		if again := bearingKey(router.Source, w.proxy.setup(&st, w.gate.Route(), whole)); again != key {
			t.Fatalf("%q is not %q", again, key)
		}
	}
}

// TestSharedConnectionOfNobodyIsClosed has clients log in with a password that is new
// each time, as tokens are: each password has a connection, and none is left behind.
func TestSharedConnectionOfNobodyIsClosed(t *testing.T) {
	w := newWorldOn(t, redistest.Start(t, redistest.WithACL("app on nopass ~* &* +@all")), redistest.Start(t), func(c *Config) { c.Shared, c.Loops = true, 1 })
	stays := w.client()
	stays.want("GET a", "$-1\r\n")
	const tokens = 5
	for i := range tokens {
		c := w.client()
		c.want(fmt.Sprintf("AUTH app token%d", i), ok)
		w.shares()
		c.want("GET a", "$-1\r\n")
		c.close()
	}
	l := w.proxy.eventLoops()[0]
	shared := func() (n int) {
		l.call(func() { n = len(l.trunks) })
		return n
	}
	if n := shared(); n != tokens+1 {
		t.Fatalf("%d connections are shared, want %d", n, tokens+1)
	}
	l.call(func() {
		for _, each := range l.trunks {
			each.wanted = l.now - int64(trunkIdle)
		}
	})
	until(t, "only the one that has a client is left", func() bool { return shared() == 1 && w.proxy.Stats().Upstreams == 1 })
	before := fmt.Sprint(w.do(router.Source, 0, "INFO", "stats"))
	stays.want("GET a", "$-1\r\n")
	received := regexp.MustCompile(`total_connections_received:[0-9]+`)
	after := fmt.Sprint(w.do(router.Source, 0, "INFO", "stats")) // one more connection, which asks
	var n, m int
	_, _ = fmt.Sscanf(received.FindString(before), "total_connections_received:%d", &n)
	_, _ = fmt.Sscanf(received.FindString(after), "total_connections_received:%d", &m)
	if n == 0 || m != n+1 {
		t.Errorf("the client had to be connected anew: %d and %d connections", n, m)
	}
}
