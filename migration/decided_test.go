package migration

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// committing is a switch whose state file says COMMITTING, and that fence of its source, which
// is raised.
func committing(t *testing.T, level FenceLevel) (m *Migration, source, target *redistest.Server, f fence) {
	t.Helper()
	source = redistest.Start(t, redistest.WithACL(ownACL, "default on nopass ~* &* +@all"))
	target = redistest.Start(t)
	m = quietMigration(t, endpointOf(source, OwnUser, ownPassword), endpointOf(target, "", ""), nil)
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	f, st := raised(t, source, level)
	st.Raised = true
	m.rec.Phase, m.rec.Token, m.rec.Copied = Committing, testToken, true
	m.rec.Switch = &Switch{From: router.Source, To: router.Target, Token: testToken}
	m.rec.Servers[router.Source].Fence = st
	return m, source, target, f
}

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
			m, _, _, f := committing(t, FenceACL)
			st := m.rec.Servers[router.Source].Fence
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

// At the levels at which nothing but the sidecar keeps writers out, a crash leaves the source
// open: without a journal the switch is taken back, whoever has written there since.
func TestWithoutAFenceTheJournalDecides(t *testing.T) {
	for _, level := range []FenceLevel{FenceKey, FenceNone} {
		for want, journalled := range map[router.Side]bool{router.Source: false, router.Target: true} {
			t.Run(fmt.Sprintf("%s, %v", level, journalled), func(t *testing.T) {
				m, _, _, _ := committing(t, level)
				if journalled {
					if err := m.publish(t.Context(), router.Source, store.JournalKey); err != nil {
						t.Fatal(err)
					}
				}
				if err := m.rollForward(t.Context()); err != nil {
					t.Fatal(err)
				}
				if r := m.record(); r.Side != want || r.Phase.Switching() || r.Phase == Committing {
					t.Errorf("the applications are on the %s, want the %s; phase %s", r.Side, want, r.Phase)
				}
			})
		}
	}
}

