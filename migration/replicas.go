package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// What fences a server is not replicated, so one of its replicas that becomes the master,
// by sentinels or by hand, would let everybody in. Each that can be reached is therefore
// fenced with its master, in the same moment, and is kept fenced for as long as that one is.
// The record has what is to be put back there among the former masters: a failover makes of
// the one the other. One that cannot be reached is named, and tried again.

const (
	replicaTime  = time.Second     // what replicas are asked takes so long at most when others wait for it
	replicaRetry = 2 * time.Second // after which one that could not be fenced is tried again
)

// others are how we log in to servers of a side that are not its master.
type others struct {
	mu       sync.Mutex
	ids      [2]map[string]*identity
	unfenced [2]map[string]unfenced
}

// unfenced is a replica without the fence that its master has.
type unfenced struct {
	why string
	at  time.Time // when it was tried
}

// other returns how we log in to another server of a side.
func (m *Migration) other(side router.Side, address string) *identity {
	m.others.mu.Lock()
	defer m.others.mu.Unlock()
	if id := m.others.ids[side][address]; id != nil {
		return id
	}
	base := m.ids[side]
	id := newIdentity(side, base.url.At(address), base.instance, base.timeout)
	id.Pool().Guard(&conn.Guard{Key: store.SeatKey, Allow: m.seat.allow})
	if m.others.ids[side] == nil {
		m.others.ids[side] = make(map[string]*identity)
	}
	m.others.ids[side][address] = id
	return id
}

// leaveOther closes our connections to another server of a side.
func (m *Migration) leaveOther(side router.Side, address string) {
	m.others.mu.Lock()
	id := m.others.ids[side][address]
	delete(m.others.ids[side], address)
	delete(m.others.unfenced[side], address)
	m.others.mu.Unlock()
	if id != nil {
		_ = id.Pool().Close()
	}
}

// closeOthers closes our connections to all of them.
func (m *Migration) closeOthers() {
	m.others.mu.Lock()
	defer m.others.mu.Unlock()
	for side, ids := range m.others.ids {
		for _, id := range ids {
			_ = id.Pool().Close()
		}
		m.others.ids[side] = nil
	}
}

// noteUnfenced notes why a replica has no fence; nil: it has one.
func (m *Migration) noteUnfenced(side router.Side, address string, why error) {
	m.others.mu.Lock()
	before, was := m.others.unfenced[side][address]
	if why == nil {
		delete(m.others.unfenced[side], address)
	} else {
		if m.others.unfenced[side] == nil {
			m.others.unfenced[side] = make(map[string]unfenced)
		}
		m.others.unfenced[side][address] = unfenced{why.Error(), time.Now()}
	}
	m.others.mu.Unlock()
	switch {
	case why != nil && before.why != why.Error():
		m.log.Warn("a replica is not fenced with its master: should it become the master, it takes writes, which are not kept", "side", side, "replica", address, "error", why)
	case why == nil && was:
		m.log.Info("a replica is fenced with its master", "side", side, "replica", address)
	}
}

// failedLately reports whether a replica was tried in vain not long ago.
func (m *Migration) failedLately(side router.Side, address string) bool {
	m.others.mu.Lock()
	defer m.others.mu.Unlock()
	u, is := m.others.unfenced[side][address]
	return is && time.Since(u.at) < replicaRetry
}

// forgetUnfenced is for a side that is fenced no more.
func (m *Migration) forgetUnfenced(side router.Side) {
	m.others.mu.Lock()
	defer m.others.mu.Unlock()
	m.others.unfenced[side] = nil
}

// kept returns what was changed on another server of a side.
func (r Record) kept(side router.Side, address string) (k Kept, ok bool) {
	for _, f := range r.Former {
		if f.Side == side && f.Address == address {
			return f.Kept, true
		}
	}
	return Kept{}, false
}

// keep notes what is changed on another server of a side.
func (r *Record) keep(side router.Side, address string, change func(*Kept)) {
	r.Former = slices.Clone(r.Former) // never changed in place: records share it
	for i, f := range r.Former {
		if f.Side == side && f.Address == address {
			change(&r.Former[i].Kept)
			return
		}
	}
	f := Former{Side: side, Address: address, Replica: true}
	change(&f.Kept)
	r.Former = append(r.Former, f)
}

