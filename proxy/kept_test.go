package proxy

import (
	"strings"
	"testing"
)

// pinned says how many clients have a connection of their own.
func (w *world) pinned() int {
	w.proxy.mu.Lock()
	defer w.proxy.mu.Unlock()
	return len(w.proxy.sessions)
}

// othersGoHome waits until a client that needed a connection of its own later
// than all others has given it back.
func (w *world) othersGoHome(kept int) {
	w.t.Helper()
	c := w.client()
	c.want("CLIENT GETNAME", "$-1\r\n")
	until(w.t, "the last client shares again", func() bool { return w.pinned() <= kept })
}

// Whoever has asked for its id is reached by it later: it keeps its connection.
func TestClientKeepsTheConnectionItKnows(t *testing.T) {
	w := newWorld(t)
	c, other := w.client(), w.client()
	id := c.do("CLIENT ID")
	w.othersGoHome(1)
	c.want("CLIENT ID", id)
	c.send("BLPOP q 0")
	number := strings.Trim(id, ":\r\n")
	until(t, "the client is unblocked by its id", func() bool { return other.do("CLIENT UNBLOCK "+number) == ":1\r\n" })
	c.expect("*-1\r\n")
	c.want("MULTI", "+OK\r\n")
	c.want("CLIENT INFO", "+QUEUED\r\n")
	if info := c.do("EXEC"); !strings.Contains(info, "id="+number+" ") {
		t.Errorf("CLIENT INFO names another connection than %s: %s", number, info)
	}
}

// What debugs a script is nobody else's connection, however long it pauses.
func TestDebuggerKeepsItsConnection(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.want("SCRIPT DEBUG YES", "+OK\r\n")
	w.othersGoHome(1)
	if n := w.pinned(); n != 1 {
		t.Fatalf("%d clients have a connection of their own, want 1", n)
	}
	if got := c.do("EVAL \"return 1\" 0"); !strings.Contains(got, "Stopped at 1") {
		t.Errorf("the debugger answers %q", got)
	}
}

// A transaction that is too long to be moved is so until it ends.
func TestLongTransactionEnds(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	for _, end := range []string{"EXEC", "DISCARD"} {
		c.want("MULTI", "+OK\r\n")
		for range maxQueue + 1 {
			c.send("GET a")
		}
		for range maxQueue + 1 {
			c.expect("+QUEUED\r\n")
		}
		if got := c.do(end); got[0] == '-' {
			t.Fatalf("%s: %q", end, got)
		}
		w.othersGoHome(0)
	}
}
