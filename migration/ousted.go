package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/filter"
)

// Ousted says, in the state file of a process that has lost the seat, to whom.
type Ousted struct {
	By string    `json:"by,omitempty"` // "": nobody had it any more
	At time.Time `json:"at"`
}

// noteOusted has the state file remember that the seat was lost, if it was.
func (m *Migration) noteOusted() {
	m.seat.mu.Lock()
	lost, by := m.seat.lost, m.seat.by
	m.seat.mu.Unlock()
	if lost == nil {
		return
	}
	if err := m.save(true, func(r *Record) { r.Ousted = &Ousted{By: by, At: time.Now()} }); err != nil {
		m.log.Error("that the seat was lost is not remembered: when it is started again, this sidecar takes it back", "error", err)
	}
}

// mayReturn refuses to let a process begin that has lost the seat before, as long as who has
// it is there: two that a supervisor starts again would take it from each other for ever.
func (m *Migration) mayReturn(ctx context.Context, r Record) error {
	if r.Ousted == nil || r.Phase.Ended() || m.cfg.TakeOver {
		return nil
	}
	alive := func(side router.Side, holder string) error {
		return &Refused{[]string{fmt.Sprintf("this sidecar has lost its place to another one at %s, and that one (%s) is connected to %s: it serves the clients now. To go on with this one all the same, end that one, or start with --take-over",
			r.Ousted.At.Format(time.RFC3339), holder, m.ids[side].Pool())}}
	}
	var silent []error
	var untold error // who is connected may not be asked
	gone, nobody := 0, 0
	for side := range m.ids {
		side := router.Side(side)
		cctx, cancel := context.WithTimeout(ctx, m.ids[side].timeout)
		there, ok, err := store.LoadSeat(cctx, m.ids[side].Pool().Control())
		is := false
		if err == nil && ok {
			is, err = connected(cctx, m.ids[side].Pool(), there.Holder)
		}
		cancel()
		switch {
		case is:
			return alive(side, there.Holder)
		case refusedForGood(err) && ok:
			untold = alive(side, there.Holder)
		case err != nil:
			silent = append(silent, fmt.Errorf("%s: %w", m.ids[side].Pool(), explainLogin(err)))
		case ok:
			gone++
		default:
			nobody++
		}
	}
	switch {
	case gone > 0 || nobody == len(m.ids): // see notEnded
		return nil
	case untold != nil:
		return untold // better not
	}
	return fmt.Errorf("finding out who serves the clients, after another sidecar has taken the place of this one: %w", errors.Join(silent...))
}

// connected reports whether a process of ours has a connection to a server.
func connected(ctx context.Context, p *conn.Pool, holder string) (bool, error) {
	list, err := p.Control().ClientList(ctx).Result() // where the seat is, its holder is connected
	if err != nil {
		return false, fmt.Errorf("listing clients: %w", err)
	}
	return strings.Contains(list, " name="+conn.NamePrefix+holder+":"), nil
}

// notEnded refuses to go by a record of which the servers know nothing any more: another
// sidecar has ended the migration, and what is on the target may be what the applications
// work with. Nothing on a server tells of the end, but a migration that goes on has its record
// on the target, before the first key. An error that is no refusal means that it is not known.
func (m *Migration) notEnded(ctx context.Context, r Record) error {
	return m.notEndedBy(ctx, r, [2]*conn.Pool{m.ids[router.Source].Pool(), m.ids[router.Target].Pool()})
}

