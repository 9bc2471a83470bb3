package migration

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

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

// An appointment whose end could not be written down, for want of room on the disk, keeps every
// other switch from being made, and the end of the migration. Whoever ends the waiting ends it.
func TestAbortOfAnAppointmentThatNobodyKeeps(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	for side, dropped := range map[router.Side]bool{router.Source: true, router.Target: false} {
		m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), nil)
		m.rec.Side, m.rec.Appointment = side, &Appointment{From: router.Source}
		inTheWay := m.opt.File.Path() + ".tmp"
		if err := os.Mkdir(inTheWay, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := m.endWaiting(t.Context(), errAborted); err == nil || m.record().Appointment == nil {
			t.Fatalf("what cannot be written is: %v", err)
		}
		if err := m.Abort(t.Context()); err == nil || m.record().Appointment == nil {
			t.Errorf("on the %s: it is called ended and cannot be written down: %v", side, err)
		}
		if err := os.Remove(inTheWay); err != nil {
			t.Fatal(err)
		}
		if err := m.Abort(t.Context()); err != nil {
			t.Errorf("on the %s: %v", side, err)
		}
		if r := m.record(); r.Appointment != nil || (r.Dropped != nil) != dropped {
			t.Errorf("on the %s: appointment %v, dropped %v", side, r.Appointment, r.Dropped)
		}
		if err := m.Abort(t.Context()); !errors.As(err, new(*Refused)) {
			t.Errorf("on the %s: nothing waits any more: %v", side, err)
		}
	}
}

// Who asks for the end of a switch that is made already must not be told that it is taken back,
// though whoever has waited for it has not written that down yet.
func TestAbortOfASwitchThatIsMade(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), nil)
	a := &Appointment{From: router.Source}
	m.rec.Appointment = a
	_, ctx, err := m.book(t.Context(), a, a.From)
	if err != nil {
		t.Fatal(err)
	}
	m.rec.Side, m.rec.Phase = router.Target, ReverseTailing
	if err := m.Abort(t.Context()); !errors.As(err, new(*Refused)) || ctx.Err() != nil {
		t.Errorf("a switch that is made is taken back: %v", err)
	}
	m.rec.Side, m.rec.Phase = router.Source, Tailing
	if err := m.Abort(t.Context()); err != nil || !errors.Is(context.Cause(ctx), errAborted) {
		t.Errorf("one that waits is not ended: %v", err)
	}
}

// An attempt that the state file does not know of is tried again like the first one.
func TestRetryAfter(t *testing.T) {
	m := &Migration{}
	m.cfg.Cutover.RetryWait = time.Second
	for failed, want := range []time.Duration{1, 1, 2, 4, 8, 16, 16, 16} {
		if got := m.retryAfter(failed); got != want*time.Second {
			t.Errorf("after %d attempts %v, want %v", failed, got, want*time.Second)
		}
	}
}
