package migration

import (
	"context"
	"fmt"
	"strings"
)

// killWaiting is killOthers where other sidecars have connections. Those are left alone: the
// fence refuses what comes by them, and a sidecar that was asleep learns from the refusals
// what has not run. Closed are those that wait in a blocking command, which a copy may serve,
// and those that hear what others write or publish; a fenced one cannot begin to any more.
func (f fence) killWaiting(ctx context.Context) error {
	text, err := f.db().ClientList(ctx).Result()
	if err != nil {
		return fmt.Errorf("closing the applications' connections to %s: %w", f.pool, err)
	}
	pipe := f.db().Pipeline()
	for _, one := range listed(text) {
		if one.isClients() && (f.own == "" || one.user != f.own) && one.waitsOrListens() {
			pipe.ClientKillByFilter(ctx, "ID", one.id)
		}
	}
	if pipe.Len() == 0 {
		return nil
	}
	if cmds, err := pipe.Exec(ctx); firstError(cmds, err) != nil {
		return fmt.Errorf("closing the applications' connections to %s: %w", f.pool, firstError(cmds, err))
	}
	return nil
}

// waitsOrListens reports whether it is in the middle of a blocking command, or hears what
// others write or publish.
func (c listedClient) waitsOrListens() bool { return strings.ContainsAny(c.flags, "bOPt") || c.listens }
