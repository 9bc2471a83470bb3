package migration

import (
	"errors"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/router"
)

// TestLook: what was found is remembered, and shows in the status in short.
func TestLook(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	end := func(s *redistest.Server) config.Endpoint { return config.Endpoint{Network: "tcp", Address: s.Addr()} }
	m := quietMigration(t, end(source), end(target), nil)
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	if _, ok := m.LastLook(); ok || m.Status().Checked != nil {
		t.Error("something was found before anybody looked")
	}
	if err := target.Client(0).Set(t.Context(), "foreign", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	r, err := m.Look(t.Context())
	if err != nil || r.OK || r.From != router.Source || len(r.Findings) < 10 {
		t.Fatalf("%+v, %v", r, err)
	}
	named := false
	for _, f := range r.Findings {
		named = named || f.Level == preflight.Fail && f.Check == "foreign-keys" && f.Do != ""
	}
	if c := m.Status().Checked; !named || c == nil || c.OK || c.Fail == 0 || c.Pass == 0 || c.Fail+c.Pass+c.Warn != len(r.Findings) {
		t.Errorf("%+v of %+v", c, r.Findings)
	}
	for _, s := range []*redistest.Server{source, target} {
		keys, err := s.Client(0).Keys(t.Context(), "crossfade:*").Result()
		if err != nil || len(keys) > 0 {
			t.Errorf("left behind: %q, %v", keys, err)
		}
	}

	// Not beside something else, and not after the end.
	m.operator.Lock()
	_, err = m.Look(t.Context())
	m.operator.Unlock()
	var refused *Refused
	if !errors.As(err, &refused) {
		t.Errorf("beside another operation: %v", err)
	}
	m.mu.Lock()
	m.rec.Phase = Completed
	m.mu.Unlock()
	if _, err = m.Look(t.Context()); !errors.As(err, &refused) || !strings.Contains(err.Error(), "ended") {
		t.Errorf("after the end: %v", err)
	}
}
