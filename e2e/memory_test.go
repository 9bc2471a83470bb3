package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
)

// proxyOnly starts a sidecar whose copy is over, so that what it uses is the
// proxy's.
func proxyOnly(t *testing.T, extra ...string) *sidecar {
	t.Helper()
	if raceDetector {
		t.Skip("the race detector's memory is not the program's")
	}
	source, target := redistest.Start(t), redistest.Start(t)
	c := newSidecar(t, setup{source: source.URL(0), target: target.URL(0), dbmap: "0=0", extra: extra})
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

// TestMemoryOfIdleClients has as many idle clients as the descriptors allow, each
// of which has said something before.
func TestMemoryOfIdleClients(t *testing.T) {
	const wanted = 10_000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max < wanted+1000 {
		t.Skipf("%d descriptors are too few", limit.Max)
	}
	c := proxyOnly(t, "--proxy.max_clients", "11000")
	before := c.memory("VmRSS")
	conns := make([]net.Conn, 0, wanted)
	defer func() {
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	hello := []byte("*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1\r\n$4\r\nPING\r\n")
	want := "$-1\r\n+PONG\r\n"
	for i := range wanted {
		conn, err := net.Dial("tcp", c.addr)
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		conns = append(conns, conn)
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := conn.Write(hello); err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
			t.Fatalf("client %d: %q %v", i, got, err)
		}
	}
	rss := c.memory("VmRSS")
	t.Logf("%d idle clients: %d MB, %d MB before them", wanted, rss>>20, before>>20)
	if rss > 100e6 {
		t.Errorf("%d idle clients take %d bytes, %d before them", wanted, rss, before)
	}
}

// TestMemoryOfLargeValues has many clients send and receive large values at once.
func TestMemoryOfLargeValues(t *testing.T) {
	clients, size := 64, 64<<20
	if testing.Short() {
		clients, size = 16, 32<<20
	}
	c := proxyOnly(t)
	block := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			if err := largeValue(c.addr, fmt.Sprintf("large%d", i%8), block, size); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	peak := c.memory("VmHWM")
	t.Logf("%d clients with values of %d MB: %d MB at most", clients, size>>20, peak>>20)
	if peak > 300e6 {
		t.Errorf("%d clients with values of %d MB take %d bytes", clients, size>>20, peak)
	}
}

// largeValue sends a value made of block, reads it back twice and compares it. The
// first time it reads while it still writes.
func largeValue(addr, key string, block []byte, size int) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(3 * time.Minute))
	in := bufio.NewReaderSize(conn, 64<<10)
	if _, err := fmt.Fprintf(conn, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n", len(key), key, size); err != nil {
		return err
	}
	for sent := 0; sent < size; sent += len(block) {
		if _, err := conn.Write(block); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
	if _, err := fmt.Fprintf(conn, "\r\n*2\r\n$3\r\nGET\r\n$%d\r\n%[2]s\r\n*2\r\n$3\r\nGET\r\n$%[1]d\r\n%[2]s\r\n", len(key), key); err != nil {
		return err
	}
	head := fmt.Sprintf("$%d\r\n", size)
	got := make([]byte, len(block))
	for _, want := range []string{"+OK\r\n", head, head} {
		if _, err := io.ReadFull(in, got[:len(want)]); err != nil || string(got[:len(want)]) != want {
			return fmt.Errorf("instead of %q: %q %w", want, got[:len(want)], err)
		}
		if want[0] == '+' {
			continue
		}
		for read := 0; read < size; read += len(block) {
			if _, err := io.ReadFull(in, got); err != nil {
				return fmt.Errorf("receiving: %w", err)
			}
			if !bytes.Equal(got, block) {
				return fmt.Errorf("the bytes from %d on differ", read)
			}
		}
		if _, err := io.ReadFull(in, got[:2]); err != nil || string(got[:2]) != "\r\n" {
			return fmt.Errorf("the value has no end: %q %w", got[:2], err)
		}
	}
	return nil
}
