package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/failpoint"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// recovery is one step of a recovery: its failpoints are recover.NAME:before and
// recover.NAME:after. A recovery may die at each of them, or be given up there, and be
// begun anew.
type recovery struct {
	name string
	run  func(*Migration, context.Context) error
}

// The steps of a recovery: first those that are always taken, then those of one of three
// ways, and at last the copy begins, see stepsBegin.
var (
	stepsRead   = []recovery{{"read", (*Migration).read}}
	stepsSettle = []recovery{
		{"login", (*Migration).loginNeeded},
		{"seat", (*Migration).sitNeeded},
		{"note", (*Migration).noteStart},
	}
	stepsBack = []recovery{
		{"aborting", (*Migration).noteAborting},
		{"claim", (*Migration).claimLeft},
		{"reopen", (*Migration).reopenLeft},
		{"aborted", (*Migration).noteAborted},
	}
	stepsForward = []recovery{
		{"journal", (*Migration).journalAgain},
		{"commit", (*Migration).commitAgain},
	}
	stepsFinish = []recovery{
		{"let-in", (*Migration).openEntered},
		{"clear", (*Migration).clearLeft},
		{"finished", (*Migration).noteFinished},
	}
)

// RecoveryNames returns the names of the steps of a recovery in order, for each way that
// it may take: "back" takes a switch back, "forward" finishes one whose journal may be
// written, "finish" ends one that is committed (what comes before is as on the others),
// and "begin" is what comes behind each of them, when clients are served again.
func RecoveryNames() map[string][]string {
	ways := make(map[string][]string)
	for name, lists := range map[string][][]recovery{
		"back":    {stepsRead, stepsSettle, stepsBack},
		"forward": {stepsRead, stepsSettle, stepsForward, stepsFinish},
		"finish":  {stepsFinish},
	} {
		for _, s := range slices.Concat(lists...) {
			ways[name] = append(ways[name], s.name)
		}
	}
	for _, s := range stepsBegin {
		ways["begin"] = append(ways["begin"], s.name)
	}
	return ways
}

func (m *Migration) through(ctx context.Context, steps []recovery) error {
	for _, s := range steps {
		failpoint.Hit("recover." + s.name + ":before")
		if err := s.run(m, ctx); err != nil {
			return err
		}
		failpoint.Hit("recover." + s.name + ":after")
	}
	return nil
}

// settle logs in, and finishes or undoes what a crash left. It may be repeated.
func (m *Migration) settle(ctx context.Context) error {
	if m.record().Phase.Ended() {
		return m.save(true, func(*Record) {})
	}
	if err := m.through(ctx, stepsSettle); errors.Is(err, errAway) {
		m.log.Warn("serving without being able to copy", "error", err)
		if err := m.sitNeeded(ctx); err != nil {
			return err
		}
		return m.save(true, func(*Record) {})
	} else if err != nil {
		return err
	}
	m.findSavedFence(ctx)
	r := m.record()
	var err error
	switch {
	case r.Phase == Committing:
		err = m.rollForward(ctx)
	case r.Phase.Switching():
		err = m.undoSwitch(ctx)
	case r.Phase == Committed:
		err = m.finish(ctx)
	case r.Servers[r.Side].Fence != nil:
		err = m.lowerFoundFence(ctx, r.Side) // an attempt that could not be taken back whole
	}
	if err == nil && len(needed(r)) < len(m.ids) {
		err = m.sitOnTheOther(ctx, r.Side.Other())
	}
	return err
}

// restPatience is how long clients wait for the server that a switch was settled without.
const restPatience = 500 * time.Millisecond

// sitOnTheOther takes the seat on the server that a switch was settled without, before
// anybody is served: what a coordinator that was started at the same moment has written
// there is gone on with now, and would end this process when the copy begins. A server that
// does not answer in time is one of which that is found out later.
func (m *Migration) sitOnTheOther(ctx context.Context, side router.Side) error {
	ctx, cancel := context.WithTimeout(ctx, restPatience)
	defer cancel()
	err := m.login(ctx, side)
	if err == nil {
		err = m.sit(ctx, side)
	}
	if errors.Is(err, errNewer) || errors.Is(err, store.ErrSuperseded) {
		return err
	}
	if err != nil {
		m.log.Warn("another coordinator, if there is one, is kept out later", "error", err)
	}
	return nil
}

// needed returns the sides without which the record cannot be settled: to take a
// switch back the one that was to be left, to finish it the one that was entered.
func needed(r Record) []router.Side {
	if r.Phase == Committed || r.Phase.Switching() {
		return []router.Side{r.Side}
	}
	return []router.Side{router.Source, router.Target}
}

// quiet reports whether no switch is under way.
func quiet(r Record) bool {
	return !r.Phase.Switching() && r.Phase != Committing && r.Phase != Committed
}

// errAway means that a server cannot be asked while nothing is in doubt: clients are
// served, and the copy will be begun when it can.
var errAway = errors.New("a server cannot be asked")

