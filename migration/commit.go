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

// journal is the point of no return. An error that it returns means that the
// server refused it for certain; an unknown outcome is settled before it returns.
func (a *attempt) journal(ctx context.Context) error {
	// A server that restarted since has forgotten the fence, and may have taken
	// writes that nobody drained.
	st := a.record().Servers[a.from].Fence
	if a.level == FenceReplicas {
		if err := a.leftFence().check(ctx, st); err != nil {
			return err
		}
	}
	if err := a.save(a.level == FenceReplicas, func(r *Record) { r.Phase = Committing }); err != nil {
		return err
	}
	if a.level == FenceReplicas {
		// min-replicas-to-write refuses our own writes as well (server.c:
		// processCommand checks it before any user), so nothing can be written on
		// a server that is fenced so; the record on the entered server and the
		// state file carry the decision instead.
		if err := a.publishUntilKnown(ctx, a.to, store.RecordKey, nil); err != nil {
			return err
		}
		// It may have taken long, and nobody was let in yet: see decide.
		if err := a.restarted(ctx, a.from); errors.Is(err, errFenceLost) {
			return fmt.Errorf("after the decision on the %s: %w", a.to, err)
		}
		return nil
	}
	// The journal decides, and the disk takes its time. It must have the state file before
	// anybody is let in: commit saves COMMITTED behind this.
	a.Migration.opt.File.Settle(func(err error) {
		if err != nil {
			a.log.Error("whether the state file outlives the machine is not known", "error", err)
		}
	})
	ready := make(chan struct{})
	go func() { // the other server is asked meanwhile what commit wants to know
		defer close(ready)
		if a.commission == nil {
			a.commission, _ = a.watchRecord(ctx) // commit asks again and says why
		}
	}()
	err := a.decide(ctx, st)
	<-ready
	return err
}

// decide writes the journal: by the connection that has looked whether it may, or, where
// that is gone, by looking once more. In the same instant it asks whether the fence stands:
// should somebody have taken it down by hand since, nobody was let in yet, and who calls
// takes the journal back.
func (a *attempt) decide(ctx context.Context, st *FenceState) error {
	f := a.leftFence()
	if w := a.decision; w != nil {
		e, err := a.record().entry()
		if err != nil {
			return err
		}
		cctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
		defer cancel()
		var asked answers
		err = a.decided("the journal", w.Save(cctx, e, replicaPatience, func(p redis.Pipeliner) { asked = f.ask(cctx, p, st) }))
		if err == nil {
			return f.judge(cctx, f.db(), st, asked)
		}
		if certain(err) {
			return err
		}
		a.log.Warn("the journal's outcome is unknown, asking again", "error", err)
	}
	if err := a.publishUntilKnown(ctx, a.from, store.JournalKey, f.stands(st)); err != nil {
		return err
	}
	if err := a.restarted(ctx, a.from); errors.Is(err, errFenceLost) {
		return err
	}
	return nil
}

// leftFence is the fence on the process that it was raised on: a replica that has taken its
// place is fenced as well, but nobody has drained it.
func (a *attempt) leftFence() fence {
	f := a.fence(a.from)
	f.run = a.left.Run
	return f
}

// watchJournal asks the server that is left, while other things are checked, what is to be
// known before the journal is written there: that nobody newer has, and that the fence
// stands. What it finds holds as long as the connection does. One that cannot be asked now
// is asked by journal, and so is one that refuses our writes.
func (a *attempt) watchJournal(ctx context.Context) error {
	if a.level == FenceReplicas {
		return nil
	}
	w, err := a.watch(ctx, a.from, store.JournalKey, a.leftFence().stands(a.record().Servers[a.from].Fence))
	if errors.Is(err, errFenceLost) || certain(err) {
		return err
	}
	a.decision = w
	return nil
}

// watchRecord asks the entered server what is to be known before COMMITTED is written
// there: that it is the process that was drained, and, where it is fenced since an earlier
// switch, that the fence is ours to lower and has stood.
func (a *attempt) watchRecord(ctx context.Context) (*store.Watched, error) {
	ok := a.filled
	if f := a.record().Servers[a.to].Fence; f != nil {
		ok = func(ctx context.Context, p redis.Pipeliner) func(store.Asker, store.Entry) error {
			may, holds, stands := a.fence(a.to).mayLower(ctx, p), a.filled(ctx, p), a.standsEntered(ctx, p)
			return func(c store.Asker, e store.Entry) error { return errors.Join(may(), holds(c, e), stands(c)) }
		}
	}
	return a.watch(ctx, a.to, store.RecordKey, ok)
}

