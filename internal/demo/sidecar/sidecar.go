// Package sidecar runs `crossfade run` as a process of its own, for the demo and the benchmark.
// It owns the process, its log and its admin socket, all in a folder that the caller gives.
// It never outlives this process and never configures anything that a user could not.
package sidecar

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
)

// Config says what to run.
type Config struct {
	Binary         string // of crossfade
	Dir            string // for state file and admin socket; keep its path short, a socket's has 107 bytes
	Source, Target string // URLs
	Map            string // as --map takes it
	Args           []string
	Listen         string        // where clients connect; default 127.0.0.1, at a port that is free
	StartWait      time.Duration // until clients are served; default 20 s
}

// Process is a running sidecar. Its methods are safe for concurrent use.
type Process struct {
	door   *admin.Client
	pid    int
	socket string
	ready  chan string   // the address for clients, once
	done   chan struct{} // closed when the process has ended and its log is read
	err    error         // how it ended; to be read after done is closed
	addr   string

	mu  sync.Mutex
	log []string // the last lines
}

// Start runs a sidecar and returns once it serves clients. The context bounds
// the start only; the caller ends the process with Stop.
func Start(ctx context.Context, c Config) (*Process, error) {
	socket := filepath.Join(c.Dir, "admin.sock")
	door, err := admin.NewClient(config.Admin{Address: "unix:" + socket})
	if err != nil {
		return nil, fmt.Errorf("start the sidecar: %w", err)
	}
	p := &Process{door: door, socket: socket, ready: make(chan string, 1), done: make(chan struct{})}
	args := append([]string{
		"run", "--listen", cmp.Or(c.Listen, "127.0.0.1:0"), "--source", c.Source, "--target", c.Target, "--map", c.Map,
		"--admin", "unix:" + socket, "--state", filepath.Join(c.Dir, "state"), "--log.format", "json",
	}, c.Args...)
	if err := p.spawn(c.Binary, args); err != nil {
		return nil, err
	}
	if c.StartWait == 0 {
		c.StartWait = 20 * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.StartWait, fmt.Errorf("it does not serve clients after %v", c.StartWait))
	defer cancel()
	select {
	case p.addr = <-p.ready:
		if _, _, err = net.SplitHostPort(p.addr); err == nil {
			return p, nil
		}
	case <-p.done:
		err = fmt.Errorf("it ended: %w", p.err)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	_ = p.Stop(context.WithoutCancel(ctx))
	return nil, fmt.Errorf("start the sidecar: %w; its last words:\n%s", err, p.LogTail())
}

// spawn starts the process, which gets SIGKILL when this one dies. That signal is
// tied to the thread that started the child, so the thread is kept until the end.
func (p *Process) spawn(binary string, args []string) error {
	started := make(chan error, 1)
	go func() {
		defer close(p.done)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := exec.Command(binary, args...)
		cmd.Env = withoutOurs(os.Environ())
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Pdeathsig: syscall.SIGKILL,
			Setpgid:   true, // Ctrl-C is for this process, which then stops the child in order
		}
		stderr, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			p.err = err
			started <- fmt.Errorf("start %s: %w", binary, err)
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.listen(stderr)
		p.err = cmd.Wait()
	}()
	err := <-started
	if err != nil {
		<-p.done
	}
	return err
}

// withoutOurs takes the settings of the environment away: they are the user's own
// sidecar's.
func withoutOurs(environ []string) []string {
	var out []string
	for _, e := range environ {
		if !strings.HasPrefix(e, "CROSSFADE_") {
			out = append(out, e)
		}
	}
	return out
}

// listen keeps the last lines of the log and finds the address in it.
func (p *Process) listen(log io.Reader) {
	const most = 200
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	told := false
	for lines.Scan() {
		var line struct{ Msg, Listen string }
		if !told && json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving clients" {
			told = true
			p.ready <- line.Listen
		}
		p.mu.Lock()
		p.log = append(p.log, lines.Text())
		p.log = p.log[max(0, len(p.log)-most):]
		p.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, log) // after a line that is too long: it must not block
}

// Addr is where clients connect.
func (p *Process) Addr() string { return p.addr }

// Pid is the process id.
func (p *Process) Pid() int { return p.pid }

// Socket is the path of its admin socket.
func (p *Process) Socket() string { return p.socket }

// Admin is the way to its verbs. Stop closes it.
func (p *Process) Admin() *admin.Client { return p.door }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// LogTail returns the last lines of its log.
func (p *Process) LogTail() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.log[max(0, len(p.log)-25):], "\n")
}

// Stop ends the process in order, and with SIGKILL when it takes longer than
// 15 s or ctx. It returns when the process is gone; the error says that it did
// not end as it should.
func (p *Process) Stop(ctx context.Context) error {
	defer p.door.Close()
	_ = p.signal(syscall.SIGTERM)
	t := time.NewTimer(15 * time.Second)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
	case <-ctx.Done():
	}
	killed := p.signal(syscall.SIGKILL) == nil
	<-p.done
	if killed {
		return errors.New("the sidecar did not stop when asked to, and was killed")
	}
	var exit *exec.ExitError
	const afterTerm = 128 + int(syscall.SIGTERM)
	if p.err == nil || errors.As(p.err, &exit) && exit.ExitCode() == afterTerm {
		return nil
	}
	return fmt.Errorf("the sidecar: %w", p.err)
}

// signal sends sig, unless the process has ended and its pid may be another's.
func (p *Process) signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return os.ErrProcessDone
	default:
		return syscall.Kill(p.pid, sig)
	}
}
