package proxy

import (
	"testing"

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
	key := bearingKey(router.Source, w.proxy.setup(&st, router.Source, w.gate.Route(), true))
	for range 64 {
		if again := bearingKey(router.Source, w.proxy.setup(&st, router.Source, w.gate.Route(), true)); again != key {
			t.Fatalf("%q is not %q", again, key)
		}
	}
}
