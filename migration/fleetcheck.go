package migration

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/sync/conn"
)

// fleetFindings compares what the sidecars that only proxy are with each other and with this
// version; "" is no version to be compared with. Without any there is nothing to find.
func fleetFindings(members []MemberStatus, version string) []preflight.Finding {
	byVersion := make(map[string][]string)
	var silent, foreign []string
	alive := 0
	for _, m := range members {
		if !m.Alive {
			silent = append(silent, m.Name)
			continue
		}
		alive++
		byVersion[m.Version] = append(byVersion[m.Version], m.Name)
		if m.Protocol != fleet.Protocol {
			foreign = append(foreign, fmt.Sprintf("%s (%s)", m.Name, m.Version))
		}
	}
	if len(members) == 0 {
		return nil
	}
	finding := preflight.Finding{Check: "fleet", Level: preflight.Pass, What: fmt.Sprintf("%d other sidecars are alive", alive)}
	if version != "" {
		byVersion[version] = append(byVersion[version], "this one")
	}
	var out []preflight.Finding
	switch {
	case len(foreign) > 0:
		finding.Level = preflight.Fail
		finding.What = "other sidecars do not understand this version: " + strings.Join(foreign, ", ")
		finding.Do = "bring all sidecars to the same version before a switch"
	case len(byVersion) > 1:
		finding.Level = preflight.Warn
		var parts []string
		for _, v := range slices.Sorted(maps.Keys(byVersion)) {
			parts = append(parts, v+" on "+named(byVersion[v]))
		}
		finding.What = "the sidecars are of several versions: " + strings.Join(parts, "; ")
		finding.Do = "finish the update before a switch"
	}
	out = append(out, finding)
	if len(silent) > 0 {
		out = append(out, preflight.Finding{
			Check: "fleet", Level: preflight.Warn, What: "sidecars that say nothing any more: " + named(silent),
			Do: "if they run, their clients wait at a switch until these find out about it; the fence refuses them meanwhile",
		})
	}
	return out
}

// named lists names, the first of many.
func named(names []string) string {
	const most = 8
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// lookAtFleet says whether the sidecars can meet, and what they are, where there is none to ask.
func lookAtFleet(ctx context.Context, at *config.Meeting, both *ends, timeout time.Duration) []preflight.Finding {
	id := ""
	if at != nil {
		id = migrationOn(ctx, both.to, both.from)
	}
	st := meet(at, func() *redis.Client { return both.to.DB(0) }, func() string { return id }, timeout)
	defer func() { _ = st.Close() }()
	return append(meetingFindings(ctx, st), lookForFleet(ctx, st)...)
}

// migrationOn returns the id of the migration that servers tell of; "" where they tell of none.
func migrationOn(ctx context.Context, servers ...*conn.Pool) string {
	for _, p := range servers {
		for _, key := range []string{store.RecordKey, store.JournalKey} {
			if e, ok, err := store.Load(ctx, p.Control(), key); err == nil && ok && e.ID != "" {
				return e.ID
			}
		}
	}
	return ""
}

// lookForFleet is fleetFindings by who has no sidecar: it listens for two heartbeats.
func lookForFleet(ctx context.Context, st fleet.Store) []preflight.Finding {
	before, err := st.Members(ctx)
	if err != nil || len(before) == 0 {
		return nil // what is wrong with the server others have found
	}
	select {
	case <-time.After(3 * beatEvery):
	case <-ctx.Done():
		return nil
	}
	now, err := st.Members(ctx)
	if err != nil {
		return nil
	}
	beats := make(map[string]uint64, len(before))
	for _, m := range before {
		beats[m.ID] = m.Beat
	}
	var members []MemberStatus
	for _, m := range now {
		was, known := beats[m.ID]
		members = append(members, MemberStatus{Name: m.Name, Version: m.Version, Protocol: m.Protocol, Alive: !known || was != m.Beat || m.Lives})
	}
	return fleetFindings(members, "")
}
