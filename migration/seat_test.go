package migration

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// coordinators returns two migrations between the same servers, with a state file each,
// which go by the same record.
func coordinators(t *testing.T) (a, b *Migration, servers [2]*redistest.Server) {
	t.Helper()
	servers = [2]*redistest.Server{redistest.Start(t), redistest.Start(t)}
	one := func() *Migration {
		m := quietMigration(t, endpointOf(servers[0], "", ""), endpointOf(servers[1], "", ""), func(c *config.Config) { c.Cutover.CreateUser = false })
		if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
			t.Fatal(err)
		}
		m.rec.Phase, m.rec.Token, m.rec.Seq, m.rec.Copied = Tailing, 5, 5, true
		if err := m.adopt(m.record()); err != nil {
			t.Fatal(err)
		}
		return m
	}
	return one(), one(), servers
}

func (m *Migration) sitBoth(t *testing.T) error {
	t.Helper()
	return m.sit(t.Context(), router.Source, router.Target)
}

// isOut fails unless m may do nothing any more, on either server.
func isOut(t *testing.T, m *Migration) {
	t.Helper()
	for _, id := range m.ids {
		redistest.Eventually(t, testTimeout, func() error {
			// The first attempt may find out only that its connection was closed.
			err := id.Pool().DB(0).Set(t.Context(), "k", "v", 0).Err()
			if err == nil {
				t.Fatalf("a write to the %s arrives", id.side)
			}
			if !errors.Is(err, store.ErrSuperseded) {
				return err
			}
			return nil
		}, "the %s is closed to it", id.side)
		if _, err := id.Pool().Wire(t.Context(), 0); !errors.Is(err, store.ErrSuperseded) {
			t.Errorf("a wire to the %s: %v", id.side, err)
		}
	}
	if err := m.lostTo(); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("it is told: %v", err)
	}
	select {
	case <-m.seat.ended:
	default:
		t.Error("it is not told to end")
	}
}

// Who takes over closes the connections of the one before and lets none of its new ones
// through, on both servers and for good.
func TestWhoLosesTheSeatIsOut(t *testing.T) {
	a, b, servers := coordinators(t)
	if err := a.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	if err := a.publish(t.Context(), router.Target, store.RecordKey); err != nil {
		t.Fatal(err)
	}
	w, err := a.ids[router.Target].Pool().Wire(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Command("SET", "late", "v")

	// It has read the record before the other one wrote, and must see that first.
	b.seat.above = 6
	if err := b.adopt(b.record()); err != nil {
		t.Fatal(err)
	}
	b.seen = store.Entry{ID: "test", Token: 5, Seq: 5}
	for range 2 { // until it is adopted
		if err := b.sitBoth(t); !errors.Is(err, errNewer) {
			t.Fatalf("what the first one has written meanwhile: %v", err)
		}
	}
	if err := b.readAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err == nil {
		err = w.Status()
		if err == nil {
			t.Error("a write that was in hand is answered")
		}
	}
	isOut(t, a)
	for _, s := range servers {
		if n := s.Client(0).Exists(t.Context(), "late", "k").Val(); n != 0 {
			t.Errorf("%d late writes have arrived on %s", n, s.Addr())
		}
	}
	if err := b.publish(t.Context(), router.Target, store.RecordKey); err != nil {
		t.Errorf("the second one cannot go on: %v", err)
	}
}

// Of two with the same token one has the seat, on both servers, and the other one can only
// have it with a higher token.
func TestTheSameTokenTwice(t *testing.T) {
	a, b, _ := coordinators(t)
	if a.seat.holder > b.seat.holder {
		a, b = b, a
	}
	if err := b.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	if err := a.sitBoth(t); !errors.Is(err, store.ErrSuperseded) {
		t.Fatalf("both have it: %v", err)
	}
	if a.lostTo() != nil || b.lostTo() != nil {
		t.Fatalf("who never had it ends: %v, %v", a.lostTo(), b.lostTo())
	}
	if err := a.readAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.sitBoth(t); err != nil {
		t.Fatalf("with token %d after %d: %v", a.record().Token, b.record().Token, err)
	}
	isOut(t, b)
}

// Two that have begun without a record: the one that comes later goes on with the other
// one's.
func TestTwoNewMigrations(t *testing.T) {
	a, b, _ := coordinators(t)
	for i, m := range []*Migration{a, b} {
		m.rec = Record{ID: []string{"one", "two"}[i], Phase: Idle}
		m.fresh = true
		if err := m.adopt(m.record()); err != nil {
			t.Fatal(err)
		}
	}
	b.seat.above = 1
	if err := b.adopt(Record{ID: "two", Phase: Idle}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.useMap(map[int]router.Place{0: {}}, nil), a.sitBoth(t), a.publish(t.Context(), router.Target, store.RecordKey)); err != nil {
		t.Fatal(err)
	}
	if err := b.sitBoth(t); !errors.Is(err, errNewer) {
		t.Fatalf("a record of a migration that was unknown: %v", err)
	}
	if err := b.readAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := b.record(); r.ID != "one" || b.fresh || !b.foreign {
		t.Errorf("going on with %s, fresh %v, foreign %v", r.ID, b.fresh, b.foreign)
	}
	if err := b.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	isOut(t, a)
}

// FLUSHALL takes the seat away from nobody.
func TestTheSeatIsKept(t *testing.T) {
	a, _, servers := coordinators(t)
	if err := a.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		do(t, s.Client(0), "FLUSHALL")
	}
	a.keepSeat(t.Context())
	for _, s := range servers {
		if there, ok, err := store.LoadSeat(t.Context(), s.Client(0)); err != nil || !ok || there.Holder != a.seat.holder {
			t.Errorf("on %s: %s, %v, %v", s.Addr(), there, ok, err)
		}
	}
	// Another one's is not overwritten, but found.
	other := store.Seat{Token: a.record().Token + 1, Holder: "other"}
	if err := store.TakeSeat(t.Context(), servers[1].Client(0), other); err != nil {
		t.Fatal(err)
	}
	a.keepSeat(t.Context())
	if err := a.lostTo(); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("another one has it: %v", err)
	}
	if there, _, err := store.LoadSeat(t.Context(), servers[1].Client(0)); err != nil || there != other {
		t.Errorf("it is %s, %v", there, err)
	}
	if err := a.ids[router.Source].Pool().DB(0).Ping(t.Context()).Err(); err != nil && !errors.Is(err, redis.ErrClosed) {
		t.Errorf("a connection that nobody has closed: %v", err)
	}
}

