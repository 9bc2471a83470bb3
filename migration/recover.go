package migration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// Recover finds out where the migration stands, from the state file, the
// control record and the journal, finishes or undoes a switch that a crash
// interrupted, and opens the gate to the right side. Until it returns, clients
// wait. It is called once, before Run. An error means that nothing is known for
// certain: the process must not serve.
//
// PROTOCOL §6: up to SOFT_FENCED abort; HARD_FENCED abort (or drain again);
// COMMITTING and later roll forward, never draining again.
func (m *Migration) Recover(ctx context.Context) error {
	defer m.noteOusted()
	if err := m.through(ctx, stepsRead); err != nil {
		return err
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := m.settle(ctx)
		if err == nil {
			err = m.mayOpen(ctx, m.record().Side)
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if m.findSeat(ctx); m.lostTo() != nil {
			return m.lostTo()
		}
		rival := errors.Is(err, errNewer) || errors.Is(err, store.ErrSuperseded)
		m.setProblems(err.Error())
		m.log.Error("clients wait: an interrupted switch cannot be settled yet", "phase", m.record().Phase, "error", err, "again_in", wait.String())
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if rival { // after the wait: who has gone on with it may have written since
			if err := m.readAgain(ctx); err != nil {
				m.log.Warn("the record cannot be read again", "error", err)
			}
		}
	}
	m.setProblems()
	m.serves.Store(true)
	m.traffic.Release(m.route())
	return nil
}

// read adopts the latest record.
func (m *Migration) read(ctx context.Context) error {
	r, err := m.newest(ctx)
	if err != nil {
		return err
	}
	return m.adopt(r)
}

// newest returns the latest record of this migration, or a new one.
func (m *Migration) newest(ctx context.Context) (Record, error) {
	local, found, err := m.opt.File.Load()
	if err != nil {
		return Record{}, err
	}
	var best Record
	if found {
		if best, err = decode(local); err != nil {
			return Record{}, err
		}
		if err := m.useStoredAddresses(best); err != nil {
			return Record{}, err
		}
		if err := m.mayReturn(ctx, best); err != nil {
			return Record{}, err
		}
	}
	remote, ok, err := m.newestRemote(ctx, best)
	if found && !ok {
		if gone := m.notEnded(ctx, best); errors.As(gone, new(*Refused)) || gone != nil && best.Ousted != nil {
			return Record{}, gone
		}
	}
	ousted := best.Ousted != nil
	best.Ousted = nil
	switch {
	case err != nil && ousted:
		return Record{}, fmt.Errorf("another sidecar has gone on with this migration since the state file was written, so both servers must be read: %w", err)
	case err != nil && !found:
		return Record{}, err
	case err != nil:
		// The state file alone decides: it is written before any switch takes effect.
		// But it may not have outlived the machine: a server that can be read may know of more.
		if ok && remote.ID == best.ID && newer(remote, best) {
			best = remote
		}
		m.log.Warn("the control records cannot be read on both servers, going by what is known", "phase", best.Phase, "side", best.Side, "error", err)
	case ok && !found:
		if err := m.checkOwner(remote); err != nil {
			return Record{}, err
		}
		m.log.Warn("the state file is missing: going on from the control record on the servers", "id", remote.ID, "phase", remote.Phase, "side", remote.Side)
		best, found = remote, true
		m.noteOrigin(false, true)
	case ok && remote.ID != best.ID:
		return Record{}, fmt.Errorf("reading the control records: they are of migration %s (phase %s, side %s), the state file %s of migration %s; one of them is not meant: move the state file away to follow the servers, or delete %s and %s on the servers to follow the file",
			remote.ID, remote.Phase, remote.Side, m.opt.File.Path(), best.ID, store.RecordKey, store.JournalKey)
	case ok && newer(remote, best):
		best = remote
	}
	if !found {
		best = Record{ID: randomHex(8), Phase: Idle}
		m.noteOrigin(true, false)
	}
	return best, nil
}

// noteOrigin notes where the record comes from: fresh, from nowhere; foreign, from the
// servers alone, so that whoever wrote it may be alive.
func (m *Migration) noteOrigin(fresh, foreign bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fresh, m.foreign = fresh, foreign
}

func newer(a, b Record) bool {
	return store.Entry{Token: a.Token, Seq: a.Seq}.After(store.Entry{Token: b.Token, Seq: b.Seq})
}

// useStoredAddresses makes the persisted addresses win over the configuration
// once the traffic was moved: an old configuration must not lead back. Sentinels and nodes
// of a cluster that were not configured are asked by nobody, so there the configuration must
// be put right.
func (m *Migration) useStoredAddresses(r Record) error {
	if r.Side == router.Source && r.Phase != Committing {
		return nil
	}
	for side, stored := range map[router.Side]string{router.Source: r.Source, router.Target: r.Target} {
		id := m.ids[side]
		if stored == "" || id.url.SamePlace(stored) {
			continue
		}
		if id.url.Watched != nil || id.url.Cluster != nil || config.NamesSentinels(stored) || config.NamesCluster(stored) {
			return fmt.Errorf("starting: %s.url is %s, but the traffic was moved with the %s at %s: start with that one", side, id.url, side, stored)
		}
		m.log.Error("the configuration names another server than the one that the traffic was moved with; going by the state file", "which", side, "configured", id.url.Address, "used", stored)
		url := id.url
		url.Address = stored
		m.ids[side] = newIdentity(side, url, id.instance, id.timeout)
	}
	m.guardConnections()
	return nil
}

// newestRemote reads the control keys of both servers with the operator's
// credentials (the fence lets them). One server that does not answer is enough
// of an error when nothing else is known.
func (m *Migration) newestRemote(ctx context.Context, local Record) (best Record, ok bool, err error) {
	var errs []error
	for _, id := range m.ids {
		for _, key := range []string{store.RecordKey, store.JournalKey} {
			cctx, cancel := context.WithTimeout(ctx, id.timeout)
			e, found, err := store.Load(cctx, id.Pool().Control(), key)
			cancel()
			if err != nil {
				errs = append(errs, fmt.Errorf("%s %s: %w", id.side, id.url, explainLogin(err)))
				break
			}
			if !found {
				continue
			}
			r, err := decode(e)
			if err != nil {
				return Record{}, false, err
			}
			if local.ID != "" && r.ID != local.ID && ok {
				continue
			}
			if !ok || newer(r, best) {
				best, ok = r, true
			}
		}
	}
	return best, ok, errors.Join(errs...)
}

func explainLogin(err error) error {
	switch {
	case errorPrefix(err, "WRONGPASS"), errorPrefix(err, "ERR invalid password"):
		return fmt.Errorf("%w; check user and password in the URL or the password file", err)
	case errorPrefix(err, "NOAUTH"):
		return fmt.Errorf("%w; the server wants a password: redis://:PASSWORD@HOST:PORT", err)
	}
	return err
}

// checkOwner refuses a record on the servers that was written for others.
func (m *Migration) checkOwner(r Record) error {
	source, target := m.ids[router.Source].url, m.ids[router.Target].url
	s, t := source.Address, target.Address
	if r.Phase.Ended() || source.SamePlace(r.Source) && target.SamePlace(r.Target) {
		return nil
	}
	return fmt.Errorf("reading the control record: the servers are part of migration %s from %s to %s (phase %s, side %s), but this sidecar is set to move %s to %s; start it with those addresses, or, when that migration is over, delete %s and %s on both servers",
		r.ID, r.Source, r.Target, r.Phase, r.Side, s, t, store.RecordKey, store.JournalKey)
}

// adopt makes r the present record, under a token that nobody was seen to have, and
// settles on its map.
func (m *Migration) adopt(r Record) error {
	configured := placesOf(m.cfg)
	seen := store.Entry{ID: r.ID, Token: r.Token, Seq: r.Seq}
	r.Token = max(r.Token, m.seat.highest()) + 1
	m.mu.Lock()
	m.rec, m.seen = r, seen
	m.mu.Unlock()
	if r.Map != nil && (r.Copied || r.Side == router.Target) {
		if len(configured) > 0 && !maps.Equal(configured, r.Map) {
			text := router.DBMap{}
			if c, err := router.NewDBMap(configured); err == nil {
				text = c
			}
			stored, err := router.NewDBMap(r.Map)
			if err != nil {
				return err
			}
			if r.Side == router.Source && !r.Phase.Switching() && r.Phase != Committing {
				return fmt.Errorf("starting: the database map is now %s, but keys were copied with %s; a changed map would leave keys in the wrong databases: use the old map, or empty the target, delete %s on it and move the state file %s away",
					text, stored, store.RecordKey, m.opt.File.Path())
			}
			m.log.Error("the configuration names another database map than the one that the traffic was moved with; going by the state file", "configured", text.String(), "used", stored.String())
		}
		return m.useMap(r.Map, r.LeaveOut)
	}
	return nil
}

func (m *Migration) useMap(pairs map[int]router.Place, leaveOut []int) error {
	dm, err := router.NewDBMap(pairs)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.dbmap = dm.Within(m.rec.TargetDatabases)
	m.rec.Map, m.rec.LeaveOut = pairs, leaveOut
	m.rec.Source, m.rec.Target = m.ids[router.Source].url.Address, m.ids[router.Target].url.Address
	m.mu.Unlock()
	return nil
}

// login gets our own user on these servers where that is allowed.
func (m *Migration) login(ctx context.Context, sides ...router.Side) error {
	if !m.cfg.Cutover.CreateUser {
		for _, side := range sides {
			id := m.ids[side]
			if err := id.Pool().Control().Ping(ctx).Err(); err != nil {
				return fmt.Errorf("logging in to the %s: %w", id.side, explainLogin(err))
			}
		}
		return nil
	}
	password, err := m.ownPassword()
	if err != nil {
		return err
	}
	for _, side := range sides {
		id := m.ids[side]
		if err := id.become(ctx, password); err != nil {
			return fmt.Errorf("%s: %w", id.side, explainLogin(err))
		}
		m.meet(side)
		if id.isOwn() && !m.record().Servers[side].User { // nobody else knows the password, so the user is ours to remove
			if err := m.assume(func(r *Record) { r.Servers[side].User = true }); err != nil {
				m.log.Error("our user is there, which the state file does not know", "side", side, "error", err)
			}
		}
	}
	return nil
}

// ownPassword opens or makes the password of our user. It is in the record,
// sealed, before the user is created.
func (m *Migration) ownPassword() (string, error) {
	m.mu.Lock()
	password, sealed := m.password, m.rec.Sealed
	m.mu.Unlock()
	if password != "" {
		return password, nil
	}
	keys := [2]string{m.ids[router.Source].url.Password, m.ids[router.Target].url.Password}
	if sealed != "" {
		p, err := unseal(sealed, keys)
		if err == nil {
			m.mu.Lock()
			m.password = p
			m.mu.Unlock()
			return p, nil
		}
		for _, k := range m.record().Servers {
			if k.Fence != nil {
				return "", err // a new one would lock us out of a server that is fenced
			}
		}
		m.log.Warn("a new password is made for our user", "because", err)
	}
	password = randomHex(32)
	sealed, err := seal(password, keys)
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	m.rec.Sealed = sealed
	m.mu.Unlock()
	if err := m.save(true, func(*Record) {}); err != nil {
		return "", err
	}
	m.mu.Lock()
	m.password = password
	m.mu.Unlock()
	return password, nil
}

// lowerFence takes the fence on one server down, ends its pause, and records it.
func (m *Migration) lowerFence(ctx context.Context, side router.Side) error {
	return m.lowerFenceOf(ctx, side, m.fence, func(st *FenceState) (*FenceState, error) {
		return stillToLower(ctx, m.ids[side].Pool(), st)
	})
}

// lowerFoundFence is lowerFence for what an attempt has left that nobody has watched since.
// It may have died before it raised the fence: who is not behind it keeps what rights an
// administrator has given or taken meanwhile.
func (m *Migration) lowerFoundFence(ctx context.Context, side router.Side) error {
	return m.lowerFenceOf(ctx, side, m.fence, func(st *FenceState) (*FenceState, error) {
		return stillFenced(ctx, m.ids[side].Pool(), st)
	})
}

// lowerFenceOf lowers what of says of the fence that the record knows of. Users whose rules the
// server does not take are no error: see denied.go.
func (m *Migration) lowerFenceOf(ctx context.Context, side router.Side, fence func(router.Side) fence, of func(*FenceState) (*FenceState, error)) error {
	m.meet(side)
	kept := m.record().Servers[side]
	if kept.Fence == nil {
		_ = fence(side).unpause(ctx) // servers before 6.2 do not know it
		return nil
	}
	at := time.Now()
	var left *stillDenied
	lower := func() error {
		st, err := of(kept.Fence)
		if err != nil {
			return err
		}
		left, err = lowered(fence(side).lower(ctx, st))
		return err
	}
	if err := lower(); errors.Is(err, store.ErrSuperseded) {
		return err
	} else if err != nil {
		m.relogin(ctx, err) // a restarted server may have forgotten our user
		if err := lower(); err != nil {
			return err
		}
	}
	if m.meet(side); m.record().Servers[side].At != kept.At {
		return fmt.Errorf("lowering the fence on the %s: another server has become the master meanwhile", side)
	}
	if m.seat.has(side) {
		m.seat.noteSeenAt(side, at) // or the connection would have been closed
	}
	rest, news := m.tellDenied(left, kept.Fence)
	if !news {
		return nil
	}
	if err := m.assume(func(r *Record) { r.Servers[side].Fence = rest }); err != nil {
		m.log.Error("the fence is lowered, which the state file does not know", "error", err)
	}
	return nil
}

// relogin makes our user again when err says that a server does not know it:
// ACL users live in the server's memory, a restart forgets them.
func (m *Migration) relogin(ctx context.Context, err error) {
	if !loginRefused(err) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Proxy.DialTimeout)
	defer cancel()
	if err := m.login(ctx, router.Source, router.Target); err != nil {
		m.log.Warn("logging in again", "error", err)
	}
}
