package proxy

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/router"
	"golang.org/x/sys/unix"
)

// pin gives a guest a session with an upstream connection of its own, from the
// command on that it came to. What is in flight is answered before.
func (l *loop) pin(g *guest) {
	if g.inflight > 0 {
		g.stop |= forPin
		return
	}
	g.gone = true
	l.unwatch(g.fd)
	in, out, letIn, own := g.in, g.out, g.letIn || g.trunk != nil, l.detach(g)
	g.in = nil
	l.forget(g)
	conn, err := epoll.Give(g.fd)
	if err != nil {
		l.srv.log.Warn("closing a client", "err", err)
		closeAll(own)
		l.srv.clientGone()
		return
	}
	s := newSession(l.srv, g.id, conn)
	s.home, s.pinnedAt, s.where = l, time.Now(), g.where
	s.st, s.own, s.letIn = g.state(), own, letIn
	if in != nil {
		s.in, s.readAt = *in, g.readAt
	}
	s.out.inherit(&out)
	l.srv.enlist(s)
}

// clean reports whether the server knows nothing about this connection but what
// a shared one has in common. It runs under the session's lock.
func (s *session) clean() bool {
	st := &s.st
	return st.subscribed() == 0 && len(st.past) == 0 && st.tracking == nil && st.caching == nil && !st.noEvict && !st.noTouch && !st.readonly &&
		!st.multi && !st.watch && !st.broken && st.stuck == "" && len(st.effects) == 0 &&
		!s.kept && !s.doubtful && !s.mute && !s.skip && !s.skipNext && !s.raw && !s.mid && !s.down && !s.ended && s.fifo.empty() && s.aside.n == 0
}

// mayGoHome reports whether the session may need no connection of its own any more although
// neither its client says anything nor anybody pokes it.
func (s *session) mayGoHome() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.fifo.empty() || s.mid || s.clean() && !s.srv.wantsAuth(&s.st)
}

// goHome gives the client back to the loop that it came from, with what it has sent
// since its last command, once it has needed no connection of its own for quietFor.
// False means that it stays.
func (s *session) goHome() bool {
	if s.srv.staying() || s.home == nil || s.multi || s.noDB || s.eof || s.quit || s.ticket || len(s.wbuf) > 0 ||
		s.link.unselected || s.link.busy != nil || !s.waitFrom.IsZero() {
		return false
	}
	now := time.Now()
	s.mu.Lock()
	if s.heavy {
		s.heavy = false
		s.pinnedAt = now.Add(time.Duration(heavyFor) - quietFor)
	}
	if now.Sub(s.pinnedAt) < quietFor || !s.clean() || s.srv.wantsAuth(&s.st) || !s.out.idle() {
		s.mu.Unlock()
		return false
	}
	k := s.link
	fd, own, err := s.descriptors(k)
	if err != nil { // there are no more of them, or it is closed
		s.pinnedAt = now
		s.mu.Unlock()
		return false
	}
	s.link, s.ended = nil, true
	others := []*link{s.warm, s.ahead}
	s.warm, s.ahead = nil, nil
	st, letIn := s.st, s.letIn
	k.key = bearingKey(k.side, s.srv.setup(&st, k.route, whole))
	s.mu.Unlock()

	// Nothing is in flight, so what the reader still gets nobody has asked for.
	_ = k.conn.SetReadDeadline(time.Unix(1, 0))
	<-k.done
	closeAll(others...)
	if s.srv.cfg.Shared && !letIn && !st.authed {
		k.close() // on it the server may want a password of those who were let in before
	} else if s.srv.cfg.Shared {
		s.srv.pool.put(k)
	} else if own = s.disown(k, own); own < 0 {
		_ = s.conn.Close() // as the loss of an upstream closes any client
	}
	s.srv.sent.Add(s.out.bytes())
	s.srv.remove(s)
	s.moved()
	g := &guest{id: s.id, where: s.where, letIn: letIn}
	if st.ver != 0 || st.db != 0 || st.proto != 2 || st.authed {
		g.st = &st
	}
	if s.in.Buffered() > 0 {
		in := s.in
		g.in = &in
	}
	if s.conn.Close() == nil { // otherwise somebody has closed the client
		g.fd = fd
		if s.home.post(func() {
			if own >= 0 {
				s.home.attach(g, k, own)
			}
			s.home.welcome(g)
		}) {
			return true
		}
	}
	epoll.Close(fd)
	if own >= 0 {
		epoll.Close(own)
		s.srv.dropLink(k)
	}
	s.srv.clientGone()
	return true
}

// descriptors copies those of the client's connection and, where it does not share, of
// the upstream's; own is below 0 where that is no plain socket.
func (s *session) descriptors(k *link) (fd, own int, err error) {
	if fd, err = epoll.Copy(s.conn); err != nil || s.srv.cfg.Shared || !isSocket(k.conn) {
		return fd, -1, err
	}
	if own, err = epoll.Copy(k.conn); err != nil {
		epoll.Close(fd)
	}
	return fd, own, err
}

// disown takes the descriptor out of a connection whose reader has ended; fd is a copy
// of it or below 0. So is what it returns when the connection is of no further use;
// then it is closed.
func (s *session) disown(k *link, fd int) int {
	if k.idle && k.between {
		_ = k.conn.SetReadDeadline(time.Time{})
		if fd >= 0 && k.conn.Close() == nil {
			return fd
		}
		if fd < 0 {
			if fd, err := s.srv.descriptor(k.conn); err == nil {
				return fd
			}
		}
	}
	if fd >= 0 {
		epoll.Close(fd)
	}
	k.close()
	return -1
}