// Under F2 the decision is on the entered server. One that found the switch there, and may
// not be alone, takes nothing back while it cannot ask that.
func TestAForeignSwitchIsNotTakenBackBlindly(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		a, _, servers := coordinators(t)
		a.rec.Phase, a.foreign = Verifying, foreign
		a.rec.Switch = &Switch{From: router.Source, To: router.Target}
		a.rec.Servers[router.Source].Fence = &FenceState{Level: FenceReplicas, Raised: true, MinReplicas: "0", MaxLag: "10"}
		servers[1].Kill()
		if err := a.undoSwitch(t.Context()); (err != nil) != foreign {
			t.Errorf("found on the servers %v: %v", foreign, err)
		}
	}
}

// What another coordinator of the same moment has written on the server that a switch is
// settled without is gone on with before anybody is served: found when the copy begins, it
// would end this process, and the other one has ended already.
func TestASwitchIsSettledWithBothSeats(t *testing.T) {
	other, next, source, _ := twoCoordinators(t)
	if err := other.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func(*Migration, context.Context) error{(*Migration).noteAborting, (*Migration).noteAborted} {
		if err := step(other, t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := other.publish(t.Context(), router.Target, store.RecordKey); err != nil {
		t.Fatal(err)
	}
	if err := next.settle(t.Context()); !errors.Is(err, errNewer) {
		t.Fatalf("what another one has written on the target is not seen: %v", err)
	}
	if err := next.readAgain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := next.settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := next.sitBoth(t); err != nil {
		t.Errorf("the copy cannot begin: %v", err)
	}
	isOut(t, other)
	if err := source.Client(0).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Errorf("the application is refused: %v", err)
	}
}

// Who has ended its own migration goes on serving when the next one begins between the same
// servers, whatever its token is; but it changes nothing there any more.
func TestTheNextMigrationEndsNobodyWhoHasEnded(t *testing.T) {
	for _, token := range []uint64{1, 100} {
		ended, next, _ := coordinators(t)
		if err := ended.sitBoth(t); err != nil {
			t.Fatal(err)
		}
		ended.seat.leave(ended.record().ID)
		for _, side := range []router.Side{router.Source, router.Target} {
			if err := ended.ids[side].Pool().Control().Del(t.Context(), store.SeatKey).Err(); err != nil {
				t.Fatal(err)
			}
		}
		next.rec.ID, next.rec.Token = "next", token
		if err := next.sitBoth(t); err != nil {
			t.Fatal(err)
		}
		for _, id := range ended.ids {
			redistest.Eventually(t, testTimeout, func() error {
				err := id.Pool().DB(0).Set(t.Context(), "k", "v", 0).Err()
				if err == nil {
					t.Fatalf("with token %d: a write of its own to the %s arrives", token, id.side)
				}
				if !errors.Is(err, store.ErrSuperseded) {
					return err
				}
				return nil
			}, "the %s is closed to what it would do", id.side)
		}
		if err := ended.lostTo(); err != nil {
			t.Errorf("with token %d: the one that has ended its own stops serving: %v", token, err)
		}
		if err := ended.Admit(t.Context(), router.Source); err != nil {
			t.Errorf("with token %d: its clients get no connection: %v", token, err)
		}
	}
}
