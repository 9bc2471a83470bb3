package migration

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// remembers returns an error when the server on side is the applications' and has
// forgotten that they were moved to it: it was restarted from a snapshot of before, or a
// replica took its place that had not come so far. A server keeps what it was told in
// order, so one that has the commit has all that was drained before it, and one that
// lacks it may lack anything. Then the other server has what nobody else has, and
// nothing may be copied over it.
func (m *Migration) remembers(ctx context.Context, side router.Side, pool *conn.Pool) error {
	r := m.record()
	if r.Epoch == 0 || r.Side != side || m.cfg.Sync.AcceptLoss {
		return nil
	}
	e, ok, err := store.Load(ctx, pool.Control(), store.RecordKey)
	if err != nil {
		return fmt.Errorf("asking %s whether it knows of the switch: %w", pool, err)
	}
	if !ok {
		return r.forgotten(pool.String())
	}
	return r.knownIn(e, pool.String())
}

// knownIn returns an error unless e, which server has, tells of the switch that r tells of.
func (r Record) knownIn(e store.Entry, server string) error {
	if e.ID == r.ID {
		there, err := decode(e)
		if err != nil {
			return err
		}
		if there.Side == r.Side && there.Epoch >= r.Epoch {
			return nil
		}
	}
	return r.forgotten(server)
}

func (r Record) forgotten(server string) error {
	return fmt.Errorf("%s does not know any more that the applications were moved to it: it has come back in an older state, so the other server is left as it is; bring the data back, or restart crossfade with --sync.accept_loss to carry the loss over", server)
}

// unforgotten is the condition under which the applications' server may be told of the
// present record: it knows of the switch already. To tell one that has forgotten it would
// hide that.
func (m *Migration) unforgotten(side router.Side) store.Condition {
	r := m.record()
	if r.Epoch == 0 || r.Side != side || m.cfg.Sync.AcceptLoss {
		return nil
	}
	return func(context.Context, redis.Pipeliner) func(store.Asker, store.Entry) error {
		return func(_ store.Asker, there store.Entry) error { return r.knownIn(there, m.ids[side].Pool().String()) }
	}
}

// guardRecord writes the control record again when somebody removed it from the target,
// or from the server that the applications are on.
func (m *Migration) guardRecord(ctx context.Context, r Record) {
	if !r.Copied {
		return
	}
	sides := []router.Side{router.Target}
	if r.Epoch > 0 && r.Side == router.Source {
		sides = append(sides, router.Source)
	}
	for _, side := range sides {
		_, ok, err := store.Load(ctx, m.ids[side].Pool().Control(), store.RecordKey)
		if err != nil || ok {
			continue
		}
		// One that has forgotten it in a restart, or that has been given another server's data,
		// is not told, see remembers.
		var same store.Condition
		mi := m.activeMirror()
		if mi == nil && side == r.Side && r.Epoch > 0 && !r.oneWay() {
			continue // nobody knows who it is: begin asks it, and tells it
		}
		if mi != nil && side == r.Side {
			same = func(ctx context.Context, p redis.Pipeliner) func(store.Asker, store.Entry) error {
				followed := mi.Followed(ctx, p)
				return func(store.Asker, store.Entry) error { return followed() }
			}
		}
		m.tellIf(ctx, side, store.RecordKey, same)
	}
}
