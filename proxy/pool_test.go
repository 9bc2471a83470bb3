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
