// Package e2e runs the real binary between real servers and tries to lose a write.
// It owns the sidecar processes that it starts, and how they are killed and started again.
// It never looks inside the program but for its failpoints.
package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
)

// binary is the program, built once with failpoints.
var binary string

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "crossfade-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "crossfade")
	args := []string{"build", "-tags", "failpoints", "-o", binary}
	if raceDetector {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "../cmd/crossfade")...)
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// sidecar is one crossfade process that can be killed and started again with
// the same addresses and the same state file.
type sidecar struct {
	tb     testing.TB
	addr   string // for clients
	admin  *admin.Client
	args   []string
	state  string
	logs   string
	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan error
}

// setup says how a sidecar is started.
type setup struct {
	source, target string // URLs
	dbmap          string
	failpoints     string
	extra          []string
}

func freeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func newSidecar(tb testing.TB, s setup) *sidecar {
	tb.Helper()
	dir := tb.TempDir()
	c := &sidecar{tb: tb, addr: freeAddr(tb), state: filepath.Join(dir, "state"), logs: filepath.Join(dir, "log")}
	// A socket path has little room (108 bytes), a test's folder may be long.
	sockets, err := os.MkdirTemp("", "cf")
	if err != nil {
		tb.Fatal(err)
	}
	socket := filepath.Join(sockets, "admin")
	c.args = append([]string{"run", "--source", s.source, "--target", s.target,
		"--admin", "unix:" + socket, "--state", c.state, "--sync.heartbeat", "200ms"}, s.extra...)
	if !slices.Contains(s.extra, "--sync-only") {
		c.args = append(c.args, "--listen", c.addr)
	}
	if s.dbmap != "" {
		c.args = append(c.args, "--map", s.dbmap)
	}
	if c.admin, err = admin.NewClient(config.Admin{Address: "unix:" + socket}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			c.dump()
		}
		c.kill()
		c.admin.Close()
		_ = os.RemoveAll(sockets)
		text, err := os.ReadFile(c.logs)
		if strings.Contains(string(text), "DATA RACE") {
			tb.Errorf("the race detector found something in the sidecar")
		}
		if tb.Failed() {
			if err == nil {
				tb.Logf("the sidecar's log ends:\n%s", tail(string(text), 400))
			}
		}
	})
	return c
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// start starts the process and does not wait for it.
func (c *sidecar) start(failpoints string) {
	c.tb.Helper()
	log, err := os.OpenFile(c.logs, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.tb.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(binary, c.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(withoutServers(), "CROSSFADE_FAILPOINT="+failpoints)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	exited := make(chan error, 1)
	started := make(chan error)
	go func() {
		lockThread() // Pdeathsig is the thread's, not the process's
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		c.tb.Fatal(err)
	}
	c.mu.Lock()
	c.cmd, c.exited = cmd, exited
	c.mu.Unlock()
}

// withoutServers is the environment of the program, which takes no variable of its name
// that it does not know.
func withoutServers() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CROSSFADE_SERVERS=") })
}

// awaitExit waits until the process has ended by itself (or by a failpoint).
func (c *sidecar) awaitExit(timeout time.Duration) error {
	c.tb.Helper()
	select {
	case err := <-c.exited:
		c.exited <- err
		return err
	case <-time.After(timeout):
		c.tb.Fatalf("the sidecar is still running after %v", timeout)
		return nil
	}
}

// signal sends the process a signal.
func (c *sidecar) signal(sig syscall.Signal) {
	c.tb.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.cmd.Process.Signal(sig); err != nil {
		c.tb.Fatal(err)
	}
}

// stopped reports, with an error, that the process was not stopped by a signal (yet).
func (c *sidecar) stopped() error {
	c.mu.Lock()
	pid := c.cmd.Process.Pid
	c.mu.Unlock()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return err
	}
	// The state follows the name, which is in brackets.
	_, state, _ := strings.Cut(string(text), ") ")
	if !strings.HasPrefix(state, "T") {
		return fmt.Errorf("the process is in state %.1s", state)
	}
	return nil
}

