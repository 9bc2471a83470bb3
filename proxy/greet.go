package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"golang.org/x/sys/unix"
)

// greeting is how long a client may take for its PROXY header and TLS handshake.
const greeting = 10 * time.Second

var errUntrusted = errors.New("only connections from proxy_protocol_from are served, and with a PROXY header")

// admit counts a client in and serves it. It does not wait for the client.
func (s *Server) admit(conn net.Conn, l *listener) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetNoDelay(true)
	}
	s.mu.Lock()
	if s.cfg.MaxClients > 0 && s.clients >= s.cfg.MaxClients {
		s.mu.Unlock()
		s.refused.Add(1)
		if !l.TLS { // there it would be no handshake's answer
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
			_, _ = conn.Write([]byte("-ERR max number of clients reached\r\n"))
		}
		_ = conn.Close()
		return
	}
	s.clients++
	s.nextID++
	id := s.nextID
	s.mu.Unlock()
	s.accepted.Add(1)
	if l.TLS || s.cfg.Headers.on() && (s.cfg.Headers.Required || s.cfg.Headers.trusts(conn.RemoteAddr())) {
		s.serving.Go(func() { s.greet(id, conn, l) })
		return
	}
	s.begin(id, conn, "")
}

// begin serves a client that has nothing more to say than commands. where is its
// address when its socket does not tell that.
func (s *Server) begin(id uint64, conn net.Conn, where string) {
	var home *loop
	if loops := s.eventLoops(); len(loops) > 0 {
		l := loops[id%uint64(len(loops))]
		if l.invite(id, conn, where) == nil {
			return
		}
		if isSocket(conn) { // it lacked a descriptor, and goes there when there are some again
			home = l
		}
	}
	sess := newSession(s, id, conn)
	sess.where, sess.home, sess.pinnedAt = where, home, time.Now()
	s.enlist(sess)
}

// greet takes what comes before the commands, and begins.
func (s *Server) greet(id uint64, conn net.Conn, l *listener) {
	unhook := context.AfterFunc(s.stopping, func() { _ = conn.Close() })
	defer unhook()
	plain, where, err := s.meet(conn, l)
	if err == nil && !l.TLS {
		err = conn.SetDeadline(time.Time{})
	}
	if err == nil {
		unhook()
		s.begin(id, plain, where)
		return
	}
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || s.stopping.Err() != nil {
		s.log.Debug("refusing a client", "client", whereOf(conn, where), "err", err) // a look whether somebody listens
	} else if before, ok := s.refusals.may(); ok {
		s.log.Info("refusing a client", "client", whereOf(conn, where), "err", err, "clients_before", before)
	}
	_ = conn.Close()
	s.clientGone()
}

// meet returns the connection that carries the client's commands, and the client's
// address where that connection does not tell it.
func (s *Server) meet(conn net.Conn, l *listener) (plain net.Conn, where string, err error) {
	if h := s.cfg.Headers; h.on() {
		switch trusted := h.trusts(conn.RemoteAddr()); {
		case trusted:
			if where, err = readHeader(conn, h.Required, l.TLS); err != nil {
				return nil, where, err
			}
		case h.Required:
			return nil, "", errUntrusted
		}
	}
	if !l.TLS {
		return conn, where, nil
	}
	where = whereOf(conn, where)
	_ = conn.SetDeadline(time.Now().Add(greeting))
	secure := tls.Server(conn, s.cfg.TLS)
	if err := secure.HandshakeContext(s.stopping); err != nil {
		return nil, where, fmt.Errorf("TLS handshake: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	plain, err = s.unwrap(secure)
	return plain, where, err
}

// whereOf names a connection's other end, for logs.
func whereOf(conn net.Conn, where string) string {
	if addr := conn.RemoteAddr(); where == "" && addr != nil {
		return addr.String()
	}
	return where
}

// unwrap returns a plain socket that says what secure says, and owns secure: an
// event loop serves sockets only, and so clients with TLS share connections as
// all others do. Two goroutines carry the bytes.
func (s *Server) unwrap(secure *tls.Conn) (net.Conn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	plain, err := epoll.Give(pair[0])
	if err != nil {
		epoll.Close(pair[1])
		return nil, err
	}
	inner, err := epoll.Give(pair[1])
	if err != nil {
		_ = plain.Close()
		return nil, err
	}
	w := &wrapped{secure: secure, inner: inner.(*net.UnixConn)}
	unhook := context.AfterFunc(s.killed, w.close)
	s.serving.Go(w.up)
	s.serving.Go(func() {
		defer unhook()
		w.down()
	})
	return plain, nil
}

// wrapped is a TLS client and the end of the socket pair that stands for it.
type wrapped struct {
	secure *tls.Conn
	inner  *net.UnixConn
}

func (w *wrapped) close() {
	_ = w.inner.Close()
	_ = w.secure.Close()
}

// up carries what the client says. Its end is the end of that way only: the
// client may still wait for replies.
func (w *wrapped) up() {
	if carryAll(w.inner, w.secure) != nil {
		w.close()
		return
	}
	_ = w.inner.CloseWrite()
}

// down carries the replies. When the proxy has closed its end, the client gets
// what is on its way, but has no longer than closingFor to take each piece.
func (w *wrapped) down() {
	var late *time.Timer
	late = time.AfterFunc(time.Hour, func() {
		if hungUp(w.inner) {
			w.close()
			return
		}
		late.Reset(closingFor)
	})
	late.Stop()
	defer late.Stop()
	_ = carryAll(timed{w.secure, late}, w.inner)
	w.close()
}

// timed has a timer run while it writes.
type timed struct {
	io.Writer
	late *time.Timer
}

func (t timed) Write(b []byte) (int, error) {
	t.late.Reset(closingFor)
	defer t.late.Stop()
	return t.Writer.Write(b)
}

const (
	carrySmall = 2 << 10 // what a way keeps while nothing comes
	carryLarge = 32 << 10
)

var carryBuffers = sync.Pool{New: func() any { return new([carryLarge]byte) }}

// carryAll copies until from ends, which is no error, or either fails. It keeps
// little while it waits.
func carryAll(to io.Writer, from io.Reader) error {
	var small [carrySmall]byte
	for {
		n, err := from.Read(small[:])
		if n > 0 {
			if _, werr := to.Write(small[:n]); werr != nil {
				return werr
			}
		}
		if n == len(small) && err == nil {
			err = carryMuch(to, from)
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// carryMuch copies in large pieces until a small one comes.
func carryMuch(to io.Writer, from io.Reader) error {
	buf := carryBuffers.Get().(*[carryLarge]byte)
	defer carryBuffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				return werr
			}
		}
		if err != nil || n < carrySmall {
			return err
		}
	}
}
