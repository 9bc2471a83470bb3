package proxy

import (
	"slices"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestLostTransactionSelects loses the connection with EXEC in flight: what may have
// run did so in the database that the transaction had selected.
func TestLostTransactionSelects(t *testing.T) {
	source := redistest.Start(t)
	link := redistest.NewLink(t, source.Addr())
	w := newWorldOn(t, source, redistest.Start(t), through(link))
	c := w.client()
	for _, line := range []string{"SELECT 3", "PFCOUNT hll", "SELECT 0"} {
		if line == "SELECT 3" {
			c.want("MULTI", ok)
		}
		c.want(line, "+QUEUED\r\n")
	}
	link.StallDown(true)
	c.send("EXEC")
	until(t, "EXEC is in flight", func() bool { return w.gate.Inside() == 1 })
	link.Cut()
	c.expect("EOF")
	until(t, "the gate is empty", func() bool { return w.gate.Inside() == 0 })
	if log := w.heard.all(); !slices.Contains(log, "silent 3 hll") {
		t.Errorf("the observer heard %q", log)
	}
}
