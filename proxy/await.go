package proxy

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// readOnce reads once; a poke gives false. The end of the client's stream is
// noted in eof.
func (s *session) readOnce() (bool, error) {
	n, err := s.conn.Read(s.in.Space())
	s.in.Advance(n)
	s.readAt = s.srv.clock()
	s.srv.received.Add(int64(n))
	s.reading.Store(int64(s.in.Size()))
	switch {
	case s.in.Buffered() > s.srv.cfg.QueryLimit:
		return false, errTooMuch
	case n > 0:
		return true, nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		_ = s.conn.SetReadDeadline(time.Time{})
		return false, nil
	case err != nil:
		s.eof = true
	}
	return true, nil
}

// await waits until the reader has finished it, and keeps reading the client, so
// that a client that hangs up is noticed at once.
func (s *session) await(it *item) error {
	return s.awaitFor(func() bool { return it.done }, it.block != nil)
}

// awaitEmpty waits until nothing is in flight.
func (s *session) awaitEmpty() error {
	s.mu.Lock()
	s.waitsEmpty = true
	s.mu.Unlock()
	err := s.awaitFor(func() bool { return s.fifo.empty() }, false)
	s.mu.Lock()
	s.waitsEmpty = false
	s.mu.Unlock()
	return err
}

func (s *session) awaitFor(done func() bool, blocks bool) error {
	if err := s.flushUp(); err != nil {
		return err
	}
	for {
		s.mu.Lock()
		ok, down, debugs := done(), s.down, s.st.debugs
		s.mu.Unlock()
		switch {
		case ok:
			return nil
		case down:
			return errUpstreamGone
		case s.eof && (blocks || debugs && !s.quit): // what is debugged may hold up the server until the connection ends
			return errClientGone
		case blocks && s.srv.stopping.Err() != nil:
			return errStopping
		}
		if s.eof || s.in.Buffered() > s.readAhead() {
			if blocks && s.hungUp() { // behind what is not read
				return errClientGone
			}
			if err := s.sitOut(); err != nil {
				return err
			}
			continue
		}
		if _, err := s.readOnce(); err != nil {
			return err
		}
	}
}

// sitOut waits for a poke without reading the client. One that sends all before it
// reads anything would wait for us then, and we for it: so when it takes nothing for
// a while, its replies are kept in memory, up to the limit, and the commands behind
// them are got on with.
func (s *session) sitOut() error {
	look := time.NewTimer(stuckFor)
	defer look.Stop()
	select {
	case <-s.wakeup:
	case <-look.C:
		stranger := s.unsure || s.srv.wantsAuth(&state{who: who{authed: s.isAuthed()}})
		if !s.eof && !stranger && s.out.stuck(time.Now()) > stuckFor/2 {
			s.stuffed.Store(true)
			s.out.poke()
		}
	case <-s.srv.killed.Done():
		return errStopping
	}
	return nil
}

// readAhead is how many bytes of the client may wait for the answer that the
// session waits for.
func (s *session) readAhead() int {
	if s.unsure {
		return unsureAhead
	}
	return readAhead
}

// settleDown lets the replies of a client that has hung up, or of a QUIT, arrive.
func (s *session) settleDown() error {
	timer := time.AfterFunc(lingerFor, func() {
		s.mu.Lock()
		l := s.link
		s.mu.Unlock()
		closeAll(l) // it has none while it changes it
	})
	defer timer.Stop()
	s.eof = true
	if err := s.awaitEmpty(); errors.Is(err, errClientGone) {
		return err
	}
	if s.hasAside() {
		return s.sayAgain()
	}
	return errClientGone
}

// hungUp looks whether the peer has closed its end, even behind unread bytes.
func hungUp(conn net.Conn) bool { return polled(conn, unix.POLLRDHUP) }

// awaitHangUp returns when the peer of a socket has closed both ways, or the socket is closed.
func awaitHangUp(conn net.Conn) {
	if socket, ok := conn.(syscall.Conn); ok {
		if raw, err := socket.SyscallConn(); err == nil {
			_ = raw.Read(func(fd uintptr) bool { return polledAt(int(fd), 0) })
		}
	}
}

// silentSocket reports whether a connection is open and nothing waits to be read.
func silentSocket(conn net.Conn) bool { return !polled(conn, unix.POLLRDHUP|unix.POLLIN) }

// polled reports whether any of the events, an error or the end is there now. A
// connection that cannot be asked has none.
func polled(conn net.Conn, events int16) bool {
	var there bool
	err := onSocket(conn, func(fd int) { there = polledAt(fd, events) })
	return there || err != nil
}

// polledAt is polled for a descriptor.
func polledAt(fd int, events int16) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents != 0
}

// onSocket calls f with the descriptor of a connection, of the one below it with
// TLS, and not at all where there is none. An error says that it is closed.
func onSocket(conn net.Conn, f func(fd int)) error {
	if tls, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return onSocket(tls.NetConn(), f)
	}
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { f(int(fd)) })
}
