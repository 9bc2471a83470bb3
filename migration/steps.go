package migration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

func (a *attempt) preflightStep(ctx context.Context) error {
	a.loginWhereForgotten(ctx)
	if problems := a.preflight(ctx, a.from, true); len(problems) > 0 {
		return &Refused{problems}
	}
	if a.forward == nil {
		return &Refused{[]string{"the copy has not begun"}}
	}
	if reasons := append(a.verifyReasons(), a.shadowReasons(a.from)...); len(reasons) > 0 {
		return &Refused{reasons}
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
	a.report.AskOneWay = a.onlyWay()
	a.report.OneWay = a.report.AskOneWay || level == FenceReplicas
	if level == FenceNone && !a.cfg.Cutover.Unsafe {
		return &Refused{[]string{"no fence is possible on " + a.ids[a.from].Pool().String()}}
	}
	if err := a.waitReady(ctx); err != nil {
		return err
	}
	a.followPhase() // the phase may lag behind the mirror
	a.endShadow()
	if old := a.record().Servers[a.from].Fence; old != nil && old.Raised {
		// Never read what is to be put back from users that are fenced already.
		if err := a.lowerFoundFence(ctx, a.from); err != nil {
			return err
		}
	}
	denied := a.record().Servers[a.from].Fence // what an earlier one has left, see denied.go
	if denied != nil && len(denied.Refused) == 0 {
		denied = nil
	}
	st, err := a.fence(a.from).save(ctx, level)
	if err != nil {
		return err
	}
	a.onUndo(func(context.Context) error {
		return a.save(false, func(r *Record) {
			if f := r.Servers[a.from].Fence; f != nil && !f.Raised && len(f.Refused) == 0 {
				r.Servers[a.from].Fence = denied
			}
		})
	})
	err = a.save(false, func(r *Record) {
		r.Phase = Prepared
		r.Token++
		r.Switch = &Switch{From: a.from, To: a.to, Token: r.Token}
		r.Servers[a.from].Fence = st
	})
	if err != nil {
		return err
	}
	if err := a.publish(ctx, a.to, store.RecordKey); err != nil {
		return err
	}
	a.onUndo(func(ctx context.Context) error { return whileBusy(ctx, a.fence(a.from).disarm) })
	if err := a.fence(a.from).arm(ctx, a.record().Token); err != nil {
		return err
	}
	if err := a.takeReins(ctx); err != nil {
		return err
	}
	if err := a.armBack(ctx); err != nil {
		return err
	}
	if err := a.ask(ctx); err != nil {
		return err
	}
	if err := a.carryScripts(ctx); err != nil {
		return err
	}
	if err := a.forward.CarryFunctions(ctx); err != nil {
		return err
	}
	a.onUndo(func(ctx context.Context) error {
		if a.awaitMayOpen(context.WithoutCancel(ctx), a.from) != nil {
			return nil // where they belong another one knows; the process ends
		}
		a.traffic.Release(a.route())
		if !a.held.IsZero() {
			a.report.Held = ms(time.Since(a.held))
		}
		return nil
	})
	if err := a.prepareTraffic(ctx); err != nil {
		return err
	}
	// Who is in the middle of a large value would hold up everybody else.
	return a.traffic.Settle(ctx)
}

// armBack begins to listen to the server that is entered, if there is to be a way back.
func (a *attempt) armBack(ctx context.Context) error {
	if a.onlyWay() {
		return nil
	}
	a.reverse = a.newMirror(a.to)
	a.onUndo(func(context.Context) error { a.reverse.Stop(); return nil })
	if err := a.reverse.Listen(ctx); err != nil {
		return fmt.Errorf("arming the way back: %w", err)
	}
	return nil
}

// prepareTraffic connects the sessions to the other side; those that are connected already
// stay so.
func (a *attempt) prepareTraffic(ctx context.Context) error {
	err := a.traffic.Prepare(ctx, a.to)
	var sessions *sessionsError
	if errors.As(err, &sessions) && a.record().Servers[a.to].Fence != nil {
		// That side is fenced from the last switch and refuses part of what
		// sessions say; they connect again when the fence is down.
		a.log.Info("some sessions cannot be prepared while the fence is up", "error", err)
		return nil
	}
	return err
}

// ask lets the hooks with a veto say no. It comes before anybody waits, and what takes
// long there takes nobody's time but the attempt's.
func (a *attempt) ask(ctx context.Context) error {
	err := a.Migration.opt.Hooks.Ask(ctx, a.event(config.VetoEvent, a.record()))
	switch {
	case err == nil:
		return nil
	case context.Cause(ctx) != nil:
		return err
	}
	return &Refused{[]string{"vetoed by " + err.Error()}}
}

// waitReady waits until the copy is live, by the operator's patience.
func (a *attempt) waitReady(whole context.Context) error {
	ctx, cancel := context.WithTimeout(whole, a.cfg.Cutover.WaitReady)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		fenced := a.keepEntered(whole)
		if a.forward.Progress().State == mirror.Live && fenced == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), errAborted) {
				return errAborted
			}
			return &Refused{append(a.notReady(fenced), fmt.Sprintf("not ready within %v (cutover.wait_ready)", a.cfg.Cutover.WaitReady))}
		}
	}
}

