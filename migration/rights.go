package migration

import (
	"context"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/sync/conn"
)

// RightsReport has the rules for a user of ours at each of the two servers.
type RightsReport struct {
	Source preflight.OwnRights `json:"source"`
	Target preflight.OwnRights `json:"target"`
}

// Rights says what a user needs to be allowed on both servers of the configuration, so that
// a migration can be made there and back with it and with nothing else. Nothing is changed.
func Rights(ctx context.Context, cfg config.Config) (r RightsReport, err error) {
	both, err := openEnds(ctx, cfg, "acl")
	if err != nil {
		return r, err
	}
	defer both.close()
	for _, side := range []struct {
		pool *conn.Pool
		into *preflight.OwnRights
	}{{both.from, &r.Source}, {both.to, &r.Target}} {
		if *side.into, err = preflight.RightsAt(ctx, side.pool); err != nil {
			return r, err
		}
	}
	return r, nil
}
