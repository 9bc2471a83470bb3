package migration

import (
	"context"
	"fmt"
	"strings"

	"github.com/crossfade/crossfade/sync/mirror"
)

// killWaiting is killOthers where other sidecars have connections. Those are left alone: the
// fence refuses what comes by them, and a sidecar that was asleep learns from the refusals
// what has not run. Closed are those that wait in a blocking command, which a copy may serve,
// and those that hear what others write or publish; a fenced one cannot begin to any more.
func (f fence) killWaiting(ctx context.Context) error {
	list, err := f.db().ClientList(ctx).Result()
	if err != nil {
		return fmt.Errorf("closing the applications' connections to %s: %w", f.pool, err)
	}
	pipe := f.db().Pipeline()
	for line := range strings.Lines(list) {
		c := make(map[string]string)
		for field := range strings.FieldsSeq(line) {
			if k, v, ok := strings.Cut(field, "="); ok {
				c[k] = v
			}
		}
		ours := strings.HasPrefix(c["name"], mirror.KeyPrefix) || f.own != "" && c["user"] == f.own
		if c["id"] != "" && !ours && waitsOrListens(c) {
			pipe.ClientKillByFilter(ctx, "ID", c["id"])
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

// waitsOrListens judges a connection by what CLIENT LIST says of it. Replicas do neither.
func waitsOrListens(c map[string]string) bool {
	if strings.ContainsAny(c["flags"], "SM") {
		return false
	}
	if strings.ContainsAny(c["flags"], "bOPt") {
		return true
	}
	for _, kind := range []string{"sub", "psub", "ssub"} {
		if n := c[kind]; n != "" && n != "0" {
			return true
		}
	}
	return false
}