// notReady is what the copy itself has against a switch, and the fence on the entered server.
func (a *attempt) notReady(fenced error) []string {
	why := a.copyReasons(a.forward, a.opt.MaxLag, a.opt.MaxStall)
	if fenced != nil {
		why = append(why, fmt.Sprintf("the fence on the %s is not known to stand: %v", a.to, fenced))
	}
	return why
}

// fewDirty is how many keys may be dirty for a switch to begin: some milliseconds' work.
const fewDirty = 5000

// lagGate waits until the copy is close, and then has everything done that need not be
// done while clients wait: the sample is chosen, new sessions are connected, the entered
// server is told what is to come, connections are made, the one that fences looks whether it
// may, and what is dirty is copied.
func (a *attempt) lagGate(ctx context.Context) error {
	if err := a.awaitClose(ctx); err != nil {
		return err
	}
	if err := a.chooseSample(ctx); err != nil {
		return err
	}
	if err := a.prepareTraffic(ctx); err != nil { // who has come while it waited
		return err
	}
	if !a.opt.DryRun && !a.opt.Rehearse {
		if err := a.announceFence(ctx); err != nil {
			return err
		}
		if err := a.openToListeners(ctx); err != nil {
			return err
		}
	}
	if err := a.countMarks(ctx); err != nil {
		return err
	}
	if err := a.warm(ctx); err != nil {
		return err
	}
	if err := a.Migration.opt.File.Brisk(); err != nil { // it can be done without
		a.log.Warn("the state file is written the slow way while clients wait", "error", err)
	}
	if err := a.watchFence(ctx); err != nil {
		return err
	}
	return a.comeNear(ctx)
}

// How many connections to a database are used at the same time while clients wait: to
// compare keys, and to database 0 for all else.
const (
	warmKeys = sampleHands
	warmAll  = sampleHands + 4
)

// warm connects to both servers as often as will be needed: no time for a handshake later.
func (a *attempt) warm(ctx context.Context) error {
	dm := a.databases()
	pools := [2]*conn.Pool{a.ids[a.from].Pool(), a.ids[a.to].Pool()}
	for _, p := range pools {
		if err := p.Warm(ctx, 0, warmAll); err != nil {
			return err
		}
	}
	if err := warmNodes(ctx, a.ids[a.to].Pool()); err != nil {
		return err
	}
	if err := a.forward.Warm(ctx); err != nil {
		return err
	}
	if a.reverse != nil { // it counts what the entered server has run: see rebase
		if err := a.reverse.Warm(ctx); err != nil {
			return err
		}
	}
	for i, db := range dm.Sources() {
		here, _ := dm.At(a.from, db)
		there, _ := dm.At(a.to, db)
		for side, n := range [2]int{here.DB, there.DB} {
			many := warmKeys
			if i == 0 { // what is asked about the server itself goes that way
				many = warmAll
			}
			if err := pools[side].Warm(ctx, n, many); err != nil {
				return err
			}
		}
	}
	return nil
}

