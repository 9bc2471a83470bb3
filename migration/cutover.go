package migration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/crossfade/crossfade/internal/failpoint"
	"github.com/crossfade/crossfade/internal/tracing"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/value"
)

// SwitchOptions are the operator's wishes for one attempt.
type SwitchOptions struct {
	// DryRun takes the steps up to the hold, Rehearse also those under it but for the
	// fence, and both take everything back then.
	DryRun, Rehearse bool
	// OneWay accepts that there will be no way back, where there will be none.
	OneWay bool
	// MaxStall and MaxLag are as configured when they are 0.
	MaxStall, MaxLag time.Duration

	// What follows has the switch wait. WhenReady: until the copy is close. At: until
	// then, see config.Cutover.Moment. Timeout: for so long, 0 for ever; Retries: so many
	// attempts more when clients would have waited for too long; both nil: as configured.
	WhenReady bool
	At        string
	Timeout   *time.Duration
	Retries   *int
}

// Refused means that a check said no; nothing was changed.
type Refused struct{ Reasons []string }

func (e *Refused) Error() string {
	if len(e.Reasons) == 1 {
		return "refused: " + e.Reasons[0]
	}
	return fmt.Sprintf("refused: %s (and %d more reasons)", e.Reasons[0], len(e.Reasons)-1)
}

// sampleTime bounds the comparison of a sample while clients wait, sampleHands how many
// parts of it are compared at a time; sampleChunk is how many keys, and sampleBytes how many
// bytes of them, are compared between two looks at the clock, sampleChoice how many are asked
// for at a time.
const (
	sampleTime   = 500 * time.Microsecond
	sampleHands  = 2
	sampleChunk  = 10
	sampleBytes  = 64 << 10
	sampleChoice = 200
)

var (
	errStall   = errors.New("the stall budget is used up")
	errAborted = errors.New("aborted by the operator")
)

// Cutover moves the traffic from the source to the target.
func (m *Migration) Cutover(ctx context.Context, o SwitchOptions) (Report, error) {
	return m.switchOver(ctx, router.Source, o)
}

// Rollback moves the traffic back. It is the same function with the sides
// exchanged.
func (m *Migration) Rollback(ctx context.Context, o SwitchOptions) (Report, error) {
	return m.switchOver(ctx, router.Target, o)
}

// attempt is one walk through the steps of PROTOCOL §3.
type attempt struct {
	*Migration
	from, to   router.Side
	opt        SwitchOptions
	report     *Report
	level      FenceLevel
	forward    *mirror.Mirror // from → to, runs already
	reverse    *mirror.Mirror // to → from, armed during the attempt; nil: there is no way back
	held       time.Time
	opening    chan struct{}      // closed when the replicas of the entered server were opened
	reins      *reins             // by which the server that is left is paused and fenced
	replicas   []*replica         // of that server, which are fenced with it
	raising    chan struct{}      // closed when they are, or cannot be; nil before
	left       preflight.Standing // of the server that is left
	entered    entered            // of the one that is entered
	stray      bool               // something that was said by the reins may still arrive
	paused     bool               // writers past the proxy are
	fencing    bool               // the fence may be up
	refilling  bool               // the entered server restarted and is not known to be whole yet
	scripts    map[string]bool    // bodies that the entered server has
	scriptsOn  string             // which process that is, see mirror.Entered
	scale      value.Scale        // of the server that is left
	oldMarks   int64              // on the masters of the cluster that is entered
	sample     []handful          // what is compared while clients wait
	decision   *store.Watched     // may write the journal; nil: it was not asked ahead
	commission *store.Watched     // may write COMMITTED, likewise
	undos      []func(context.Context) error
	budget     context.CancelCauseFunc
}

// step is one step: its failpoints are NAME:before and NAME:after.
type step struct {
	name string
	run  func(*attempt, context.Context) error
}

