package proxy

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
)

// inFlight is how many bytes the sessions keep of commands in flight.
func (w *world) inFlight() (n int) {
	for _, s := range w.proxy.snapshotSessions() {
		s.mu.Lock()
		n += s.fifo.kept()
		s.mu.Unlock()
	}
	return n
}

// TestFullOfCommandsInFlight has more of them than are kept: what is read while there
// is no room must not get into what was read before.
func TestFullOfCommandsInFlight(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t)
		link := redistest.NewLink(t, source.Addr())
		w := newWorldOn(t, source, redistest.Start(t), mode, through(link))
		c := w.client()
		c.want("MULTI", ok)
		link.StallDown(true)
		const size = 10_000
		text := func(i int) []byte { return fmt.Appendf(nil, "%0*d", size, i) }
		n := itemBytes/size + 1000
		wrote := make(chan error, 1)
		go func() {
			for i := range n {
				if _, err := c.conn.Write(wireOf([]byte("ECHO"), text(i))); err != nil {
					wrote <- err
					return
				}
			}
			_, err := c.conn.Write(words("EXEC"))
			wrote <- err
		}()
		until(t, "there is no room", func() bool { return w.inFlight() > itemBytes })
		link.StallDown(false)
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		for range n {
			c.expect("+QUEUED\r\n")
		}
		got := c.next()
		if head := fmt.Sprintf("*%d\r\n", n); !strings.HasPrefix(got, head) {
			t.Fatalf("EXEC answers %.40q", got)
		}
		got = got[strings.Index(got, "\n")+1:]
		for i := range n {
			var found bool
			if got, found = strings.CutPrefix(got, fmt.Sprintf("$%d\r\n%s\r\n", size, text(i))); !found {
				t.Fatalf("element %d of %d is %.40q", i, n, got)
			}
		}
		until(t, "nothing is kept", func() bool { return w.inFlight() == 0 })
	})
}

// TestWritesMuchBeforeReading sends more of what has to be followed than is kept,
// and reads nothing before all of it is sent.
func TestWritesMuchBeforeReading(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		c := w.client()
		const size = 32 << 10
		text := func(i int) string { return fmt.Sprintf("%0*d", size, i) }
		n := (itemBytes + readAhead + 32<<20) / size
		_ = c.conn.SetWriteDeadline(time.Now().Add(longest))
		for i := range n {
			c.write(words("UNSUBSCRIBE", text(i)))
		}
		for i := range n {
			c.expect("*3\r\n$11\r\nunsubscribe\r\n" + bulk(text(i)) + ":0\r\n")
		}
		c.want("PING", "+PONG\r\n")
	})
}

// TestNoArgumentsInFlight sends large scripts and reads no answer: what the server
// has taken is its own affair.
func TestNoArgumentsInFlight(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		c := w.client()
		const n, size = 4000, 50_000
		one := words("EVAL", "return string.rep('x', 10000)", "0", strings.Repeat("y", size))
		peak := heapPeak()
		_ = c.conn.SetWriteDeadline(time.Now().Add(longest))
		for range n {
			c.write(one)
		}
		until(t, "all are in flight or answered", func() bool { return w.proxy.Stats().Commands >= n })
		added := peak()
		t.Logf("%d MiB for %d MB of scripts", added>>20, n*size/1_000_000)
		if added > 64<<20 {
			t.Errorf("%d MiB were needed", added>>20)
		}
		reply := bulk(string(bytes.Repeat([]byte("x"), 10_000)))
		for range n {
			c.expect(reply)
		}
	})
}