const (
	poolIdle = 5 * time.Second // after which an unused connection is closed
	poolSize = 64              // connections kept that are alike
)

// pool keeps pinned connections between two uses. The key is all that was said on
// a connection, so whoever takes it finds it as if it were fresh. The zero value
// is ready.
type pool struct {
	mu    sync.Mutex
	links map[string][]*link
	sweep *time.Timer
	shut  bool
}

// pooled returns a connection in the session's state that was there before it,
// its own or one from the pool; nil when there is none. Those in the pool may be
// older than the server's password, so they are for none that was not let in before.
func (s *session) pooled(route router.Route) (*link, error) {
	if own := s.own; own != nil {
		s.own = nil
		if own.side == route.Side && own.route.Epoch == route.Epoch && !own.severed.Load() {
			return own, nil
		}
		own.close()
	}
	if s.home == nil || !s.srv.cfg.Shared {
		return nil, nil
	}
	s.mu.Lock()
	letIn := s.letIn || s.st.authed
	s.mu.Unlock()
	if !letIn {
		return nil, nil
	}
	lines := s.snapshot(route, whole)
	key := bearingKey(route.Side, lines)
	k := s.srv.pool.take(key)
	if k == nil {
		return nil, nil
	}
	k.route = route
	return k, nil
}

func (p *pool) take(key string) *link {
	for {
		p.mu.Lock()
		list := p.links[key]
		if len(list) == 0 {
			p.mu.Unlock()
			return nil
		}
		k := list[len(list)-1]
		if p.links[key] = list[:len(list)-1]; len(list) == 1 {
			delete(p.links, key)
		}
		p.mu.Unlock()
		if silentSocket(k.conn) && !k.severed.Load() {
			k.idle, k.between = false, false
			return k
		}
		k.close()
	}
}

// put takes a connection whose reader has ended; it is closed when it cannot be
// used again.
func (p *pool) put(k *link) {
	_ = k.conn.SetReadDeadline(time.Time{})
	p.mu.Lock()
	if !k.idle || !k.between || k.key == "" || p.shut || k.severed.Load() || len(p.links[k.key]) >= poolSize {
		p.mu.Unlock()
		k.close()
		return
	}
	if p.links == nil {
		p.links = make(map[string][]*link)
	}
	k.since = time.Now()
	p.links[k.key] = append(p.links[k.key], k)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(poolIdle, p.expire)
	}
	p.mu.Unlock()
}

// expire closes what was not used for poolIdle.
func (p *pool) expire() {
	now := time.Now()
	p.mu.Lock()
	p.sweep = nil
	var old []*link
	for key, list := range p.links {
		n := 0
		for n < len(list) && now.Sub(list[n].since) >= poolIdle {
			n++
		}
		old = append(old, list[:n]...)
		if n == len(list) {
			delete(p.links, key)
		} else {
			p.links[key] = append([]*link(nil), list[n:]...)
		}
	}
	if len(p.links) > 0 && !p.shut {
		p.sweep = time.AfterFunc(poolIdle/2, p.expire)
	}
	p.mu.Unlock()
	closeAll(old...)
}

// close closes the connections to all sides but keep; nil is for good.
func (p *pool) close(keep *router.Side) {
	p.remove(func(k *link) bool { return keep == nil || k.side != *keep }, keep == nil)
}

// distrust closes the connections to a side on which another one has gone silent.
func (p *pool) distrust(side router.Side) {
	p.remove(func(k *link) bool { return k.side == side }, false)
}

// remove closes the connections that which says true of; all of one key are alike.
func (p *pool) remove(which func(k *link) bool, forGood bool) {
	p.mu.Lock()
	var out []*link
	for key, list := range p.links {
		if which(list[0]) {
			out = append(out, list...)
			delete(p.links, key)
		}
	}
	if forGood {
		p.shut = true
		if p.sweep != nil {
			p.sweep.Stop()
		}
	}
	p.mu.Unlock()
	closeAll(out...)
}

// descriptor makes a descriptor of an upstream connection for a loop, which then
// owns it. A connection that is no plain socket is served by two goroutines
// behind a pair of them.
func (s *Server) descriptor(conn net.Conn) (int, error) {
	if isSocket(conn) {
		return epoll.Take(conn)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, os.NewSyscallError("socketpair", err)
	}
	inner, err := epoll.Give(pair[1])
	if err != nil {
		epoll.Close(pair[0])
		return -1, err
	}
	s.serving.Go(func() { carry(inner, conn) })
	s.serving.Go(func() {
		if _, err := io.Copy(conn, inner); err == nil && closeWrite(conn) {
			awaitHangUp(inner) // until then the server may still answer
		}
		_, _ = conn.Close(), inner.Close()
	})
	return pair[0], nil
}

// closeWrite closes our end of a connection only, if that can be done.
func closeWrite(conn net.Conn) bool {
	half, ok := conn.(interface{ CloseWrite() error })
	return ok && half.CloseWrite() == nil
}

// carry copies one way until either end is closed, and closes both.
func carry(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
}

func isSocket(conn net.Conn) bool {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}