// announceReplicas notes that the fences may be up.
func (r *Record) announceReplicas(side router.Side) {
	r.Former = slices.Clone(r.Former)
	for i, f := range r.Former {
		if f.Side != side || f.Kept.Fence == nil {
			continue
		}
		up := *f.Kept.Fence
		up.Raised = true
		r.Former[i].Kept.Fence = &up
	}
}

// fencesReplicas reports whether a level is more than its own server's affair.
func (l FenceLevel) fencesReplicas() bool { return l == FenceACL || l == FenceReplicas }

// eachReplica calls f, at the same time, for all servers that replicate from a side's, and
// from one another, and for those that the record knows; due says which, nil: all. What
// went wrong is noted.
func (m *Migration) eachReplica(ctx context.Context, side router.Side, due func(address string) bool, f func(context.Context, string, *identity) error) {
	seen := map[string]bool{m.ids[side].master(): true}
	var next []string
	for _, o := range m.record().Former {
		if o.Side == side {
			next = append(next, o.Address)
		}
	}
	direct, err := preflight.Replicas(ctx, m.ids[side].Pool())
	if err != nil {
		m.log.Debug("which replicas there are is not known", "side", side, "error", err)
	}
	next = append(next, direct...)
	for len(next) > 0 {
		var mu sync.Mutex
		var below []string
		var all sync.WaitGroup
		for _, address := range next {
			if seen[address] {
				continue
			}
			seen[address] = true
			if due != nil && !due(address) {
				continue
			}
			all.Go(func() {
				id, err := m.approach(ctx, side, address)
				if err == nil {
					more, _ := preflight.Replicas(ctx, id.Pool()) // it may not tell: then f fails as well
					mu.Lock()
					below = append(below, more...)
					mu.Unlock()
					err = f(ctx, address, id)
				}
				m.noteUnfenced(side, address, err)
			})
		}
		all.Wait()
		next = below
	}
}

// approach logs in to another server of a side as whom the fence spares.
func (m *Migration) approach(ctx context.Context, side router.Side, address string) (*identity, error) {
	id := m.other(side, address)
	if err := id.Pool().DB(0).Ping(ctx).Err(); err != nil && !loginRefused(err) {
		return nil, fmt.Errorf("connecting to %s: %w", id.Pool(), err)
	} else if err == nil && (id.isOwn() || !m.ids[side].isOwn()) {
		return id, nil
	}
	if !m.ids[side].isOwn() {
		return nil, fmt.Errorf("logging in to %s: the user and the password of the %s are unknown there", id.Pool(), side)
	}
	password, err := m.ownPassword()
	if err != nil {
		return nil, err
	}
	if k, _ := m.record().kept(side, address); !k.User { // before there is one
		if err := m.assume(func(r *Record) { r.keep(side, address, func(k *Kept) { k.User = true }) }); err != nil {
			return nil, err
		}
	}
	if err := id.become(ctx, password); err != nil {
		return nil, err
	}
	if !id.isOwn() {
		return nil, errors.New(id.reason)
	}
	return id, nil
}

// fenceOn is the fence on another server of a side.
func (m *Migration) fenceOn(id *identity) fence {
	return fence{pool: id.Pool(), own: id.user(), token: m.record().Token}
}

// saveFence reads what raising a fence on another server of a side will change, and makes
// sure that it may be raised.
func (m *Migration) saveFence(ctx context.Context, side router.Side, address string, id *identity, level FenceLevel) (*FenceState, error) {
	f := m.fenceOn(id)
	if level == FenceACL && f.own == "" {
		return nil, fmt.Errorf("there is no user of our own on %s", f.pool)
	}
	if k, _ := m.record().kept(side, address); k.Fence != nil && k.Fence.Raised {
		// Never read what is to be put back from users that are fenced already.
		if err := f.lower(ctx, stillFenced(ctx, f.pool, k.Fence)); err != nil {
			return nil, err
		}
	}
	st, err := f.save(ctx, level)
	if err != nil {
		return nil, err
	}
	st.Watched = m.ids[side].url.Finder != nil
	if err := f.mayRaise(ctx, st); err != nil {
		return nil, err
	}
	return st, m.save(false, func(r *Record) { r.keep(side, address, func(k *Kept) { k.Fence = st }) })
}

