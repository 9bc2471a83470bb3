// Package redistest runs real Redis servers for tests and for the demo, with a TCP link that can delay, stall and cut.
// It owns the server processes, their folders and ports, and the clients it hands out; all of them end with Close.
// It never mocks Redis, never leaves the loopback interface and never signals a process that it did not start.
package redistest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// Server is a redis-server process on a loopback port. Port and folder stay
// the same over Kill and Restart. Its methods may be called from several
// goroutines, but those that change the process (Kill, Stop, Cont, Restart,
// Close) one at a time.
type Server struct {
	cfg     Config
	port    int
	socket  string
	tempDir string // removed by Close; "" when the folder is the caller's

	mu      sync.Mutex // guards what follows; never held over I/O
	proc    *process
	logFrom int64 // where the log of the present process begins
	clients []*redis.Client
	closed  bool
}

// errNotYet is what Eventually says of a condition that gives no reason.
var errNotYet = errors.New("still not so")

// errPortTaken is the one failure that another port cures.
var errPortTaken = errors.New("port is taken")

// Launch starts a server and returns once it answers. The context bounds the
// start only; the caller ends the server with Close. Should this process die
// first, of whatever, the server dies with it.
func Launch(ctx context.Context, cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("start redis-server: %w", err)
	}
	s := &Server{cfg: cfg}
	if cfg.Dir == "" || cfg.UnixSocket {
		// A socket's path may have 107 bytes only, which a test's own
		// folder easily exceeds: so it goes into a short one.
		if s.tempDir, err = os.MkdirTemp("", "redistest-"); err != nil {
			return nil, fmt.Errorf("start redis-server: %w", err)
		}
	}
	if cfg.Dir == "" {
		s.cfg.Dir = s.tempDir
	}
	if cfg.UnixSocket {
		s.socket = filepath.Join(s.tempDir, "redis.sock")
	}
	for range 10 {
		switch s.port = cfg.Port; {
		case s.port != 0:
		case cfg.bus:
			s.port, err = freePorts()
		default:
			s.port, err = freePort()
		}
		if err != nil {
			break
		}
		if err = s.start(ctx); !errors.Is(err, errPortTaken) || cfg.Port != 0 {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	cfg.Log.Debug("redis-server started", "addr", s.Addr(), "pid", s.Pid())
	return s, nil
}

// freePort asks the kernel for a port nobody listens on at the moment.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return port, nil
}

// start runs the process and waits until it answers.
func (s *Server) start(ctx context.Context) error {
	fail := func(err error) error { return fmt.Errorf("start redis-server at %s: %w", s.Addr(), err) }
	conf := filepath.Join(s.cfg.Dir, "redis.conf")
	if err := os.WriteFile(conf, []byte(s.cfg.file(s.port, s.socket)), 0o600); err != nil {
		return fail(err)
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return fail(err)
	}
	p, err := startProcess(s.cfg.Binary, []string{conf}, log)
	if err != nil {
		return fail(err)
	}
	s.mu.Lock()
	s.proc, s.logFrom = p, from
	s.mu.Unlock()
	if err := s.awaitReady(ctx, p); err != nil {
		p.kill()
		return fail(err)
	}
	return nil
}

// awaitReady waits until the server is ready.
func (s *Server) awaitReady(ctx context.Context, p *process) error {
	return p.awaitReady(ctx, s.cfg.StartWait, s.Addr(), "ready to accept connections", s.logOfProcess)
}

// awaitReady waits until the process says in its log that it is ready, which
// somebody else's server on the same port would not, and answers a PING at addr.
// log returns what it has logged; ready is in lower case.
func (p *process) awaitReady(ctx context.Context, wait time.Duration, addr, ready string, log func() string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("not ready after %v", wait))
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if strings.Contains(strings.ToLower(log()), ready) && answers(ctx, addr) {
			return nil
		}
		select {
		case <-p.done:
			text := log()
			if strings.Contains(strings.ToLower(text), "address already in use") {
				return errPortTaken
			}
			return fmt.Errorf("it ended (%w); the end of its log:\n%s", p.err, logEnd(text))
		case <-ctx.Done():
			return fmt.Errorf("%w; the end of its log:\n%s", context.Cause(ctx), logEnd(log()))
		case <-tick.C:
		}
	}
}

