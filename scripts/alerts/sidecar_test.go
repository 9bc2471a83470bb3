package alerts

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// binary is the program, built once with failpoints.
var binary string

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "crossfade-alerts")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "crossfade")
	build := exec.Command("go", "build", "-tags", "failpoints", "-o", binary, "./cmd/crossfade")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// sidecar is a running one between two servers, and what watches it.
type sidecar struct {
	*watcher
	src, dst *redistest.Server
	addr     string // for clients
	door     *admin.Client
	dir      string
	args     []string
	process  *os.Process
	exited   chan struct{}
}

// newSidecar makes one that is not started; what watches it begins at once.
func newSidecar(t *testing.T, src, dst *redistest.Server, extra ...string) *sidecar {
	t.Helper()
	s := &sidecar{src: src, dst: dst, addr: freeAddr(t), dir: t.TempDir()}
	at := freeAddr(t)
	s.args = append([]string{"run", "--listen", s.addr, "--source", src.URL(0), "--target", dst.URL(0), "--admin", at, "--state", filepath.Join(s.dir, "state"),
		"--sync.heartbeat", "200ms", "--proxy.dial_timeout", "1s", "--verify.interval", "1s"}, extra...)
	var err error
	if s.door, err = admin.NewClient(config.Admin{Address: at}); err != nil {
		t.Fatal(err)
	}
	s.watcher = &watcher{t: t, address: at}
	t.Cleanup(func() {
		s.end(syscall.SIGKILL)
		s.door.Close()
		if t.Failed() {
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			lines := strings.Split(string(text), "\n")
			t.Logf("the log ends:\n%s", strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	})
	return s
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// start starts the process and does not wait for it.
func (s *sidecar) start(failpoints ...string) {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(binary, s.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), "CROSSFADE_FAILPOINT="+strings.Join(failpoints, ","))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, exited := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // Pdeathsig is the thread's, not the process's
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
		close(exited)
	}()
	if err := <-started; err != nil {
		s.t.Fatal(err)
	}
	s.process, s.exited = cmd.Process, exited
	if s.memory == nil {
		s.watcher = watchAlerts(s.t, s.address)
	}
}

// end ends the process, if it runs.
func (s *sidecar) end(how syscall.Signal) {
	if s.process == nil {
		return
	}
	_ = s.process.Signal(how)
	<-s.exited
	s.process = nil
}

func (s *sidecar) awaitReady() {
	s.t.Helper()
	s.awaits("ready", func(st migration.Status) bool { return st.Ready })
}

func (s *sidecar) awaits(what string, is func(migration.Status) bool) {
	s.t.Helper()
	redistest.Eventually(s.t, 60*time.Second, func() error {
		ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
		defer cancel()
		st, err := s.door.Status(ctx)
		if err == nil && !is(st) {
			err = fmt.Errorf("phase %s, ready %v, reasons %q", st.Phase, st.Ready, st.Reasons)
		}
		return err
	}, "%s", what)
}

// client is one of the proxy's, or of a server's at an address, that asks once.
func client(t *testing.T, address string) *redis.Client {
	t.Helper()
	o := redistest.Options(address, 0)
	o.PoolSize, o.MaxRetries = 1, -1
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// keeps does something again and again, whatever comes of it, until the end is called.
func keeps(t *testing.T, do func(ctx context.Context) error) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_ = do(ctx)
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	end = func() {
		cancel()
		<-ended
	}
	t.Cleanup(end)
	return end
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// taken waits for what a verb in the background has answered.
func taken(t *testing.T, answer <-chan error) error {
	t.Helper()
	select {
	case err := <-answer:
		return err
	case <-time.After(time.Minute):
		t.Fatal("the verb does not answer")
		return errors.New("never")
	}
}
