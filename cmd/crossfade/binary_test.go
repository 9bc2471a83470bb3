package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// binary is the program under test, built once.
var binary string

var buildFlags = []string{"build", "-ldflags", "-X main.version=v9.9.9-test"}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "crossfade-test-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "crossfade")
	build := exec.Command("go", append(buildFlags, "-o", binary, ".")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// result is what a finished command left behind.
type result struct {
	code           int
	stdout, stderr string
}

// command prepares the program in a folder of its own, with nothing of ours in the
// environment but env.
func command(ctx context.Context, dir string, env []string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	return cmd
}

// call runs the program to its end.
func call(t *testing.T, dir string, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := command(ctx, dir, env, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("crossfade %v: %v", args, err)
	}
	if ctx.Err() != nil {
		t.Fatalf("crossfade %v did not end; it wrote:\n%s%s", args, out.String(), errs.String())
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// must runs the program and wants an exit status.
func must(t *testing.T, dir string, code int, args ...string) result {
	t.Helper()
	r := call(t, dir, nil, args...)
	if r.code != code {
		t.Fatalf("crossfade %v: exit status %d, want %d\n%s%s", args, r.code, code, r.stdout, r.stderr)
	}
	return r
}

// buffer is a bytes.Buffer that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// running is the program while it runs.
type running struct {
	*exec.Cmd
	dir         string
	out, stderr buffer
	ended       chan struct{}
}

// launch starts the program and kills it at the end of the test if it still runs.
func launch(t *testing.T, dir string, args ...string) *running {
	t.Helper()
	return launchWith(t, dir, nil, args...)
}

func launchWith(t *testing.T, dir string, env []string, args ...string) *running {
	t.Helper()
	return begin(t, dir, command(context.Background(), dir, env, args...))
}

// begin starts a command that is the program.
func begin(t *testing.T, dir string, cmd *exec.Cmd) *running {
	t.Helper()
	r := &running{Cmd: cmd, dir: dir, ended: make(chan struct{})}
	r.Stdout, r.Stderr = &r.out, &r.stderr
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		_ = r.Wait()
	}()
	t.Cleanup(func() {
		_ = r.Process.Kill()
		<-r.ended
		if t.Failed() {
			t.Logf("%v wrote:\n%s%s", cmd.Args, r.out.String(), r.stderr.String())
		}
	})
	return r
}

// stop sends a signal and returns the exit status.
func (r *running) stop(t *testing.T, s syscall.Signal) int {
	t.Helper()
	if err := r.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.ended:
	case <-time.After(20 * time.Second):
		t.Fatalf("still running after %v", s)
	}
	return r.ProcessState.ExitCode()
}

// sidecar starts `crossfade run` between two servers and waits until it serves. It
// uses the default places for the state and the socket, in a folder with a short name.
func startSidecar(t *testing.T, source, target *redistest.Server, args ...string) *running {
	t.Helper()
	return startIn(t, shortDir(t), source, target, args...)
}

func startIn(t *testing.T, dir string, source, target *redistest.Server, args ...string) *running {
	t.Helper()
	r := launch(t, dir, append([]string{"run", "--listen", "unix:clients.sock", "--source", url(source), "--target", url(target),
		"--sync.heartbeat", "100ms", "--log.status_interval", "100ms"}, args...)...)
	r.serves(t)
	return r
}

// serves waits until clients are served.
func (r *running) serves(t *testing.T) {
	t.Helper()
	redistest.Eventually(t, 15*time.Second, func() error {
		select {
		case <-r.ended:
			return fmt.Errorf("it ended: %s", r.stderr.String())
		default:
		}
		if !strings.Contains(r.stderr.String(), `"serving clients"`) {
			return errors.New("it does not serve yet")
		}
		return nil
	}, "starting crossfade")
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// url is a server's URL without a database, which crossfade does not take.
func url(s *redistest.Server) string { return strings.TrimSuffix(s.URL(0), "/0") }

func (r *running) status(t *testing.T) migration.Status {
	t.Helper()
	var st migration.Status
	out := must(t, r.dir, 0, "status", "--json")
	if err := json.Unmarshal([]byte(out.stdout), &st); err != nil {
		t.Fatalf("status --json: %v in %s", err, out.stdout)
	}
	return st
}

// awaitReady waits until a switch could be made.
func (r *running) awaitReady(t *testing.T) {
	t.Helper()
	redistest.Eventually(t, 15*time.Second, func() error {
		if st := r.status(t); !st.Ready || st.Phase == migration.Copying {
			return fmt.Errorf("%s: %v", st.Phase, st.Reasons)
		}
		return nil
	}, "becoming ready")
}