// The steps up to the point of no return, in the order of PROTOCOL §3. Steps
// under the hold share the stall budget.
var (
	stepsBefore = []step{
		{"preflight", (*attempt).preflightStep},
		{"prepare", (*attempt).prepare},
		{"replicas", (*attempt).readyReplicas},
		{"lag-gate", (*attempt).lagGate},
	}
	stepsHeld = []step{
		{"hold", (*attempt).hold},
		{"soft-fence", (*attempt).softFence},
		{"drain-1", (*attempt).drainOnce},
		{"hard-fence", (*attempt).hardFence},
		{"drain-2", (*attempt).drainTwice},
		{"check", (*attempt).frozenCheck},
	}
	stepsAfter = []step{
		{"journal", (*attempt).journal},
		{"commit", (*attempt).commitStep},
		{"release", (*attempt).release},
		{"after", (*attempt).after},
	}
)

// StepNames returns the names of all steps in order, for failpoints and docs.
func StepNames() []string {
	var names []string
	for _, list := range [][]step{stepsBefore, stepsHeld, stepsAfter} {
		for _, s := range list {
			names = append(names, s.name)
		}
	}
	return names
}

func (m *Migration) switchOver(ctx context.Context, from router.Side, o SwitchOptions) (Report, error) {
	if err := m.mayLeave(from); err != nil {
		return Report{}, err
	}
	if err := m.mayGoOneWay(from, o); err != nil {
		return Report{}, err
	}
	o.MaxStall = cmp.Or(o.MaxStall, m.cfg.Cutover.MaxStall)
	o.MaxLag = cmp.Or(o.MaxLag, m.cfg.Cutover.MaxLag)
	appointment, err := m.appointmentOf(from, o, time.Now())
	if err != nil {
		return Report{}, err
	}
	if appointment != nil {
		return m.appoint(ctx, *appointment)
	}
	m.mu.Lock()
	waits, why := m.rec.Appointment != nil, m.waitsAlready()
	m.mu.Unlock()
	if waits && !o.DryRun && !o.Rehearse {
		return Report{}, &Refused{[]string{why}}
	}
	if !m.operator.TryLock() {
		return Report{}, errBusy
	}
	defer m.operator.Unlock()
	return m.once(ctx, from, o)
}

