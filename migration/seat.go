package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// seat is what keeps other coordinators of the same migration out: those that are slow
// and not dead, and those that were started beside this one. Who has it on a server has
// closed all connections of the others there, and each new one of theirs finds out
// before anything is sent on it (conn.Guard): no copy of theirs arrives any more, no
// fence is raised or lowered, and nothing is decided. Whoever has lost it ends.
type seat struct {
	holder string // this process

	mu      sync.Mutex
	token   uint64       // with which it is taken; 0: not yet, everybody is let through
	of      string       // the migration's id
	goesOn  bool         // the source had it of an earlier process of this migration before
	taken   [2]bool      // by router.Side
	checked [2]bool      // nobody had done anything since the record was read
	seen    [2]time.Time // when it was ours, the last time; zero: it could not be written
	run     [2]string    // the process that had it then; "": it was never told
	over    bool         // this process has ended the migration: the seat is nobody's
	above   uint64       // the highest token seen in somebody else's
	lost    error        // why this process may do nothing any more
	by      string       // who has it then; "": nobody knows
	doubt   string       // why it is not known whether it is ours, and what to do; "": nothing can be done

	keeping sync.Mutex    // held while it is taken again beside a verb; before mu
	ended   chan struct{} // closed when it is lost
}

func (s *seat) mine() store.Seat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return store.Seat{Token: s.token, Holder: s.holder, Migration: s.of}
}

// highest returns the highest token that somebody else was seen to have.
func (s *seat) highest() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.above
}

// noteTaken notes that the seat is ours on a side, and whether what others have done
// there is still to be looked at.
func (s *seat) noteTaken(side router.Side) (unchecked bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken[side] = true
	return !s.checked[side]
}

func (s *seat) noteChecked(side router.Side) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checked[side] = true
}

func (s *seat) has(side router.Side) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken[side]
}

// allow is the guard of our connections.
func (s *seat) allow(value string) error {
	there, ok := store.ParseSeat(value)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil {
		return s.lost
	}
	mine := store.Seat{Token: s.token, Holder: s.holder}
	if !ok || there.Holder == s.holder {
		return nil
	}
	s.above = max(s.above, there.Token)
	if s.over && there.Migration != "" && there.Migration != s.of {
		return s.lose(there)
	}
	if s.token == 0 || !there.After(mine) { // whoever it is may be dead
		return nil
	}
	return s.lose(there)
}

// allowOn is allow on one of the two servers.
func (s *seat) allowOn(side router.Side) func(value string) error {
	return func(value string) error {
		if err := s.allow(value); err != nil {
			return err
		}
		there, ok := store.ParseSeat(value)
		if ok && there.Holder == s.holder {
			s.noteSeen(side)
			return nil
		}
		if !ok && s.slept() {
			return errSeatGone
		}
		return nil
	}
}

// lose is called with mu held. Whoever has ended its own migration loses nothing: it goes on
// serving its clients, and changes nothing on servers that are part of the next one.
func (s *seat) lose(there store.Seat) error {
	to := there.String()
	if s.over {
		return fmt.Errorf("%w: this one has ended, and %s has begun the next", store.ErrSuperseded, to)
	}
	if !s.taken[router.Source] && !s.taken[router.Target] { // with a higher token it may be had
		s.token = 0
		return fmt.Errorf("%w: %s has it", store.ErrSuperseded, to)
	}
	if s.lost == nil {
		s.lost = fmt.Errorf("%w: %s has it; this one ends, for two would copy over each other's writes", store.ErrSuperseded, to)
		s.by = there.Holder
		close(s.ended)
	}
	return s.lost
}

// lostTo returns why this process may do nothing any more, nil while it may.
func (m *Migration) lostTo() error {
	m.seat.mu.Lock()
	defer m.seat.mu.Unlock()
	return m.seat.lost
}

// guardConnections has all connections of ours look at the seat.
func (m *Migration) guardConnections() {
	for side, id := range m.ids {
		id.Pool().Guard(m.Guard(router.Side(side)))
	}
}

// Guard is that of connections of ours to a side.
func (m *Migration) Guard(side router.Side) *conn.Guard {
	return &conn.Guard{Key: store.SeatKey, Allow: m.seat.allowOn(side)}
}

