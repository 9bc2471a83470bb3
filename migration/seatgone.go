package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// A process may sleep for so long that another one takes its place, moves the applications
// and ends the migration, after which no key of ours is left. When it wakes, all its
// connections are closed, and new ones find nobody's seat. That is as after a FLUSHALL; but
// who is awake looks at the seat twice a second, and who has not seen it on either server
// for a while lets none of its connections through before it has found out.

// sleepAfter is for how long a seat is believed in that was not seen. Within it nobody takes
// over, moves the applications and ends the migration.
const sleepAfter = 2 * time.Second

// errSeatGone means that it is not known yet whether the migration is still ours.
var errSeatGone = errors.New("nobody has the seat, and this process has not looked at it for a while: it may have slept until another one has ended the migration")

// noteSeen notes that the seat is ours on a server.
func (s *seat) noteSeen(side router.Side) { s.noteSeenAt(side, time.Now()) }

// noteSeenAt notes that it was at a moment.
func (s *seat) noteSeenAt(side router.Side, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(s.seen[side]) {
		s.seen[side] = at
	}
	s.doubt = ""
}

// ago is how long ago a moment was. A machine that slept may not have counted that, but its
// calendar has.
func ago(at time.Time) time.Duration {
	return max(time.Since(at), time.Now().Round(0).Sub(at.Round(0)))
}

// seenWithin reports whether the seat was seen to be ours on a side within d.
func (s *seat) seenWithin(side router.Side, d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.seen[side].IsZero() && ago(s.seen[side]) < d
}

// leave gives the seat up: its keys are about to be removed. of is the migration's id, which a
// process that was started behind the end has nobody told of.
func (s *seat) leave(of string) {
	s.keeping.Lock() // who takes it again does so before they are removed
	defer s.keeping.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over, s.of, s.doubt = true, of, ""
}

// slept reports whether the seat was ours and has not been seen for long, on either server.
func (s *seat) slept() bool { return s.unseenFor(sleepAfter) }

func (s *seat) unseenFor(d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	held := false
	for _, at := range s.seen {
		if at.IsZero() {
			continue
		}
		if held = true; ago(at) < d {
			return false
		}
	}
	return held
}

// allowBeside is the guard of connections to a server that is neither of the two. What such a
// one has of the seat may be old, or of another migration: it proves nothing to who has slept,
// and takes the seat from nobody; but nothing is changed on one that tells of somebody newer.
func (s *seat) allowBeside(value string) error {
	there, ok := store.ParseSeat(value)
	s.mu.Lock()
	lost, mine := s.lost, store.Seat{Token: s.token, Holder: s.holder}
	s.mu.Unlock()
	switch {
	case lost != nil:
		return lost
	case ok && there.Holder != s.holder && mine.Token != 0 && there.After(mine):
		return fmt.Errorf("%s there is of somebody else (%s), so the server is left alone: it may have been away, or be of another migration", store.SeatKey, there)
	case s.slept():
		return errSeatGone
	}
	return nil
}

// noteRun notes which process has the seat on a server.
func (m *Migration) noteRun(ctx context.Context, side router.Side) {
	text, _ := m.ids[side].Pool().Control().Info(ctx, "server").Result()
	m.seat.setRun(side, runIDIn(text))
}

// setRun notes which process it is; what was known stays where that is not told.
func (s *seat) setRun(side router.Side, run string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if run != "" {
		s.run[side] = run
	}
}

// watchSeat finds out about the seat whenever it has not been seen for long, until ctx ends.
func (m *Migration) watchSeat(ctx context.Context) {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.seat.keeping.Lock()
			if !m.seat.slept() && m.seat.unseenFor(sleepAfter/2) {
				m.keepSeat(ctx) // a verb is under way, and keeps the guard from it
			}
			m.seat.keeping.Unlock()
			m.findSeat(ctx)
		case <-m.seat.ended:
			return
		case <-ctx.Done():
			return
		}
	}
}

