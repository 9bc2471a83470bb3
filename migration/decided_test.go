package migration

import (
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// A crash between the state file's COMMITTING and the journal. The journal decides:
// without it a switch is finished only while the fence stands; with it in any case.
func TestTheJournalDecidesNotTheStateFile(t *testing.T) {
	for name, tt := range map[string]struct {
		fenced, journalled bool
		want               router.Side
	}{
		"the fence stands, no journal":   {fenced: true, want: router.Target},
		"the fence is gone, no journal":  {want: router.Source},
		"the fence is gone, the journal": {journalled: true, want: router.Target},
	} {
		t.Run(name, func(t *testing.T) {
			source := redistest.Start(t, redistest.WithACL(ownACL, "default on nopass ~* &* +@all"))
			target := redistest.Start(t)
			m := quietMigration(t, endpointOf(source, OwnUser, ownPassword), endpointOf(target, "", ""), nil)
			if err := m.useMap(map[int]int{0: 0}, nil); err != nil {
				t.Fatal(err)
			}
			f, st := raised(t, source, FenceACL)
			st.Raised = true
			m.rec.Phase, m.rec.Token, m.rec.Copied = Committing, testToken, true
			m.rec.Switch = &Switch{From: router.Source, To: router.Target}
			m.rec.Servers[router.Source].Fence = st
			if tt.journalled {
				if err := m.publish(t.Context(), router.Source, store.JournalKey); err != nil {
					t.Fatal(err)
				}
			}
			if !tt.fenced { // as a restart does
				if err := f.lower(t.Context(), st); err != nil {
					t.Fatal(err)
				}
			}
			if err := m.rollForward(t.Context()); err != nil {
				t.Fatal(err)
			}
			r := m.record()
			if r.Side != tt.want || r.Phase.Switching() || r.Phase == Committing {
				t.Errorf("the applications are on the %s, want the %s; phase %s", r.Side, tt.want, r.Phase)
			}
			e, _, err := store.Load(t.Context(), f.db(), store.JournalKey)
			if err != nil {
				t.Fatal(err)
			}
			if there := r.journalled(e) || r.Epoch == 1 && e.ID != ""; there != (tt.want == router.Target) {
				t.Errorf("there is a journal: %v", there)
			}
		})
	}
}

// The state file may not have outlived the machine: a journal that can be read counts, also
// where the other server cannot be asked.
func TestAJournalCountsBesideAServerThatIsDown(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), nil)
	m.rec.Phase, m.rec.Token, m.rec.Seq = Tailing, 5, 100
	if err := m.save(true, func(*Record) {}); err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.rec.Phase, m.rec.Token, m.rec.Seq = Committing, 6, 50
	m.mu.Unlock()
	if err := m.publish(t.Context(), router.Source, store.JournalKey); err != nil {
		t.Fatal(err)
	}
	target.Kill()
	r, err := m.newest(t.Context())
	if err != nil || r.Phase != Committing || r.Token != 6 {
		t.Errorf("going on from %s, token %d, %v", r.Phase, r.Token, err)
	}
	source.Kill()
	if r, err := m.newest(t.Context()); err != nil || r.Phase != Tailing {
		t.Errorf("with nobody to ask: %s, %v", r.Phase, err)
	}
}