func (m *Migration) loginNeeded(ctx context.Context) error {
	r := m.record()
	err := m.login(ctx, needed(r)...)
	if err != nil && quiet(r) && (r.Side == router.Target || r.Map != nil && r.Copied) {
		err = fmt.Errorf("%w: %w", errAway, err)
	}
	return err
}

// sitNeeded makes sure that nobody else acts on the servers that are needed, before
// anything is made of the record. Where nothing is in doubt, one of them may be away.
func (m *Migration) sitNeeded(ctx context.Context) error {
	r := m.record()
	if !quiet(r) {
		return m.sit(ctx, needed(r)...)
	}
	for _, side := range needed(r) {
		err := m.sit(ctx, side)
		if errors.Is(err, errNewer) || errors.Is(err, store.ErrSuperseded) {
			return err
		}
		if err != nil {
			m.log.Warn("another coordinator, if there is one, is kept out later", "error", err)
		}
	}
	// The state file may not have outlived the machine: the applications' own server must
	// have been read before anybody is let through to it.
	return m.nothingNewer(ctx, r.Side)
}

// noteStart persists the new token, and the map where it is not settled yet.
func (m *Migration) noteStart(ctx context.Context) error {
	if r := m.record(); len(m.databases().Sources()) == 0 && !r.Phase.Switching() {
		if err := m.chooseMap(ctx); err != nil {
			return err
		}
	}
	return m.save(true, func(*Record) {})
}

// undoSwitch takes back an undecided switch: nobody may have written to the
// server that was to be entered, so the one that was to be left simply goes on.
// Before it is opened nobody else can decide any more, see claim.
func (m *Migration) undoSwitch(ctx context.Context) error {
	r := m.record()
	m.log.Warn("a switch was interrupted before its point of no return: taking it back", "phase", r.Phase, "side", r.Side)
	return m.through(ctx, stepsBack)
}

func (m *Migration) noteAborting(context.Context) error {
	return m.save(false, func(r *Record) { r.Phase = Aborting })
}

func (m *Migration) claimLeft(ctx context.Context) error { return m.claim(ctx, m.record().Side) }

func (m *Migration) reopenLeft(ctx context.Context) error {
	return m.lowerFoundFence(ctx, m.record().Side)
}

func (m *Migration) noteAborted(context.Context) error {
	return m.save(true, func(r *Record) { r.Phase, r.Switch = afterAbort(r.Side), nil })
}

// afterAbort is the phase in which an aborted switch leaves a freshly started
// process: its feed was interrupted.
func afterAbort(side router.Side) Phase {
	if side == router.Target {
		return ReverseLost
	}
	return Resync
}

// rollForward finishes a switch whose journal may be written: everything was
// drained and checked before, and is never drained again. The journal counts, not the
// state file, which says COMMITTING before there is one: where it was never written
// and the fence is gone, writes may have been taken since, so the switch is taken back.
func (m *Migration) rollForward(ctx context.Context) error {
	r := m.record()
	if r.Switch == nil {
		return errors.New("rolling a switch forward: the record does not say from where to where")
	}
	m.log.Warn("a switch was interrupted after its point of no return: finishing it", "from", r.Switch.From, "to", r.Switch.To)
	err := m.through(ctx, stepsForward)
	if errors.Is(err, errFenceLost) {
		m.log.Warn("the journal was never written, and the server that was to be left has lost its fence", "error", err)
		return m.undoSwitch(ctx)
	}
	if err != nil {
		return err
	}
	return m.finish(ctx)
}

// journalAgain writes the journal, which may be written already.
func (m *Migration) journalAgain(ctx context.Context) error {
	r := m.record()
	f := r.Servers[r.Switch.From].Fence
	if f != nil && f.Level == FenceReplicas {
		return m.stillFencedBefore(ctx, r, f)
	}
	// Another server has taken the place of the one that was fenced; or nothing but the process
	// that died has kept writers out.
	nothing := f == nil && r.fencedBefore(r.Switch.From) != "" || f != nil && (f.Level == FenceKey || f.Level == FenceNone)
	var stands store.Condition
	switch {
	case nothing:
		stands = func(context.Context, redis.Pipeliner) func(store.Asker, store.Entry) error {
			return func(_ store.Asker, there store.Entry) error {
				if r.journalled(there) {
					return nil
				}
				return errFenceLost
			}
		}
	case f != nil:
		stands = func(ctx context.Context, p redis.Pipeliner) func(store.Asker, store.Entry) error {
			left := m.fence(r.Switch.From)
			left.run = r.Switch.Run // a replica that took its place is fenced as well, and never was what was drained
			holds := left.stands(f)(ctx, p)
			return func(c store.Asker, there store.Entry) error {
				if r.journalled(there) {
					return nil
				}
				return holds(c, there)
			}
		}
	}
	return m.publishIf(ctx, r.Switch.From, store.JournalKey, stands)
}