func (a *attempt) watch(ctx context.Context, side router.Side, key string, ok store.Condition) (*store.Watched, error) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
	defer cancel()
	e, err := a.record().entry()
	if err != nil {
		return nil, err
	}
	w, err := store.Watch(ctx, a.ids[side].Pool().Control(), key, e, ok)
	if err != nil {
		return nil, fmt.Errorf("on %s: %w", a.ids[side].Pool(), err)
	}
	return w, nil
}

// dropWatched gives the connections back that have looked ahead.
func (a *attempt) dropWatched(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.Proxy.DialTimeout)
	defer cancel()
	a.decision.Close(ctx)
	a.commission.Close(ctx)
	a.decision, a.commission = nil, nil
}

// replicaPatience is how long clients wait for replicas once the switch is decided.
const replicaPatience = 100 * time.Millisecond

// keepDrained waits until the replicas of the entered server have what was drained:
// nobody copies anything again once the journal is written, so a failover must not take
// it away. It takes what is left of the stall budget at most. Where there are none, the
// connection that has found that out is kept for commit.
func (a *attempt) keepDrained(ctx context.Context) error {
	patience := min(a.opt.MaxStall-time.Since(a.held), a.cfg.Proxy.DialTimeout/2)
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
	defer cancel()
	if topologyOf(a.ids[a.to].Pool()) != nil {
		return a.keepDrainedOnNodes(ctx, patience)
	}
	w, err := a.watchRecord(ctx)
	if err == nil && w.Alone() {
		a.commission = w
		return nil
	}
	w.Close(ctx)
	if err == nil {
		err = a.publishReplicated(ctx, a.to, store.RecordKey, a.filled, patience)
	}
	switch {
	case err != nil && refusedForGood(err):
		a.log.Warn("whether the replicas have what was drained cannot be asked", "server", a.ids[a.to].Pool().String(), "error", err)
		return nil
	case errors.Is(err, store.ErrBehind):
		return fmt.Errorf("waiting until the replicas have what was drained: %w", err)
	}
	return err
}

// markDrained leaves a mark on the entered server behind the last copy. A server keeps what
// it was told in order, so one that has the mark after a restart has all of them: whoever
// finishes the switch looks for it. One that has restarted since it was drained is none of
// ours, and the attempt ends.
func (a *attempt) markDrained(ctx context.Context) error {
	to := a.ids[a.to].Pool()
	if topologyOf(to) != nil {
		return nil // see keepDrainedOnNodes
	}
	p := to.DB(0).Pipeline()
	holds := a.forward.Whole(ctx, p)
	mark := p.Set(ctx, store.DrainedKey, a.record().drainedMark(), 0)
	_, _ = p.Exec(ctx) // each has its own error
	if err := holds(); err != nil {
		return err
	}
	switch err := mark.Err(); {
	case err != nil && refusedForGood(err):
		a.log.Warn("should this process die now, nobody can tell whether all was copied", "server", to.String(), "error", err)
	case err != nil:
		return fmt.Errorf("writing %s on %s: %w", store.DrainedKey, to, err)
	}
	return nil
}

// filled is the condition that the entered server is the process that was drained, and, before
// the switch is decided, that it has evicted nothing since. Behind the decision it evicts by its
// own policy, as it does when clients are there: there is no way but forward.
func (a *attempt) filled(ctx context.Context, p redis.Pipeliner) func(store.Asker, store.Entry) error {
	ask := a.forward.Whole
	if a.record().Phase == Committing {
		ask = a.forward.Filled
	}
	holds := ask(ctx, p)
	return func(store.Asker, store.Entry) error { return holds() }
}

// decided makes nothing of an error that only says that replicas lag behind, or cannot
// be asked: what was to be written is.
func (m *Migration) decided(what string, err error) error {
	if !errors.Is(err, store.ErrBehind) {
		return err
	}
	m.log.Warn("a failover now could take back "+what, "error", err)
	return nil
}

// publishUntilKnown repeats a write whose answer was lost until the server
// has either taken or refused it.
func (a *attempt) publishUntilKnown(ctx context.Context, side router.Side, key string, ok store.Condition) error {
	defer a.setProblems() // what comes next has its own
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		cctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
		err := a.decided("the journal", a.publishReplicated(cctx, side, key, ok, replicaPatience))
		cancel()
		if err == nil || certain(err) {
			return err
		}
		if lost := a.lostTo(); lost != nil {
			return lost
		}
		if errors.Is(err, errFenceLost) || errors.Is(a.restarted(ctx, a.from), errFenceLost) {
			return fmt.Errorf("the server restarted between the fence and the journal, and may have taken writes since: %w", err)
		}
		a.setProblems(fmt.Sprintf("clients wait: the journal on %s cannot be written yet: %v", a.ids[side].Pool(), err))
		a.log.Error("the journal's outcome is unknown, asking again", "error", err)
		time.Sleep(wait)
	}
}

