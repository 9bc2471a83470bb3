package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/crossfade/crossfade/router"
)

// greeting reports whether the server said this before anything was asked.
func (e *setupError) greeting() bool { return isGreeting(e.answer) }

func isGreeting(text string) bool {
	return strings.HasPrefix(text, "ERR max number of clients") || strings.HasPrefix(text, "DENIED")
}

// isRight reports whether the server has nothing against the connection, but against
// what the client's user says or is.
func (e *setupError) isRight() bool {
	for _, code := range []string{"NOPERM", "NOAUTH", "WRONGPASS"} {
		if strings.HasPrefix(e.answer, code) {
			return true
		}
	}
	return false
}

// snapshot returns what a setup says for the state of this moment.
func (s *session) snapshot(route router.Route, to depth) []line {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.srv.setup(&s.st, route, to)
}

// fresh dials a side and tells it of the session.
func (s *session) fresh(ctx context.Context, reach reacher, route router.Route, to depth) (*link, error) {
	first := to
	if s.isNamed() { // its id is needed before all else is said
		first = greeted
	}
	lines := s.snapshot(route, first)
	return reach(ctx, route, func(l *link) error {
		l.told, l.depth = wireOfAll(lines), first
		err := l.run(ctx, lines)
		if err == nil {
			err = s.name(ctx, l)
		}
		if err == nil && first < to {
			err = s.tellRest(ctx, l, route, to)
		}
		if err == nil {
			err = s.srv.admitted(ctx, l)
		}
		return err
	})
}

// tellRest tells a server that was told a part of the session the rest, and once more
// what it did not permit then. Where the session has changed in what was told, l is not
// right afterwards.
func (s *session) tellRest(ctx context.Context, l *link, route router.Route, to depth) error {
	s.mu.Lock()
	lines, told := append(l.denied, s.srv.deepen(&s.st, route, l.depth, to)...), l.told
	if wireOfAll(s.srv.setup(&s.st, route, l.depth)) == told {
		told = wireOfAll(s.srv.setup(&s.st, route, to))
	}
	s.mu.Unlock()
	l.denied = nil
	if err := l.run(ctx, lines); err != nil {
		return err
	}
	l.told, l.depth = told, to
	return nil
}

// wireOfAll is what these lines say.
func wireOfAll(lines []line) string {
	var b strings.Builder
	for _, ln := range lines {
		b.Write(ln.wire)
	}
	return b.String()
}

// stillRight reports whether l leads where route does, and was told of the session what it
// would be told now, as far as it was told anything. What has come and gone since, such as
// a transaction, does not matter. It runs under the session's lock.
func (s *session) stillRight(l *link, route router.Route) bool {
	return l != nil && l.fits(route) && !hungUp(l.conn) && l.told == wireOfAll(s.srv.setup(&s.st, route, l.depth))
}

func (s *session) isNamed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.named != nil
}

// name finds out by which id other clients are to name the session where l leads,
// if they know it by one. What is said of it from here on is the client's.
func (s *session) name(ctx context.Context, l *link) error {
	s.mu.Lock()
	x := s.st.named
	s.mu.Unlock()
	if x == nil {
		return nil
	}
	if l.id == 0 {
		if err := l.run(ctx, []line{{wire: words("CLIENT", "ID"), what: "CLIENT ID", id: true, lenient: true, noAuth: true, barrier: true}}); err != nil {
			return err
		}
	}
	s.srv.names.arrive(x, l.side, l.id)
	return nil
}

// complete returns a connection that was told of the session, which may have been told
// a part before if that is still right.
func (s *session) complete(ctx context.Context, route router.Route, warm *link, to depth) (*link, error) {
	if warm != nil {
		s.mu.Lock()
		good := s.stillRight(warm, route)
		s.mu.Unlock()
		if good {
			warm.route = route
			err := s.name(ctx, warm)
			if err == nil {
				err = s.tellRest(ctx, warm, route, to)
			}
			if err == nil {
				return warm, nil
			}
			var refused *setupError
			if errors.As(err, &refused) {
				warm.close()
				return nil, err
			}
		}
		warm.close() // a connection that went bad while it waited is no reason to fail
	}
	return s.fresh(ctx, s.srv.reach, route, to)
}

func (l *link) fits(route router.Route) bool {
	return l.route.Side == route.Side && l.route.Map.Equal(route.Map)
}

