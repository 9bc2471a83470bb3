package migration

import (
	"context"
	"maps"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// shelf keeps in the record whose the function libraries on the target are: a sidecar that
// starts again must know which of them it may delete, and which were there before it.
type shelf struct{ m *Migration }

// Libraries implements mirror.Shelf.
func (s shelf) Libraries() mirror.Libraries { return s.m.record().Libraries }

// Keep implements mirror.Shelf. The state file has it when this returns; the record on the
// target is for who loses that, and during an attempt it is written by the steps.
func (s shelf) Keep(ctx context.Context, l mirror.Libraries) error {
	l = maps.Clone(l)
	if err := s.m.save(false, func(r *Record) { r.Libraries = l }); err != nil {
		return err
	}
	s.m.mu.Lock()
	attempting := s.m.attempting
	s.m.mu.Unlock()
	if !attempting {
		s.m.tell(ctx, router.Target, store.RecordKey)
	}
	return nil
}

// brought reports whether a function library on the target is there because of this
// migration; an older version has taken all for its own.
func (m *Migration) brought(name string) bool {
	r := m.record()
	return r.Copied && r.Libraries == nil || r.Libraries[name] == mirror.Carried
}

// foreignLibrary reports whether one on the target is others'.
func (m *Migration) foreignLibrary(name string) bool {
	return m.record().Libraries[name] == mirror.Others
}
