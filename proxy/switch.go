package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/crossfade/crossfade/router"
)

const (
	parallel    = 64                   // connections set up at a time
	nudgeEvery  = 2 * time.Millisecond // between two tries to unblock
	queuedLong  = time.Second          // after which a blocking command was not queued in a transaction after all
	graceAfter  = time.Second          // in which an UNBLOCKED may still come from a Hold that was given up
	maxReported = 10

	// stayFor is how long sessions stay ones, after they were connected to the other side:
	// those that go home and come back were to connect again.
	stayFor = 2 * time.Second
)

// move counts the sessions that a Release waits for.
type move struct{ wg sync.WaitGroup }

func (m *move) done() { m.wg.Done() }

// each calls f for every session; the errors name the clients.
func (s *Server) each(f func(*session) error) error {
	return bounded(s.snapshotSessions(), func(sess *session) error {
		if err := f(sess); err != nil {
			return fmt.Errorf("client %s: %w", sess.peer(), err)
		}
		return nil
	})
}

// bounded calls f for all, a bounded number at a time, and joins the first errors.
func bounded[T any](all []T, f func(T) error) error {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		more int
	)
	slots := make(chan struct{}, parallel)
	for _, one := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := f(one)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if len(errs) < maxReported {
				errs = append(errs, err)
			} else {
				more++
			}
		})
	}
	wg.Wait()
	if more > 0 {
		errs = append(errs, fmt.Errorf("and %d more clients", more))
	}
	return errors.Join(errs...)
}

// Prepare connects every session to a side ahead of a switch and says what it
// would have to say there, but for subscriptions, tracking and transactions. The
// error names the sessions that cannot; they would be closed at the switch. From
// now on until Release, large commands are kept until they have come whole, so
// that no slow client keeps the gate from getting empty; Settle waits for those that
// were begun before.
func (s *Server) Prepare(ctx context.Context, side router.Side) error {
	s.switching.Lock()
	defer s.switching.Unlock()
	s.closeLeft() // a server to go back to must not take them for clients
	route := s.gate.Route()
	route.Side = side
	s.whole.Store(true)
	s.armed.Store(&route)
	s.stayUntil.Store(s.clock() + int64(stayFor))
	err := s.each(func(sess *session) error { return sess.prepare(ctx, route) })
	for _, l := range s.eventLoops() {
		err = errors.Join(err, l.prepare(ctx, route))
	}
	if err != nil {
		return fmt.Errorf("preparing the %s for the clients: %w", side, err)
	}
	return nil
}

func (s *session) prepare(ctx context.Context, route router.Route) error {
	s.mu.Lock()
	skip := s.ended || s.down || s.link == nil || s.link.side == route.Side || s.raw || s.unmovable(route) != "" || s.stillRight(s.warm, route)
	s.mu.Unlock()
	if skip {
		return nil
	}
	l, err := s.fresh(ctx, s.srv.reach, route, greeted)
	if err == nil && l.busy != nil {
		err = l.busy
		l.close()
	}
	if err != nil {
		return s.unlessEnded(err)
	}
	s.mu.Lock()
	old := s.warm
	if s.ended || s.link == nil || s.link.side == route.Side {
		old = l
	} else {
		s.warm = l
	}
	s.mu.Unlock()
	closeAll(old)
	return nil
}

// prepareLate is prepare for a session that comes after the others were prepared. One that
// is not through with it in time connects at the switch.
func (s *session) prepareLate() {
	route := s.srv.armed.Load()
	if route == nil || !s.srv.staying() {
		return
	}
	s.srv.serving.Go(func() {
		_ = s.prepare(s.srv.killed, *route)
		if s.srv.armed.Load() == route {
			return
		}
		s.mu.Lock()
		warm := s.warm
		s.warm = nil
		s.mu.Unlock()
		closeAll(warm)
	})
}

// staying reports whether a switch is near, so that sessions stay what they are.
func (s *Server) staying() bool {
	until := s.stayUntil.Load()
	return until != 0 && s.clock() < until
}

// unlessEnded forgives an error of a session whose client is gone.
func (s *session) unlessEnded(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.down {
		return nil
	}
	return err
}

// Hold shuts the gate and wakes blocked clients until no command is inside. On an
// error the gate is still shut: the caller calls Release with the old route.
func (s *Server) Hold(ctx context.Context) error {
	s.switching.Lock()
	defer s.switching.Unlock()
	s.mu.Lock()
	s.stalls = nil
	s.mu.Unlock()
	s.stopShadows()
	shutting := s.gate.Shutting()
	result := make(chan error, 1)
	go func() { result <- s.gate.Shut(ctx) }()
	<-shutting
	// Whoever waits for a slow client from now on sees that there is a hurry. A subscriber's
	// replies keep nobody inside, but Align is to hear the last of them.
	for _, sess := range s.snapshotSessions() {
		sess.out.poke()
	}
	for _, l := range s.eventLoops() {
		l.post(l.hasten)
	}
	tick := time.NewTicker(nudgeEvery)
	defer tick.Stop()
	var last error
	for {
		if err := s.nudge(ctx); err != nil {
			last = err
		}
		select {
		case err := <-result:
			if err == nil {
				return nil
			}
			s.grace.Store(time.Now().Add(graceAfter).UnixNano())
			s.forgetNudges()
			if last != nil {
				return fmt.Errorf("holding the clients: %w (unblocking: %w)", err, last)
			}
			return fmt.Errorf("holding the clients: %w", err)
		case <-tick.C:
		}
	}
}

