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

// overFor is for how long it is believed, without asking again, that the migration was ended:
// not for as long as another one may have needed since, on the same servers.
const overFor = time.Minute

// readMost is how long a client waits for its connection because a server does not answer.
const readMost = 500 * time.Millisecond

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

// isOver judges by the servers' knowing of no migration, as they were asked at a moment: true
// is that it was ended where this process's clients are.
func (m *Member) isOver(asked time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	most := overAfter
	if m.over {
		most = overFor
	}
	if m.over = !m.known.IsZero() && ago(m.known) < most; m.over {
		m.known = asked
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
	if m.rec.Epoch > route.Epoch {
		return fmt.Errorf("%w, and others were made before it that this sidecar has not followed", errUndecided)
	}
	if m.rec.leaves(route.Side) {
		return fmt.Errorf("%w: it is decided (%s), and whoever coordinates has to finish it: nobody goes on on the %s", errUndecided, Committing, route.Side)
	}
	return nil
}

// leaves reports whether it is decided that the applications leave a side, and not so yet.
func (r Record) leaves(side router.Side) bool {
	return r.Phase == Committing && r.Switch != nil && r.Switch.To != side
}

// keep has the state file know a record, which a restart then goes by as well.
func (m *Member) keep(r Record) {
	if m.kept == [2]uint64{r.Token, r.Seq} {
		return
	}
	e, err := r.entry()
	if err == nil {
		err = m.opt.File.Save(e, false)
	}
	if err != nil {
		m.log.Error("where commands go is not kept over a restart; it is read on the servers then", "error", err)
		return
	}
	m.kept = [2]uint64{r.Token, r.Seq}
	m.noteFiled(r)
	if m.hurries {
		m.beside = &e
	}
}

// hurry has keep wait for no disk, until calm: clients wait, or are about to.
func (m *Member) hurry() {
	if m.hurries {
		return
	}
	if err := m.opt.File.Brisk(); err != nil { // it can be done without
		m.log.Warn("the state file is written the slow way while clients wait", "error", err)
		return
	}
	m.hurries = true
}

// calm is the end of hurry, once nobody waits any more: the file itself has the record then.
func (m *Member) calm() {
	if _, state := m.now(); !m.hurries || state != fleet.Open || !m.held.IsZero() || !m.prepared.IsZero() {
		return
	}
	m.opt.File.Calm()
	m.hurries = false
	if m.beside == nil {
		return
	}
	e := *m.beside
	m.beside = nil
	if err := m.opt.File.Save(e, false); err != nil {
		m.log.Warn("the state file is behind the one beside it", "error", err)
	}
}

// decidedBefore returns r, or what the state file knows if that is newer and says that a
// switch is decided: the server on which that stood may have forgotten it.
func (m *Member) decidedBefore(r Record) Record {
	e, found, err := m.opt.File.Load()
	if err != nil || !found {
		return r
	}
	if was, err := decode(e); err == nil && was.ID == r.ID && was.Phase == Committing && newer(was, r) {
		return was
	}
	return r
}

// resolve reads the truth and goes there. The error is that it is not known; that the
// migration was ended where the clients are is none.
func (m *Member) resolve(ctx context.Context) error {
	began := time.Now()
	m.looked = began
	r, err := m.read(ctx)
	if err == nil {
		err = m.mine(r)
	}
	if errors.Is(err, errNoMigration) {
		return m.resolveNone(ctx, began)
	}
	if err != nil {
		if m.note(err.Error()) {
			m.log.Warn("where commands go cannot be read; they go where they did", "error", err)
		}
		for _, id := range m.ids { // our own user is not there any more, or not yet again
			if id.isOwn() && loginRefused(id.Pool().DB(0).Ping(ctx).Err()) {
				id.stepBack()
				m.looked = time.Time{} // asked again as the operator's user, before it is long ago
			}
		}
		if errors.As(err, new(*Refused)) || errors.Is(err, errTwoMigrations) { // another one has begun
			m.mu.Lock()
			m.over = false
			m.mu.Unlock()
		}
		return err
	}
	m.mu.Lock()
	m.over, m.lost = false, false
	if newer(r, m.rec) {
		m.rec = r
	}
	state := m.state
	now := m.route
	m.mu.Unlock()
	m.login(ctx, r)
	route, ok := r.decided()
	switch {
	case !ok:
		switch {
		case r.leaves(now.Side):
			m.keep(r)
		case r.Epoch == now.Epoch:
			m.noteKnown(began)
		}
		if why := m.against(now); why != nil && state == fleet.Open { // it may have no fence any more
			m.log.Warn("clients wait", "why", why)
			m.wait(ctx, fleet.Held)
		}
		return nil
	case route.Epoch < now.Epoch:
		return nil
	case route.Epoch == now.Epoch && route.Side != now.Side:
		m.log.Error("the record contradicts itself: two sides by the same switch", "epoch", route.Epoch)
		return errContradicts
	case route.Epoch > now.Epoch:
		m.goTo(ctx, route)
		if m.epoch() < route.Epoch {
			return nil
		}
		m.noteKnown(began)
	default:
		m.noteKnown(began)
		if state != fleet.Open || !m.prepared.IsZero() {
			// Whoever coordinates may be about to begin: only time, or a word, ends the wait.
			return nil
		}
	}
	m.mu.Lock()
	m.problem = ""
	m.mu.Unlock()
	return nil
}

// errContradicts means that two sides are the applications' by the same switch.
var errContradicts = errors.New("the record contradicts itself")

// resolveNone is resolve where the servers know of no migration.
func (m *Member) resolveNone(ctx context.Context, asked time.Time) error {
	if m.isOver(asked) {
		if m.note(errNoMigration.Error()) {
			m.log.Warn("where commands go cannot be read; they go where they did", "error", errNoMigration)
		}
		m.leave(ctx)
		return nil
	}
	if m.note(errGap.Error()) {
		m.log.Error("clients wait", "error", errGap)
	}
	m.mu.Lock()
	m.lost = true
	m.mu.Unlock()
	m.wait(ctx, fleet.Waiting)
	return errGap
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
	rctx, cancel := context.WithTimeout(ctx, readMost)
	r, err := m.read(rctx)
	cancel()
	if err == nil {
		err = m.mine(r)
	}
	var refused *Refused
	switch {
	case errors.Is(err, errNoMigration):
		if !m.isOver(began) {
			return errGap
		}
		return nil
	case errors.As(err, &refused), errors.Is(err, errTwoMigrations):
		return err
	case err != nil: // one of the servers is away, perhaps
		return m.goesOn(ctx, side, err)
	}
	_, decided := r.decided()
	now, _ := m.now()
	switch {
	case r.leaves(side), r.Side != side && (decided || r.Epoch > now.Epoch): // unless that refuses its clients
		fenced, err := false, error(nil)
		if !sparesOperator(m.ids[side], r.Servers[side]) { // what the record says of it may be past
			fenced, err = m.refuses(ctx, side)
		}
		switch {
		case err == nil && !fenced && r.leaves(side):
			err = errUndecided
		case err == nil && !fenced:
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
	m.hurry()
	if _, was := m.now(); was == fleet.Open {
		cctx, cancel := context.WithTimeout(ctx, goTime)
		defer cancel()
		if err := m.traffic.Hold(cctx); err != nil {
			m.log.Warn("some clients do not wait", "error", err)
		}
	}
	m.setState(state)
}
