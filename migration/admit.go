package migration

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// A process that has lost its place may have commands of clients in hand, for it was stopped,
// or has waited at the gate. Their clients may have gone on elsewhere since, so none of them
// may run any more. What closes that is the same as for our own connections: who takes the
// place closes those of the former's clients, see closeOlder, and a connection that is made
// later asks whose the seat is before a client's command is sent on it. There is no moment
// between the question and the command in which the place could be lost unnoticed: if it is
// lost behind the question, the connection was there before, and is closed.

// admissions are the questions of one side: many that come at the same time are one, but
// each is asked after it has come.
type admissions struct {
	mu    sync.Mutex
	next  *admission // not asked yet; nil: nobody waits for it
	asked bool       // a goroutine asks
}

type admission struct {
	done chan struct{}
	err  error
}

// Admit returns an error when a connection to a side, on which the server has answered, must
// not be used for clients: somebody else has our place. A server that does not tell is
// believed to have nobody else there, unless the seat was not seen for long.
func (m *Migration) Admit(ctx context.Context, side router.Side) error {
	if !m.seat.holds(side) {
		return m.lostTo()
	}
	return m.admissions[side].ask(ctx, func() error { return m.askSeatOf(side) })
}

// ask returns what a question has as its answer that is asked after the call.
func (q *admissions) ask(ctx context.Context, question func() error) error {
	q.mu.Lock()
	a := q.next
	if a == nil {
		a = &admission{done: make(chan struct{})}
		q.next = a
		if !q.asked {
			q.asked = true
			go q.run(question)
		}
	}
	q.mu.Unlock()
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run asks until nobody waits for an answer.
func (q *admissions) run(question func() error) {
	for {
		q.mu.Lock()
		a := q.next
		q.next = nil
		if q.asked = a != nil; !q.asked {
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		a.err = question()
		close(a.done)
	}
}

// seatTries is how often a server is asked for the seat: who has taken it has closed our
// connections, and only a new one is told.
const seatTries = 3

func (m *Migration) askSeatOf(side router.Side) error {
	ctx, cancel := context.WithTimeout(context.Background(), m.cfg.Proxy.DialTimeout)
	defer cancel()
	for range seatTries {
		value, err := m.ids[side].Pool().Control().Get(ctx, store.SeatKey).Result()
		if err == nil || errors.Is(err, redis.Nil) {
			return m.seat.admits(side, value)
		}
		if errors.Is(err, store.ErrSuperseded) || ctx.Err() != nil {
			break
		}
	}
	if m.seat.slept() && !m.hasEnded() {
		m.findSeat(ctx)
		if m.seat.slept() && m.lostTo() == nil {
			return errSeatGone
		}
	}
	return m.lostTo()
}

// hasEnded reports whether Run has: nobody looks at the seat any more.
func (m *Migration) hasEnded() bool {
	select {
	case <-m.stopped:
		return true
	default:
		return false
	}
}

// holds reports whether the seat was ours on a side, and neither given up nor lost.
func (s *seat) holds(side router.Side) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken[side] && !s.over && s.lost == nil
}

// admits judges by what a server says of the seat.
func (s *seat) admits(side router.Side, value string) error {
	there, ok := store.ParseSeat(value)
	slept := s.slept()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.lost != nil:
		return s.lost
	case ok && there.Holder == s.holder:
		s.seen[side] = time.Now()
	case s.over || !s.taken[side]: // given up meanwhile
	case ok && there.After(store.Seat{Token: s.token, Holder: s.holder}):
		return s.lose(there)
	case !ok && slept:
		return errSeatGone
	}
	return nil
}

// seenLately is within which time of having seen the seat clients may be let go on without
// asking for it.
const seenLately = 500 * time.Millisecond

// mayOpen returns an error when it is not for this process any more to let clients go on to
// a side, or when that is not known. It asks the server only where the seat was not seen
// lately: in a switch that goes its way the commit has just proved it.
func (m *Migration) mayOpen(ctx context.Context, side router.Side) error {
	if err := m.lostTo(); err != nil || m.seat.seenWithin(side, seenLately) {
		return err
	}
	return m.Admit(ctx, side)
}

// awaitMayOpen is mayOpen that waits until it is known. Its error is that it may not.
func (m *Migration) awaitMayOpen(ctx context.Context, side router.Side) error {
	if m.mayOpen(ctx, side) != nil {
		m.untilDone(ctx, "it is not known whether another sidecar has taken over", func(ctx context.Context) error { return m.mayOpen(ctx, side) })
	}
	return m.lostTo()
}
