package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/failpoint"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// SwitchOptions are the operator's wishes for one attempt.
type SwitchOptions struct {
	DryRun   bool
	MaxStall time.Duration // 0: as configured
}

// Refused means that a check said no; nothing was changed.
type Refused struct{ Reasons []string }

func (e *Refused) Error() string {
	if len(e.Reasons) == 1 {
		return "refused: " + e.Reasons[0]
	}
	return fmt.Sprintf("refused: %s (and %d more reasons)", e.Reasons[0], len(e.Reasons)-1)
}

// sampleTime bounds the comparison of a sample while clients wait; sampleChunk
// is how many keys are compared between two looks at the clock.
const (
	sampleTime  = 5 * time.Millisecond
	sampleChunk = 50
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
	from, to  router.Side
	opt       SwitchOptions
	report    *Report
	level     FenceLevel
	forward   *mirror.Mirror // from → to, runs already
	reverse   *mirror.Mirror // to → from, armed during the attempt
	held      time.Time
	refilling bool            // the entered server restarted and is not known to be whole yet
	scripts   map[string]bool // bodies that the entered server has
	undos     []func(context.Context) error
	budget    context.CancelCauseFunc
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
	if !m.operator.TryLock() {
		return Report{}, &Refused{[]string{"another operation is under way; see crossfade status"}}
	}
	defer m.operator.Unlock()
	m.verb.Lock() // the background work's turns are short
	defer m.verb.Unlock()
	r := m.record()
	if r.Side != from {
		return Report{}, &Refused{[]string{fmt.Sprintf("the applications are on the %s already (phase %s)", r.Side, r.Phase)}}
	}
	if r.Phase.Ended() {
		return Report{}, &Refused{[]string{"the migration has ended (" + string(r.Phase) + ")"}}
	}
	if r.oneWay() {
		return Report{}, &Refused{[]string{r.noWayBack()}}
	}
	if o.MaxStall == 0 {
		o.MaxStall = m.cfg.Cutover.MaxStall
	}
	a := &attempt{
		Migration: m, from: from, to: from.Other(), opt: o, forward: m.activeMirror(),
		report: &Report{From: from, To: from.Other(), DryRun: o.DryRun, Started: time.Now(), Steps: []StepTime{}},
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m.mu.Lock()
	m.abort = cancel
	m.mu.Unlock()
	err := a.walk(ctx)
	m.mu.Lock()
	m.abort = nil
	m.mu.Unlock()
	a.report.Finished = time.Now()
	a.report.OK = err == nil
	if err != nil {
		a.report.Error = err.Error()
	}
	m.keepReport(*a.report)
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
	for _, s := range stepsHeld {
		if err := a.take(held, s); err != nil {
			if cause := context.Cause(held); cause != nil && !errors.Is(err, cause) {
				err = fmt.Errorf("%w (%w)", err, cause)
			}
			return a.undo(ctx, err)
		}
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
	err := s.run(a, ctx)
	a.report.Steps = append(a.report.Steps, StepTime{s.name, ms(time.Since(start))})
	failpoint.Hit(name + ":after")
	var refused *Refused
	if err != nil && !errors.As(err, &refused) {
		return fmt.Errorf("step %s: %w", s.name, err)
	}
	return err
}

// onUndo registers what takes a step back; it comes before the step itself.
func (a *attempt) onUndo(f func(context.Context) error) { a.undos = append(a.undos, f) }

// undo takes back every step, the last one first, also when ctx has ended.
func (a *attempt) undo(ctx context.Context, cause error) error {
	if len(a.undos) == 0 {
		return cause
	}
	ctx = context.WithoutCancel(ctx)
	if cause != nil {
		a.log.Warn("the switch is taken back", "because", cause)
	}
	errs := []error{cause}
	switch p := a.record().Phase; {
	case p == Committing:
		// On disk before the fence is lowered: a record that still said
		// COMMITTING would be rolled forward after a crash.
		a.untilDone(ctx, "the state file still says COMMITTING", func(context.Context) error {
			return a.save(true, func(r *Record) { r.Phase = Aborting })
		})
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
	return errors.Join(errs...)
}

// assume is save for changes that a crash would make by itself: a state file that
// cannot be written (a full disk) must not keep the clients waiting.
func (m *Migration) assume(change func(*Record)) error {
	err := m.save(false, change)
	if err == nil {
		return nil
	}
	m.mu.Lock()
	next := m.rec.clone()
	change(&next)
	next.Seq++
	m.rec = next
	m.mu.Unlock()
	return err
}

// untilDone repeats what must be done before clients may go on.
func (m *Migration) untilDone(ctx context.Context, why string, f func(context.Context) error) {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		cctx, cancel := context.WithTimeout(ctx, m.cfg.Proxy.DialTimeout)
		err := f(cctx)
		cancel()
		if err == nil {
			m.setProblems()
			return
		}
		m.setProblems("clients wait: " + why + ": " + err.Error())
		m.log.Error("clients wait: "+why, "error", err, "again_in", wait)
		time.Sleep(wait)
	}
}

// tell brings a control key up to date where no step rests on it: a sidecar that
// loses its state file will read it.
func (m *Migration) tell(ctx context.Context, side router.Side, key string) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Proxy.DialTimeout)
	defer cancel()
	if err := m.publish(ctx, side, key); err != nil {
		m.log.Warn("a control key is out of date", "key", key, "error", err)
	}
}