// cross moves the session to the side of route. The gate was empty since the
// last command, so nothing is in flight; where somebody did not wait for that, the
// outcome is unknown, and what the next server says would be taken for its answer. On an
// error the client has been told, where the protocol allows it, and is to be closed.
func (s *session) cross(route router.Route) error {
	s.crossing.Store(true)
	defer s.crossing.Store(false)
	s.out.poke()

	s.mu.Lock()
	old, ahead, warm := s.link, s.ahead, s.warm
	s.ahead, s.warm = nil, nil
	why, inside := s.unmovable(route), s.fifo.inside()
	s.mu.Unlock()
	if inside {
		closeAll(ahead, warm)
		return fmt.Errorf("%w: a command of it is not answered", errUnmovable)
	}
	if why != "" {
		closeAll(ahead, warm)
		s.refuseClient(&setupError{side: route.Side, what: "moving", answer: why})
		return fmt.Errorf("%w: %s", errUnmovable, why)
	}
	if ahead != nil {
		closeAll(warm)
		warm = ahead
	}
	l, err := s.complete(s.srv.killed, route, warm, whole)
	if err != nil {
		s.log().Warn("closing a client: it cannot be moved", "side", route.Side.String(), "err", err)
		s.refuseClient(err)
		return err
	}
	return s.replace(old, l, route)
}

// unmovable says why a session cannot go on at another server, "" when it can.
// It runs under the lock.
func (s *session) unmovable(route router.Route) string {
	st := &s.st
	_, mapped := route.DB(st.db)
	switch {
	case st.stuck != "":
		return st.stuck
	case s.raw:
		return "it is a stream"
	case st.multi && len(st.queue) > 0 && !mapped:
		return "its transaction is in a database that is not in the database map"
	}
	for _, t := range st.tracking {
		if t.redirects() && t.to == nil {
			return "its CLIENT TRACKING redirects to a connection that is not a client's that has asked for its id"
		}
	}
	return ""
}

// lingerLeft is after how long connections are closed that sessions have left.
const lingerLeft = 50 * time.Millisecond

// closeLater closes a connection that a session has left, when clients do not wait any more:
// closing takes the kernel and the server some time.
func (s *Server) closeLater(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = append(s.left, l)
	if len(s.left) == 1 {
		time.AfterFunc(lingerLeft, s.closeLeft)
	}
}

// closeLeft closes them now.
func (s *Server) closeLeft() {
	s.mu.Lock()
	left := s.left
	s.left = nil
	s.mu.Unlock()
	closeAll(left...)
}

// replace puts l in the place of old, after the last byte of old.
func (s *session) replace(old, l *link, route router.Route) error {
	if !s.wholeElement(old) {
		l.close()
		return fmt.Errorf("%w: the server stopped in the middle of a message", errUnmovable)
	}
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		l.close()
		return errUpstreamGone
	}
	s.link = nil // the end of old is no loss now
	watched, stale := s.st.watch, []byte(nil)
	if !s.told { // whatever the client has cached was promised by the other server
		stale = s.invalidation()
	}
	s.st.watch, s.letIn, s.told = false, false, false // the other server may want a password
	s.st.broken = s.st.broken || watched
	s.st.forgetOurs()
	if x := s.st.named; x != nil {
		s.srv.names.arrive(x, old.side, 0)
	}
	s.mu.Unlock()
	_ = old.conn.SetReadDeadline(time.Unix(1, 0))
	<-old.done
	s.forsake()
	s.srv.closeLater(old)
	if stale != nil {
		s.out.append(stale)
	}
	l.route = route
	s.adopt(l)
	s.out.flush()
	s.moved()
	return nil
}

// forsake ends what of ours the server that was left has not answered, such as the barrier of
// an Align that was given up: what the other server says is not the answer to that.
func (s *session) forsake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.fifo.empty() {
		it, _ := s.fifo.peek()
		_, _ = s.fifo.pop()
		it.lost = true
		it.finish()
	}
}

// wholeElement waits until old is not in the middle of a message.
func (s *session) wholeElement(old *link) bool {
	deadline := time.NewTimer(time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		s.mu.Lock()
		mid := s.mid
		s.mu.Unlock()
		if !mid {
			return true
		}
		select {
		case <-tick.C:
		case <-old.done:
			return false
		case <-deadline.C:
			return false
		}
	}
}

func closeAll(links ...*link) {
	for _, l := range links {
		if l != nil {
			l.close()
		}
	}
}

// moveIdle moves a session that has nothing to send.
func (s *session) moveIdle() error {
	if err := s.flushUp(); err != nil {
		return err
	}
	route, ok := s.srv.gate.TryEnter()
	if !ok {
		s.moved() // another switch has begun, which takes care of this session
		return nil
	}
	s.ticket = true
	from := time.Now()
	err := s.follow(route)
	s.leave()
	if err == nil && s.srv.waitedInVain(time.Since(from), s.hungUp) {
		return errClientGone // with what it has sent meanwhile, which was not read
	}
	return err
}

// moved tells a Release that waits for it that this session needs it no more.
func (s *session) moved() {
	if m := s.move.Swap(nil); m != nil {
		m.done()
	}
}
