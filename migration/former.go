package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// Where sentinels watch a server, a failover leaves behind one on which there is what we
// have changed: a fence, our user, notify-keyspace-events. None of that is replicated, so
// the new master has nothing of it; and the old one keeps it, even over a restart, for
// the sentinels have it rewrite its configuration file. It may become the master again,
// so it is put back as soon as it answers, or, where the side was left, fenced as a replica
// and put back with the others.

// Former is a server of a side that is not its master, and has not been put back yet: it
// was the master before, or is one of its replicas.
type Former struct {
	Side    router.Side `json:"side"`
	Address string      `json:"address"`
	Kept    Kept        `json:"kept"`
	// Run is the run id of the process that was fenced there as a replica.
	Run     string `json:"run,omitempty"`
	Replica bool   `json:"replica,omitempty"`
}

func (f Former) String() string {
	if f.Replica {
		return f.Address + ", a replica of the " + f.Side.String()
	}
	return f.Address + ", which was the master of the " + f.Side.String() + " before a failover"
}

// MasterMoved says that the server at from is a side's master no more, where that is not
// "", and which one is now, where that is known. An attempt to switch that is under way is
// taken back then, unless it is decided. It returns at once.
func (m *Migration) MasterMoved(side router.Side, from, to string) {
	m.mu.Lock()
	cancel := m.abort
	m.mu.Unlock()
	if from != "" && cancel != nil {
		cancel(fmt.Errorf("the master of the %s has changed: %s is it no more", side, from))
	}
	if to != "" {
		m.lookSoon()
	}
}

// lookSoon has the guard look at once, when no verb is under way.
func (m *Migration) lookSoon() {
	select {
	case m.masters <- struct{}{}:
	default:
	}
}

// meet makes the record tell of the server that is a side's master now. While an attempt
// leaves the side it is for that to call.
func (m *Migration) meet(side router.Side) {
	present := m.ids[side].master()
	if present == "" || m.record().Servers[side].At == present {
		return
	}
	if err := m.assume(func(r *Record) { r.meet(side, present) }); err != nil {
		m.log.Error("the state file does not know of the new master", "side", side, "error", err)
	}
}

func (r *Record) meet(side router.Side, present string) {
	before := r.Servers[side]
	if before.At == present {
		return
	}
	next := Kept{At: present}
	if before.At == "" {
		next = before
		next.At = present
	}
	var others []Former // never changed in place: records share it
	for _, f := range r.Former {
		if f.Side == side && f.Address == present {
			next = f.Kept
			next.At = present
		} else {
			others = append(others, f)
		}
	}
	if before.At != "" && before.changed() {
		others = append(others, Former{Side: side, Address: before.At, Kept: before})
	}
	r.Servers[side], r.Former = next, others
}

// changed reports whether there is something to put back.
func (k Kept) changed() bool { return k.Notify != nil || k.User || k.Fence != nil }

// meetBeside is meet for those who run beside attempts.
func (m *Migration) meetBeside(side router.Side) error {
	present := m.ids[side].master()
	r := m.record()
	if present == "" && m.ids[side].url.Finder != nil {
		return fmt.Errorf("where the master of the %s is now is not known yet", side)
	}
	if present == "" || r.Servers[side].At == present {
		return nil
	}
	if r.Switch != nil && r.Switch.From == side && !quiet(r) {
		return fmt.Errorf("%s has become the master of the %s during a switch, which is to be taken back first", present, side)
	}
	m.meet(side)
	return nil
}

// fencedBefore returns the level of the fence on a server that was a side's master before,
// "" when there is none.
func (r Record) fencedBefore(side router.Side) FenceLevel {
	for _, f := range r.Former {
		if f.Side == side && f.Kept.Fence != nil && f.Kept.Fence.Raised {
			return f.Kept.Fence.Level
		}
	}
	return ""
}

// fenceSuccessor has the fence on the server that was left be raised on the one that has
// become the master there: guardFence finds that it is not.
func (m *Migration) fenceSuccessor(left router.Side) {
	r := m.record()
	level := r.fencedBefore(left)
	if level == "" || r.Servers[left].Fence != nil || r.Servers[left].At == "" {
		return
	}
	if err := m.save(true, func(r *Record) { r.Servers[left].Fence = &FenceState{Level: level, Raised: true} }); err != nil {
		m.log.Error("the new master cannot be fenced", "side", left, "error", err)
	}
}

// sweep puts back those servers of which says yes, at the same time, as far as they answer.
// The error names those that do not.
func (m *Migration) sweep(ctx context.Context, which func(Former) bool) (done []string, err error) {
	if lost := m.lostTo(); lost != nil {
		return nil, lost // they are the other one's
	}
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	for _, f := range m.record().Former {
		if f.Address == m.ids[f.Side].master() || !which(f) {
			continue // it is the master again: see meet
		}
		all.Go(func() {
			cctx, cancel := context.WithTimeout(ctx, m.cfg.Proxy.DialTimeout)
			defer cancel()
			did, err := m.putBack(cctx, f)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("putting back %v: %w", f, err))
				return
			}
			m.leaveOther(f.Side, f.Address)
			done = append(done, fmt.Sprintf("%s %v", did, f))
			errs = append(errs, m.assume(func(r *Record) {
				r.Former = slices.DeleteFunc(slices.Clone(r.Former), func(o Former) bool { return o.Side == f.Side && o.Address == f.Address })
			}))
		})
	}
	all.Wait()
	return done, errors.Join(errs...)
}

// stillFenced leaves those users out that a server does not know, or that are not fenced: it
// was restarted without what it had been told. One that wears the fence's mark and may do more
// was touched by hand, and is put back as well: nobody else knows what it was. Where a server
// does not say, nobody is forgotten.
func stillFenced(ctx context.Context, pool *conn.Pool, st *FenceState) (*FenceState, error) {
	now := *st
	now.Users = nil
	for _, u := range st.Users {
		there, err := aclUser(ctx, pool.DB(0), u.Name)
		switch {
		case errors.Is(err, redis.Nil):
		case err != nil:
			return nil, fmt.Errorf("looking whether the fence on %s stands: %w", pool, err)
		case st.holds(there), wears(there, st):
			now.Users = append(now.Users, u)
		}
	}
	return &now, nil
}

// wears reports whether a user has the mark of that fence.
func wears(u ACLUser, st *FenceState) bool {
	mark, _ := markOf(u)
	return mark != "" && mark == st.Mark
}