// takeJournalBack overwrites what journal may have written. A server that refuses that is
// one that has refused the journal.
func (a *attempt) takeJournalBack(ctx context.Context) error {
	side, key := a.from, store.JournalKey
	if a.level == FenceReplicas {
		side, key = a.to, store.RecordKey
	}
	err := a.publish(ctx, side, key)
	if err != nil && loginRefused(err) {
		a.relogin(ctx, err) // it was restarted
		err = a.publish(ctx, side, key)
	}
	if err != nil && certain(err) {
		return nil
	}
	return err
}

// restarted returns errFenceLost when the fence on side does not stand any more.
func (a *attempt) restarted(ctx context.Context, side router.Side) error {
	st := a.record().Servers[side].Fence
	if st == nil {
		return nil
	}
	cctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
	defer cancel()
	f := a.fence(side)
	if side == a.from {
		f.run = a.left.Run
	}
	err := f.check(cctx, st)
	if err != nil && loginRefused(err) { // our user is gone: it restarted without its ACL
		return errFenceLost
	}
	return err
}

// certain reports whether the server answered: an answer that is an error means
// that nothing happened. Those that a server gives while it starts, or because it
// forgot our user, say nothing about the write before; nor do those of a cluster
// which cannot for the moment, or of a node that another one has taken the place of.
func certain(err error) bool {
	if errors.Is(err, store.ErrSuperseded) || errors.Is(err, store.ErrOther) {
		return true
	}
	var reply redis.Error
	return errors.As(err, &reply) && !loginRefused(err) &&
		!errorPrefix(err, "LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN") &&
		(!conn.Away(err) || errorPrefix(err, "READONLY"))
}

// commitStep makes the switch true on the entered server. After the journal
// there is only forward, so it repeats until it is done.
func (a *attempt) commitStep(ctx context.Context) error {
	if a.commitAtOnce(ctx) {
		return nil
	}
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		cctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
		err := a.refill(cctx)
		if err == nil {
			err = a.commit(cctx, a.filled)
		}
		cancel()
		if err == nil {
			a.setProblems()
			return nil
		}
		if lost := a.lostTo(); lost != nil {
			return lost
		}
		a.setProblems("clients wait: the switch cannot be committed yet: " + err.Error())
		a.relogin(ctx, err)
		a.log.Error("the switch is decided but cannot be committed yet", "error", err, "again_in", wait.String())
		time.Sleep(wait)
	}
}

// commitAtOnce is refill and commit in one round trip, by the connection that has looked
// whether all is as it should be. Where the entered server has no replicas to wait for, its
// fence falls in the same instant. False is that something is left to be done or to be found
// out, by the long way.
func (a *attempt) commitAtOnce(ctx context.Context) bool {
	w, fence := a.commission, a.record().Servers[a.to].Fence
	if w == nil {
		return false
	}
	e, err := a.committed().entry()
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
	defer cancel()
	var lowering []redis.Cmder
	var unpause *redis.Cmd
	var also func(redis.Pipeliner)
	if fence != nil && w.Alone() {
		also = func(p redis.Pipeliner) { lowering, unpause = a.fence(a.to).queueLower(ctx, p, fence) }
	}
	at := time.Now()
	if err := a.decided("COMMITTED", w.Save(ctx, e, replicaPatience, also)); err != nil {
		a.log.Warn("whether the switch is committed is not known, asking again", "server", a.ids[a.to].Pool().String(), "error", err)
		return false
	}
	a.seat.noteSeenAt(a.to, at) // or the connection would have been closed
	lowered := also != nil && firstBut(unpause, lowering, nil) == nil
	a.noteCommitted(lowered)
	return lowered || fence == nil
}