// announceFence tells the entered server, and the state file, that a fence may be up on the
// other one from now on, and what lowering it needs, as that is now.
func (a *attempt) announceFence(ctx context.Context) error {
	a.onUndo(func(context.Context) error {
		if a.fencing {
			return nil // who lowers it says so
		}
		return a.assume(func(r *Record) {
			if f := r.Servers[a.from].Fence; f != nil {
				f.Raised = false
			}
		})
	})
	marks, err := a.chooseMarks(ctx, a.to)
	if err != nil {
		return err
	}
	// The attempt may have waited for long: what rights an administrator has given or taken
	// meanwhile is what lowering the fence puts back.
	st, err := a.fence(a.from).save(ctx, a.level)
	if err != nil {
		return err
	}
	if err := a.noteReplicasAgain(ctx); err != nil {
		return err
	}
	err = a.save(false, func(r *Record) {
		st.Raised = true
		r.Servers[a.from].Fence = st
		r.announceReplicas(a.from)
		r.Switch.Marks = marks
	})
	if err != nil {
		return err
	}
	return a.publish(ctx, a.to, store.RecordKey)
}

// openToListeners lets the users of the entered server, if it is fenced since an earlier
// switch, do there what moving their subscriptions takes.
func (a *attempt) openToListeners(ctx context.Context) error {
	a.onUndoLast(a.closeToListeners)
	return a.fence(a.to).letListen(ctx, a.fenceEntered(), true)
}

// awaitClose waits for three samples in a row in which the copy is live and close.
func (a *attempt) awaitClose(whole context.Context) error {
	ctx, cancel := context.WithTimeout(whole, a.cfg.Cutover.WaitReady)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	a.entered.at = time.Time{} // replicas, and whoever was asked, may have taken their time
	for good := 0; ; {
		postponed := ""
		if !a.opt.DryRun && !a.opt.Rehearse {
			postponed = a.postponed(a.from)
		}
		fenced := a.keepEntered(whole)
		if postponed == "" && fenced == nil && a.closeEnough(a.forward, a.opt.MaxLag, a.opt.MaxStall) {
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
			if postponed != "" {
				return &Refused{[]string{postponed}}
			}
			p := a.forward.Progress()
			return &Refused{append(a.notReady(fenced), fmt.Sprintf("the copy did not come close enough within %v: %d keys dirty, lag %v (cutover.max_lag %v)",
				a.cfg.Cutover.WaitReady, p.Dirty, p.Lag.Round(time.Millisecond), a.opt.MaxLag))}
		}
	}
}

// comeNear has the drain under the hold begin with as little as it can. Writers that are
// too fast for it do not keep an attempt waiting: the copy was close enough.
func (a *attempt) comeNear(ctx context.Context) error {
	until := time.Now().Add(a.opt.MaxStall / 4)
	near, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	err := a.forward.Near(near)
	if near.Err() != nil || !time.Now().Before(until) { // the network's clock may be a moment ahead
		return context.Cause(ctx)
	}
	return err
}

// hold makes clients wait. The stall budget runs from here.
func (a *attempt) hold(ctx context.Context) error {
	if err := a.save(false, func(r *Record) { r.Phase = Holding }); err != nil {
		return err
	}
	a.held = time.Now()
	timer := time.AfterFunc(a.opt.MaxStall, func() { a.budget(a.overspent()) })
	context.AfterFunc(ctx, func() { timer.Stop() })
	ctx, cancel := context.WithDeadlineCause(ctx, a.held.Add(a.opt.MaxStall), a.overspent())
	defer cancel()
	// Undone by the Release that prepare registered.
	return a.traffic.Hold(ctx)
}

