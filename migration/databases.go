package migration

import (
	"context"

	"github.com/crossfade/crossfade/internal/lua"
	"github.com/crossfade/crossfade/router"
)

// What is on the target besides the mapped databases scripts must not reach, and nothing
// rewrites what they name inside. Where the map is the identity it depends on how many
// databases the target has whether there are any.

// countDatabases notes how many databases the target has, before it is copied to.
func (m *Migration) countDatabases(ctx context.Context) error {
	if !m.databases().IsIdentity() || m.record().Side == router.Target && m.record().TargetDatabases > 0 {
		return nil
	}
	n, err := databaseCount(ctx, m.ids[router.Target].Pool())
	if err != nil {
		return err
	}
	if n != m.record().TargetDatabases {
		if err := m.save(false, func(r *Record) { r.TargetDatabases = n }); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.dbmap = m.dbmap.Within(n)
	m.mu.Unlock()
	return nil
}

// mayGo reports whether a script or library may be loaded on a side. The proxy refuses what
// names databases by number; what it has forgotten must not be found on the server.
func mayGo(text string, to router.Side, dm router.DBMap) bool {
	return to == router.Source || dm.IsWhole() || !lua.NamesDatabase([]byte(text))
}
