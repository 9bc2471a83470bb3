package proxy

import (
	"slices"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
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

// TestStopWaitsForAnswers: a command in flight is answered although that takes longer than
// a client has for its last replies, where the stop may take as long.
func TestStopWaitsForAnswers(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t, withDebug)
		w := newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) { c.ShutdownTimeout = 4 * closingFor })
		c := w.client()
		c.want("INCR a", ":1\r\n")
		w.do(router.Source, 0, "CLIENT", "PAUSE", (closingFor + 2*time.Second).Milliseconds(), "WRITE")
		c.send("INCR a")
		until(t, "the command is in flight", func() bool { return w.gate.Inside() == 1 })
		w.stop()
		c.expect(":2\r\n")
		c.expect("EOF")
	})
}
