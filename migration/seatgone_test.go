package migration

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/filter"
)

// asleep has m not have looked at the seat for long.
func (m *Migration) asleep() {
	m.seat.mu.Lock()
	defer m.seat.mu.Unlock()
	for side := range m.seat.seen {
		m.seat.seen[side] = time.Now().Add(-time.Minute)
	}
}

// connects returns what a new connection of m's to a server meets.
func (m *Migration) connects(t *testing.T, side router.Side) error {
	t.Helper()
	w, err := m.ids[side].Pool().Wire(t.Context(), 0)
	if err == nil {
		w.Close()
	}
	return err
}

// Who has slept lets none of its connections through before it knows whose the seat is.
// Where nobody has it any more the migration was ended, unless the servers have lost all.
func TestWhoWakesAsksForTheSeat(t *testing.T) {
	remove := func(t *testing.T, servers [2]*redistest.Server) {
		for _, s := range servers {
			if err := s.Client(0).Del(t.Context(), store.SeatKey).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		awake  bool
		happen func(*testing.T, [2]*redistest.Server)
		lost   bool
	}{
		"nothing": {false, func(*testing.T, [2]*redistest.Server) {}, false},
		"one flushed": {false, func(t *testing.T, s [2]*redistest.Server) {
			if err := s[0].Client(0).FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		}, false},
		"both flushed while awake": {true, remove, false},
		"ended":                    {false, remove, true},
		"one restarted empty, ended": {false, func(t *testing.T, s [2]*redistest.Server) {
			remove(t, s)
			s[0].Kill()
			if err := s[0].Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}, true},
		"both restarted empty, and a target that lives": {false, func(t *testing.T, servers [2]*redistest.Server) {
			for _, s := range servers {
				s.Kill()
				if err := s.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if err := servers[1].Client(0).Set(t.Context(), "k", "v", 0).Err(); err != nil {
				t.Fatal(err)
			}
		}, true},
		"both restarted empty": {false, func(t *testing.T, servers [2]*redistest.Server) {
			for _, s := range servers {
				s.Kill()
				if err := s.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m, _, servers := coordinators(t)
			if err := m.sitBoth(t); err != nil {
				t.Fatal(err)
			}
			test.happen(t, servers)
			if !test.awake {
				m.asleep()
			}
			if test.lost {
				for side := range m.ids {
					if err := m.connects(t, router.Side(side)); !errors.Is(err, errSeatGone) {
						t.Errorf("before it is known: %v", err)
					}
				}
			}
			m.findSeat(t.Context())
			if lost := m.lostTo(); test.lost != errors.Is(lost, store.ErrSuperseded) {
				t.Fatalf("it has lost the seat: %v", lost)
			}
			for side := range m.ids {
				if err := m.connects(t, router.Side(side)); test.lost != (err != nil) {
					t.Errorf("a connection to the %s: %v", router.Side(side), err)
				}
			}
		})
	}
}

// A server that does not answer keeps nobody from what the other one tells.
func TestWhoWakesNeedsOneServer(t *testing.T) {
	m, _, servers := coordinators(t)
	if err := m.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	servers[router.Source].Kill()
	m.asleep()
	m.findSeat(t.Context())
	if m.seat.slept() || m.lostTo() != nil {
		t.Errorf("it has not found its seat on the target: %v", m.lostTo())
	}
}

// Where the server that was left is gone, and the other one was away and has come back
// without its memory, nobody can tell whether another one has ended the migration. The status
// says what can be done, and that lets clients in again.
func TestWhoCannotKnowSaysWhatToDo(t *testing.T) {
	m, _, servers := coordinators(t)
	m.rec.Side, m.rec.Epoch, m.rec.Phase = router.Target, 1, ReverseTailing
	if err := m.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		s.Kill()
	}
	if err := servers[router.Target].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.asleep()
	m.findSeat(t.Context())
	if err := m.Admit(t.Context(), router.Target); !errors.Is(err, errSeatGone) {
		t.Errorf("a client's connection: %v", err)
	}
	for _, want := range []string{servers[router.Target].Addr() + " has come back without its memory", "Start redis://" + servers[router.Source].Addr(), "crossfade complete goes on"} {
		if got := strings.Join(m.Status().Reasons, "\n"); !strings.Contains(got, want) {
			t.Errorf("the status does not say %q: %s", want, got)
		}
	}
	if _, err := m.Complete(t.Context(), CompleteOptions{}); err == nil {
		t.Error("nothing was left undone on a server that is gone")
	}
	if err := errors.Join(m.Admit(t.Context(), router.Target), m.connects(t, router.Target)); err != nil {
		t.Errorf("connections are refused all the same: %v", err)
	}
	if got := strings.Join(m.Status().Reasons, "\n"); strings.Contains(got, "without its memory") {
		t.Errorf("the status still says %q", got)
	}
}

// A server that has been restarted since the seat was taken is the process that has it.
func TestWhoWakesKnowsServersThatWereRestarted(t *testing.T) {
	m, _, servers := coordinators(t)
	if err := m.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		s.Kill()
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	redistest.Eventually(t, testTimeout, func() bool {
		m.keepSeat(t.Context())
		n := 0
		for _, s := range servers {
			n += int(s.Client(0).Exists(t.Context(), store.SeatKey).Val())
		}
		return n == len(servers)
	}, "the seat is taken again")
	for _, s := range servers { // it is ended, and nothing is left that is worth a refusal
		do(t, s.Client(0), "FLUSHALL")
	}
	m.asleep()
	m.findSeat(t.Context())
	if err := m.lostTo(); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("it has lost the seat: %v", err)
	}
}

// Who has lost the seat may not have it back while who has it is connected, or when nothing
// is left of the migration.
func TestWhoWasOustedStaysOut(t *testing.T) {
	a, b, servers := coordinators(t)
	ousted := Record{ID: "test", Phase: Tailing, Ousted: &Ousted{At: time.Now()}}
	if err := b.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	refused := func(want string) {
		t.Helper()
		err := a.mayReturn(t.Context(), ousted)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("it is told %v, want %q", err, want)
		}
	}
	refused(b.seat.holder + ") is connected")
	if err := a.mayReturn(t.Context(), Record{ID: "test", Phase: Tailing}); err != nil {
		t.Errorf("one that has never lost it: %v", err)
	}
	a.cfg.TakeOver = true
	refused("")
	a.cfg.TakeOver = false
	for _, id := range b.ids {
		if err := id.Pool().Close(); err != nil {
			t.Fatal(err)
		}
	}
	redistest.Eventually(t, testTimeout, func() error { return a.mayReturn(t.Context(), ousted) }, "the other one is gone")
	for _, s := range servers {
		if err := s.Client(0).FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	refused("") // what is left on the servers decides, see notEnded
	for _, s := range servers {
		s.Kill()
	}
	refused("finding out who serves the clients")
}

// A state file of which the servers know nothing is not gone by, whether its process has lost
// the seat or not, and whatever it is told: where somebody else has ended the migration, the
// target is what the applications work with.
func TestNothingIsCopiedAfterTheEnd(t *testing.T) {
	set := func(t *testing.T, s *redistest.Server, key string) {
		t.Helper()
		if err := s.Client(0).Set(t.Context(), key, "v", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		happen  func(*testing.T, [2]*redistest.Server)
		refused bool
	}{
		"ended": {func(t *testing.T, s [2]*redistest.Server) { set(t, s[0], "k"); set(t, s[1], "k") }, true},
		"ended, the target is empty for a moment": {func(t *testing.T, s [2]*redistest.Server) { set(t, s[0], "k") }, true},
		"ended, the source was emptied":           {func(t *testing.T, s [2]*redistest.Server) { set(t, s[1], "k") }, true},
		"ended, another one has begun": {func(t *testing.T, s [2]*redistest.Server) {
			set(t, s[0], "k")
			set(t, s[1], "k")
			set(t, s[1], store.SeatKey)
		}, true},
		"both emptied":       {func(*testing.T, [2]*redistest.Server) {}, false},
		"the target emptied": {func(t *testing.T, s [2]*redistest.Server) { set(t, s[0], "k"); set(t, s[0], store.SeatKey) }, false},
		"nothing": {func(t *testing.T, s [2]*redistest.Server) {
			set(t, s[0], "k")
			set(t, s[1], "k")
			set(t, s[1], store.RecordKey)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m, _, servers := coordinators(t)
			tt.happen(t, servers)
			m.cfg.TakeOver = true
			for _, r := range []Record{
				{ID: "test", Phase: Tailing, Copied: true, Map: map[int]router.Place{0: {}}},
				{ID: "test", Phase: Tailing, Copied: true, Map: map[int]router.Place{0: {}}, Ousted: &Ousted{At: time.Now()}},
			} {
				var no *Refused
				if err := m.notEnded(t.Context(), r); errors.As(err, &no) != tt.refused || err != nil && !tt.refused {
					t.Errorf("ousted %v: %v", r.Ousted != nil, err)
				}
			}
		})
	}
	// The source tells that only the target has forgotten it, as a FLUSHDB there does.
	for name, tt := range map[string]struct {
		seat    store.Seat
		refused bool
	}{
		"an earlier process":     {store.Seat{Token: 4, Holder: "before", Migration: "test"}, false},
		"somebody newer":         {store.Seat{Token: 9, Holder: "another", Migration: "test"}, true},
		"another migration":      {store.Seat{Token: 1, Holder: "another", Migration: "another"}, true},
		"one that does not tell": {store.Seat{Token: 4, Holder: "before"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			m, _, servers := coordinators(t)
			set(t, servers[0], "k")
			set(t, servers[1], "k")
			if err := store.TakeSeat(t.Context(), servers[0].Client(0), tt.seat); err != nil {
				t.Fatal(err)
			}
			r := Record{ID: "test", Token: 5, Phase: Tailing, Copied: true, Map: map[int]router.Place{0: {}}}
			err := m.notEnded(t.Context(), r)
			if errors.As(err, new(*Refused)) != tt.refused {
				t.Errorf("when it starts: %v", err)
			}
			if tt.refused {
				return
			}
			if err := m.sitBoth(t); err != nil {
				t.Fatal(err)
			}
			if err := m.notEnded(t.Context(), r); err != nil {
				t.Errorf("when the copy begins: %v", err)
			}
		})
	}
	// Keys that are not copied are nobody's concern.
	filtered, _, mixed := coordinators(t)
	set(t, mixed[1], "theirs")
	only, err := filter.New([]string{"ours:*"}, []string{"string"})
	if err != nil {
		t.Fatal(err)
	}
	filtered.opt.Only = only
	for key, refused := range map[string]bool{"theirs": false, "ours:1": true} {
		set(t, mixed[1], key)
		if err := filtered.notEnded(t.Context(), filtered.record()); errors.As(err, new(*Refused)) != refused {
			t.Errorf("with %s on the target: %v", key, err)
		}
		do(t, mixed[1].Client(0), "DEL", key)
	}
	// Nor is it when the target was away at the start.
	m, _, servers := coordinators(t)
	set(t, servers[1], "k")
	if err := m.noteBegin(t.Context(), nil); !errors.As(err, new(*Refused)) {
		t.Errorf("the copy begins: %v", err)
	}
}
