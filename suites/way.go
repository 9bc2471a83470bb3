package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/demo/sidecar"
	"github.com/crossfade/crossfade/internal/redistest"
)

// way is how a suite reaches its server: directly, or through a sidecar in some
// mode. Each has servers of its own, in a folder of its own.
type way struct {
	crossfade, mode, dir string
	addr                 string // of the first server, as clients see it
	again                bool   // not all tests are run

	servers  []*redistest.Server
	sidecars []*sidecar.Process
}

// identity maps every database to the same one: suites select what they like.
const identity = "0=0,1=1,2=2,3=3,4=4,5=5,6=6,7=7,8=8,9=9,10=10,11=11,12=12,13=13,14=14,15=15"

// start starts the server that the suite talks to.
func (w *way) start(ctx context.Context, port int) (err error) {
	w.addr, err = w.serve(ctx, redistest.Config{Port: port})
	return err
}

// serve starts one more server, and a sidecar before it where there is a proxy.
// It returns where clients connect.
func (w *way) serve(ctx context.Context, c redistest.Config) (string, error) {
	port := c.Port
	if w.mode != "" {
		c.Port = 0
	}
	c.Directives = append(c.Directives, []string{"enable-debug-command", "yes"})
	source, err := w.server(ctx, c)
	if err != nil {
		return "", err
	}
	if w.mode == "" {
		return source.Addr(), nil
	}
	target, err := w.server(ctx, redistest.Config{})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(w.dir, strconv.Itoa(len(w.sidecars)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	s, err := sidecar.Start(ctx, sidecar.Config{
		Binary: w.crossfade, Dir: dir, Source: source.URL(0), Target: target.URL(0), Map: identity,
		Listen: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Args:   []string{"--proxy.upstream", w.mode},
	})
	if err != nil {
		return "", err
	}
	w.sidecars = append(w.sidecars, s)
	if err := live(ctx, s); err != nil {
		return "", err
	}
	// What a suite does to its server no copy could follow; what is left is the proxy.
	if _, err := s.Admin().Complete(ctx, admin.CompleteRequest{StayOnSource: true}); err != nil {
		return "", fmt.Errorf("ending the copy: %w", err)
	}
	return s.Addr(), nil
}

func (w *way) server(ctx context.Context, c redistest.Config) (*redistest.Server, error) {
	s, err := redistest.Launch(ctx, c)
	if err != nil {
		return nil, err
	}
	w.servers = append(w.servers, s)
	return s, nil
}

// live waits until the copy is live: before, it cannot be ended.
func live(ctx context.Context, s *sidecar.Process) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := s.Admin().Status(ctx)
		if err != nil || st.Ready {
			return err
		}
		select {
		case <-tick.C:
		case <-s.Done():
			return fmt.Errorf("the sidecar has ended:\n%s", s.LogTail())
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (w *way) hostPort() (host, port string) {
	host, port, _ = net.SplitHostPort(w.addr)
	return host, port
}

// close ends all. A sidecar that has ended by itself is an error.
func (w *way) close(ctx context.Context) error {
	var errs []error
	for _, s := range w.sidecars {
		select {
		case <-s.Done():
			errs = append(errs, fmt.Errorf("a sidecar has ended by itself:\n%s", s.LogTail()))
		default:
		}
		errs = append(errs, s.Stop(ctx))
	}
	for _, s := range w.servers {
		errs = append(errs, s.Close())
	}
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}

// command runs a program in dir, keeps its output in a file where log names one,
// and ends all that it started when ctx does. Variables of env go before the user's.
func command(ctx context.Context, dir, log string, env map[string]string, name string, args ...string) ([]byte, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = os.Environ()
	for _, k := range slices.Sorted(maps.Keys(env)) {
		cmd.Env = append(cmd.Env, k+"="+env[k])
	}
	cmd.Stdout = &out
	if log != "" {
		file, err := os.Create(log)
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }()
		cmd.Stdout = io.MultiWriter(&out, file)
	}
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return out.Bytes(), err
}

// logOf names the file that keeps the output of a run.
func (w *way) logOf(dir string) string {
	mode := w.mode
	if mode == "" {
		mode = "direct"
	}
	if w.again {
		mode += ".again"
	}
	return dir + "." + mode + ".log"
}

// ran tells a suite that ran, whatever its tests did, from one that did not.
func ran(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return nil
	}
	return err
}
