package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
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
	Replica bool        `json:"replica,omitempty"`
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
	if to == "" {
		return
	}
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
			err := m.putBack(cctx, f)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, fmt.Errorf("putting back %v: %w", f, err))
				return
			}
			m.leaveOther(f.Side, f.Address)
			done = append(done, fmt.Sprintf("put back %v", f))
			errs = append(errs, m.assume(func(r *Record) {
				r.Former = slices.DeleteFunc(slices.Clone(r.Former), func(o Former) bool { return o.Side == f.Side && o.Address == f.Address })
			}))
		})
	}
	all.Wait()
	return done, errors.Join(errs...)
}

// stillFenced leaves those users out that a server does not know, or that are not fenced: it
// was restarted without what it had been told.
func stillFenced(ctx context.Context, pool *conn.Pool, st *FenceState) *FenceState {
	now := *st
	now.Users = nil
	for _, u := range st.Users {
		if there, err := aclUser(ctx, pool.DB(0), u.Name); err == nil && st.holds(there) {
			now.Users = append(now.Users, u)
		}
	}
	return &now
}

// putBack is cleanUp for a server that is a replica now, or will be.
func (m *Migration) putBack(ctx context.Context, f Former) error {
	id := m.ids[f.Side]
	plain := conn.New(id.url.At(f.Address), id.instance+":former", id.timeout)
	defer func() { _ = plain.Close() }()
	pool, own := plain, ""
	if f.Kept.User {
		password, err := m.ownPassword()
		if err != nil {
			return err
		}
		as := id.url.At(f.Address)
		as.Username, as.Password = OwnUser, password
		ours := conn.New(as, id.instance+":former", id.timeout)
		defer func() { _ = ours.Close() }()
		switch err := ours.DB(0).Ping(ctx).Err(); {
		case err == nil:
			pool, own = ours, OwnUser
		case !loginRefused(err): // otherwise it restarted, and has forgotten all that we did
			return err
		}
	}
	// A fence that was asked for must not come behind this.
	name := plain.Name()
	err := mirror.KillNamed(ctx, pool.DB(0), func(n string) bool {
		return len(n) > len(mirror.KeyPrefix) && n[:len(mirror.KeyPrefix)] == mirror.KeyPrefix && n != name
	})
	if err != nil {
		return err
	}
	if st := f.Kept.Fence; st != nil {
		st = stillFenced(ctx, pool, st)
		if err := (fence{pool: pool, own: own}).lower(ctx, st); err != nil && !errors.Is(err, store.ErrSuperseded) {
			return err
		}
	}
	if f.Kept.Notify != nil {
		if err := pool.DB(0).ConfigSet(ctx, "notify-keyspace-events", *f.Kept.Notify).Err(); err != nil {
			return fmt.Errorf("putting back notify-keyspace-events: %w", err)
		}
	}
	if f.Kept.User {
		if err := plain.DB(0).Do(ctx, "ACL", "DELUSER", OwnUser).Err(); err != nil {
			return fmt.Errorf("removing user %s: %w", OwnUser, err)
		}
	}
	if id.url.Finder == nil {
		return m.removeKeysOf(ctx, f, plain)
	}
	// The sentinels have had it write down what it was told of us; one without a
	// configuration file, or that forbids it, has not.
	_ = plain.DB(0).ConfigRewrite(ctx).Err()
	return nil
}

// removeKeysOf removes our keys from a replica that was made a master by hand: it hears no
// more of what happens to them.
func (m *Migration) removeKeysOf(ctx context.Context, f Former, pool *conn.Pool) error {
	role, err := pool.DB(0).Do(ctx, "ROLE").Slice()
	if err != nil || len(role) == 0 || role[0] != "master" {
		return nil // what cannot be asked was left to others before
	}
	_, err = m.removeKeys(ctx, f.Side, pool)
	return err
}