func (a *attempt) preflightStep(ctx context.Context) error {
	a.loginWhereForgotten(ctx)
	if problems := a.preflight(ctx, a.from, true); len(problems) > 0 {
		return &Refused{problems}
	}
	if a.forward == nil {
		return &Refused{[]string{"the copy has not begun"}}
	}
	return nil
}

// prepare arms everything that can be made ready before clients wait: a new
// token, the sessions' connections, scripts and functions, and the feed of the
// way back: a write that the entered server takes right after the commit must
// not be missed by a feed that starts later.
func (a *attempt) prepare(ctx context.Context) error {
	level, err := a.fenceLevel(ctx, a.from)
	if err != nil {
		return err
	}
	a.level, a.report.Fence = level, level
	if level == FenceNone && !a.cfg.Cutover.Unsafe {
		return &Refused{[]string{"no fence is possible on " + a.ids[a.from].Pool().String()}}
	}
	if err := a.waitReady(ctx); err != nil {
		return err
	}
	a.followPhase() // the phase may lag behind the mirror
	if old := a.record().Servers[a.from].Fence; old != nil && old.Raised {
		// Never read what is to be put back from users that are fenced already.
		if err := a.lowerFence(ctx, a.from); err != nil {
			return err
		}
	}
	st, err := a.fence(a.from).save(ctx, level)
	if err != nil {
		return err
	}
	a.onUndo(func(context.Context) error {
		return a.save(false, func(r *Record) {
			if f := r.Servers[a.from].Fence; f != nil && !f.Raised {
				r.Servers[a.from].Fence = nil
			}
		})
	})
	err = a.save(false, func(r *Record) {
		r.Phase = Prepared
		r.Token++
		r.Switch = &Switch{From: a.from, To: a.to}
		r.Servers[a.from].Fence = st
	})
	if err != nil {
		return err
	}
	if err := a.publish(ctx, a.to, store.RecordKey); err != nil {
		return err
	}
	if err := a.fence(a.from).arm(ctx, a.record().Token); err != nil {
		return err
	}
	a.reverse = a.newMirror(a.to)
	a.onUndo(func(context.Context) error { a.reverse.Stop(); return nil })
	if err := a.reverse.Listen(ctx); err != nil {
		return fmt.Errorf("arming the way back: %w", err)
	}
	if err := a.carryScripts(ctx); err != nil {
		return err
	}
	if err := a.forward.CarryFunctions(ctx); err != nil {
		return err
	}
	a.onUndo(func(context.Context) error { a.traffic.Release(a.route()); return nil })
	err = a.traffic.Prepare(ctx, a.to)
	if err != nil && a.record().Servers[a.to].Fence != nil {
		// That side is fenced from the last switch and refuses part of what
		// sessions say; they connect again when the fence is down.
		a.log.Info("some sessions cannot be prepared while the fence is up", "error", err)
		return nil
	}
	return err
}

