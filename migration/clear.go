package migration

import (
	"context"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// A copy that arrives on the server that was left serves whoever waits there in a blocking
// command, fence or not: servers before Redis 7.2 do not ask again what a user may who is
// woken. What such a client takes is gone, from there and, by the copy of that, from
// nowhere else. So nothing is copied to a server that was left before those clients are gone.

// follow has mi begin to copy, once the server that it writes to is clear.
func (m *Migration) follow(ctx context.Context, mi *mirror.Mirror, scan bool) error {
	if err := m.clearSide(ctx, m.record().Side.Other()); err != nil {
		return err
	}
	return mi.Follow(ctx, scan)
}

// clearSide closes the applications' connections to a server, if it was left.
func (m *Migration) clearSide(ctx context.Context, side router.Side) error {
	r := m.record()
	if r.Servers[side].Fence == nil && r.fencedBefore(side) == "" {
		return nil // a copy before any switch: who is there is none of our business
	}
	return m.fence(side).killOthers(ctx)
}
