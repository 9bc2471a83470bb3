package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// What a member knows of where commands go it has read, and that grows old while it is
// stopped or cut off. A fence makes that harmless, until the migration is ended: then the
// server that was left is open. Who ends it asks whether members are connected (see
// crew.behind), and closes what is connected behind the fence in the instant in which that
// falls. So a connection from before it is safe, and one that is made later asks.

// overAfter is how long ago the record may have been read for its being gone to mean that the
// migration was ended where it stood. Within it nobody can have moved the applications and
// ended the migration without this process being connected, see crew.behind.
const overAfter = 2 * sleepAfter

// errGap means that the servers know of no migration, and that nobody here has looked for so
// long that it may have gone on meanwhile.
var errGap = fmt.Errorf("%w; and this sidecar has not looked at it for a while: switches may have been made since, and the server that was left opened. Its clients wait: end it, and point the applications at their server", errNoMigration)

// noteKnown notes that where commands go was known at a moment.
func (m *Member) noteKnown(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.known = at
}

// knows reports whether it was known lately.
func (m *Member) knows() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.known.IsZero() && ago(m.known) < sleepAfter
}

// isOver judges by the servers' knowing of no migration: true is that it was ended where
// this process's clients are.
func (m *Member) isOver() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.over && !m.known.IsZero() && ago(m.known) < overAfter {
		m.over = true
	}
	if m.over {
		m.known = time.Now()
	}
	return m.over
}

// against says why clients may not go on where they were, by what is known; nil: nothing.
func (m *Member) against(route router.Route) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lost {
		return errGap
	}
	if s := m.rec.Switch; m.rec.Phase == Committing && s != nil && s.To != route.Side {
		return fmt.Errorf("%w: it is decided (%s), and whoever coordinates has to finish it: nobody goes on on the %s", errUndecided, Committing, route.Side)
	}
	return nil
}

// Admit returns an error when a connection to a side, on which the server has answered, must
// not be used for clients. Nothing is asked while it is known where they belong.
func (m *Member) Admit(ctx context.Context, side router.Side) error {
	if m.knows() {
		return nil
	}
	return m.admissions[side].ask(ctx, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*m.ids[side].timeout)
		defer cancel()
		err := m.mayUse(ctx, side)
		if err != nil {
			m.RefusedByFence() // so that all is found out
			return fmt.Errorf("where clients belong is not known: %w", err)
		}
		return nil
	})
}

// mayUse finds out whether clients may use a connection that is there already.
func (m *Member) mayUse(ctx context.Context, side router.Side) error {
	began := time.Now()
	r, err := m.read(ctx)
	if err == nil {
		err = m.mine(r)
	}
	var refused *Refused
	switch {
	case errors.Is(err, errNoMigration):
		if !m.isOver() {
			return errGap
		}
		return nil
	case errors.As(err, &refused), errors.Is(err, errTwoMigrations):
		return err
	case err != nil: // one of the servers is away, perhaps
		return m.goesOn(ctx, side, err)
	}
	if s := r.Switch; r.Phase == Committing && s != nil && s.To != side {
		return errUndecided
	}
	_, decided := r.decided()
	now, _ := m.now()
	switch {
	case r.Side != side && (decided || r.Epoch > now.Epoch): // unless that refuses its clients
		fenced, err := false, error(nil)
		if !m.isSpared(side, r.Servers[side]) { // what the record says of it may be past
			fenced, err = m.refuses(ctx, side)
		}
		if err == nil && !fenced {
			err = fmt.Errorf("the applications are on the %s", r.Side)
		}
		return err
	case r.Epoch == now.Epoch && r.Side == now.Side && r.Phase != Committing:
		m.noteKnown(began)
	}
	return nil
}

// goesOn returns why where the record cannot be read, unless the server itself says that the
// migration goes on: then it is fenced if it was left.
func (m *Member) goesOn(ctx context.Context, side router.Side, why error) error {
	value, err := m.ids[side].Pool().Control().Get(ctx, store.SeatKey).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return errors.Join(why, err)
	}
	m.mu.Lock()
	id := m.rec.ID
	m.mu.Unlock()
	if there, ok := store.ParseSeat(value); !ok || there.Migration != id {
		return why
	}
	return nil
}

// wait has the clients wait until the record says where they belong.
func (m *Member) wait(ctx context.Context, state fleet.State) {
	if m.alone {
		return
	}
	m.alone = true
	if m.held.IsZero() {
		m.held = time.Now()
	}
	if _, was := m.now(); was == fleet.Open {
		cctx, cancel := context.WithTimeout(ctx, goTime)
		defer cancel()
		if err := m.traffic.Hold(cctx); err != nil {
			m.log.Warn("some clients do not wait", "error", err)
		}
	}
	m.setState(state)
}