// notEndedBy is notEnded by certain connections.
func (m *Migration) notEndedBy(ctx context.Context, r Record, pools [2]*conn.Pool) error {
	if !r.Copied || r.Phase.Ended() || r.Side == router.Target && r.Ousted == nil {
		return nil // where the target forgets that it was entered, remembers says so
	}
	told, holds, err := m.traces(ctx, pools[router.Target], router.Target, r)
	if err != nil || told {
		return err
	}
	found := "there are keys on " + m.ids[router.Target].Pool().String()
	if !holds || r.Side == router.Target {
		var knows, full bool
		if knows, full, err = m.traces(ctx, pools[router.Source], router.Source, r); err != nil || knows || !full && !holds {
			return err // the target was emptied, or both were
		}
		if !holds {
			found = "there are keys on " + m.ids[router.Source].Pool().String()
		}
	} else if m.seat.keptOn() {
		return nil
	} else if kept, err := m.keptSeat(ctx, pools[router.Source], r); err != nil || kept {
		return err
	}
	return &Refused{[]string{fmt.Sprintf("the state file %s is of a migration (%s) that was begun, and nothing on the servers tells of it any more, but %s: it was ended by another sidecar, so nothing may be copied to %s. To begin one all the same, move the state file away",
		m.opt.File.Path(), r.ID, found, m.ids[router.Target].url)}}
}

// keptSeat reports whether the source knows the migration: who ends one removes the seat, so
// only the target has lost what was there. What is ours by now proves nothing, and one with a
// higher token may have moved the applications.
func (m *Migration) keptSeat(ctx context.Context, pool *conn.Pool, r Record) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, m.ids[router.Source].timeout)
	defer cancel()
	value, err := pool.Control().Get(ctx, store.SeatKey).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return false, fmt.Errorf("asking %s for %s: %w", pool, store.SeatKey, explainLogin(err))
	}
	there, ok := store.ParseSeat(value)
	return ok && there.Migration == r.ID && there.Holder != m.seat.holder && there.Token <= r.Token, nil
}

// noteGoesOn is keptSeat for later, before the seat is taken.
func (m *Migration) noteGoesOn(ctx context.Context) {
	m.mu.Lock()
	r, seen := m.rec.clone(), m.seen
	m.mu.Unlock()
	r.Token = seen.Token
	kept, err := m.keptSeat(ctx, m.ids[router.Source].Pool(), r)
	if err != nil || !kept {
		return
	}
	m.seat.mu.Lock()
	defer m.seat.mu.Unlock()
	m.seat.goesOn = true
}

func (s *seat) keptOn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.goesOn
}

// traces reports whether a server has a control key of a migration, and whether it holds keys
// where the record has databases.
func (m *Migration) traces(ctx context.Context, pool *conn.Pool, side router.Side, r Record) (told, holds bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.ids[side].timeout)
	defer cancel()
	keys := []string{store.RecordKey, store.JournalKey}
	if side == router.Source { // only who copies has it there; on the target it may be another migration's
		keys = append(keys, store.SeatKey)
	}
	for _, key := range keys { // with a fence, one by one is all that may be asked
		value, err := pool.Control().Get(ctx, key).Result()
		if told = value != ""; told {
			return true, false, nil
		}
		if err != nil && !errors.Is(err, redis.Nil) {
			return false, false, fmt.Errorf("asking %s for %s: %w", pool, key, explainLogin(err))
		}
	}
	dm, err := router.NewDBMap(r.Map)
	if err != nil {
		return false, false, err
	}
	for _, db := range dm.Sources() {
		place, _ := dm.At(side, db)
		if holds, err = anyKey(ctx, pool, place, m.opt.Only); holds || err != nil {
			return false, holds, err
		}
	}
	return false, false, nil
}

// anyKey reports whether there is a key of somebody else than us at a place, of those that are
// copied.
func anyKey(ctx context.Context, p *conn.Pool, place router.Place, only *filter.Filter) (bool, error) {
	c := p.At(place)
	for cursor := uint64(0); ; {
		keys, next, err := c.Scan(ctx, cursor, "", 1000).Result()
		if err != nil {
			return false, fmt.Errorf("looking for keys on %s: %w", p, err)
		}
		keys = slices.DeleteFunc(keys, func(k string) bool { return strings.HasPrefix(k, "crossfade:") || !only.Name(k) })
		if len(keys) > 0 && !only.Typed() {
			return true, nil
		}
		for _, k := range keys {
			kind, err := c.Type(ctx, k).Result()
			if err != nil {
				return false, fmt.Errorf("looking for keys on %s: %w", p, err)
			}
			if kind != "none" && only.Type(kind) {
				return true, nil
			}
		}
		if cursor = next; cursor == 0 {
			return false, nil
		}
	}
}
