package proxy

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crossfade/crossfade/router"
)

// noise is text in which a missing, a doubled or an exchanged piece shows.
func noise(n int) string {
	var b strings.Builder
	random := rand.New(rand.NewPCG(1, uint64(n)))
	for b.Len() < n {
		fmt.Fprintf(&b, "%d:%x\r\n", b.Len(), random.Uint64())
	}
	return b.String()[:n]
}

// TestLargeRepliesUnseen: payloads go from socket to socket, whole and in their order, whatever
// their size and whatever is asked before and behind them, also by who reads slowly.
func TestLargeRepliesUnseen(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		sizes := []int{1, readSize, spliceFrom - 2, spliceFrom - 1, spliceFrom, spliceFrom + readSize, pipeSize - 1, pipeSize, pipeSize + 1, 1 << 20, 5<<20 + 17}
		values := make(map[int]string)
		for _, n := range sizes {
			values[n] = noise(n)
			w.do(router.Source, 0, "SET", fmt.Sprint("k", n), values[n])
		}
		w.do(router.Source, 0, "RPUSH", "list", values[1<<20], "b", values[pipeSize], "", values[spliceFrom])
		list := "*5\r\n" + bulk(values[1<<20]) + bulk("b") + bulk(values[pipeSize]) + bulk("") + bulk(values[spliceFrom])
		c := w.client()
		for range 3 {
			for _, n := range sizes {
				c.send("ECHO a", fmt.Sprint("GET k", n), "ECHO b", "LRANGE list 0 -1")
			}
			for _, n := range sizes {
				c.expect(bulk("a"))
				if got := c.next(); got != bulk(values[n]) {
					t.Fatalf("%d bytes: got %d others", n, len(got))
				}
				c.expect(bulk("b"))
				if got := c.next(); got != list {
					t.Fatalf("a list: got %d others", len(got))
				}
			}
		}
		if len(pipes) == 0 {
			t.Error("no pipe was used")
		}
	})
}

// TestPipeOfASlowClient: what is in the pipe when a hurry begins, or when others wait for the
// client already, waits with them in its order.
func TestPipeOfASlowClient(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	var mu sync.Mutex
	hurries := false
	o := newOutbox(conn, 1<<30, func() bool { mu.Lock(); defer mu.Unlock(); return hurries }, func() { t.Error("the client was given up") }, func() {})
	text := noise(16 << 20)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for at := 0; at < len(text); {
			p, err := takePipe()
			if err != nil {
				t.Error(err)
				return
			}
			n, err := unix.Write(p.w, []byte(text[at:min(len(text), at+60<<10)]))
			if err != nil {
				t.Error(err)
				return
			}
			o.splices()
			o.passPipe(p, n)
			at += n
		}
	}()
	until(t, "the client takes no more", func() bool { return o.stuck(time.Now()) > 20*time.Millisecond })
	mu.Lock()
	hurries = true
	mu.Unlock()
	o.poke()
	<-done // nobody waits for the client
	got := make([]byte, len(text))
	_ = client.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.ReadFull(client, got); err != nil || string(got) != text {
		t.Errorf("%d bytes came, %v; as they were sent: %v", n, err, string(got) == text)
	}
	until(t, "nothing waits", o.idle)
}
