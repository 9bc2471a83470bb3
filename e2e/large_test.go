package e2e

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestRollbackWaitsForLargeValues goes back to a server whose fence keeps sessions
// from being prepared, while a client is in the middle of a large value: the others
// must not wait for that one.
func TestRollbackWaitsForLargeValues(t *testing.T) {
	if testing.Short() {
		t.Skip("takes the ten seconds that a switch waits for large values")
	}
	src, dst := redistest.Start(t), redistest.Start(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0)})
	c.start("")
	c.awaitReady()
	if _, err := c.cutover(); err != nil {
		t.Fatal(err)
	}
	c.awaitReady()
	say := func(conn net.Conn, text, want string) {
		t.Helper()
		if _, err := fmt.Fprint(conn, text); err != nil {
			t.Fatal(err)
		}
		if want == "" {
			return
		}
		if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.HasPrefix(got, want) {
			t.Fatalf("%q was answered %q (%v)", text[:min(len(text), 20)], got, err)
		}
	}
	dial := func() net.Conn {
		t.Helper()
		conn := must[net.Conn](t)(net.Dial("tcp", c.addr))
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	named, large := dial(), dial()
	say(named, "CLIENT SETNAME me\r\n", "+OK") // NOPERM behind the fence
	say(named, "WATCH a\r\n", "+OK")
	half := strings.Repeat("x", 1<<20)
	say(large, fmt.Sprintf("*3\r\n$3\r\nSET\r\n$5\r\nlarge\r\n$%d\r\n%s", 2*len(half), half), "")
	if _, err := c.rollback(); err == nil || !strings.Contains(err.Error(), "sending large values") {
		t.Errorf("the rollback ended with: %v", err)
	}
	say(large, half+"\r\n", "+OK")
	c.awaitReady()
	if _, err := c.rollback(); err != nil {
		t.Fatal(err)
	}
	if st := c.awaitReady(); st.Side != router.Source {
		t.Errorf("the clients are on the %s", st.Side)
	}
	if n := src.Client(0).StrLen(t.Context(), "large").Val(); n != int64(2*len(half)) {
		t.Errorf("%d bytes of the large value have come", n)
	}
}