// once makes one attempt, with operator held.
func (m *Migration) once(ctx context.Context, from router.Side, o SwitchOptions) (Report, error) {
	m.verb.Lock() // the background work's turns are short
	defer m.verb.Unlock()
	if err := m.mayLeave(from); err != nil {
		return Report{}, err
	}
	if err := m.mayGoOneWay(from, o); err != nil {
		return Report{}, err
	}
	a := &attempt{
		Migration: m, from: from, to: from.Other(), opt: o, forward: m.activeMirror(),
		report: &Report{From: from, To: from.Other(), DryRun: o.DryRun, Rehearsal: o.Rehearse, MaxStall: ms(o.MaxStall), Started: time.Now(), Steps: []StepTime{}},
	}
	if why := m.noReturn(); a.onlyWay() {
		a.report.Findings = append(a.report.Findings, "there is no way back from a cutover (--one-way): "+why)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	current := &attempted{from: from, dryRun: o.DryRun, rehearse: o.Rehearse}
	ctx, current.span = m.opt.Tracer.Start(ctx, "attempt: "+current.words())
	m.mu.Lock()
	m.abort, m.attempting = cancel, true
	m.current = current
	m.mu.Unlock()
	err := a.walk(ctx)
	m.opt.File.Calm()
	a.dropWatched(ctx)
	a.dropReins()
	a.dropReplicas()
	if a.level.fencesReplicas() { // some may have come meanwhile
		a.lookSoon()
	}
	m.mu.Lock()
	m.abort, m.attempting = nil, false
	m.mu.Unlock()
	a.report.Finished, a.report.Fleet = time.Now(), m.crew.reported()
	a.report.OK = err == nil
	if !o.DryRun && !o.Rehearse {
		m.switches.add(from, outcomeOf(*a.report, o.MaxStall, err))
	}
	if err != nil {
		a.report.Error = err.Error()
	}
	m.keepReport(*a.report)
	a.ended(err)
	a.trace(current.span, err)
	m.mu.Lock()
	m.current = nil
	m.mu.Unlock()
	return *a.report, err
}

func (m *Migration) keepReport(r Report) {
	m.mu.Lock()
	m.report = &r
	m.mu.Unlock()
	if err := m.save(false, func(rec *Record) { rec.LastCutover = &r }); err != nil {
		m.log.Error("the report of the switch is not kept over a restart", "error", err)
	}
}

// walk takes the steps. Whatever fails before the point of no return is taken
// back; what fails after it is repeated until it works.
func (a *attempt) walk(ctx context.Context) error {
	for _, s := range stepsBefore {
		if err := a.take(ctx, s); err != nil {
			return a.undo(ctx, err)
		}
	}
	if a.opt.DryRun {
		return a.undo(ctx, nil)
	}
	held, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	a.budget = cancel
	steps := stepsHeld
	if a.opt.Rehearse {
		steps = stepsRehearsed
	}
	for _, s := range steps {
		if err := a.takeHeld(held, s); err != nil {
			return a.undo(ctx, err)
		}
	}
	if a.opt.Rehearse {
		return a.endRehearsal(ctx)
	}
	// From here on neither the operator nor the budget may stop it; whoever came
	// before is obeyed.
	a.mu.Lock()
	a.abort = nil
	a.mu.Unlock()
	if cause := context.Cause(held); cause != nil {
		return a.undo(ctx, cause)
	}
	ctx = context.WithoutCancel(ctx)
	if err := a.take(ctx, stepsAfter[0]); err != nil { // the journal: refused for certain
		return a.undo(ctx, err)
	}
	for _, s := range stepsAfter[1:] {
		if err := a.take(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (a *attempt) take(ctx context.Context, s step) error {
	name := "cutover." + s.name
	if a.from == router.Target {
		name = "rollback." + s.name
	}
	failpoint.Hit(name + ":before")
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("step %s: %w", s.name, cause)
	}
	start := time.Now()
	ctx, span := tracing.Begin(ctx, s.name)
	err := s.run(a, ctx)
	tracing.End(span, err)
	if a.held.After(start) {
		start = a.held // what comes before that is nobody's wait
	}
	a.report.Steps = append(a.report.Steps, StepTime{Name: s.name, MS: ms(time.Since(start))})
	failpoint.Hit(name + ":after")
	var refused *Refused
	if err != nil && !errors.As(err, &refused) {
		return fmt.Errorf("step %s: %w", s.name, err)
	}
	return err
}

// takeHeld takes a step while clients wait. What it asks a server is given up when
// the budget ends, and not only when that server has said nothing for long.
func (a *attempt) takeHeld(ctx context.Context, s step) error {
	bounded := ctx
	if !a.held.IsZero() { // the budget runs
		var cancel context.CancelFunc
		bounded, cancel = context.WithDeadlineCause(ctx, a.held.Add(a.opt.MaxStall), a.overspent())
		defer cancel()
	}
	err := a.take(bounded, s)
	if err == nil {
		return nil
	}
	cause := context.Cause(ctx)
	if cause == nil && !a.held.IsZero() && time.Since(a.held) >= a.opt.MaxStall {
		cause = a.overspent() // the network's clock was a moment ahead
	}
	said := errors.Is(err, cause) || errors.Is(cause, errStall) && errors.Is(err, errStall)
	if cause != nil && !said {
		err = fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}

// overspent is the error of an attempt that takes longer than clients may wait.
func (a *attempt) overspent() error {
	return fmt.Errorf("%w: clients would have waited longer than %v (cutover.max_stall)", errStall, a.opt.MaxStall)
}

// onUndo registers what takes a step back; it comes before the step itself.
func (a *attempt) onUndo(f func(context.Context) error) { a.undos = append(a.undos, f) }

// onUndoLast registers what is taken back when all else is, and clients go on.
func (a *attempt) onUndoLast(f func(context.Context) error) {
	a.undos = append([]func(context.Context) error{f}, a.undos...)
}

// undo takes back every step, the last one first, also when ctx has ended.
func (a *attempt) undo(ctx context.Context, cause error) error {
	if len(a.undos) == 0 {
		return cause
	}
	ctx = context.WithoutCancel(ctx)
	ctx, span := tracing.Begin(ctx, "undo")
	defer span.End()
	if cause != nil {
		a.log.Warn("the switch is taken back", "because", cause)
		a.because(cause.Error())
	}
	errs := []error{cause}
	switch p := a.record().Phase; {
	case p == Committing:
		// On disk before the fence is lowered: a record that still said
		// COMMITTING would be rolled forward after a crash.
		a.untilDone(ctx, "the state file still says COMMITTING", func(context.Context) error {
			return a.save(true, func(r *Record) { r.Phase = Aborting })
		})
		// So would a journal that was written, and of which nobody has heard, if the state
		// file were lost as well.
		a.untilDone(ctx, "the journal is not taken back yet", a.takeJournalBack)
	case p.Switching():
		errs = append(errs, a.assume(func(r *Record) { r.Phase = Aborting }))
	}
	for i := len(a.undos) - 1; i >= 0; i-- {
		cctx, cancel := context.WithTimeout(ctx, 2*a.cfg.Proxy.DialTimeout)
		if err := a.undos[i](cctx); err != nil {
			errs = append(errs, fmt.Errorf("taking the switch back: %w", err))
		}
		cancel()
	}
	back := Tailing
	if a.from == router.Target {
		back = ReverseTailing
	}
	if a.record().Phase == Aborting {
		errs = append(errs, a.assume(func(r *Record) { r.Phase, r.Switch = back, nil }))
		// What the servers say must not be an attempt that is over.
		a.tell(ctx, a.to, store.RecordKey)
		a.tell(ctx, a.from, store.JournalKey)
	}
	if !a.held.IsZero() {
		a.waitStall() // sessions report theirs as they go on
	}
	return errors.Join(errs...)
}

// assume is save for changes that a crash would make by itself: a state file that
// cannot be written (a full disk) must not keep the clients waiting.
func (m *Migration) assume(change func(*Record)) error {
	err := m.save(false, change)
	if err == nil {
		return nil
	}
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	next := m.rec.clone()
	was := next.Phase
	change(&next)
	next.Seq++
	m.rec = next
	m.mu.Unlock()
	if next.Phase != was {
		m.moved(was, next)
	}
	return err
}

// untilDone repeats what must be done before clients may go on, or until that is a
// newer coordinator's to do.
func (m *Migration) untilDone(ctx context.Context, why string, f func(context.Context) error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		cctx, cancel := context.WithTimeout(ctx, m.cfg.Proxy.DialTimeout)
		err := f(cctx)
		cancel()
		if err == nil {
			m.setProblems()
			return
		}
		if errors.Is(err, store.ErrSuperseded) || m.lostTo() != nil {
			m.log.Error("left to the newer coordinator: "+why, "error", err)
			return
		}
		m.setProblems("clients wait: " + why + ": " + err.Error())
		m.log.Error("clients wait: "+why, "error", err, "again_in", wait.String())
		time.Sleep(wait)
	}
}

// tell brings a control key up to date where no step rests on it: a sidecar that
// loses its state file will read it.
func (m *Migration) tell(ctx context.Context, side router.Side, key string) {
	var ok store.Condition
	if key == store.RecordKey {
		ok = m.unforgotten(side)
	}
	m.tellIf(ctx, side, key, ok)
}

func (m *Migration) tellIf(ctx context.Context, side router.Side, key string, ok store.Condition) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Proxy.DialTimeout)
	defer cancel()
	if err := m.publishIf(ctx, side, key, ok); err != nil {
		m.log.Warn("a control key is out of date", "key", key, "error", err)
	}
}