// waitReady waits until the copy is live, by the operator's patience.
func (a *attempt) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Cutover.WaitReady)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		p := a.forward.Progress()
		if p.State == mirror.Live {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errAborted) {
				return errAborted
			}
			return &Refused{append(a.reasons(a.record(), a.forward), fmt.Sprintf("not ready within %v (cutover.wait_ready)", a.cfg.Cutover.WaitReady))}
		}
	}
}

// lagGate waits for three samples in a row in which the copy is live and close.
func (a *attempt) lagGate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Cutover.WaitReady)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for good := 0; ; {
		p := a.forward.Progress()
		if p.State == mirror.Live && p.Lag <= a.cfg.Cutover.MaxLag && p.Dirty <= 20*a.cfg.Sync.Batch {
			if good++; good >= 3 {
				return nil
			}
		} else {
			good = 0
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errAborted) {
				return errAborted
			}
			return &Refused{[]string{fmt.Sprintf("the copy did not come close enough within %v: %d keys dirty, lag %v (cutover.max_lag %v)",
				a.cfg.Cutover.WaitReady, p.Dirty, p.Lag.Round(time.Millisecond), a.cfg.Cutover.MaxLag)}}
		}
	}
}

// hold makes clients wait. The stall budget runs from here.
func (a *attempt) hold(ctx context.Context) error {
	if err := a.save(false, func(r *Record) { r.Phase = Holding }); err != nil {
		return err
	}
	a.held = time.Now()
	timer := time.AfterFunc(a.opt.MaxStall, func() {
		a.budget(fmt.Errorf("%w: clients would have waited longer than %v (cutover.max_stall)", errStall, a.opt.MaxStall))
	})
	context.AfterFunc(ctx, func() { timer.Stop() })
	// Undone by the Release that prepare registered.
	return a.traffic.Hold(ctx)
}

// softFence stalls writers that bypass the proxy, without an error. It expires
// by itself, so nothing rests on it.
func (a *attempt) softFence(ctx context.Context) error {
	f := a.fence(a.from)
	a.onUndo(func(ctx context.Context) error { _ = f.unpause(ctx); return nil }) // unknown before 6.2
	if err := a.save(false, func(r *Record) { r.Phase = SoftFenced }); err != nil {
		return err
	}
	if err := f.pause(ctx, 2*a.opt.MaxStall+time.Second); err != nil && !refusedForGood(err) && !errorPrefix(errors.Unwrap(err), "ERR syntax") {
		return err
	}
	return nil
}

func (a *attempt) drainOnce(ctx context.Context) error { return a.forward.Drain(ctx) }

// hardFence is the instant after which nobody's write is acknowledged by the
// server that is left. What lowering it needs is persisted before, there and here.
func (a *attempt) hardFence(ctx context.Context) error {
	a.onUndo(func(ctx context.Context) error {
		// Released to a server that is still fenced, clients would be refused.
		a.untilDone(context.WithoutCancel(ctx), "the fence is not lowered yet", func(ctx context.Context) error {
			return a.lowerFence(ctx, a.from)
		})
		return nil
	})
	err := a.save(false, func(r *Record) {
		r.Phase = HardFenced
		r.Servers[a.from].Fence.Raised = true
	})
	if err != nil {
		return err
	}
	if err := a.publish(ctx, a.to, store.RecordKey); err != nil {
		return err
	}
	r := a.record()
	return a.fence(a.from).raise(ctx, r.Servers[a.from].Fence, r.Token)
}

