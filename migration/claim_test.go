package migration

import (
	"errors"
	"testing"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// twoCoordinators returns one that stands before its journal with the fence up, and one
// with another state file that has just read the first one's record.
func twoCoordinators(t *testing.T) (slow, next *Migration, source *redistest.Server, st *FenceState) {
	t.Helper()
	source = redistest.Start(t, redistest.WithACL(ownACL, "default on nopass ~* &* +@all"))
	target := redistest.Start(t)
	_, st = raised(t, source, FenceACL)
	st.Raised = true
	one := func() *Migration {
		m := quietMigration(t, endpointOf(source, OwnUser, ownPassword), endpointOf(target, "", ""), func(c *config.Config) {
			c.Cutover.CreateUser = false
		})
		if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
			t.Fatal(err)
		}
		m.rec.Phase, m.rec.Token, m.rec.Seq, m.rec.Copied = Verifying, testToken, 5, true
		m.rec.Switch = &Switch{From: router.Source, To: router.Target}
		m.rec.Servers[router.Source].Fence = st
		return m
	}
	slow, next = one(), one()
	if err := next.adopt(next.record()); err != nil {
		t.Fatal(err)
	}
	return slow, next, source, st
}

// Who was slow finds the next one's token: it can neither decide nor touch the fence.
func TestASlowCoordinatorIsKeptOut(t *testing.T) {
	slow, next, source, st := twoCoordinators(t)
	if err := next.undoSwitch(t.Context()); err != nil {
		t.Fatal(err)
	}
	app := source.Client(0)
	if err := app.Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Errorf("the switch is taken back, and the application is refused: %v", err)
	}
	if err := slow.save(true, func(r *Record) { r.Phase = Committing }); err != nil {
		t.Fatal(err)
	}
	if err := slow.publish(t.Context(), router.Source, store.JournalKey); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("the slow one writes the journal: %v", err)
	}
	f := slow.fence(router.Source)
	if err := f.raise(t.Context(), st, slow.record().Token); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("the slow one raises the fence: %v", err)
	}
	if err := next.fence(router.Source).raise(t.Context(), st, next.record().Token); err != nil {
		t.Fatal(err)
	}
	if err := slow.lowerFence(t.Context(), router.Source); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("the slow one lowers the fence of the next one: %v", err)
	}
	wantRefusal(t, "a write while the next one's fence is up", app.Set(t.Context(), "k", "v", 0).Err(), "NOPERM")
}

// A journal that is written after the record was read is seen before anything is undone.
func TestAJournalWrittenMeanwhileIsSeen(t *testing.T) {
	slow, next, source, _ := twoCoordinators(t)
	if err := slow.save(true, func(r *Record) { r.Phase = Committing }); err != nil {
		t.Fatal(err)
	}
	if err := slow.publish(t.Context(), router.Source, store.JournalKey); err != nil {
		t.Fatal(err)
	}
	if err := next.undoSwitch(t.Context()); !errors.Is(err, errNewer) {
		t.Errorf("a decided switch is taken back: %v", err)
	}
	wantRefusal(t, "a write to the server that is being left", source.Client(0).Set(t.Context(), "k", "v", 0).Err(), "NOPERM")
	e, ok, err := store.Load(t.Context(), next.ids[router.Source].Pool().DB(0), store.JournalKey)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if r, err := decode(e); err != nil || r.Phase != Committing {
		t.Errorf("the journal says %s, %v", r.Phase, err)
	}
}

// What a lost answer left of our own claim is no newer coordinator's.
func TestAClaimMayBeRepeated(t *testing.T) {
	_, next, _, _ := twoCoordinators(t)
	for range 3 {
		if err := next.claim(t.Context(), router.Source); err != nil {
			t.Fatal(err)
		}
		if err := next.save(false, func(*Record) {}); err != nil {
			t.Fatal(err)
		}
	}
}
