package proxy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Listen is one address for clients.
type Listen struct {
	Network string      // "tcp" or "unix"
	Address string      // host:port, or the path of the socket
	TLS     bool        // clients speak TLS, see Config.TLS
	Mode    fs.FileMode // of the socket; 0 leaves it to the process's umask
}

func (a Listen) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Address
	}
	if a.TLS {
		return "tls://" + a.Address
	}
	return a.Address
}

// listener is an address that is being listened on.
type listener struct {
	net.Listener
	Listen
}

// Listen opens the listening sockets, all or none; the error names each that
// cannot be. Clients that connect wait for Serve.
func (s *Server) Listen() error {
	var errs []error
	for _, a := range s.cfg.Listen {
		l, err := a.open()
		if err != nil {
			errs = append(errs, fmt.Errorf("listening on %s: %w", a, err))
			continue
		}
		s.listeners = append(s.listeners, &listener{l, a})
	}
	if len(errs) > 0 {
		s.closeListeners()
		s.listeners = nil
	}
	return errors.Join(errs...)
}

func (a Listen) open() (net.Listener, error) {
	if a.Network == "unix" {
		removeStale(a.Address)
	}
	l, err := net.Listen(a.Network, a.Address)
	if err != nil {
		return nil, err
	}
	if a.Network == "unix" && a.Mode != 0 {
		if err := os.Chmod(a.Address, a.Mode); err != nil {
			_ = l.Close()
			return nil, err
		}
	}
	return l, nil
}

// removeStale removes a socket that nobody listens on any more.
func removeStale(path string) {
	info, err := os.Stat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	if errors.Is(err, syscall.ECONNREFUSED) { // not when it has no time for us
		_ = os.Remove(path)
	}
}

func (s *Server) closeListeners() {
	for _, l := range s.listeners {
		_ = l.Close()
	}
}

// Addr returns where the server listens first, nil before Listen.
func (s *Server) Addr() net.Addr {
	if len(s.listeners) == 0 {
		return nil
	}
	return s.listeners[0].Addr()
}

// Addrs returns where the server listens, in the order of the configuration.
func (s *Server) Addrs() []net.Addr {
	addrs := make([]net.Addr, len(s.listeners))
	for i, l := range s.listeners {
		addrs[i] = l.Addr()
	}
	return addrs
}

// accept takes clients in until ctx ends, or until one of the listeners fails,
// which is an error and ends the others.
func (s *Server) accept(ctx context.Context) error {
	group, failed := errgroup.WithContext(ctx)
	unhook := context.AfterFunc(failed, func() {
		s.stop()
		s.closeListeners()
	})
	for _, l := range s.listeners {
		group.Go(func() error { return s.acceptFrom(l) })
	}
	if len(s.listeners) == 0 { // no clients, by the configuration: that is no reason to end
		<-ctx.Done()
	}
	err := group.Wait()
	if ctx.Err() != nil {
		err = nil
	}
	if unhook() {
		s.stop()
		s.closeListeners()
	}
	return err
}

func (s *Server) acceptFrom(l *listener) error {
	backoff := 5 * time.Millisecond
	for {
		conn, err := l.Accept()
		if err != nil {
			if s.stopping.Err() != nil || errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accepting clients: %w", err)
			}
			s.log.Warn("a client cannot be accepted", "err", err, "again_in", backoff.String())
			select {
			case <-time.After(backoff):
			case <-s.stopping.Done():
			}
			backoff = min(2*backoff, time.Second)
			continue
		}
		backoff = 5 * time.Millisecond
		s.admit(conn, l)
	}
}
