package migration

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// silence has a server not talk to the member, or talk to it again.
func (s *stand) silence(side router.Side, on bool) {
	s.t.Helper()
	admin := s.servers[side].ClientAs("admin", "secret", 0)
	if !on {
		do(s.t, admin, "ACL", "SETUSER", "default", "on")
		return
	}
	do(s.t, admin, "ACL", "SETUSER", "default", "off")
	do(s.t, admin, "CLIENT", "KILL", "USER", "default")
}

// TestMemberAdmits: a new connection is used for clients only by what is known lately.
func TestMemberAdmits(t *testing.T) {
	moved := func(r *Record) { r.Side, r.Epoch, r.Phase = 1, 1, ReverseTailing }
	for name, tt := range map[string]struct {
		lately bool
		tell   func(s *stand)
		says   [2]string // by side; "": it may be used
	}{
		"known lately":        {true, func(s *stand) { do(s.t, s.servers[1].ClientAs("admin", "secret", 0), "FLUSHALL") }, [2]string{}},
		"nothing has changed": {false, func(*stand) {}, [2]string{}},
		"a switch, and the fence stands": {false, func(s *stand) {
			s.fence(router.Source, true)
			s.tell(router.Target, store.RecordKey, moved)
		}, [2]string{}},
		"a switch, and it does not": {false, func(s *stand) { s.tell(router.Target, store.RecordKey, moved) }, [2]string{"the applications are on the target", ""}},
		"it is decided": {false, func(s *stand) {
			s.tell(router.Source, store.JournalKey, func(r *Record) { r.Phase, r.Switch = Committing, &Switch{To: router.Target} })
		}, [2]string{"under way", ""}},
		"it is decided, and the fence stands": {false, func(s *stand) {
			s.fence(router.Source, true)
			s.tell(router.Source, store.JournalKey, func(r *Record) { r.Phase, r.Switch = Committing, &Switch{To: router.Target} })
		}, [2]string{}},
		"it has ended, nobody knows where": {false, func(s *stand) { do(s.t, s.servers[1].ClientAs("admin", "secret", 0), "FLUSHALL") }, [2]string{"no migration", "no migration"}},
		"the target hangs": {false, func(s *stand) {
			if err := s.servers[1].Stop(); err != nil {
				s.t.Fatal(err)
			}
			s.t.Cleanup(func() { _ = s.servers[1].Cont() })
		}, [2]string{"", ""}},
		"the target is away": {false, func(s *stand) { s.servers[1].Kill() }, [2]string{"", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, nil)
			s.tell(router.Target, store.RecordKey, nil)
			do(t, s.servers[0].ClientAs("admin", "secret", 0), "SET", store.SeatKey, `{"token":5,"holder":"c","migration":"one"}`)
			if err := s.m.begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			if !tt.lately {
				s.m.noteKnown(time.Now().Add(-time.Minute))
			}
			tt.tell(s)
			for side, says := range tt.says {
				if strings.HasPrefix(name, "the target ") && router.Side(side) == router.Target {
					continue
				}
				began := time.Now()
				err := s.m.Admit(t.Context(), router.Side(side))
				if took := time.Since(began); took > readMost+testTimeout/2 {
					t.Errorf("the %s: it is asked for %v", router.Side(side), took)
				}
				if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
					t.Errorf("the %s: %v, want %q", router.Side(side), err, says)
				}
			}
		})
	}
}

// TestMemberDoesNotGuessTheEnd: who has not looked for long does not know where a migration
// has ended, and serves nobody until it does.
func TestMemberDoesNotGuessTheEnd(t *testing.T) {
	s := newStand(t, nil)
	s.tell(router.Target, store.RecordKey, nil)
	if err := s.m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	do(t, s.servers[1].ClientAs("admin", "secret", 0), "DEL", store.RecordKey)
	s.m.noteKnown(time.Now().Add(-time.Minute))
	s.m.RefusedByFence()
	s.run()
	redistest.Eventually(t, testTimeout, func() error {
		if st := s.m.Status(); st.State != string(fleet.Waiting) || !strings.Contains(st.Reasons[0], "not looked") {
			return errors.New(st.State + ": " + st.Reasons[0])
		}
		return nil
	}, "it waits, and says why")
	s.say(fleet.Release, 1, 6, router.Source, 0) // what is said makes nothing known
	s.looks(2)
	s.did("hold")
	s.tell(router.Target, store.RecordKey, nil)
	s.did("retry")
	if all := s.proxy.all(); !slices.Equal(all[len(all)-3:], []string{"hold", "release source", "retry"}) {
		t.Errorf("it was told %q", all)
	}
}

