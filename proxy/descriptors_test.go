package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"golang.org/x/sys/unix"
)

const (
	descriptorsChild = "CROSSFADE_TEST_DESCRIPTORS" // server's address and the mode
	descriptors      = 64
)

// TestDescriptorsChild is the proxy of TestDescriptorsExhausted, in a process of
// its own with few descriptors. It serves until its input ends.
func TestDescriptorsChild(t *testing.T) {
	addr, mode, ok := strings.Cut(os.Getenv(descriptorsChild), " ")
	if !ok {
		t.Skip("it is started by TestDescriptorsExhausted")
	}
	limit := unix.Rlimit{Cur: descriptors, Max: descriptors}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	up := Upstream{Dial: newDialer(addr)}
	cfg := Config{Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0"}}, Shared: mode == "shared", Upstreams: [2]Upstream{up, up}}
	p, err := New(cfg, router.NewGate(router.Route{Map: router.Identity(16)}), &heard{}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	fmt.Printf("listening on %s\n", p.Addr())
	if err := p.Serve(ctx); err != nil {
		t.Fatal(err)
	}
}

// lockedBuffer takes what a process writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// TestDescriptorsExhausted opens more connections than the proxy may have: those
// that are served go on, nothing spins, and new ones are served when there are
// descriptors again.
func TestDescriptorsExhausted(t *testing.T) {
	inBothModes(t)
	for _, mode := range []string{"shared", "pinned"} {
		t.Run(mode, func(t *testing.T) {
			server := redistest.Start(t)
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestDescriptorsChild$")
			cmd.Env = append(os.Environ(), descriptorsChild+"="+server.Addr()+" "+mode)
			log := &lockedBuffer{}
			cmd.Stderr = log
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stdout)
			var addr string
			for addr == "" && lines.Scan() {
				addr, _ = strings.CutPrefix(lines.Text(), "listening on ")
			}
			go func() { _, _ = io.Copy(io.Discard, stdout) }()
			defer func() {
				_ = stdin.Close()
				if err := cmd.Wait(); err != nil {
					t.Errorf("the proxy: %v", err)
				}
			}()

			first := dialRaw(t, addr)
			first.want("SET k v", "+OK\r\n")
			second := dialRaw(t, addr) // has a connection of its own, and will give it back
			second.want("MULTI", "+OK\r\n")
			second.want("EXEC", "*0\r\n")
			var crowd []net.Conn
			for range 2 * descriptors {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				crowd = append(crowd, c)
				_, _ = c.Write(words("PING"))
			}
			// It is accept that fails, or dialling for one that was accepted.
			until(t, "descriptors run out", func() bool { return log.count("too many open files") > 0 })
			// A loop that spins fails thousands of times meanwhile.
			from := log.count("cannot be accepted")
			for begin := time.Now(); time.Since(begin) < time.Second; {
				first.want("GET k", "$1\r\nv\r\n")
			}
			if n := log.count("cannot be accepted") - from; n > 200 {
				t.Errorf("it tried to accept %d times in a second", n)
			}
			second.want("GET k", "$1\r\nv\r\n")
			for _, c := range crowd {
				_ = c.Close()
			}
			// Those that still stand in the queue are served or turned away first.
			late := bytes.Join([][]byte{words("GET", "k"), words("MULTI"), words("GET", "k"), words("EXEC"), echoMarker()}, nil)
			until(t, "new clients are served", func() bool {
				return strings.HasPrefix(answers(t, addr, late, len(late)), "$1\r\nv\r\n+OK\r\n+QUEUED\r\n*1\r\n$1\r\nv\r\n")
			})
			first.want("GET k", "$1\r\nv\r\n")
			first.close()
		})
	}
}
