package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
)

// eachUpstream runs a test with shared connections and with one for each client.
func eachUpstream(t *testing.T, f func(t *testing.T, mode string)) {
	for _, mode := range []string{"shared", "pinned"} {
		t.Run(mode, func(t *testing.T) { f(t, mode) })
	}
}

// proxyOnly starts a sidecar whose copy is over, so that what it uses is the
// proxy's.
func proxyOnly(t *testing.T, mode string, extra ...string) *sidecar {
	t.Helper()
	if raceDetector {
		t.Skip("the race detector's memory is not the program's")
	}
	source, target := redistest.Start(t, redistest.WithConfig("maxclients", "12000")), redistest.Start(t)
	c := newSidecar(t, setup{source: source.URL(0), target: target.URL(0), dbmap: "0=0", extra: append([]string{"--proxy.upstream", mode}, extra...)})
	c.start("")
	c.awaitReady()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := c.admin.Complete(ctx, admin.CompleteRequest{StayOnSource: true}); err != nil {
		t.Fatal(err)
	}
	return c
}

// memory reads a figure of the process's memory in bytes: VmRSS, or VmHWM for the
// most that it has ever been.
func (c *sidecar) memory(name string) int {
	c.tb.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		c.tb.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")))
			if err != nil {
				c.tb.Fatal(err)
			}
			return n << 10
		}
	}
	c.tb.Fatalf("no %s in %s", name, text)
	return 0
}

// TestMemoryOfIdleClients has ten thousand idle clients, each of which has said something
// before. With a connection to the server for each, the sidecar needs two descriptors for
// each; where it may not have so many, there are as many clients as it may have.
func TestMemoryOfIdleClients(t *testing.T) {
	const spare = 200 // descriptors for all else
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	eachUpstream(t, func(t *testing.T, mode string) {
		clients, each := 10_000, 1
		if mode == "pinned" {
			each = 2
		}
		if room := (int(min(limit.Max, 1<<20)) - spare) / each; room < clients {
			if room < 9000 {
				t.Skipf("%d descriptors are too few", limit.Max)
			}
			t.Logf("%d descriptors: %d clients", limit.Max, room)
			clients = room
		}
		c := proxyOnly(t, mode, "--proxy.max_clients", "11000")
		before := c.memory("VmRSS")
		idle(t, c.addr, clients, func(int) (say, want string) {
			return "*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n", "$-1\r\n+PONG\r\n"
		})
		rss := c.memory("VmRSS")
		t.Logf("%d idle clients: %d MB, %d MB before them", clients, rss/1e6, before/1e6)
		if rss > 100e6 {
			t.Errorf("%d idle clients take %d bytes, %d before them", clients, rss, before)
		}
	})
}

// TestMemoryOfIdleSubscribers has clients each of which listens to a channel of its own and
// hears nothing. In either mode such a client is a session with a connection to the server,
// so it costs more than one that has asked something before.
func TestMemoryOfIdleSubscribers(t *testing.T) {
	const clients, most = 2000, 40_000
	eachUpstream(t, func(t *testing.T, mode string) {
		c := proxyOnly(t, mode)
		before := c.memory("VmRSS")
		conns := idle(t, c.addr, clients, func(i int) (say, want string) {
			return fmt.Sprintf("SUBSCRIBE c%04d\r\n", i), fmt.Sprintf("*3\r\n$9\r\nsubscribe\r\n$5\r\nc%04d\r\n:1\r\n", i)
		})
		rss := c.memory("VmRSS")
		t.Logf("%d idle subscribers: %d MB, %d MB before them", clients, rss/1e6, before/1e6)
		if each := (rss - before) / clients; each > most {
			t.Errorf("an idle subscriber takes %d bytes, more than %d", each, most)
		}
		// None of them is cheap because it is not there any more.
		speaker := dial(t, c.addr)
		for i, conn := range conns {
			if err := converse(speaker, fmt.Sprintf("PUBLISH c%04d news\r\n", i), ":1\r\n"); err != nil {
				t.Fatalf("publishing to client %d: %v", i, err)
			}
			if err := converse(conn, "", fmt.Sprintf("*3\r\n$7\r\nmessage\r\n$5\r\nc%04d\r\n$4\r\nnews\r\n", i)); err != nil {
				t.Fatalf("client %d: %v", i, err)
			}
		}
	})
}

// idle connects so many clients, each of which says something, is answered, and then stays
// until the end of the test.
func idle(t *testing.T, addr string, clients int, hello func(i int) (say, want string)) []net.Conn {
	t.Helper()
	conns := make([]net.Conn, 0, clients)
	t.Cleanup(func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	})
	for i := range clients {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		conns = append(conns, conn)
		_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
		say, want := hello(i)
		if err := converse(conn, say, want); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
	}
	return conns
}