// sit takes the seat on these servers and closes what others have left there. Behind that
// nobody else changes anything on them; what somebody has, since the record was read, is
// errNewer. It may be repeated.
func (m *Migration) sit(ctx context.Context, sides ...router.Side) error {
	s := &m.seat
	r := m.record()
	s.mu.Lock()
	s.token, s.of = r.Token, r.ID
	s.mu.Unlock()
	for _, side := range sides {
		if side == router.Source && !s.has(side) { // it proves nothing any more when it is ours
			m.noteGoesOn(ctx)
		}
		if err := m.takeSeat(ctx, side); err != nil {
			return err
		}
	}
	for _, side := range sides {
		if err := m.closeOlder(ctx, side); err != nil {
			return err
		}
		if s.noteTaken(side) {
			if err := m.nothingNewer(ctx, side); err != nil {
				return err
			}
			s.noteChecked(side)
		}
	}
	return nil
}

func (m *Migration) takeSeat(ctx context.Context, side router.Side) error {
	id := m.ids[side]
	if f := m.record().Servers[side].Fence; f != nil && f.Raised && f.Level == FenceReplicas {
		return nil // it refuses our writes as well, whoever we are
	}
	err := store.TakeSeat(ctx, id.Pool().Control(), m.seat.mine())
	switch {
	case err == nil:
		m.seat.noteSeen(side)
		m.noteRun(ctx, side)
		return nil
	case errors.Is(err, store.ErrSuperseded):
		return m.superseded(ctx, side, err)
	case refusedForGood(err):
		m.log.Warn("another coordinator, if there is one, cannot be kept out", "server", id.Pool().String(), "error", err)
		return nil
	}
	return fmt.Errorf("on %s: %w", id.Pool(), err)
}

// superseded notes who has the seat on a server.
func (m *Migration) superseded(ctx context.Context, side router.Side, err error) error {
	if there, ok, loadErr := store.LoadSeat(ctx, m.ids[side].Pool().Control()); loadErr == nil && ok {
		m.seat.mu.Lock()
		m.seat.above = max(m.seat.above, there.Token)
		err = m.seat.lose(there)
		m.seat.mu.Unlock()
	}
	return fmt.Errorf("on %s: %w", m.ids[side].Pool(), err)
}

// nothingNewer returns errNewer when the control keys of a server tell of more than the
// record that this process goes by.
func (m *Migration) nothingNewer(ctx context.Context, side router.Side) error {
	m.mu.Lock()
	id, seen, mine, fresh := m.rec.ID, m.seen, slices.Clone(m.claims), m.fresh
	m.mu.Unlock()
	for _, key := range []string{store.RecordKey, store.JournalKey} {
		e, ok, err := store.Load(ctx, m.ids[side].Pool().Control(), key)
		if err != nil {
			return fmt.Errorf("on %s: %w", m.ids[side].Pool(), err)
		}
		if !ok || slices.Contains(mine, string(e.Data)) {
			continue
		}
		if e.ID == id && e.After(seen) || e.ID != id && fresh {
			return fmt.Errorf("%s on %s: %w", key, m.ids[side].Pool(), errNewer)
		}
	}
	return nil
}

// keepSeat takes the seat again where somebody has removed it, as FLUSHALL does, and
// finds out whether it is still ours elsewhere.
func (m *Migration) keepSeat(ctx context.Context) {
	for _, side := range []router.Side{router.Source, router.Target} {
		if !m.seat.has(side) {
			continue
		}
		value, run, err := seatAndRun(ctx, m.ids[side].Pool().Control())
		if err != nil {
			continue // one that does not answer is asked again
		}
		if there, ok := store.ParseSeat(value); ok && there.Holder == m.seat.holder {
			m.seat.noteSeen(side)
			m.seat.setRun(side, run)
			continue
		}
		if err := m.takeSeat(ctx, side); err != nil {
			m.log.Warn("the seat is not ours", "error", err)
		}
	}
}

// readAgain adopts what others have done since the record was read. Where that cannot be
// found out any more it is still to be looked for.
func (m *Migration) readAgain(ctx context.Context) error {
	m.mu.Lock()
	own, seen, fresh := m.rec.clone(), m.seen, m.fresh
	m.mu.Unlock()
	there, ok, err := m.newestRemote(ctx, own)
	if err != nil && !ok {
		return err
	}
	m.seat.mu.Lock()
	m.seat.above = max(m.seat.above, own.Token)
	m.seat.mu.Unlock()
	switch {
	case ok && there.ID == own.ID && (store.Entry{Token: there.Token, Seq: there.Seq}).After(seen):
	case ok && there.ID != own.ID && fresh: // both were started without knowing of any
		if err := m.checkOwner(there); err != nil {
			return err
		}
	default:
		if err := m.adopt(own); err != nil {
			return err
		}
		m.mu.Lock()
		m.seen = seen
		m.mu.Unlock()
		return nil
	}
	m.noteOrigin(false, true)
	return m.adopt(there)
}