// unblocking reports whether an UNBLOCKED may come from a Hold that was given up.
func (s *Server) unblocking() bool {
	until := s.grace.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// Align makes subscribers hear the other side, while the gate is shut and the
// side they are on is fenced: all that was published there before is delivered,
// and they are subscribed on route's side. Who remembers what it has read is told that
// it may have changed: the side that has promised to say so will not any more. A
// Release with the old route undoes it, but for that.
func (s *Server) Align(ctx context.Context, route router.Route) error {
	s.switching.Lock()
	defer s.switching.Unlock()
	if !s.gate.IsShut() {
		return errors.New("aligning subscribers: the gate is open")
	}
	err := s.each(func(sess *session) error { return sess.introduce(ctx, route) })
	if err == nil {
		err = s.each(func(sess *session) error { return sess.align(ctx, route) })
	}
	if err != nil {
		return fmt.Errorf("aligning subscribers with the %s: %w", route.Side, err)
	}
	return nil
}

// introduce has a session that other clients know by its id have one on the other side,
// before any of them is told there to whom its messages go.
func (s *session) introduce(ctx context.Context, route router.Route) error {
	s.mu.Lock()
	if s.stays(route) || s.st.named == nil {
		s.mu.Unlock()
		return nil
	}
	warm := s.warm
	s.warm = nil
	s.mu.Unlock()
	l, err := s.complete(ctx, route, warm, greeted)
	if err != nil {
		return s.unlessEnded(err)
	}
	s.setAside(l, &s.warm)
	return nil
}

// setAside puts a connection to the other side where it waits for the switch, unless the
// session has ended.
func (s *session) setAside(l *link, at **link) {
	s.mu.Lock()
	other := l
	if !s.ended {
		other, *at = *at, l // one that was prepared meanwhile
	}
	s.mu.Unlock()
	closeAll(other)
}

// stays reports whether the session is not to be moved, or cannot be. It runs under the
// session's lock.
func (s *session) stays(route router.Route) bool {
	return s.ended || s.down || s.link == nil || s.link.side == route.Side || s.unmovable(route) != ""
}

func (s *session) align(ctx context.Context, route router.Route) error {
	s.mu.Lock()
	if s.stays(route) {
		s.mu.Unlock()
		return nil
	}
	if s.st.subscribed() == 0 && !s.srv.names.hears(s.st.named) {
		s.mu.Unlock()
		return nil
	}
	old, warm := s.link, s.warm
	s.warm = nil
	// Inside a transaction it is queued, for whatever is refused there may spoil that.
	barrier := &item{spec: ownSpec, mode: modeWhole, role: ours, heard: make(chan struct{})}
	s.fifo.push(barrier)
	s.mu.Unlock()
	if _, err := old.conn.Write(words("PING")); err == nil {
		select {
		case <-barrier.heard:
		case <-ctx.Done():
			closeAll(warm)
			return fmt.Errorf("waiting for the last messages of the %s: %w", old.side, context.Cause(ctx))
		}
	}
	l, err := s.complete(ctx, route, warm, listening)
	var refused *setupError
	if errors.As(err, &refused) && refused.isRight() {
		// It is a matter of this client's rights, which may be others since it subscribed,
		// or others there. The switch is not; if it cannot subscribe then either, it is closed.
		s.log().Warn("a client may not subscribe on the other side", "err", err)
		return nil
	}
	if err != nil {
		return s.unlessEnded(err)
	}
	s.setAside(l, &s.ahead)
	return nil
}

// mustMove tells the session that it has to move to a side, and m that it is waited
// for. False is one that is there, or ended. The gate is open already: a session that
// were told before could look, find the gate shut, and stay where it is.
func (s *session) mustMove(m *move, side router.Side) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.link != nil && s.link.side == side {
		return false
	}
	m.wg.Add(1)
	if before := s.move.Swap(m); before != nil {
		before.done()
	}
	return true
}

// tellStale tells the client that what it remembers may have changed, before anybody can
// change it on the other side. It runs under the session's lock. False is that there is
// nothing to tell, or that the client is in the middle of a message: it is told when the
// session moves.
func (s *session) tellStale() bool {
	stale := s.invalidation()
	if stale == nil || s.mid {
		return false
	}
	s.told = true
	s.out.append(stale)
	return true
}

// Release opens the gate to route. Every session moves to its side, idle ones
// too; Release returns when they have, or were closed because they could not.
func (s *Server) Release(route router.Route) {
	s.switching.Lock()
	defer s.switching.Unlock()
	sessions := s.snapshotSessions()
	for _, sess := range sessions {
		sess.mu.Lock()
		stays := sess.link != nil && sess.link.side == route.Side
		stale := []*link{sess.warm, sess.ahead}
		if stays {
			sess.warm, sess.ahead = nil, nil
		}
		tells := !sess.stays(route) && sess.tellStale()
		sess.mu.Unlock()
		if stays {
			closeAll(stale...)
		}
		if tells {
			sess.out.flush()
		}
	}
	for _, l := range s.eventLoops() {
		l.call(func() { l.reroute(route) })
	}
	s.whole.Store(false)
	s.armed.Store(nil)
	s.stayUntil.Store(0)
	s.gate.Open(route)
	for _, l := range s.eventLoops() {
		l.post(l.enter)
	}
	s.retrySessions(false)
	m := new(move)
	moving := sessions[:0]
	for _, sess := range sessions {
		if sess.mustMove(m, route.Side) {
			moving = append(moving, sess)
		}
	}
	for _, sess := range moving {
		sess.poke()
		sess.out.poke()
	}
	late := time.AfterFunc(2*s.cfg.DialTimeout, func() {
		for _, sess := range moving {
			if sess.move.Load() == m {
				s.log.Warn("closing a client that could not be moved in time", "client", sess.peer())
				sess.close()
			}
		}
	})
	m.wg.Wait()
	late.Stop()
	s.pool.close(&route.Side) // nobody takes one of the other side any more, and this takes the kernel some time
}