// findSeat asks both servers whose the seat is, if that has not been seen for long, by
// connections that no guard keeps back. Where nobody has it, although a server is still the
// process that had it, or one holds keys and nothing of the migration, that was ended by
// another one: this process ends as well.
func (m *Migration) findSeat(ctx context.Context) {
	if !m.seat.slept() {
		return
	}
	ended, ours := false, false
	var forgot, silent *conn.Pool
	for side := range m.ids {
		side := router.Side(side)
		m.seat.mu.Lock()
		held, run := !m.seat.seen[side].IsZero(), m.seat.run[side]
		m.seat.mu.Unlock()
		if !held {
			continue
		}
		value, present, err := m.askSeat(ctx, side)
		if err != nil {
			silent = m.ids[side].Pool()
			continue
		}
		switch there, ok := store.ParseSeat(value); {
		case ok && there.Holder == m.seat.holder:
			m.seat.noteSeen(side)
			ours = true
		case ok:
			if m.seat.allow(value) != nil {
				return
			}
			ours = true // an older one's: ours was overwritten, and is taken again
		case run != "" && present == run:
			ended = true
		default:
			forgot = m.ids[side].Pool() // it was restarted without its data, or a failover has lost them
		}
	}
	switch {
	case ours:
	case silent != nil: // asked again
		if forgot != nil && !ended {
			m.doubtSeat(forgot, silent)
		}
	case ended:
		m.seat.end()
	case forgot != nil:
		m.believe(ctx)
	}
}

// doubtSeat has the status say what only the operator can know: where one server has come
// back without its memory, and the other one may never come back, nothing tells whether the
// migration was ended in between, and its applications moved back to the one that is silent.
func (m *Migration) doubtSeat(forgot, silent *conn.Pool) {
	r := m.record()
	way := "start this sidecar again" // it goes by its state file then
	switch {
	case silent == m.ids[r.Side].Pool(): // nothing goes on without the one that the clients are on
		way = "restart this sidecar once it is there"
	case r.Phase.Switching() || r.Phase == Committing || r.Phase == Committed:
	case r.Side == router.Target:
		way = "crossfade complete goes on without it, and without a way back"
	default:
		way = "crossfade complete --stay-on-source gives the migration up"
	}
	doubt := fmt.Sprintf("%s has come back without its memory, and %s does not answer: another sidecar may have ended the migration meanwhile, so clients are given no new connections. Start %s; or, if there was no other sidecar, %s",
		forgot, silent, silent, way)
	m.seat.mu.Lock()
	news := m.seat.doubt != doubt
	m.seat.doubt = doubt
	m.seat.mu.Unlock()
	if news {
		m.log.Error("it is not known whether the migration goes on", "error", doubt)
	}
}

// doubts returns why clients are given no new connections until the operator does something,
// "" where it is not so.
func (s *seat) doubts() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubt
}

// believe goes on without a seat that servers have forgotten, unless that was after the end:
// a server that is another process by now may have been it for long.
func (m *Migration) believe(ctx context.Context) {
	var pools [2]*conn.Pool
	for side := range m.ids {
		pools[side] = m.plainPool(router.Side(side))
		defer func() { _ = pools[side].Close() }()
	}
	m.seat.mu.Lock()
	m.seat.goesOn = false // that was before
	m.seat.mu.Unlock()
	r := m.record()
	r.Copied, r.Ousted = true, &Ousted{} // whatever this process has done, others may have
	err := m.notEndedBy(ctx, r, pools)
	switch {
	case err == nil:
		for side := range m.ids {
			m.seat.noteSeen(router.Side(side))
		}
	case errors.As(err, new(*Refused)):
		m.seat.end()
	default:
		m.log.Debug("it is not known whether the migration goes on", "error", err)
	}
}

// plainPool returns connections to a server that no guard keeps back. The caller closes them.
func (m *Migration) plainPool(side router.Side) *conn.Pool {
	id := m.ids[side]
	return conn.New(id.url, id.instance+":"+side.String()+":seat", id.timeout)
}

// askSeat returns the seat's value on a server, and the run id of that, where it tells.
func (m *Migration) askSeat(ctx context.Context, side router.Side) (value, run string, err error) {
	p := m.plainPool(side)
	defer func() { _ = p.Close() }()
	ctx, cancel := context.WithTimeout(ctx, m.ids[side].timeout)
	defer cancel()
	return seatAndRun(ctx, p.Control())
}

// seatAndRun returns the seat's value and, from the same process, the run id, where it tells.
func seatAndRun(ctx context.Context, c redis.Cmdable) (value, run string, err error) {
	pipe := c.Pipeline()
	seat, info := pipe.Get(ctx, store.SeatKey), pipe.Info(ctx, "server")
	if err := store.Answered(pipe.Exec(ctx)); err != nil {
		return "", "", err
	}
	if err := seat.Err(); err != nil && !errors.Is(err, redis.Nil) {
		return "", "", err
	}
	return seat.Val(), runIDIn(info.Val()), nil
}

// end ends this process, for another one has ended the migration.
func (s *seat) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost == nil {
		s.lost = fmt.Errorf("%w, and ended it while this process slept; this one ends as well", store.ErrSuperseded)
		close(s.ended)
	}
}
