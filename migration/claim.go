package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// errNewer means that somebody has gone on with the migration since its record was
// read: what was decided by that record is void.
var errNewer = errors.New("somebody has gone on with this migration since its record was read")

// claim makes sure that nobody else decides the switch that is to be taken back: it
// puts our token where the decision would be written, provided that nothing has been
// written there since we read, and then where the fence would be raised. A coordinator
// that is slow and not dead (stopped, or on a machine that was cut off) finds it there
// and is refused. It may be repeated.
func (m *Migration) claim(ctx context.Context, left router.Side) error {
	f := m.record().Servers[left].Fence
	if f != nil && f.Raised && f.Level == FenceReplicas { // see journal: there the decision is on the other server
		err := m.claimKey(ctx, left.Other(), store.RecordKey)
		m.mu.Lock()
		dead := !m.foreign // who made the attempt: it had our state file
		m.mu.Unlock()
		if dead && err != nil && !errors.Is(err, errNewer) && !errors.Is(err, store.ErrSuperseded) {
			m.log.Warn("another coordinator, if there is one, is not told that the switch is taken back", "error", err)
			err = nil
		}
		return err
	}
	if err := m.claimKey(ctx, left, store.JournalKey); err != nil {
		return err
	}
	return m.fence(left).arm(ctx, m.record().Token)
}

func (m *Migration) claimKey(ctx context.Context, side router.Side, key string) error {
	e, err := m.record().entry()
	if err != nil {
		return err
	}
	m.mu.Lock()
	seen, mine := m.seen, slices.Clone(m.claims)
	if !slices.Contains(mine, string(e.Data)) { // a claim may be repeated for as long as a server is away
		m.claims = append(m.claims, string(e.Data)) // before it is sent: the answer may be lost
	}
	m.mu.Unlock()
	pool := m.ids[side].Pool()
	err = store.SaveIf(ctx, pool.Control(), key, e, func(context.Context, redis.Pipeliner) func(store.Asker, store.Entry) error {
		return func(_ store.Asker, there store.Entry) error {
			if there.After(seen) && !slices.Contains(mine, string(there.Data)) {
				return errNewer
			}
			return nil
		}
	})
	if err != nil {
		return fmt.Errorf("on %s: %w", pool, err)
	}
	return nil
}