// converse says something and takes an answer, which has to be these bytes.
func converse(conn net.Conn, say, want string) error {
	if _, err := io.WriteString(conn, say); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if n, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		return fmt.Errorf("instead of %q: %q %w", want, got[:n], err)
	}
	return nil
}

// TestMemoryOfLargeValues has many clients each send a large value while they receive one.
// Each stops in the middle of both until all have come so far, so that it is certain that all
// of them were under way together, and the half of a value is more than the kernel holds of
// one between client and server.
func TestMemoryOfLargeValues(t *testing.T) {
	clients, size := 64, 64<<20
	if testing.Short() {
		clients, size = 16, 32<<20
	}
	block := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	eachUpstream(t, func(t *testing.T, mode string) {
		// Who waits for the others takes nothing for as long as they need.
		c := proxyOnly(t, mode, "--proxy.output_timeout", "10m")
		middle := meetingOf(2 * clients)
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
		defer cancel()
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				if err := bothWays(c.addr, fmt.Sprintf("large%d", i%8), block, size, func() error { return middle.arrive(ctx) }); err != nil {
					t.Errorf("client %d: %v", i, err)
					cancel() // the others wait in vain
				}
			})
		}
		wg.Wait()
		peak := c.memory("VmHWM")
		t.Logf("%d clients with values of %d MB: %d MB at most", clients, size>>20, peak/1e6)
		if peak > 300e6 {
			t.Errorf("%d clients with values of %d MB take %d bytes", clients, size>>20, peak)
		}
	})
}

// meeting is where nobody goes on before all have come.
type meeting struct {
	missing atomic.Int64
	all     chan struct{} // closed when nobody is missing
}

func meetingOf(n int) *meeting {
	m := &meeting{all: make(chan struct{})}
	m.missing.Store(int64(n))
	return m
}

// arrive waits for the others.
func (m *meeting) arrive(ctx context.Context) error {
	if m.missing.Add(-1) == 0 {
		close(m.all)
	}
	select {
	case <-m.all:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %d who are not in the middle yet: %w", m.missing.Load(), ctx.Err())
	}
}

// bothWays sends a value, and sends another one while it gets the first one back. It calls
// middle in the middle of each of the two, and goes on with neither before that returns.
func bothWays(addr, key string, block []byte, size int, middle func() error) error {
	c, err := dialValues(addr, 5*time.Minute)
	if err != nil {
		return err
	}
	defer c.close()
	// The end of one way is the end of both, so that neither waits in vain.
	either := func(err error) error {
		if err != nil {
			c.close()
		}
		return err
	}
	sending := make(chan error, 1)
	go func() {
		sending <- either(func() error {
			if err := c.sendSet(key, size, &pattern{block: block}); err != nil {
				return err
			}
			if err := c.sendGet(key); err != nil {
				return err
			}
			return c.sendSet(key, size, io.TeeReader(&pattern{block: block}, &halfway{io.Discard, size / 2, middle}))
		}())
	}()
	err = either(func() error {
		if err := c.take("+OK\r\n"); err != nil {
			return err
		}
		if err := c.takeValue(size, &halfway{&pattern{block: block}, size / 2, middle}); err != nil {
			return err
		}
		return c.take("+OK\r\n")
	}())
	return errors.Join(err, <-sending)
}

// halfway passes on what is written to it, and calls stop once, behind left bytes of it.
type halfway struct {
	to   io.Writer
	left int
	stop func() error
}

func (h *halfway) Write(b []byte) (int, error) {
	n, err := h.to.Write(b)
	before := h.left
	h.left -= n
	if err == nil && before > 0 && h.left <= 0 {
		err = h.stop()
	}
	return n, err
}

// TestMemoryOfTheLargestValue sends the largest value that a server takes by default and
// gets it back: the proxy passes it on in pieces, each way.
func TestMemoryOfTheLargestValue(t *testing.T) {
	if testing.Short() {
		t.Skip("the server needs a gigabyte")
	}
	const size = 512 << 20
	eachUpstream(t, func(t *testing.T, mode string) {
		c := proxyOnly(t, mode)
		before := c.memory("VmHWM")
		client, err := dialValues(c.addr, 5*time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer client.close()
		body := rand.NewChaCha8([32]byte{1})
		sent, got := sha256.New(), sha256.New()
		for _, step := range []func() error{
			func() error { return client.sendSet("largest", size, io.TeeReader(body, sent)) },
			func() error { return client.take("+OK\r\n") },
			func() error { return client.sendGet("largest") },
			func() error { return client.takeValue(size, got) },
		} {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
			t.Error("what came back is not what was sent")
		}
		peak := c.memory("VmHWM")
		t.Logf("a value of %d MB: %d MB at most, %d MB before it", size>>20, peak/1e6, before/1e6)
		if peak > 100e6 {
			t.Errorf("a value of %d MB takes %d bytes, %d before it", size>>20, peak, before)
		}
	})
}
