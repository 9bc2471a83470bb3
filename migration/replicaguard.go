package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// saveFence reads what raising a fence on another server of a side will change, and makes
// sure that it may be raised. The server must be proved to be ours.
func (m *Migration) saveFence(ctx context.Context, mb *member, level FenceLevel) (*FenceState, error) {
	if err := m.join(ctx, mb); err != nil {
		return nil, err
	}
	f := m.fenceOn(mb)
	if level == FenceACL && f.own == "" {
		return nil, fmt.Errorf("there is no user of our own on %s", f.pool)
	}
	st, err := f.save(ctx, level)
	if err != nil {
		return nil, err
	}
	if level == FenceACL && !st.HasSelectors {
		return nil, fmt.Errorf("%s is too old for the %s fence: it has no selectors (7.0)", f.pool, level)
	}
	st.Watched = m.ids[mb.side].url.Finder != nil
	return st, f.mayRaise(ctx, st)
}

// noteFence has the record know what lowering a fence on another server of a side needs.
func (m *Migration) noteFence(mb *member, st *FenceState) error {
	return m.save(false, func(r *Record) { r.keep(mb.side, mb.address, mb.here.Run, func(k *Kept) { k.Fence = st }) })
}

// openOthers puts back what was changed on the servers of a side that are not its master.
// Those that do not answer in time are tried again by the guard.
func (m *Migration) openOthers(ctx context.Context, side router.Side) {
	m.forgetUnfenced(side)
	ctx, cancel := context.WithTimeout(ctx, replicaTime)
	defer cancel()
	if _, err := m.sweep(ctx, func(f Former) bool { return f.Side == side }); err != nil {
		m.log.Warn("it is tried again", "error", err)
	}
}

// openStale is openOthers where the applications are, after a switch that was taken back or
// finished by a recovery. No client waits for it.
func (m *Migration) openStale(ctx context.Context) {
	m.whileIdle(func() {
		r := m.record()
		left := slices.ContainsFunc(r.Former, func(f Former) bool { return f.Side == r.Side })
		if left && !r.Phase.Ended() {
			m.openOthers(ctx, r.Side)
		}
	})
}

// guardReplicas keeps the replicas of a server that was left fenced: those that have
// forgotten it in a restart, that come later, or that could not be reached before.
func (m *Migration) guardReplicas(ctx context.Context, left router.Side) {
	if !m.record().staysFenced(left) || m.lostTo() != nil {
		return
	}
	due := func(address string) bool { return !m.failedLately(left, address) }
	m.eachReplica(ctx, left, replicaTime, due, m.keepFenced)
}

// keepFenced raises the fence on another server of a side that was left, if it does not
// stand there.
func (m *Migration) keepFenced(ctx context.Context, mb *member) error {
	r := m.record()
	k, _ := r.kept(mb.side, mb.address)
	watched := m.ids[mb.side].url.Finder != nil
	st := k.Fence
	if st != nil && st.Raised {
		f := m.fenceOn(mb)
		err := f.check(ctx, st)
		switch {
		case err == nil && st.Watched == watched:
			return nil
		case err == nil && mb.id.user() != "": // it was the master; sentinels are to make a replica of it
			up := *st
			up.Watched = watched
			if err := m.noteFence(mb, &up); err != nil {
				return err
			}
			return f.raiseAgain(ctx, &up)
		case err != nil && !errors.Is(err, errFenceLost):
			return err
		}
	}
	// It has come later, or was restarted; or users were made.
	fresh, err := m.saveFence(ctx, mb, r.Servers[mb.side].Fence.Level)
	if err != nil {
		return err
	}
	if st != nil {
		fresh.keepRules(st)
	}
	fresh.Raised, fresh.Watched = true, watched
	if err := m.tellOfFence(ctx, r.Side, mb, fresh); err != nil {
		return err
	}
	return m.fenceOn(mb).raiseBeside(ctx, fresh)
}

// tellOfFence is noteFence for the other server as well: whoever goes on from there, should
// the state file be lost, must know of it.
func (m *Migration) tellOfFence(ctx context.Context, told router.Side, mb *member, st *FenceState) error {
	m.others.telling.Lock() // or of two that tell at once the older record is refused
	defer m.others.telling.Unlock()
	if err := m.noteFence(mb, st); err != nil {
		return err
	}
	if err := m.publishIf(ctx, told, store.RecordKey, m.unforgotten(told)); err != nil {
		return fmt.Errorf("telling of the fence before it is raised: %w", err)
	}
	return nil
}
