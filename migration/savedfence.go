package migration

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/router"
)

// Whoever has a server save its users while it is fenced (ACL SAVE) has the fence come back with
// a restart, also when the applications are there again. Nobody else knows by then what the users
// were, so the record keeps that of a fence that fell because its server was entered.

// openEntered lowers the fence on the server that the applications enter.
func (m *Migration) openEntered(ctx context.Context) error {
	side := m.record().Side
	fence := m.record().Servers[side].Fence
	if fence == nil {
		return nil
	}
	if err := m.lowerFence(ctx, side); err != nil {
		return err
	}
	if err := m.assume(func(r *Record) { r.Servers[side].noteLowered(fence) }); err != nil {
		m.log.Error("the state file does not know which fence was lowered", "error", err)
	}
	return nil
}

// noteLowered keeps what users were before a fence that has a mark.
func (k *Kept) noteLowered(st *FenceState) {
	if st != nil && st.Mark != "" {
		k.Lowered = st
	}
}

// findSavedFence looks, once for each process that is the applications' server, whether users
// wear the mark of the fence that was lowered there, and has the record know of it if so.
func (m *Migration) findSavedFence(ctx context.Context) {
	r := m.record()
	side, st, run := r.Side, r.Servers[r.Side].Lowered, m.seat.runOn(r.Side)
	if st == nil || r.Servers[side].Fence != nil || run == "" || run == m.opened || r.Phase.Switching() {
		return
	}
	still := *st
	still.Raised, still.Users = true, nil
	p := m.ids[side].Pool().DB(0).Pipeline() // clients may be waiting, and users be many
	answers := make([]*redis.Cmd, len(st.Users))
	for i, u := range st.Users {
		answers[i] = p.Do(ctx, "ACL", "GETUSER", u.Name)
	}
	_, _ = p.Exec(ctx) // each answer has its own error
	for i, u := range st.Users {
		there, err := readUser(u.Name, answers[i])
		switch {
		case errors.Is(err, redis.Nil): // it is gone
		case err != nil:
			return // asked again
		case wears(there, st):
			still.Users = append(still.Users, u)
		}
	}
	m.opened = run
	if len(still.Users) == 0 {
		return
	}
	m.log.Error("the applications' server was restarted with users that were saved behind a fence, which is lowered again; save them anew (ACL SAVE)", "side", side, "server", m.ids[side].Pool().String())
	if err := m.assume(func(r *Record) { r.Servers[side].Fence = &still }); err != nil {
		m.log.Error("the state file does not know of the fence", "error", err)
	}
}

// runOn returns the run id of the process that has the seat on a side, "" where that is not known.
func (s *seat) runOn(side router.Side) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.run[side]
}