// TestMemberForgetsTheEnd: that a migration was ended is known for a while only, for another
// one may have been begun and ended since, and no longer once that one was read.
func TestMemberForgetsTheEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(s *stand)
		over   bool
	}{
		"at once":         {func(*stand) {}, true},
		"a moment away":   {func(s *stand) { s.m.noteKnown(time.Now().Add(-2 * overAfter)) }, true},
		"asleep for long": {func(s *stand) { s.m.noteKnown(time.Now().Add(-2 * overFor)) }, false},
		"another one was begun": {func(s *stand) {
			s.tell(router.Target, store.RecordKey, func(r *Record) { r.ID = "two" })
			if err := s.m.resolve(s.t.Context()); err == nil {
				s.t.Error("it takes part in another migration")
			}
			s.m.noteKnown(time.Now().Add(-2 * overAfter))
			do(s.t, s.servers[1].ClientAs("admin", "secret", 0), "DEL", store.RecordKey)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, nil)
			s.tell(router.Target, store.RecordKey, nil)
			if err := s.m.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			do(t, s.servers[1].ClientAs("admin", "secret", 0), "DEL", store.RecordKey)
			if err := s.m.resolve(t.Context()); err != nil {
				t.Fatal(err)
			}
			tt.change(s)
			if err := s.m.mayUse(t.Context(), router.Source); (err == nil) != tt.over {
				t.Errorf("a new connection: %v", err)
			}
			if err := s.m.resolve(t.Context()); (err == nil) != tt.over {
				t.Errorf("where commands go: %v", err)
			}
		})
	}
}

// TestMemberRefusedWithoutTheRecord: where the record cannot be read, what was refused is not
// said again on a server that has no fence, and nobody else waits.
func TestMemberRefusedWithoutTheRecord(t *testing.T) {
	s := newStand(t, nil)
	s.tell(router.Target, store.RecordKey, nil)
	if err := s.m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.silence(router.Target, true)
	s.m.RefusedByFence()
	s.run()
	s.looks(2)
	s.did("release source")
	s.silence(router.Target, false)
	s.did("retry")
}

// TestMemberBehindThePointOfNoReturn: once it is read that a switch is decided, nobody goes on
// on the server that is left, also where that has lost its fence and the other one is silent.
func TestMemberBehindThePointOfNoReturn(t *testing.T) {
	decided := func(r *Record) { r.Phase, r.Switch = Committing, &Switch{From: router.Source, To: router.Target} }
	for name, begin := range map[string]func(s *stand){
		"the target is silent": func(s *stand) { s.silence(router.Target, true) },
		"a client was refused": func(s *stand) { s.silence(router.Target, true); s.m.RefusedByFence() },
		"held by a word":       func(s *stand) { s.say(fleet.Hold, 1, 6, router.Target, 1) },
		"released by a word":   func(s *stand) { s.say(fleet.Release, 1, 6, router.Source, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, func(c *config.Config) { c.Cutover.MaxStall = 50 * time.Millisecond })
			s.tell(router.Target, store.RecordKey, nil)
			if err := s.m.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.tell(router.Source, store.JournalKey, decided)
			if err := s.m.resolve(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.did("hold")
			begin(s)
			s.run()
			redistest.Eventually(t, testTimeout, func() error {
				if st := s.m.Status(); st.State != string(fleet.Waiting) {
					return errors.New(st.State)
				}
				return nil
			}, "it waits")
			s.did("hold")
			s.silence(router.Target, false)
			s.tell(router.Target, store.RecordKey, func(r *Record) { r.Side, r.Epoch, r.Phase = 1, 1, Committed })
			s.goes(router.Target, 1)
		})
	}
}