// answers reports whether the server at addr answers a PING with anything but
// "loading": a refusal for want of a password is an answer too.
func answers(ctx context.Context, addr string) bool {
	d := net.Dialer{Timeout: time.Second}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := io.WriteString(c, "PING\r\n"); err != nil {
		return false
	}
	buf := make([]byte, 128)
	n, err := c.Read(buf)
	return err == nil && n > 0 && !bytes.HasPrefix(buf[:n], []byte("-LOADING"))
}

// Addr returns host:port.
func (s *Server) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Port returns the TCP port.
func (s *Server) Port() int { return s.port }

// Dir returns the server's working folder.
func (s *Server) Dir() string { return s.cfg.Dir }

// SocketPath returns the unix socket's path, or "" without WithUnixSocket.
func (s *Server) SocketPath() string { return s.socket }

// Password returns the password of the default user, or "".
func (s *Server) Password() string { return s.cfg.Password }

// Pid returns the process id of the present process.
func (s *Server) Pid() int { return s.current().pid }

func (s *Server) current() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.proc
}

// URL returns redis://[:password@]addr/db.
func (s *Server) URL(db int) string {
	u := url.URL{Scheme: "redis", Host: s.Addr(), Path: "/" + strconv.Itoa(db)}
	if s.cfg.Password != "" {
		u.User = url.UserPassword("", s.cfg.Password)
	}
	return u.String()
}

// Kill ends the server with SIGKILL and waits until it is gone. Unless the
// append-only file is on, its data are gone too.
func (s *Server) Kill() { s.current().kill() }

// Stop freezes the server with SIGSTOP: connections stay, nothing is answered.
func (s *Server) Stop() error { return s.current().signal(syscall.SIGSTOP) }

// Cont lets a server go on after Stop.
func (s *Server) Cont() error { return s.current().signal(syscall.SIGCONT) }

// Restart ends the server in order, if it still runs, and starts it again with
// the same port and folder. The context bounds the whole.
func (s *Server) Restart(ctx context.Context) error {
	s.shutdown(ctx)
	for {
		err := s.start(ctx)
		if !errors.Is(err, errPortTaken) {
			return err
		}
		// Some outgoing connection has been given our port for a moment.
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// shutdown asks the server to end, and kills it when it does not.
func (s *Server) shutdown(ctx context.Context) {
	p := s.current()
	_ = p.signal(syscall.SIGTERM)
	_ = p.signal(syscall.SIGCONT) // a stopped one would never see SIGTERM
	select {
	case <-p.done:
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
	}
	p.kill()
}

// Running reports whether the process is there.
func (s *Server) Running() bool { return !s.current().ended() }

// Close closes the clients, ends the server and removes its folder if it is
// the harness's own. It may be called more than once.
func (s *Server) Close() error {
	s.mu.Lock()
	clients, p, again := s.clients, s.proc, s.closed
	s.clients, s.closed = nil, true
	s.mu.Unlock()
	for _, c := range clients {
		_ = c.Close() // may have been closed by its user
	}
	if p != nil {
		p.kill()
	}
	if again || s.tempDir == "" {
		return nil
	}
	if err := os.RemoveAll(s.tempDir); err != nil {
		return fmt.Errorf("close redis-server at %s: %w", s.Addr(), err)
	}
	return nil
}

func (s *Server) logPath() string { return filepath.Join(s.cfg.Dir, "redis.log") }

// logOfProcess returns the log of the present process.
func (s *Server) logOfProcess() string {
	s.mu.Lock()
	from := s.logFrom
	s.mu.Unlock()
	text, err := os.ReadFile(s.logPath())
	if err != nil || int64(len(text)) < from {
		return ""
	}
	return string(text[from:])
}

// LogTail returns the last 4 KiB of the server's log, over all its restarts.
func (s *Server) LogTail() string {
	text, err := os.ReadFile(s.logPath())
	if err != nil {
		return err.Error()
	}
	return logEnd(string(text))
}

// logEnd is the last 4 KiB of a log.
func logEnd(text string) string {
	const most = 4096
	return text[max(0, len(text)-most):]
}