// stillFencedBefore looks for F2, where the entered server has the decision (see journal),
// whether the server that is left has kept its fence f until then: nobody was let in before
// the switch was committed, so where it has not, the switch is taken back.
func (m *Migration) stillFencedBefore(ctx context.Context, r Record, f *FenceState) error {
	to := m.ids[r.Switch.To].Pool()
	e, ok, err := store.Load(ctx, to.Control(), store.RecordKey)
	if err != nil {
		return fmt.Errorf("on %s: %w", to, err)
	}
	if ok && r.committedIn(e) {
		return nil
	}
	left := m.fence(r.Switch.From)
	left.run = r.Switch.Run
	if err := left.check(ctx, f); err != nil {
		if loginRefused(err) { // our user is gone: it restarted without its users
			err = errFenceLost
		}
		return fmt.Errorf("looking for the fence on %s before the switch is committed: %w", m.ids[r.Switch.From].Pool(), err)
	}
	return nil
}

// commitAgain commits on the entered server, which may be committed already. One that has
// come back without what was drained is not told: nothing is copied from it then, see
// remembers, and what only the server that was left has stays there.
func (m *Migration) commitAgain(ctx context.Context) error {
	r := m.record()
	to := m.ids[r.Switch.To].Pool()
	drained, err := m.drainedThere(ctx, r)
	if err != nil {
		return err
	}
	if drained || m.cfg.Sync.AcceptLoss {
		return m.commit(ctx, nil)
	}
	m.log.Error("the switch is decided, and the server that was to be entered has come back without all that was copied to it, or its slots have gone to other masters, so that this cannot be told; the applications go on there, and the server that was left is kept as it is", "entered", to.String(), "left", m.ids[r.Switch.From].Pool().String())
	return m.save(true, func(r *Record) { r.Phase, r.Side, r.Epoch = Committed, r.Switch.To, r.Epoch+1 })
}

// drainedThere reports whether the entered server has all that was copied to it for the
// switch that r tells of.
func (m *Migration) drainedThere(ctx context.Context, r Record) (bool, error) {
	to := m.ids[r.Switch.To].Pool()
	e, ok, err := store.Load(ctx, to.Control(), store.RecordKey)
	if err != nil {
		return false, fmt.Errorf("on %s: %w", to, err)
	}
	if topologyOf(to) != nil {
		there, err := m.drainedOnNodes(ctx, r)
		if err == nil && there {
			// A mark whose slot was moved says nothing of the master that it was left at.
			_, moved := ownersOf(topologyOf(to).Map(), r.Switch.Marks)
			there = moved == nil
		}
		if err == nil && !there && ok && r.committedIn(e) {
			there = true // by an earlier recovery, which has looked
		}
		return there, err
	}
	mark, err := to.DB(0).Get(ctx, store.DrainedKey).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return false, fmt.Errorf("reading %s on %s: %w", store.DrainedKey, to, err)
	}
	return mark == r.drainedMark() || ok && r.drainedIn(e), nil
}

// committedIn reports whether e, which the entered server has, says that the switch is made
// that r tells of.
func (r Record) committedIn(e store.Entry) bool {
	if e.ID != r.ID {
		return false
	}
	there, err := decode(e)
	return err == nil && there.Phase == Committed && there.Switch != nil && there.Switch.Token == r.Switch.Token
}

// drainedMark is what markDrained writes for the switch that r tells of.
func (r Record) drainedMark() string {
	if r.Switch == nil {
		return ""
	}
	return fmt.Sprintf("%s %d", r.ID, r.Switch.Token)
}

// drainedIn reports whether e, which the entered server has, was written behind the last
// copy of the switch that r tells of, see keepDrained.
func (r Record) drainedIn(e store.Entry) bool {
	if e.ID != r.ID {
		return false
	}
	there, err := decode(e)
	if err != nil || there.Switch == nil || there.Switch.Token != r.Switch.Token {
		return false
	}
	return there.Phase == Verifying || there.Phase == Committing || there.Phase == Committed
}

// journalled reports whether e is the journal of the switch that r tells of.
func (r Record) journalled(e store.Entry) bool {
	if e.ID != r.ID {
		return false
	}
	there, err := decode(e)
	return err == nil && there.Phase == Committing && there.Epoch == r.Epoch
}

// finish takes the steps that follow a commit when a crash came in between: the
// mirror that begins later scans everything, so nothing else is missing.
func (m *Migration) finish(ctx context.Context) error { return m.through(ctx, stepsFinish) }

// clearLeft closes the applications' connections to the server that was left.
func (m *Migration) clearLeft(ctx context.Context) error {
	if err := m.fence(m.record().Side.Other()).killOthers(ctx); err != nil { // begin asks for it again
		m.log.Warn("connections past the proxy may be left on the server that was left", "error", err)
	}
	return nil
}

func (m *Migration) noteFinished(context.Context) error {
	return m.save(true, func(r *Record) {
		r.Switch = nil
		r.Phase = ReverseLost
		if r.Side == router.Source {
			r.Phase = RolledBack
		}
	})
}
