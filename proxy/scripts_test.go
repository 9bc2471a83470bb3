package proxy

import (
	"fmt"
	"strings"
	"testing"
)

// TestScriptsAreBoundedInBytes has a client generate large scripts. Those used last
// are kept, and no more bytes than there may be.
func TestScriptsAreBoundedInBytes(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	const n = 10
	for i := range n {
		c.want(fmt.Sprintf(`EVAL "return %d --%s" 0`, i, strings.Repeat("x", 8<<20)), fmt.Sprintf(":%d\r\n", i))
	}
	c.want(`EVAL "return 'small'" 0`, bulk("small"))
	total := 0
	for _, body := range w.proxy.Scripts() {
		total += len(body)
	}
	if got := len(w.proxy.Scripts()); total > scriptBytes || got != 8 {
		t.Errorf("%d scripts of %d bytes are kept", got, total)
	}
	c.want("SCRIPT FLUSH", ok)
	if got := w.proxy.Scripts(); len(got) != 0 || w.proxy.scripts.bytes != 0 {
		t.Errorf("%d scripts of %d bytes are kept after SCRIPT FLUSH", len(got), w.proxy.scripts.bytes)
	}
}
