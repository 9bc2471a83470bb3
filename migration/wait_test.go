package migration

import (
	"errors"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// A switch that was waited for may be made, and something fail after it. It must not be
// called one that was not made.
func TestWaitingEndsAsTheSwitchDid(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	for side, dropped := range map[router.Side]bool{router.Source: true, router.Target: false} {
		m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), nil)
		m.rec.Side, m.rec.Appointment = side, &Appointment{From: router.Source}
		failed := errors.New("no space left on the disk")
		if err := m.endWaiting(t.Context(), failed); !errors.Is(err, failed) {
			t.Errorf("on the %s: the error is %v", side, err)
		}
		if r := m.record(); r.Appointment != nil || (r.Dropped != nil) != dropped {
			t.Errorf("on the %s: appointment %v, dropped %v", side, r.Appointment, r.Dropped)
		}
	}
}

// A claim that is repeated while its server is away is remembered once.
func TestRepeatedClaimsAreOne(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), nil)
	m.rec.Token = 7
	source.Kill()
	for range 3 {
		if err := m.claim(t.Context(), router.Source); err == nil {
			t.Fatal("a server that is away takes a claim")
		}
	}
	if len(m.claims) != 1 {
		t.Errorf("%d claims are remembered", len(m.claims))
	}
}
