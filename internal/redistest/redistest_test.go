package redistest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/internal/redistest"
)

// childEnv makes the test binary start a server and wait to be killed.
const childEnv = "REDISTEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		child(dir)
		return
	}
	redistest.SilenceClients()
	// go-redis tries a node that is gone once a second, up to a second longer than its client lives.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

func child(dir string) {
	s, err := redistest.Launch(context.Background(), redistest.Config{Dir: dir})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	fmt.Println(s.Addr())
	select {}
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

func TestServerTakesItsOptions(t *testing.T) {
	s := redistest.Start(t,
		redistest.WithDatabases(5), redistest.WithPassword(`pass "word\`),
		redistest.WithACL("app on >secret ~* &* +@all"),
		redistest.WithConfig("maxmemory", "7mb"), redistest.WithRenamed("CONFIG", "SETTINGS"),
		redistest.WithUnixSocket())
	c := s.Client(4)
	if err := c.Set(ctx(t), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Client(5).Ping(ctx(t)).Err(); err == nil {
		t.Error("database 5 of 5 can be selected")
	}
	if got := c.Do(ctx(t), "SETTINGS", "GET", "maxmemory").String(); !strings.Contains(got, "7340032") {
		t.Errorf("maxmemory: %s", got)
	}
	if err := c.Do(ctx(t), "CONFIG", "GET", "maxmemory").Err(); err == nil {
		t.Error("CONFIG still has its name")
	}
	if who, err := s.ClientAs("app", "secret", 0).Do(ctx(t), "ACL", "WHOAMI").Text(); err != nil || who != "app" {
		t.Errorf("ACL user: %q, %v", who, err)
	}
	o, err := redis.ParseURL(s.URL(4))
	if err != nil {
		t.Fatal(err)
	}
	u := redis.NewClient(o)
	defer func() { _ = u.Close() }()
	if got := u.Get(ctx(t), "k").Val(); got != "v" {
		t.Errorf("by URL: %q", got)
	}
	unix := redis.NewClient(&redis.Options{Network: "unix", Addr: s.SocketPath(), Password: s.Password(), DB: 4})
	defer func() { _ = unix.Close() }()
	if got := unix.Get(ctx(t), "k").Val(); got != "v" {
		t.Errorf("by unix socket: %q", got)
	}
}

func TestRestartKeepsPortAndAppendOnlyData(t *testing.T) {
	s := redistest.Start(t, redistest.WithAOF())
	addr, c := s.Addr(), s.Client(0)
	if err := c.Set(ctx(t), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if s.Running() {
		t.Fatal("runs after Kill")
	}
	if err := s.Restart(ctx(t)); err != nil {
		t.Fatal(err)
	}
	if s.Addr() != addr {
		t.Errorf("restarted at %s, was at %s", s.Addr(), addr)
	}
	if got := s.Client(0).Get(ctx(t), "k").Val(); got != "v" {
		t.Errorf("after kill and restart: %q", got)
	}
	if err := s.Restart(ctx(t)); err != nil {
		t.Fatal(err)
	}
	if got := s.Client(0).Get(ctx(t), "k").Val(); got != "v" {
		t.Errorf("after restart: %q", got)
	}
}

func TestRestartWithoutPersistenceForgets(t *testing.T) {
	s := redistest.Start(t)
	if err := s.Client(0).Set(ctx(t), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(ctx(t)); err != nil {
		t.Fatal(err)
	}
	if n := s.Client(0).DBSize(ctx(t)).Val(); n != 0 {
		t.Errorf("%d keys after a restart", n)
	}
}

func TestStopAndCont(t *testing.T) {
	s := redistest.Start(t)
	c := s.Client(0)
	if err := c.Ping(ctx(t)).Err(); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Ping(short).Err(); err == nil {
		t.Error("a stopped server answers")
	}
	if err := s.Cont(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 5*time.Second, func() error { return c.Ping(ctx(t)).Err() }, "ping after Cont")
}

func TestLaunchErrors(t *testing.T) {
	if _, err := redistest.Launch(ctx(t), redistest.Config{Binary: "/nowhere/redis-server"}); !errors.Is(err, redistest.ErrNoBinary) {
		t.Errorf("missing binary: %v", err)
	}
	_, err := redistest.Launch(ctx(t), redistest.Config{Directives: [][]string{{"no-such-directive", "1"}}})
	if err == nil || !strings.Contains(err.Error(), "no-such-directive") {
		t.Errorf("wrong directive: %v", err)
	}
	if _, err := redistest.Launch(ctx(t), redistest.Config{Directives: [][]string{{"port", "1"}}}); err == nil {
		t.Error("the port may be overridden")
	}
}

func TestLaunchRemovesItsFolder(t *testing.T) {
	s, err := redistest.Launch(ctx(t), redistest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder is left: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestServerDiesWithItsParent(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var addr string
	_, scanErr := fmt.Fscanln(out, &addr)
	if scanErr == nil {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Errorf("the child's server: %v", err)
		} else {
			_ = c.Close()
		}
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as it should be
	if scanErr != nil {
		t.Fatalf("the child's address: %v", scanErr)
	}
	redistest.Eventually(t, 5*time.Second, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	}, "server at %s to die with its parent", addr)
}

// stub is a TB whose Fatalf is noted.
type stub struct {
	testing.TB
	fatal string
}

func (s *stub) Fatalf(format string, args ...any) { s.fatal = fmt.Sprintf(format, args...) }

func TestMissingServerSaysWhatToDo(t *testing.T) {
	t.Setenv("REDIS_SERVER", "/nowhere/redis-server")
	s := &stub{TB: t}
	redistest.Start(s)
	if !strings.Contains(s.fatal, "REDIS_SERVER") || !strings.Contains(s.fatal, "install") {
		t.Errorf("message: %s", s.fatal)
	}
}

func TestProgramsAreNamed(t *testing.T) {
	t.Setenv("CROSSFADE_SERVERS", "")
	if all, err := redistest.Programs(); err != nil || len(all) != 0 {
		t.Errorf("without the variable: %v, %v", all, err)
	}
	t.Setenv("CROSSFADE_SERVERS", " one=/bin/sh, two=sh ,")
	all, err := redistest.Programs()
	if err != nil || len(all) != 2 || all[0] != (redistest.Program{Name: "one", Path: "/bin/sh"}) || all[1].Name != "two" {
		t.Errorf("two: %v, %v", all, err)
	}
	for _, wrong := range []string{"/bin/sh", "=/bin/sh", "one=/nowhere/redis-server"} {
		t.Setenv("CROSSFADE_SERVERS", wrong)
		if _, err := redistest.Programs(); err == nil || !strings.Contains(err.Error(), "CROSSFADE_SERVERS") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

func TestEventuallyGivesUp(t *testing.T) {
	s := &stub{TB: t}
	redistest.Eventually(s, 10*time.Millisecond, func() error { return errors.New("reason") }, "thing %d", 7)
	if !strings.Contains(s.fatal, "thing 7: reason") {
		t.Errorf("message: %s", s.fatal)
	}
}
