package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/router"
)

const (
	redialWait    = 100 * time.Millisecond // in which nobody dials again what has just failed
	complainEvery = time.Second            // at most so often is it logged that clients cannot be connected, or are refused
	watchEvery    = 250 * time.Millisecond // how often silent upstreams are looked for
	roomEvery     = 20 * time.Millisecond  // how often the clients' buffers are added up
	trunkIdle     = 30 * time.Second       // after which a shared connection that nobody has used is closed
	silentFor     = 2 * time.Second        // of silence after which a shared connection gets no more clients, if another one can be made
)

var errUnwanted = errors.New("nobody wants the shared connection any more")

var errSilent = errors.New("the upstream has not answered within proxy.upstream_timeout")

// damper keeps a side that cannot be reached from being dialled for every client
// that would like to.
type damper struct {
	mu     sync.Mutex
	err    error // of the last attempt; nil when that worked
	late   bool  // … and the connection was made, but came to nothing
	at     time.Time
	trying chan struct{} // closed when the attempt of this moment ends; nil when there is none
}

// reachDamped is reach on behalf of a client. While a side cannot be reached, one
// client in redialWait tries; all others get the error that it got. Who comes while it
// tries waits for what comes of that: the last error may be old, and the server back.
func (s *Server) reachDamped(ctx context.Context, route router.Route, setup func(*link) error) (*link, error) {
	d := &s.dampers[route.Side]
	tries, err := d.ask(ctx)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	l, err := s.dial(ctx, route)
	made := err == nil
	if made {
		l, err = l.setUp(setup)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if tries != nil {
		close(tries)
		d.trying = nil
	}
	switch {
	case err == nil, made && !isServers(err): // it is there, whatever it has against this client
		d.err, d.at = nil, time.Now()
	case ctx.Err() != nil, d.err == nil && began.Before(d.at): // given up, or another one has got through since
	default:
		d.err, d.late, d.at = err, made, time.Now()
	}
	return l, err
}

// isServers reports whether a connection that was made has come to nothing for a reason
// that all others have too: the server does not answer, has no room, or is not there at all
// behind what has taken the connection.
func isServers(err error) bool {
	var refused *setupError
	if errors.As(err, &refused) {
		return refused.greeting() || strings.HasPrefix(refused.answer, "LOADING ")
	}
	var lost net.Error
	return errors.As(err, &lost) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// ask returns when the caller may dial, or the error that it gets instead. tries is not
// nil when all others wait for it. A refused connection is as good as the answer to the
// next one. A server that is there is another thing, and may be itself again at any moment:
// after that, who comes gets the error of no attempt that had ended before.
func (d *damper) ask(ctx context.Context) (tries chan struct{}, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if rest := redialWait - time.Since(d.at); d.err != nil && d.late && d.trying == nil && rest > 0 {
		d.mu.Unlock()
		over := time.NewTimer(rest)
		select {
		case <-over.C:
		case <-ctx.Done():
		}
		over.Stop()
		d.mu.Lock()
	}
	if trying := d.trying; trying != nil {
		d.mu.Unlock()
		select {
		case <-trying:
		case <-ctx.Done():
		}
		d.mu.Lock()
	}
	switch {
	case d.err == nil:
		return nil, nil
	case d.trying != nil || time.Since(d.at) < redialWait || ctx.Err() != nil:
		return nil, d.err
	}
	d.trying = make(chan struct{})
	return d.trying, nil
}

// complaints keeps the log short when many clients have the same reason to complain.
type complaints struct {
	mu   sync.Mutex
	next time.Time
	kept int
}

// may reports whether one may be logged now, and how many were not since the last.
func (c *complaints) may() (before int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if now.Before(c.next) {
		c.kept++
		return 0, false
	}
	before = c.kept
	c.next, c.kept = now.Add(complainEvery), 0
	return before, true
}

// cannotConnect logs that a client is closed for want of an upstream.
func (s *Server) cannotConnect(err error) {
	if before, ok := s.complaints.may(); ok {
		s.log.Warn("closing a client: its upstream connection cannot be made", "err", err, "clients_before", before)
	}
}

// keepAlive has the kernel find out within half a minute that a server has
// vanished without a word. Not TCP_USER_TIMEOUT: it would also end a connection
// on which a busy server does not read for as long.
func keepAlive(conn net.Conn) {
	if tls, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = tls.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
}

// watch looks for what no event tells, until the server is stopped for good.
func (s *Server) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	var room <-chan time.Time
	if s.cfg.MaxMemory > 0 {
		often := time.NewTicker(roomEvery)
		defer often.Stop()
		room = often.C
	}
	for {
		select {
		case <-tick.C:
		case <-room:
			s.boundMemory()
			continue
		case <-s.killed.Done():
			return
		}
		for _, l := range s.eventLoops() {
			l.post(l.lookForSilence)
		}
		now := time.Now()
		for _, sess := range s.snapshotSessions() {
			if limit := s.cfg.UpstreamTimeout; limit > 0 {
				sess.lookForSilence(limit)
			}
			if limit := s.cfg.OutputTimeout; limit > 0 && sess.out.stuck(now) > limit/2 && sess.tookNothing(now, limit) {
				s.log.Warn("closing a client that does not read its replies", "client", sess.peer(), "for", limit.String())
				s.overflowed.Add(1)
				sess.close()
			}
		}
	}
}

// lookForSilence gives up the trunks that have left a command unanswered for too
// long. Before that, a shared one that says nothing is replaced for those who
// have nothing in flight on it, so that a client that connects again finds another
// connection, as it would without a proxy. That takes another connection that the
// server answers on: one that is busy with a long command, or stopped, does not.
func (l *loop) lookForSilence() {
	for t := range l.retired {
		l.giveUp(t)
	}
	for g := range l.guests {
		t := g.trunk
		if t == nil {
			continue
		}
		t.wanted = l.now
		if t.owner == g {
			l.giveUp(t)
		}
	}
	for _, t := range l.trunks {
		switch {
		case l.giveUp(t):
		case l.silence(t) > silentFor && !t.replacing:
			l.replace(t)
		case l.unwanted(t):
			l.lose(t, errUnwanted)
		}
	}
}

// unwanted reports whether t has had no client for long. Who is let in by another
// password each time would leave a connection behind with each.
func (l *loop) unwanted(t *trunk) bool {
	return t.side == l.route.Side && l.now-t.wanted > int64(trunkIdle) && (t.ready || t.failed != 0) &&
		t.head == len(t.fifo) && len(t.waiters) == 0 && !t.proving && !t.replacing
}

// silence is for how long the oldest command in flight has waited without a word.
func (l *loop) silence(t *trunk) time.Duration {
	if !t.ready || t.dead || t.paused || t.head == len(t.fifo) {
		return 0
	}
	return time.Duration(l.now - max(t.heard, t.fifo[t.head].at))
}

func (l *loop) giveUp(t *trunk) bool {
	limit := l.srv.cfg.UpstreamTimeout
	if limit <= 0 || l.silence(t) <= limit {
		return false
	}
	l.srv.log.Warn("closing clients: their server does not answer", "side", t.side.String(), "for", limit.String())
	l.srv.pool.distrust(t.side)
	l.lose(t, errSilent)
	return true
}

// replace dials another trunk for the key of t.
func (l *loop) replace(t *trunk) {
	t.replacing = true
	other := &trunk{l: l, key: t.key, side: t.side, db: t.db, lines: t.lines}
	route := l.route
	l.srv.serving.Go(func() {
		k, fd, err := l.srv.dialTrunk(l.srv.stopping, l.srv.reach, route, t.lines)
		put := func() {
			t.replacing = false
			if err == nil && (t.dead || l.trunks[t.key] != t || l.route.Epoch != route.Epoch || l.stopping) {
				l.srv.discard(k, fd)
				return
			}
			if err != nil {
				return
			}
			l.connected(other, k, fd, nil)
			if !other.ready {
				return
			}
			l.srv.log.Info("a shared connection does not answer: others go on with a new one", "side", t.side.String(), "commands", len(t.fifo)-t.head)
			l.srv.pool.distrust(t.side)
			l.trunks[t.key] = other
			l.retire(t)
			l.ease(t)
		}
		if !l.post(put) && err == nil {
			l.srv.discard(k, fd)
		}
	})
}

// tookNothing reports whether the client has taken nothing for about limit of what
// is being written to it. It is for the watch only.
func (s *session) tookNothing(now time.Time, limit time.Duration) bool {
	n, ok := uint64(0), false
	_ = onSocket(s.conn, func(fd int) { n, ok = epoll.Taken(fd) })
	if !ok {
		return s.out.stuck(now) > limit
	}
	if n != s.taken || s.takenAt.IsZero() {
		s.taken, s.takenAt = n, now
	}
	return now.Sub(s.takenAt) > limit/2
}

// lookForSilence closes the session's connection when a command has waited for
// too long without a word. A command that blocks may wait for as long as it says.
func (s *session) lookForSilence(limit time.Duration) {
	now := time.Now()
	s.mu.Lock()
	l := s.link
	switch {
	case !s.out.idle(): // the server may have said what nobody has read for the client's sake
		s.heard = now
	case s.fifo.n == 1 && s.starved.Load() != 0: // nor can it answer what the client has yet to send
		s.heard = now
	}
	it, busy := s.fifo.peek()
	since := s.heard
	if it != nil {
		if it.sent.After(since) {
			since = it.sent
		}
		if it.block != nil {
			busy = !it.block.forever
			if it.block.deadline.After(since) {
				since = it.block.deadline
			}
		}
		busy = busy && !it.mayBlock && !it.local
	}
	silent := l != nil && busy && !s.raw && now.Sub(since) > limit
	s.mu.Unlock()
	if silent {
		l.close() // at once: if it does answer now, it may soon be another client's
		s.log().Warn("closing a client: its server does not answer", "side", l.side.String(), "for", limit.String())
		s.srv.pool.distrust(l.side)
	}
}