// refill copies everything again when the entered server restarted between the
// last drain and the commit, and may have lost it. That is no second drain in the
// sense of PROTOCOL §4: this process still holds everybody, nothing but ours was
// ever written there, and the server that is left stands still. Where it says COMMITTED
// that is not so: the answer to that was lost, and members of a fleet who read it there enter.
// It has all that was copied before that, in its own order, and nothing is copied to it.
func (a *attempt) refill(ctx context.Context) error {
	if a.record().Phase != Committing {
		return nil
	}
	restarted, err := a.forward.Restarted(ctx)
	if err != nil {
		return err
	}
	if restarted || a.refilling {
		whole, err := a.wholeBehindCommit(ctx)
		if err != nil {
			return err
		}
		if whole {
			a.log.Warn("the entered server restarted behind the commit, of which the answer was lost", "server", a.ids[a.to].Pool().String())
			a.refilling = false
			return nil
		}
	}
	if restarted && !a.refilling && topologyOf(a.ids[a.to].Pool()) != nil {
		// Behind the marks nothing of ours was written: who has them has all.
		whole, err := a.forward.Refilled(ctx, a.stillDrained)
		if err != nil {
			return err
		}
		if restarted = !whole; whole {
			a.log.Warn("masters of the entered cluster were replaced before the commit, and nothing is missing", "server", a.ids[a.to].Pool().String())
		}
	}
	if restarted {
		a.refilling = true
		a.log.Error("the entered server restarted before the commit, copying again what it may have lost", "server", a.ids[a.to].Pool().String())
	}
	if !a.refilling {
		return nil
	}
	ctx = context.WithoutCancel(ctx)
	a.forward.Regardless(true)
	defer a.forward.Regardless(false)
	a.forward.Thaw()
	if err := a.forward.Drain(ctx); err != nil {
		return err
	}
	if err := a.carryAgain(ctx); err != nil {
		return err
	}
	if err := a.forward.Freeze(ctx); err != nil {
		return err
	}
	if err := a.rebase(ctx); err != nil {
		return err
	}
	a.refilling = false
	return nil
}

// wholeBehindCommit reports whether the entered server has the decision of this switch, and so
// all that was written before that; of a cluster, whose masters write apart, also whether
// each has the mark of having all.
func (a *attempt) wholeBehindCommit(ctx context.Context) (bool, error) {
	to := a.ids[a.to].Pool()
	return a.forward.Refilled(ctx, func(ctx context.Context) (bool, error) {
		e, ok, err := store.Load(ctx, to.Control(), store.RecordKey)
		if err != nil {
			return false, fmt.Errorf("on %s: %w", to, err)
		}
		if !ok || !a.record().committedIn(e) {
			return false, nil
		}
		if topologyOf(to) == nil {
			return true, nil
		}
		return a.stillDrained(ctx)
	})
}

// commit persists COMMITTED, here and on the entered server, and opens that
// server if an earlier switch had fenced it. It may be repeated. ok is asked before
// the entered server is told, nil: nothing.
func (m *Migration) commit(ctx context.Context, ok store.Condition) error {
	if r := m.record(); r.Phase == Committing {
		to := r.Switch.To
		e, err := m.committed().entry()
		if err != nil {
			return err
		}
		at := time.Now()
		err = store.SaveReplicated(ctx, m.ids[to].Pool().Control(), store.RecordKey, e, ok, replicaPatience)
		if err := m.decided("COMMITTED", err); err != nil {
			return fmt.Errorf("on %s: %w", m.ids[to].Pool(), err)
		}
		m.seat.noteSeenAt(to, at)
		m.noteCommitted(false)
	}
	return m.openEntered(ctx)
}

// committed is what the present record, which says COMMITTING, becomes. The server has it
// first: the state file leads here again.
func (m *Migration) committed() Record {
	r := m.record()
	r.Phase, r.Side, r.Epoch, r.Seq = Committed, r.Switch.To, r.Epoch+1, r.Seq+1
	return r
}

// noteCommitted has the state file know what the entered server was told, and whether the
// fence there was lowered. It leads here again even if it cannot be written now.
func (m *Migration) noteCommitted(lowered bool) {
	err := m.assume(func(r *Record) {
		to := r.Switch.To
		r.Phase, r.Side, r.Epoch = Committed, to, r.Epoch+1
		if lowered {
			r.Servers[to].noteLowered(r.Servers[to].Fence)
			r.Servers[to].Fence = nil
		}
	})
	if err != nil {
		m.log.Error("the switch is committed, which the state file does not know", "error", err)
	}
}

// release lets the clients go on, on the other side.
func (a *attempt) release(ctx context.Context) error {
	if err := a.awaitMayOpen(ctx, a.to); err != nil {
		return err // the process may have been stopped since it was committed
	}
	a.opening = make(chan struct{})
	go func() { // whom an earlier switch has fenced: a failover must not meet clients with a fence
		defer close(a.opening)
		a.openOthers(ctx, a.to)
	}()
	a.setMirror(a.reverse) // what clients do from now on is the reverse mirror's to know
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
	defer func() { <-a.opening }()
	r := a.record()
	if r.oneWay() {
		if err := a.clearSide(ctx, a.from); err != nil {
			a.log.Warn("connections past the proxy may be left on the server that was left", "error", err)
		}
		a.setMirror(nil)
		if a.reverse != nil {
			a.reverse.Stop()
		}
		a.log.Warn(r.noWayBack())
	} else if err := a.follow(ctx, a.reverse, false); err != nil {
		a.log.Warn("the server that was left is not being kept up to date yet; it is tried again", "error", err)
	}
	a.waitStall()
	err := a.assume(func(r *Record) {
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