// drainTwice is the step that safety rests on: the barrier is asked for after
// the fence was confirmed, so every acknowledged write stands before it.
func (a *attempt) drainTwice(ctx context.Context) error {
	if err := a.forward.Drain(ctx); err != nil {
		return err
	}
	if err := a.forward.CheckForeign(ctx); err != nil {
		return err
	}
	if err := a.forward.CarryFunctions(ctx); err != nil {
		return err
	}
	if err := a.carryScripts(ctx); err != nil {
		return err
	}
	a.onUndo(func(context.Context) error { a.forward.Thaw(); return nil })
	if err := a.forward.Freeze(ctx); err != nil {
		return err
	}
	// What came before this on the entered server was ours.
	if err := a.reverse.Rebase(ctx); err != nil {
		return err
	}
	entered := a.record().Servers[a.to].Fence
	a.onUndo(func(ctx context.Context) error { return a.fence(a.to).letListen(ctx, entered, false) })
	if err := a.fence(a.to).letListen(ctx, entered, true); err != nil {
		return err
	}
	return a.traffic.Align(ctx, a.nextRoute())
}

func (a *attempt) nextRoute() router.Route {
	r := a.route()
	r.Side, r.Epoch = a.to, r.Epoch+1
	return r
}

// journal is the point of no return. An error that it returns means that the
// server refused it for certain; an unknown outcome is settled before it returns.
func (a *attempt) journal(ctx context.Context) error {
	// A server that restarted since has forgotten the fence, and may have taken
	// writes that nobody drained.
	if err := a.fence(a.from).check(ctx, a.record().Servers[a.from].Fence); err != nil {
		return err
	}
	if err := a.save(true, func(r *Record) { r.Phase = Committing }); err != nil {
		return err
	}
	if a.level == FenceReplicas {
		// min-replicas-to-write refuses our own writes as well (server.c:
		// processCommand checks it before any user), so nothing can be written on
		// a server that is fenced so; the record on the entered server and the
		// state file carry the decision instead.
		return a.publishUntilKnown(ctx, a.to, store.RecordKey)
	}
	return a.publishUntilKnown(ctx, a.from, store.JournalKey)
}

// publishUntilKnown repeats a write whose answer was lost until the server
// has either taken or refused it.
func (a *attempt) publishUntilKnown(ctx context.Context, side router.Side, key string) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		cctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
		err := a.publish(cctx, side, key)
		cancel()
		if err == nil || certain(err) {
			return err
		}
		if errors.Is(a.restarted(ctx, side), errFenceLost) {
			return fmt.Errorf("the server restarted between the fence and the journal, and may have taken writes since: %w", err)
		}
		a.setProblems(fmt.Sprintf("clients wait: the journal on %s cannot be written yet: %v", a.ids[side].Pool(), err))
		a.log.Error("the journal's outcome is unknown, asking again", "error", err)
		time.Sleep(wait)
	}
}

// restarted returns errFenceLost when the fence on side does not stand any more.
func (a *attempt) restarted(ctx context.Context, side router.Side) error {
	st := a.record().Servers[side].Fence
	if st == nil {
		return nil
	}
	cctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
	defer cancel()
	err := a.fence(side).check(cctx, st)
	if err != nil && loginRefused(err) { // our user is gone: it restarted without its ACL
		return errFenceLost
	}
	return err
}

// certain reports whether the server answered: an answer that is an error means
// that nothing happened. Those that a server gives while it starts, or because it
// forgot our user, say nothing about the write before.
func certain(err error) bool {
	if errors.Is(err, store.ErrSuperseded) || errors.Is(err, store.ErrOther) {
		return true
	}
	var reply redis.Error
	return errors.As(err, &reply) && !loginRefused(err) && !errorPrefix(err, "LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN")
}

// commitStep makes the switch true on the entered server. After the journal
// there is only forward, so it repeats until it is done.
func (a *attempt) commitStep(ctx context.Context) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		cctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
		err := a.refill(cctx)
		if err == nil {
			err = a.commit(cctx)
		}
		cancel()
		if err == nil {
			a.setProblems()
			return nil
		}
		a.setProblems("clients wait: the switch cannot be committed yet: " + err.Error())
		a.relogin(ctx, err)
		a.log.Error("the switch is decided but cannot be committed yet", "error", err, "again_in", wait)
		time.Sleep(wait)
	}
}

