package migration

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

const (
	phaseEvery = 50 * time.Millisecond
	guardEvery = 500 * time.Millisecond
	sweepEvery = 5 * time.Second // a former master may be down for long
	sweepTime  = time.Second     // an operator's verb may wait for as long
)

// supervise follows the mirror with the phase, and guards the fence and the
// control record, until ctx ends.
func (m *Migration) supervise(ctx context.Context) {
	phase, guard := time.NewTicker(phaseEvery), time.NewTicker(guardEvery)
	defer phase.Stop()
	defer guard.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.seat.ended:
			return
		case <-phase.C:
			m.whileIdle(func() { m.followPhase(); m.followShadow() })
		case <-m.masters:
			m.whileIdle(func() { m.guard(ctx) })
		case <-guard.C:
			m.whileIdle(func() { m.guard(ctx) })
			m.noteStale()
			m.keepSchedule(time.Now())
		}
	}
}

// whileIdle runs f unless a verb is under way.
func (m *Migration) whileIdle(f func()) {
	if m.verb.TryLock() {
		defer m.verb.Unlock()
		f()
	}
}

// followPhase derives the phase from what the mirror vouches for.
func (m *Migration) followPhase() {
	r, mi := m.record(), m.activeMirror()
	if mi == nil || r.Phase.Ended() {
		return
	}
	next := r.Phase
	switch mi.Progress().State {
	case mirror.Live:
		if r.Side == router.Target {
			next = ReverseTailing
		} else if r.Phase != RolledBack {
			next = Tailing
		}
	case mirror.Resync, mirror.Idle:
		next = Resync
		if r.Side == router.Target {
			next = ReverseLost
		}
	}
	var err error
	if next != r.Phase {
		err = m.save(false, func(r *Record) { r.Phase = next })
	}
	switch {
	case err != nil:
		m.unkept = err.Error()
		m.setProblems(m.unkept)
		m.log.Error("the phase cannot be kept", "error", err)
	case m.unkept != "": // whatever else there may be is others'
		m.solved(m.unkept)
		m.unkept = ""
	}
}

// guard looks after what others may take away: the fence on the server that was
// left (a restart forgets it) and the control record on the other (a FLUSHALL
// removes it).
func (m *Migration) guard(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Proxy.DialTimeout)
	defer cancel()
	r := m.record()
	if r.Phase.Ended() {
		return
	}
	m.loginWhereForgotten(ctx)
	for side := range m.ids {
		m.meet(router.Side(side))
	}
	m.keepSeat(ctx)
	r = m.record()
	if mi := m.activeMirror(); mi != nil && mi.Progress().State == mirror.Idle {
		// A switch could not start it: the server that was left did not answer, or would not
		// let go of those who wait there.
		if err := m.follow(ctx, mi, false); err != nil {
			m.log.Warn("the server that was left is not being kept up to date yet", "error", err)
		}
	}
	m.findSavedFence(ctx)
	r = m.record()
	if r.Servers[r.Side].Fence != nil && !r.Phase.Switching() {
		if err := m.lowerFoundFence(ctx, r.Side); err != nil {
			m.log.Error("the fence on the applications' own server is still up", "error", err)
		}
	}
	left := r.Side.Other()
	m.fenceSuccessor(left)
	r = m.record()
	if st := r.Servers[left].Fence; st != nil && st.Raised {
		m.guardFence(ctx, left, st)
		m.guardStrays(ctx, left)
	} else {
		m.fenceLost.over()
		m.noteStrays(nil)
	}
	m.guardRecord(ctx, r)
	m.guardReplicas(ctx, left) // one that says nothing keeps nothing else waiting
	m.guardFormer(ctx)
}

// guardFormer puts back the servers that failovers have left behind, and replicas that did
// not answer when their fence was to be lowered.
func (m *Migration) guardFormer(ctx context.Context) {
	r := m.record()
	which := func(f Former) bool { return !r.staysFenced(f.Side) }
	if !slices.ContainsFunc(r.Former, which) || time.Since(m.swept) < sweepEvery {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	defer func() { m.swept = time.Now() }()
	done, err := m.sweep(ctx, which)
	for _, text := range done {
		m.log.Info(text)
	}
	if err != nil {
		m.log.Debug("a former master is tried again", "error", err)
	}
}

// loginWhereForgotten makes our user again on a server that restarted, or where somebody has
// set another password, as a sidecar does that was started at the same moment.
func (m *Migration) loginWhereForgotten(ctx context.Context) {
	for _, id := range m.ids {
		if !id.isOwn() {
			continue
		}
		password, err := m.ownPassword()
		if err == nil {
			err = known(ctx, id.Pool(), password)
		}
		m.relogin(ctx, err)
	}
}

func (m *Migration) guardFence(ctx context.Context, left router.Side, st *FenceState) {
	f := m.fence(left)
	err := f.check(ctx, st)
	if !errors.Is(err, errFenceLost) {
		if err == nil {
			m.fenceLost.over()
			m.clearAgain(ctx, left)
		}
		return // it stands, or the server does not answer: nobody writes there now
	}
	m.raiseLost(ctx, left, st, err)
}

// raiseLost raises a fence that was lost, which why says, and has everything compared again. It
// reports whether it could.
func (m *Migration) raiseLost(ctx context.Context, left router.Side, st *FenceState, why error) bool {
	f := m.fence(left)
	m.fenceLost.found()
	m.log.Error("the fence was gone, raising it again; what clients that bypass the proxy wrote meanwhile is not kept", "server", f.pool.String(), "error", why)
	fresh, err := f.save(ctx, st.Level)
	if err != nil {
		m.log.Error("raising the fence again", "error", err)
		return false
	}
	fresh.keepRules(st)
	fresh.Raised, fresh.Watched = true, st.Watched
	if err := m.save(true, func(r *Record) { r.Servers[left].Fence = fresh }); err != nil {
		m.log.Error("raising the fence again", "error", err)
		return false
	}
	token := m.record().Token
	err = f.arm(ctx, token)
	if err == nil {
		err = f.raise(ctx, fresh, token)
	}
	if err != nil {
		m.log.Error("raising the fence again", "error", err)
		return false
	}
	m.unclear = true
	m.clearAgain(ctx, left)
	m.mirrorCounts("the fence on the other server was gone for a while")
	return true
}

// mirrorCounts has everything compared again: what was written past us on the server that is
// copied to must not stay, for our side is the truth.
func (m *Migration) mirrorCounts(why string) {
	if mi := m.activeMirror(); mi != nil {
		mi.Rescan(-1, why)
	}
}

// clearAgain closes the connections of those who came while the fence was gone, until that
// has succeeded: see clear.go.
func (m *Migration) clearAgain(ctx context.Context, left router.Side) {
	if !m.unclear {
		return
	}
	err := m.clearSide(ctx, left)
	if m.unclear = err != nil; err != nil {
		m.log.Warn("connections past the proxy may be left on the server that was left", "error", err)
	}
}
