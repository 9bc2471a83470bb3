package migration

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/crossfade/crossfade/config"
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
//
// The master tells where its replicas are, and somebody else may answer there. So nothing is
// changed on a server before it is proved, by what it says of itself, to replicate from this
// very master.

const (
	replicaTime      = time.Second     // what one replica is asked takes so long at most when others wait for it
	replicaRetry     = 2 * time.Second // after which one that could not be fenced is tried again,
	replicaRetryMost = 4 * time.Second // and after which one that still cannot
)

// others are how we log in to servers of a side that are not its master.
type others struct {
	mu       sync.Mutex
	ids      [2]map[string]*identity
	unfenced [2]map[string]unfenced

	telling sync.Mutex // held while the other server is told of a fence; before mu
}

// unfenced is a replica without the fence that its master has.
type unfenced struct {
	why  string
	at   time.Time     // when it was tried
	wait time.Duration // until it is tried again
}

// guardBeside is the guard of connections to servers that are not a side's master.
func (m *Migration) guardBeside() *conn.Guard {
	return &conn.Guard{Key: store.SeatKey, Allow: m.seat.allowBeside}
}

// poolBeside returns connections to one of them. The caller closes them.
func (m *Migration) poolBeside(e config.Endpoint, name string) *conn.Pool {
	p := conn.New(e, name, m.cfg.Proxy.DialTimeout)
	p.Guard(m.guardBeside())
	return p
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
	id.Pool().Guard(m.guardBeside())
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
		wait := replicaRetry
		if was {
			wait = min(2*before.wait, replicaRetryMost)
		}
		m.others.unfenced[side][address] = unfenced{why.Error(), time.Now(), wait}
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
	return is && time.Since(u.at) < u.wait
}

// forgetUnfenced is for a side that is fenced no more.
func (m *Migration) forgetUnfenced(side router.Side) {
	m.others.mu.Lock()
	defer m.others.mu.Unlock()
	m.others.unfenced[side] = nil
}

// member is a server that is a replica of a side's master, or was one.
type member struct {
	side    router.Side
	address string
	id      *identity
	here    preflight.Standing // what it says of itself
	master  preflight.Standing // what its master does
	// doubt is why it is not proved to be a replica of that one now; nil: it is.
	doubt error
}

// walk looks for the members of a side.
type walk struct {
	*Migration
	side     router.Side
	patience time.Duration // for one of them
	due      func(address string) bool
	do       func(context.Context, *member) error
	master   preflight.Standing
	unknown  error // why the master's standing is not known

	all  sync.WaitGroup
	mu   sync.Mutex
	seen map[string]bool // addresses, and run ids
}

// eachReplica calls do, at the same time, for all servers that replicate from a side's, and
// from one another, and for those that the record knows; due says which, nil: all. Each is
// given as long as patience, and none waits for another one that says nothing. What went
// wrong is noted.
func (m *Migration) eachReplica(ctx context.Context, side router.Side, patience time.Duration, due func(address string) bool, do func(context.Context, *member) error) {
	w := &walk{Migration: m, side: side, patience: patience, due: due, do: do, seen: map[string]bool{}}
	actx, cancel := context.WithTimeout(ctx, patience)
	w.master, w.unknown = preflight.AskStanding(actx, m.ids[side].Pool())
	cancel()
	if at := m.ids[side].master(); at != "" {
		w.seen[at] = true
	}
	for _, o := range m.record().Former {
		if o.Side == side {
			w.visit(ctx, o.Address)
		}
	}
	for _, address := range w.master.Replicas {
		w.visit(ctx, address)
	}
	w.all.Wait()
}

// first reports whether nobody has been at an address, or at a process, before.
func (w *walk) first(name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.seen[name]
	w.seen[name] = true
	return !before
}

func (w *walk) visit(ctx context.Context, address string) {
	if !w.first(address) || w.due != nil && !w.due(address) {
		return
	}
	w.all.Go(func() {
		one, cancel := context.WithTimeout(ctx, w.patience)
		defer cancel()
		mb := &member{side: w.side, address: address, id: w.other(w.side, address), master: w.master}
		err := w.look(one, mb)
		if err == nil {
			if w.isAlias(mb) {
				w.noteUnfenced(w.side, address, nil)
				return
			}
			if mb.doubt = w.unknown; mb.doubt == nil {
				mb.doubt = mb.here.Hears(w.master)
			}
			if mb.doubt == nil {
				for _, below := range mb.here.Replicas { // before it is waited for
					w.visit(ctx, below)
				}
			}
			// It speaks: what it took to find that out is not taken off what is to be done.
			acting, done := context.WithTimeout(ctx, w.patience)
			defer done()
			err = w.do(acting, mb)
		}
		w.noteUnfenced(w.side, address, err)
	})
}

// isAlias reports whether a member is the master itself, or one that is known under another
// address: what is to be put back there is known by that one.
func (w *walk) isAlias(mb *member) bool {
	if mb.here.Run == "" {
		return false
	}
	if mb.here.Run == w.master.Run {
		return true
	}
	known := w.record().aliasOf(w.side, mb.here.Run)
	return known != "" && known != mb.address || !w.first("run "+mb.here.Run)
}

// look asks a server for its standing, as whoever we may be there.
func (m *Migration) look(ctx context.Context, mb *member) error {
	var err error
	if k, _ := m.record().kept(mb.side, mb.address); k.User && !mb.id.isOwn() {
		// A fence that stands there lets nobody else ask.
		var password string
		if password, err = m.ownPassword(); err == nil {
			err = mb.id.enter(ctx, password)
		}
		if err != nil && !loginRefused(err) {
			return fmt.Errorf("connecting to %s: %w", mb.id.Pool(), err)
		}
	}
	if mb.here, err = preflight.AskStanding(ctx, mb.id.Pool()); err != nil && loginRefused(err) && mb.id.isOwn() {
		mb.id.stepBack() // it has forgotten our user
		mb.here, err = preflight.AskStanding(ctx, mb.id.Pool())
	}
	return err
}

// join makes sure that we are whom the fence spares, on a server that is proved to be ours.
func (m *Migration) join(ctx context.Context, mb *member) error {
	if mb.doubt != nil {
		return mb.doubt
	}
	own := m.ids[mb.side].isOwn()
	if mb.id.isOwn() || !own {
		return nil
	}
	password, err := m.ownPassword()
	if err != nil {
		return err
	}
	if k, _ := m.record().kept(mb.side, mb.address); !k.User { // before there is one
		if err := m.assume(func(r *Record) {
			r.keep(mb.side, mb.address, mb.here.Run, func(k *Kept) { k.User = true })
		}); err != nil {
			return err
		}
	}
	if err := mb.id.become(ctx, password); err != nil {
		return err
	}
	if !mb.id.isOwn() {
		return errors.New(mb.id.reason)
	}
	return nil
}

// fenceOn is the fence on another server of a side.
func (m *Migration) fenceOn(mb *member) fence {
	r := m.record()
	k, _ := r.kept(mb.side, mb.address)
	return fence{pool: mb.id.Pool(), own: mb.id.user(), token: r.Token, migration: r.ID, known: r.knownFence, before: k.Fence}.beside(mb.master)
}
