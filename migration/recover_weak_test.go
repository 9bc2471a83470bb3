package migration

import (
	"testing"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// A crash after the point of no return under F2: the server that was left
// refuses the journal now as it did before, so rolling forward must not ask it
// for one; the decision is on the entered server and in the state file.
func TestRollForwardUnderFenceReplicas(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), func(c *config.Config) {
		c.Cutover.CreateUser = false
	})
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	f := m.fence(router.Source)
	st, err := f.save(t.Context(), FenceReplicas)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.arm(t.Context(), testToken); err != nil {
		t.Fatal(err)
	}
	if err := f.raise(t.Context(), st, testToken); err != nil {
		t.Fatal(err)
	}
	st.Raised = true
	m.rec.Phase, m.rec.Token, m.rec.Copied = Committing, testToken, true
	m.rec.Switch = &Switch{From: router.Source, To: router.Target}
	m.rec.Servers[router.Source].Fence = st
	if err := m.publish(t.Context(), router.Target, store.RecordKey); err != nil {
		t.Fatal(err)
	}
	if err := m.rollForward(t.Context()); err != nil {
		t.Fatalf("a decided switch cannot be finished: %v", err)
	}
	if r := m.record(); r.Side != router.Target || r.Phase != ReverseLost || r.Epoch != 1 {
		t.Errorf("after rolling forward: %s on the %s, epoch %d", r.Phase, r.Side, r.Epoch)
	}
	e, ok, err := store.Load(t.Context(), target.Client(0), store.RecordKey)
	if err != nil || !ok {
		t.Fatalf("the record on the entered server: %v, %v", ok, err)
	}
	if r, err := decode(e); err != nil || r.Side != router.Target || r.Phase != Committed {
		t.Errorf("the record on the entered server: %+v, %v", r, err)
	}
	wantRefusal(t, "a write to the server that was left", source.Client(0).Set(t.Context(), "k", "v", 0).Err(), "NOREPLICAS")
}