// With F2 the target has the decision. A crash behind it, before anybody was let in: the switch
// is finished only while the fence stands at the source, or where it was committed before.
func TestUnderF2TheFenceDecidesUntilTheCommit(t *testing.T) {
	for name, tt := range map[string]struct {
		fenced, committed bool
		want              router.Side
	}{
		"the fence stands":              {fenced: true, want: router.Target},
		"the fence is gone":             {want: router.Source},
		"the fence is gone, committed":  {committed: true, want: router.Target},
		"the fence stands at committed": {fenced: true, committed: true, want: router.Target},
	} {
		t.Run(name, func(t *testing.T) {
			m, source, target, f := committing(t, FenceReplicas)
			st := m.rec.Servers[router.Source].Fence
			if tt.committed {
				m.rec.Phase = Committed
			}
			if err := m.publish(t.Context(), router.Target, store.RecordKey); err != nil {
				t.Fatal(err)
			}
			e, _, err := store.Load(t.Context(), target.Client(0), store.RecordKey)
			if err != nil {
				t.Fatal(err)
			}
			m.seen = e // as a recovery has read it
			m.rec.Phase = Committing
			m.rec.Token, m.rec.Seq = testToken+1, m.rec.Seq+1 // as whoever finishes it
			if !tt.fenced {
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
			if tt.want == router.Source {
				do(t, source.Client(0), "SET", "k", "v")
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

// A target that has come back without the last copies, after the journal, is entered all
// the same, but not told of it: what only the source has is not copied over.
func TestATargetWithoutTheDrainIsNotTold(t *testing.T) {
	verifying := func(m *Migration) { m.rec.Phase = Verifying }
	earlier := func(m *Migration) { m.rec.Phase, m.rec.Switch.Token = Verifying, testToken-1 }
	early := func(m *Migration) { m.rec.Phase = SoftFenced }
	for name, tt := range map[string]struct {
		there  func(*Migration) // what the target knows of; nil: nothing
		mark   uint64           // and of which switch it has all copies
		accept bool
		told   bool
	}{
		"it has all, and so have replicas":   {there: verifying, told: true},
		"it has all":                         {there: early, mark: testToken, told: true},
		"it has what was copied before":      {there: early, mark: testToken - 1},
		"it has lost all":                    {},
		"it has lost the last copies":        {there: early},
		"it is in the state of another time": {there: earlier},
		"the loss is accepted":               {accept: true, told: true},
	} {
		t.Run(name, func(t *testing.T) {
			source, target := redistest.Start(t), redistest.Start(t)
			m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), func(c *config.Config) {
				c.Cutover.CreateUser, c.Sync.AcceptLoss = false, tt.accept
			})
			if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
				t.Fatal(err)
			}
			decided := func() {
				m.rec.Phase, m.rec.Token, m.rec.Copied = Committing, testToken, true
				m.rec.Switch = &Switch{From: router.Source, To: router.Target, Token: testToken}
			}
			decided()
			if tt.there != nil {
				tt.there(m)
				if err := m.publish(t.Context(), router.Target, store.RecordKey); err != nil {
					t.Fatal(err)
				}
				decided()
			}
			if tt.mark > 0 {
				do(t, target.Client(0), "SET", store.DrainedKey, Record{ID: m.rec.ID, Switch: &Switch{Token: tt.mark}}.drainedMark())
			}
			m.rec.Token, m.rec.Seq = testToken+1, m.rec.Seq+1 // as whoever finishes it
			if err := m.rollForward(t.Context()); err != nil {
				t.Fatal(err)
			}
			if r := m.record(); r.Side != router.Target || r.Epoch != 1 || r.Phase != ReverseLost {
				t.Errorf("%s on the %s, epoch %d", r.Phase, r.Side, r.Epoch)
			}
			e, ok, err := store.Load(t.Context(), target.Client(0), store.RecordKey)
			if err != nil {
				t.Fatal(err)
			}
			there := Record{}
			if ok {
				if there, err = decode(e); err != nil {
					t.Fatal(err)
				}
			}
			if told := there.Phase == Committed; told != tt.told {
				t.Errorf("the target says %q", there.Phase)
			}
			if err := m.remembers(t.Context(), router.Target, m.ids[router.Target].Pool()); (err == nil) != tt.told {
				t.Errorf("whether it may be copied from: %v", err)
			}
		})
	}
}

// Where neither server could be read, and the state file is older than the machine's end:
// nobody is let through before the applications' own server has said what it knows.
func TestNobodyIsServedBeforeTheServerIsRead(t *testing.T) {
	source, target := redistest.Start(t, redistest.WithAOF()), redistest.Start(t, redistest.WithAOF())
	m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), func(c *config.Config) { c.Cutover.CreateUser = false })
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	m.rec.Phase, m.rec.Token, m.rec.Seq, m.rec.Copied = Tailing, 5, 100, true
	if err := m.save(true, func(*Record) {}); err != nil {
		t.Fatal(err)
	}
	m.rec.Token, m.rec.Switch = 6, &Switch{From: router.Source, To: router.Target, Token: 6}
	m.rec.Phase = Verifying
	if err := m.publish(t.Context(), router.Target, store.RecordKey); err != nil {
		t.Fatal(err)
	}
	m.rec.Phase, m.rec.Seq = Committing, m.rec.Seq+1
	if err := m.publish(t.Context(), router.Source, store.JournalKey); err != nil {
		t.Fatal(err)
	}
	source.Kill()
	target.Kill()
	ended := make(chan error, 1)
	go func() { ended <- m.Recover(t.Context()) }()
	redistest.Eventually(t, 4*testTimeout, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return len(m.problems) > 0 || len(ended) > 0
	}, "it says what clients wait for")
	if err := source.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 20*time.Second, func() bool { return m.record().Phase == Committing || len(ended) > 0 }, "it finds the journal")
	if len(ended) > 0 {
		t.Fatalf("clients are let through to the %s, which has a journal: %v", m.record().Side, <-ended)
	}
	if err := target.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil || m.record().Side != router.Target {
		t.Errorf("the applications are on the %s, %v", m.record().Side, err)
	}
}