// TestMemberRemembersTheDecision: a member that is started again goes by what it has read.
func TestMemberRemembersTheDecision(t *testing.T) {
	s := newStand(t, func(c *config.Config) { c.Cutover.MaxStall = 50 * time.Millisecond })
	s.tell(router.Target, store.RecordKey, nil)
	if err := s.m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.tell(router.Source, store.JournalKey, func(r *Record) { r.Phase, r.Switch = Committing, &Switch{From: router.Source, To: router.Target} })
	if err := s.m.resolve(t.Context()); err != nil {
		t.Fatal(err)
	}
	do(t, s.servers[0].ClientAs("admin", "secret", 0), "DEL", store.JournalKey) // it restarts, with its fence gone
	s.m.rec = Record{}
	ctx, cancel := context.WithTimeout(t.Context(), s.m.patience()+time.Second)
	defer cancel()
	if err := s.m.Recover(ctx); err == nil {
		t.Error("it serves")
	}
	s.did("hold")
}

// TestMemberSparedByTheFence: where the operator's user is the one that the fence spares, the
// record says whether there is one.
func TestMemberSparedByTheFence(t *testing.T) {
	s := newStand(t, nil)
	s.m.ids[router.Source].url.Username, s.m.ids[router.Source].url.Password = "admin", "secret"
	s.fence(router.Source, true)
	for _, raised := range []bool{true, false} {
		s.m.rec.Servers[router.Source].Fence = &FenceState{Level: FenceACL, Raised: raised}
		if fenced, err := s.m.fenced(t.Context(), router.Source); err != nil || fenced != raised {
			t.Errorf("raised %v: %v, %v", raised, fenced, err)
		}
	}
	s.m.rec.Servers[router.Source].User = true // then it does not spare the operator's
	s.m.ids[router.Source].url.Username, s.m.ids[router.Source].url.Password = "", ""
	if fenced, err := s.m.fenced(t.Context(), router.Source); err != nil || !fenced {
		t.Errorf("%v, %v", fenced, err)
	}
}

// TestMemberKeepsListeners: subscribers go on by themselves only where whoever coordinated
// says that they have missed nothing.
func TestMemberKeepsListeners(t *testing.T) {
	for name, tt := range map[string]struct {
		aligns bool
		says   func(s *stand) []string
		drops  bool
	}{
		"aligned in time":     {true, func(s *stand) []string { return []string{"x", s.m.id} }, false},
		"aligned too late":    {true, func(*stand) []string { return []string{"x"} }, true},
		"not aligned":         {false, func(*stand) []string { return nil }, true},
		"nobody says who has": {true, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, nil)
			s.tell(router.Target, store.RecordKey, nil)
			if err := s.m.Recover(t.Context()); err != nil {
				t.Fatal(err)
			}
			s.run()
			s.say(fleet.Hold, 1, 6, router.Target, 1)
			s.did("hold")
			if tt.aligns {
				s.say(fleet.Align, 2, 6, router.Target, 1)
				s.did("align")
			}
			if tt.says != nil {
				st := fleet.Target{Client: func() *redis.Client { return s.servers[1].ClientAs("admin", "secret", 0) }}
				if err := st.Say(t.Context(), fleet.Word{By: "c", Seq: 3, Token: 6, Stage: fleet.Release, To: router.Target, Epoch: 1, Aligned: tt.says(s)}); err != nil {
					t.Fatal(err)
				}
			}
			s.tell(router.Target, store.RecordKey, func(r *Record) { r.Token, r.Side, r.Epoch, r.Phase = 6, 1, 1, Committed })
			s.goes(router.Target, 1)
			if all := s.proxy.all(); slices.Contains(all, "drop target") != tt.drops {
				t.Errorf("it was told %q", all)
			}
		})
	}
}