func (c *sidecar) running() bool {
	select {
	case err := <-c.exited:
		c.exited <- err
		return false
	default:
		return true
	}
}

// kill ends the process with SIGKILL, if it runs.
func (c *sidecar) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil {
		return
	}
	_ = c.cmd.Process.Kill()
	err := <-c.exited
	c.exited <- err
}

// dump makes a running process write its stacks to its log and end: a test that
// failed may have found it hanging.
func (c *sidecar) dump() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cmd == nil || !c.running() {
		return
	}
	_ = c.cmd.Process.Signal(syscall.SIGQUIT)
	select {
	case err := <-c.exited:
		c.exited <- err
	case <-time.After(5 * time.Second):
	}
}

func (c *sidecar) status() (migration.Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return c.admin.Status(ctx)
}

// await waits for a status.
func (c *sidecar) await(what string, cond func(migration.Status) bool) migration.Status {
	c.tb.Helper()
	var last migration.Status
	redistest.Eventually(c.tb, 60*time.Second, func() error {
		s, err := c.status()
		if err != nil {
			return err
		}
		last = s
		if !cond(s) {
			return fmt.Errorf("phase %s, side %s, ready %v, reasons %q, errors %+v", s.Phase, s.Side, s.Ready, s.Reasons, s.Errors)
		}
		return nil
	}, "%s", what)
	return last
}

func (c *sidecar) awaitReady() migration.Status {
	c.tb.Helper()
	return c.await("ready", func(s migration.Status) bool { return s.Ready })
}

func (c *sidecar) cutover() (migration.Report, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return c.admin.Cutover(ctx, admin.SwitchRequest{})
}

func (c *sidecar) rollback() (migration.Report, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return c.admin.Rollback(ctx, admin.SwitchRequest{})
}

// end waits until all that was changed until now is copied, and completes the migration, so
// that both servers can be read again.
func (c *sidecar) end(stayOnSource bool) {
	c.tb.Helper()
	c.awaitReady()
	began := time.Now()
	c.await("all of before is copied", func(s migration.Status) bool { // writers may go on
		return s.Dirty == 0 || s.OldestMS < float64(time.Since(began).Milliseconds())
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := c.admin.Complete(ctx, admin.CompleteRequest{StayOnSource: stayOnSource}); err != nil {
		c.tb.Fatal(err)
	}
}

func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

// load runs histories in the background.
type load struct {
	h    *history.History
	stop context.CancelFunc
	done chan error
}

func startLoad(tb testing.TB, c history.Config) *load {
	tb.Helper()
	l := &load{h: history.New(c), done: make(chan error, 1)}
	l.begin()
	tb.Cleanup(func() { _ = l.end() })
	return l
}

func (l *load) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	l.stop = cancel
	go func() { l.done <- l.h.Run(ctx) }()
}

// end stops the writers and waits until every operation is decided.
func (l *load) end() error {
	if l.stop == nil {
		return nil
	}
	l.stop()
	l.stop = nil
	if err := <-l.done; err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// mustHold verifies the history against a server and fails on any violation.
func (l *load) mustHold(tb testing.TB, addr string, mapDB func(int) int) history.Report {
	tb.Helper()
	if err := l.end(); err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	report, err := l.h.Verify(ctx, addr, history.Creds{}, mapDB)
	if err != nil {
		tb.Fatal(err)
	}
	if !report.OK() {
		tb.Fatalf("at %s: %s", addr, report)
	}
	return report
}

// mapping reads "0=0,3=5" as a function.
func mapping(text string) func(int) int {
	m := make(map[int]int)
	for pair := range strings.SplitSeq(text, ",") {
		s, t, _ := strings.Cut(pair, "=")
		a, _ := strconv.Atoi(s)
		b, _ := strconv.Atoi(t)
		m[a] = b
	}
	return func(db int) int { return m[db] }
}