// mayRaise tries what raise does with what changes nothing.
func (f fence) mayRaise(ctx context.Context, st *FenceState) error {
	p := f.db().Pipeline()
	p.Do(ctx, "ROLE")
	switch st.Level {
	case FenceACL:
		p.Do(ctx, "ACL", "SETUSER", f.own)
	case FenceReplicas:
		p.ConfigSet(ctx, "min-replicas-to-write", st.MinReplicas)
	}
	if cmds, err := p.Exec(ctx); firstError(cmds, err) != nil {
		return fmt.Errorf("trying the %s fence on %s: %w", st.Level, f.pool, firstError(cmds, err))
	}
	return nil
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

// openReplicas is openOthers where the applications are.
func (m *Migration) openReplicas(ctx context.Context) error {
	m.openOthers(ctx, m.record().Side)
	return nil
}

// staysFenced reports whether a side was left and is fenced.
func (r Record) staysFenced(side router.Side) bool {
	f := r.Servers[side].Fence
	return side != r.Side && f != nil && f.Raised && f.Level.fencesReplicas() && !r.Phase.Ended()
}

// guardReplicas keeps the replicas of a server that was left fenced: those that have
// forgotten it in a restart, that come later, or that could not be reached before.
func (m *Migration) guardReplicas(ctx context.Context, left router.Side) {
	if !m.record().staysFenced(left) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, replicaTime)
	defer cancel()
	due := func(address string) bool { return !m.failedLately(left, address) }
	m.eachReplica(ctx, left, due, func(ctx context.Context, address string, id *identity) error {
		return m.keepFenced(ctx, left, address, id)
	})
}

// keepFenced raises the fence on another server of a side that was left, if it does not
// stand there.
func (m *Migration) keepFenced(ctx context.Context, left router.Side, address string, id *identity) error {
	r := m.record()
	k, _ := r.kept(left, address)
	st, watched := k.Fence, m.ids[left].url.Finder != nil
	f := m.fenceOn(id)
	switch {
	case st == nil || !st.Raised:
		fresh, err := m.saveFence(ctx, left, address, id, r.Servers[left].Fence.Level)
		if err != nil {
			return err
		}
		st = fresh
	default:
		err := f.check(ctx, st)
		if err == nil && st.Watched == watched {
			return nil
		}
		if err != nil && !errors.Is(err, errFenceLost) {
			return err
		}
		fresh := st
		if err != nil { // it was restarted, or users were made
			if fresh, err = f.save(ctx, st.Level); err != nil {
				return err
			}
			fresh.keepRules(st)
		}
		now := *fresh
		now.Watched = watched // one that was the master itself
		st = &now
	}
	up := *st
	up.Raised = true
	if err := m.save(false, func(r *Record) { r.keep(left, address, func(k *Kept) { k.Fence = &up }) }); err != nil {
		return err
	}
	c := f.db().Conn()
	defer func() { _ = c.Close() }()
	return f.lift(ctx, c, &up)
}

// keepRules has users whose rules are known from before keep those for the day on which
// the fence is lowered.
func (st *FenceState) keepRules(old *FenceState) {
	for i, u := range st.Users {
		for _, o := range old.Users {
			if u.Name == o.Name {
				st.Users[i] = o
			}
		}
	}
	if st.Level == FenceReplicas {
		st.MinReplicas, st.MaxLag = old.MinReplicas, old.MaxLag
	}
}

// ReplicaStatus is another server of a side on which there is something of ours, or should be.
type ReplicaStatus struct {
	Side    router.Side `json:"side"`
	Address string      `json:"address"`
	Fence   string      `json:"fence"`             // level of the fence that is up there, or ""
	Problem string      `json:"problem,omitempty"` // why it has not the fence of its master
}

// replicaStatus lists them.
func (m *Migration) replicaStatus(r Record) []ReplicaStatus {
	out := []ReplicaStatus{}
	m.others.mu.Lock()
	defer m.others.mu.Unlock()
	named := [2]map[string]bool{{}, {}}
	for _, f := range r.Former {
		s := ReplicaStatus{Side: f.Side, Address: f.Address, Problem: m.others.unfenced[f.Side][f.Address].why}
		if f.Kept.Fence != nil && f.Kept.Fence.Raised && s.Problem == "" {
			s.Fence = string(f.Kept.Fence.Level)
		}
		named[f.Side][f.Address] = true
		out = append(out, s)
	}
	for side, list := range m.others.unfenced {
		for address, u := range list {
			if !named[side][address] {
				out = append(out, ReplicaStatus{Side: router.Side(side), Address: address, Problem: u.why})
			}
		}
	}
	slices.SortFunc(out, func(a, b ReplicaStatus) int { return strings.Compare(a.Address, b.Address) })
	return out
}
