package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// TestStopUnderLoad stops the program with SIGTERM while pipelines run, clients
// block and listen: what was answered has run, what has run was answered.
func TestStopUnderLoad(t *testing.T) {
	for _, mode := range []string{"shared", "pinned"} {
		t.Run(mode, func(t *testing.T) {
			src, dst := redistest.Start(t), redistest.Start(t)
			c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), extra: []string{"--proxy.upstream", mode}})
			c.start("")
			c.awaitReady()
			const writers = 8
			var answered [writers]int
			var wg, others sync.WaitGroup
			begun := make(chan struct{}, writers)
			for i := range writers {
				conn := dial(t, c.addr)
				one := []byte(fmt.Sprintf("INCR writer%d\r\n", i))
				go func() { // writes on until the connection ends
					for {
						if _, err := conn.Write(bytes.Repeat(one, 1<<i)); err != nil {
							return
						}
					}
				}()
				wg.Go(func() {
					in := bufio.NewReader(conn)
					for {
						line, err := in.ReadString('\n')
						if err != nil {
							return
						}
						answered[i]++
						if line != fmt.Sprintf(":%d\r\n", answered[i]) {
							t.Errorf("writer %d: reply %d is %q", i, answered[i], line)
							return
						}
						if answered[i] == 200 {
							begun <- struct{}{}
						}
					}
				})
			}
			for _, line := range []string{"BLPOP nothing 0", "SUBSCRIBE nothing", "MULTI", "MONITOR", "PING"} {
				conn := dial(t, c.addr)
				_, _ = conn.Write([]byte(line + "\r\n"))
				others.Go(func() { _, _ = io.Copy(io.Discard, conn) })
			}
			for range writers {
				<-begun
			}
			if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			_ = c.awaitExit(30 * time.Second)
			if code := c.cmd.ProcessState.ExitCode(); code != 143 {
				t.Errorf("exit status %d", code)
			}
			wg.Wait()
			others.Wait()
			for i, n := range answered {
				if got, err := src.Client(0).Get(t.Context(), fmt.Sprintf("writer%d", i)).Int(); err != nil || got != n {
					t.Errorf("writer %d: %d were answered, %d have run (%v)", i, n, got, err)
				}
			}
		})
	}
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// TestTenThousandAtOnce has ten thousand clients connect at the same time.
func TestTenThousandAtOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("ten thousand connections")
	}
	const n = 10_000
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil || files.Cur < n+500 {
		t.Skipf("only %d descriptors (ulimit -n)", files.Cur)
	}
	src, dst := redistest.Start(t), redistest.Start(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), extra: []string{"--proxy.max_clients", fmt.Sprint(n)}})
	c.start("")
	c.awaitReady()
	conns := make([]net.Conn, n)
	errs := make([]error, n)
	ask := func(i int) error {
		if _, err := fmt.Fprintf(conns[i], "ECHO %d\r\n", i); err != nil {
			return err
		}
		want := fmt.Sprintf("$%d\r\n%d\r\n", len(fmt.Sprint(i)), i)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(conns[i], got); err != nil {
			return err
		}
		if string(got) != want {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if conns[i], errs[i] = net.DialTimeout("tcp", c.addr, time.Minute); errs[i] == nil {
				_ = conns[i].SetDeadline(time.Now().Add(time.Minute))
				errs[i] = ask(i)
			}
		})
	}
	wg.Wait()
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				_ = conn.Close()
			}
		}
	}()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("client %d: %v", i, err)
		}
	}
	t.Logf("%d clients were served in %v; the program holds %s", n, time.Since(begin), resident(t, c.cmd.Process.Pid))
	late := dial(t, c.addr)
	text, _ := io.ReadAll(late)
	if string(text) != "-ERR max number of clients reached\r\n" {
		t.Errorf("one more was told %q", text)
	}
	if _, err := c.cutover(); err != nil {
		t.Error(err)
	}
	c.await("on the target", func(s migration.Status) bool { return s.Side.String() == "target" })
	for i := range n {
		if err := ask(i); err != nil {
			t.Fatalf("client %d after the switch: %v", i, err)
		}
	}
}

// resident returns the VmRSS line of a process.
func resident(t *testing.T, pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, is := strings.CutPrefix(line, "VmRSS:"); is {
			return strings.TrimSpace(rest)
		}
	}
	return "?"
}