// The answer to COMMITTED was lost, and the entered server has come back from its disk with it:
// members of the fleet that read it there have entered, so nothing is copied to it any more.
// Without it everything is.
func TestNothingIsCopiedBehindTheCommit(t *testing.T) {
	for name, committed := range map[string]bool{"committed": true, "not committed": false} {
		t.Run(name, func(t *testing.T) {
			source, target := redistest.Start(t), redistest.Start(t, redistest.WithAOF())
			m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), func(c *config.Config) { c.Cutover.CreateUser = false })
			if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
				t.Fatal(err)
			}
			do(t, source.Client(0), "SET", "k", "before")
			a := &attempt{Migration: m, from: router.Source, to: router.Target, report: &Report{}, forward: m.newMirror(router.Source)}
			t.Cleanup(a.forward.Stop)
			ctx := withTimeout(t)
			if err := a.forward.Follow(ctx, true); err != nil {
				t.Fatal(err)
			}
			if err := a.forward.DrainFrozen(ctx, func(context.Context) error { return nil }); err != nil {
				t.Fatal(err)
			}
			m.rec.Phase, m.rec.Token, m.rec.Copied = Committing, testToken, true
			m.rec.Switch = &Switch{From: router.Source, To: router.Target, Token: testToken}
			if committed {
				e, err := m.committed().entry()
				if err != nil {
					t.Fatal(err)
				}
				if err := store.SaveIf(ctx, target.Client(0), store.RecordKey, e, nil); err != nil {
					t.Fatal(err)
				}
			}
			if err := target.Restart(ctx); err != nil {
				t.Fatal(err)
			}
			do(t, target.Client(0), "SET", "k", "behind") // by a member's client, or by whoever else
			do(t, target.Client(0), "SET", "new", "behind")
			redistest.Eventually(t, testTimeout, func() error { return a.refill(ctx) }, "it is settled what to copy")
			want := map[bool]any{true: "behind", false: "before"}[committed]
			if got := do(t, target.Client(0), "GET", "k"); got != want {
				t.Errorf("the key has become %v, want %v", got, want)
			}
			if _, there := do(t, target.Client(0), "GET", "new").(string); there != committed {
				t.Errorf("what was written behind it is there: %v", there)
			}
			p := target.Client(0).Pipeline()
			holds := a.forward.Filled(ctx, p)
			if _, err := p.Exec(ctx); err != nil {
				t.Fatal(err)
			}
			if err := holds(); err != nil {
				t.Errorf("it may not be committed: %v", err)
			}
		})
	}
}

// A switch that is taken back although its journal may be there overwrites it before a
// client goes on.
func TestTheJournalIsTakenBackFirst(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), nil)
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	m.rec.Phase, m.rec.Token, m.rec.Copied = Committing, testToken, true
	m.rec.Switch = &Switch{From: router.Source, To: router.Target, Token: testToken}
	if err := m.publish(t.Context(), router.Source, store.JournalKey); err != nil {
		t.Fatal(err)
	}
	a := &attempt{Migration: m, from: router.Source, to: router.Target, report: &Report{}}
	released := false
	a.onUndo(func(ctx context.Context) error {
		released = true
		e, ok, err := store.Load(ctx, source.Client(0), store.JournalKey)
		if err != nil || !ok {
			t.Errorf("the journal: %v, %v", ok, err)
			return nil
		}
		if m.record().journalled(e) {
			t.Error("clients go on while a journal says that the switch is decided")
		}
		return nil
	})
	if err := a.undo(t.Context(), errFenceLost); !errors.Is(err, errFenceLost) || !released {
		t.Errorf("taking it back: %v, %v", err, released)
	}
}
