package proxy

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
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

// What is debugged holds up the server as long as its connection is there: no longer than
// the client is, although that is owed an answer.
func TestVanishedDebuggerFreesTheServer(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		c := w.client()
		c.want("SCRIPT DEBUG SYNC", "+OK\r\n")
		c.send("EVAL \"return 1\" 0", "PING")
		c.next()
		c.close()
		dialRaw(t, w.source.Addr()).want("PING", "+PONG\r\n")
	})
}

// So it is where the client was gone before it was known that it debugs, and where what it
// had sent waits behind what it debugs.
func TestGoneDebuggerFreesTheServer(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		for name, play := range map[string]func(c *raw, link *redistest.Link){
			"before it is known": func(c *raw, link *redistest.Link) {
				link.StallDown(true)
				c.send("SCRIPT DEBUG SYNC", "EVAL \"return 1\" 0")
			},
			"with something behind": func(c *raw, link *redistest.Link) {
				c.want("SCRIPT DEBUG SYNC", ok)
				link.StallDown(true)
				c.send("EVAL \"return 1\" 0", "AUTH x y", "PING")
			},
		} {
			t.Run(name, func(t *testing.T) {
				source := redistest.Start(t)
				link, err := redistest.OpenLink(source.Addr())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(link.Close)
				w := newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) { c.Upstreams[router.Source].Dial = newDialer(link.Addr()) })
				c := w.client()
				c.want("SELECT 3", ok)
				before := link.BytesUp()
				play(c, link)
				until(t, "the script is there", func() bool {
					return link.BytesUp() >= before+int64(len(wireOf([]byte("EVAL"), []byte("return 1"), []byte("0"))))
				})
				c.close()
				link.StallDown(name != "before it is known")
				dialRaw(t, source.Addr()).want("PING", "+PONG\r\n")
			})
		}
	})
}

// A client that debugs no more can be moved again; RESET does not end that.
func TestDebuggerThatIsDoneMoves(t *testing.T) {
	w := newWorld(t)
	done, resets := w.client(), w.client()
	for _, c := range []*raw{done, resets} {
		c.want("SCRIPT DEBUG SYNC", ok)
	}
	done.want("SCRIPT DEBUG NO", ok)
	resets.want("RESET", "+RESET\r\n")
	direct := dialRaw(t, w.target.Addr())
	direct.want("SCRIPT DEBUG YES", ok)
	direct.want("RESET", "+RESET\r\n")
	if got := direct.do("EVAL \"return 1\" 0"); !strings.Contains(got, "Stopped at 1") {
		t.Errorf("behind RESET a script answers %q", got)
	}
	w.switchTo(router.Target)
	done.want("SET a 1", ok)
	done.want("GET a", bulk("1"))
	if got := resets.next(); !strings.Contains(got, debugging) {
		t.Errorf("who debugs was told %q", got)
	}
	resets.expect("EOF")
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

// What the proxy does not know may tell the server who the client is, as a module's
// command can, so its connection is nobody else's. Known modules do not.
func TestUnknownCommandKeepsItsConnection(t *testing.T) {
	w := newWorld(t)
	for i, line := range []string{"SOME.LOGIN token", "JSONX", "REPLCONF listening-port 1"} {
		w.client().do(line)
		w.othersGoHome(i + 1)
		if n := w.pinned(); n != i+1 {
			t.Fatalf("after %s %d clients have a connection of their own, want %d", line, n, i+1)
		}
	}
	for _, line := range []string{"JSON.GET a", "ft.search i q", "XINFO STREAM a", "VCARD a"} {
		w.client().do(line)
	}
	w.othersGoHome(3)
}

// REPLCONF ACK is not answered, by whomever it is said. Nobody waits for that.
func TestAcknowledgementIsNotWaitedFor(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.send("SET a 1", "REPLCONF ACK 0", "AUTH x y", "REPLCONF GETACK *", "REPLCONF capa eof ack 1", "REPLCONF ACK 1 x", "GET a")
	c.expect(ok)
	c.expect(wrongPass)
	c.expect("-ERR syntax error\r\n")
	c.expect(bulk("1"))
	w.switchTo(router.Target)
	c.want("GET a", "$-1\r\n")
}

// counting counts how often a client is looked at.
type counting struct {
	*net.TCPConn
	reads atomic.Int64
}

func (c *counting) Read(b []byte) (int, error) {
	c.reads.Add(1)
	return c.TCPConn.Read(b)
}

// TestListenerIsLeftAlone: a client that keeps its connection, and says nothing, costs nothing.
func TestListenerIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.awaitServed()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	c := dialRaw(t, listener.Addr().String())
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	counted := &counting{TCPConn: conn.(*net.TCPConn)}
	sess := newSession(w.proxy, 1<<40, counted)
	sess.home, sess.pinnedAt = w.proxy.eventLoops()[0], time.Now()
	w.proxy.mu.Lock()
	w.proxy.clients++
	w.proxy.mu.Unlock()
	w.proxy.enlist(sess)
	c.do("SUBSCRIBE a")
	w.othersGoHome(1)
	before := counted.reads.Load()
	for range 3 {
		w.othersGoHome(1)
	}
	if n := counted.reads.Load() - before; n > 1 { // the last time that it might have needed none
		t.Errorf("it was looked at %d times", n)
	}
	w.do(router.Source, 0, "PUBLISH", "a", "m")
	c.expect("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n")
	c.do("UNSUBSCRIBE")
	until(t, "it shares again", func() bool { return w.pinned() == 0 })
	c.want("PING", "+PONG\r\n")
}