// softFence stalls writers that bypass the proxy, without an error. It expires
// by itself, so nothing rests on it.
func (a *attempt) softFence(ctx context.Context) error {
	busy := false
	a.onUndoLast(func(ctx context.Context) error { // clients go on; writers past the proxy and theirs are still to
		if !busy {
			return nil
		}
		return whileBusy(ctx, a.fence(a.from).unpause)
	})
	a.onUndo(func(ctx context.Context) error {
		err := a.callBack(ctx)
		busy = isBusy(a.fence(a.from).unpause(ctx)) // all else is that it is unknown, before 6.2
		return err
	})
	if err := a.save(false, func(r *Record) { r.Phase = SoftFenced }); err != nil {
		return err
	}
	err := a.rein().pause(ctx, a.reins.conn, 2*a.opt.MaxStall+time.Second)
	a.noteStray(err)
	a.paused = err == nil
	if err != nil && (refusedForGood(err) || errorPrefix(errors.Unwrap(err), "ERR syntax")) {
		return nil
	}
	return err
}

func (a *attempt) drainOnce(ctx context.Context) error { return a.forward.Near(ctx) }

// hardFence is the instant after which nobody's write is acknowledged by the
// server that is left. What lowering it needs is persisted before, see announceFence.
func (a *attempt) hardFence(ctx context.Context) error {
	a.fencing = true
	a.onUndo(func(ctx context.Context) error {
		// Released to a server that is still fenced, clients would be refused.
		a.untilDone(context.WithoutCancel(ctx), "the fence is not lowered yet", func(ctx context.Context) error {
			if err := a.callBack(ctx); err != nil {
				return err
			}
			return a.lowerFence(ctx, a.from)
		})
		return nil
	})
	if err := a.save(false, func(r *Record) { r.Phase, r.Switch.Run = HardFenced, a.left.Run }); err != nil {
		return err
	}
	st := a.record().Servers[a.from].Fence
	a.raiseReplicas(ctx)
	err := a.rein().lift(ctx, a.reins.conn, st)
	a.noteStray(err)
	return err
}

// drainTwice is the step that safety rests on: the barrier is asked for after
// the fence was confirmed, so every acknowledged write stands before it.
func (a *attempt) drainTwice(ctx context.Context) error {
	together, tctx := errgroup.WithContext(ctx)
	together.Go(func() error { return a.drainFrozen(tctx) })
	together.Go(func() error { return a.traffic.Align(tctx, a.nextRoute()) }) // needs the fence, and none of the keys
	return together.Wait()
}

// drainFrozen carries what is left over and stops copying, while nobody writes.
func (a *attempt) drainFrozen(ctx context.Context) error {
	// Nothing changes any more, so all of this may be asked for at the same time.
	first := make(chan error, 1)
	go func() { first <- a.carryBeside(ctx) }()
	carried := sync.OnceValue(func() error { return <-first })
	a.onUndo(func(context.Context) error { a.forward.Thaw(); return nil })
	begun, again := false, false
	err := a.forward.DrainFrozen(ctx, func(ctx context.Context) error {
		if err := a.forward.Follows(a.left.Run); err != nil {
			return err
		}
		carry := carried
		if begun { // the entered server has been restarted since
			again, carry = true, func() error { return a.carryAgain(ctx) }
		}
		begun = true
		if err := carry(); err != nil {
			return err
		}
		return a.rebase(ctx)
	})
	if again { // what became of the first time was the server's of before
		return err
	}
	return errors.Join(err, carried())
}

// carryBeside carries what is no key.
func (a *attempt) carryBeside(ctx context.Context) error {
	together, tctx := errgroup.WithContext(ctx)
	together.Go(func() error { return a.forward.CarryFunctions(tctx) })
	together.Go(func() error { return a.carryScripts(tctx) })
	return together.Wait()
}

// carryAgain is carryBeside for a server that may have lost all of it.
func (a *attempt) carryAgain(ctx context.Context) error {
	a.scripts = nil
	return a.carryBeside(ctx)
}

// rebase has the way back, if there is one, forget what came before this on the entered
// server: that was ours.
func (a *attempt) rebase(ctx context.Context) error {
	if a.reverse == nil {
		return nil
	}
	return a.reverse.Rebase(ctx)
}

func (a *attempt) nextRoute() router.Route {
	r := a.route()
	r.Side, r.Epoch = a.to, r.Epoch+1
	return r
}