// refill copies everything again when the entered server restarted between the
// last drain and the commit, and may have lost it. That is no second drain in the
// sense of PROTOCOL §4: this process still holds everybody, nothing but ours was
// ever written there, and the server that is left stands still.
func (a *attempt) refill(ctx context.Context) error {
	if a.record().Phase != Committing {
		return nil
	}
	restarted, err := a.forward.Restarted(ctx)
	if err != nil {
		return err
	}
	if restarted {
		a.refilling = true
		a.log.Error("the entered server restarted before the commit, copying again what it may have lost", "server", a.ids[a.to].Pool().String())
	}
	if !a.refilling {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	a.forward.Thaw()
	if err := a.forward.Drain(ctx); err != nil {
		return err
	}
	if err := a.forward.Freeze(ctx); err != nil {
		return err
	}
	if err := a.reverse.Rebase(ctx); err != nil {
		return err
	}
	a.refilling = false
	return nil
}

// commit persists COMMITTED, here and on the entered server, and opens that
// server if an earlier switch had fenced it. It may be repeated.
func (m *Migration) commit(ctx context.Context) error {
	r := m.record()
	if r.Phase == Committing {
		to := r.Switch.To
		// On the server first: the state file says COMMITTING and leads here again.
		next := r.clone()
		next.Phase, next.Side, next.Epoch, next.Seq = Committed, to, r.Epoch+1, r.Seq+1
		e, err := next.entry()
		if err != nil {
			return err
		}
		if err := store.Save(ctx, m.ids[to].Pool().DB(0), store.RecordKey, e); err != nil {
			return fmt.Errorf("on %s: %w", m.ids[to].Pool(), err)
		}
		err = m.save(true, func(r *Record) { r.Phase, r.Side, r.Epoch = Committed, to, r.Epoch+1 })
		if err != nil {
			return err
		}
	}
	return m.openEntered(ctx)
}

// openEntered lowers the fence on the server that the applications enter.
func (m *Migration) openEntered(ctx context.Context) error {
	side := m.record().Side
	if m.record().Servers[side].Fence == nil {
		return nil
	}
	return m.lowerFence(ctx, side)
}

// release lets the clients go on, on the other side.
func (a *attempt) release(context.Context) error {
	a.mu.Lock()
	a.mirror = a.reverse // what clients do from now on is the reverse mirror's to know
	a.mu.Unlock()
	a.traffic.Release(a.route())
	a.report.Held = ms(time.Since(a.held))
	s := a.traffic.Stalls()
	a.report.Sessions = s.Sessions
	a.report.Stall = StallMS{P50: ms(s.P50), P99: ms(s.P99), Max: ms(s.Max)}
	a.log.Info("the applications are on the "+a.to.String(), "held_ms", a.report.Held, "stall_max_ms", a.report.Stall.Max)
	return nil
}

// after cleans the server that was left of the applications' connections, then
// lets the reverse mirror write to it: a client that still waited there in a
// blocking command would be served by our own copy.
func (a *attempt) after(ctx context.Context) error {
	a.forward.Stop()
	if err := a.fence(a.from).killOthers(ctx); err != nil {
		a.log.Warn("connections past the proxy may be left on the server that was left", "error", err)
	}
	r := a.record()
	if r.oneWay() {
		a.setMirror(nil)
		a.reverse.Stop()
		a.log.Warn(r.noWayBack())
	} else if err := a.reverse.Follow(ctx, false); err != nil {
		a.log.Warn("the server that was left is not being kept up to date yet; it is tried again", "error", err)
	}
	a.waitStall()
	err := a.save(true, func(r *Record) {
		r.Switch = nil
		switch {
		case a.to == router.Source:
			r.Phase = RolledBack
		case r.oneWay():
			r.Phase = ReverseLost
		default:
			r.Phase = ReverseTailing
		}
	})
	a.tell(ctx, a.to, store.RecordKey)
	return err
}

// waitStall takes the stalls again: sessions report theirs as they go on.
func (a *attempt) waitStall() {
	s := a.traffic.Stalls()
	a.report.Sessions = s.Sessions
	a.report.Stall = StallMS{P50: ms(s.P50), P99: ms(s.P99), Max: ms(s.Max)}
}
