package migration

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// connects has a member be connected to a side, as one that sleeps is.
func connects(t *testing.T, m *Migration, side router.Side, id string) {
	t.Helper()
	p := m.ids[side].Pool().Like(m.ids[side].url, memberInstance+id+":"+side.String(), testTimeout)
	t.Cleanup(func() { _ = p.Close() })
	if err := p.DB(0).Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
}

// TestBehindIsWhoIsConnected: no server is opened under a member that has connections and
// has not said that it has followed, whatever the heartbeats tell of it.
func TestBehindIsWhoIsConnected(t *testing.T) {
	followed := fleet.Member{ID: "1", Name: "awake", Protocol: fleet.Protocol, Epoch: 1}
	late := fleet.Member{ID: "2", Name: "late", Protocol: fleet.Protocol}
	for name, tt := range map[string]struct {
		said      []fleet.Member
		connected string // to the source
		says      string
	}{
		"nobody":                      {nil, "", ""},
		"who has followed":            {[]fleet.Member{followed}, "1", ""},
		"who has not":                 {[]fleet.Member{followed, late}, "2", "late has not followed"},
		"who has died":                {[]fleet.Member{followed, late}, "1", ""},
		"who was forgotten":           {[]fleet.Member{followed}, "3", "sidecar 3 has not followed"},
		"who was flushed, before any": {nil, "3", "sidecar 3 has not followed"},
	} {
		t.Run(name, func(t *testing.T) {
			c, _, _ := crewOf(t, FenceACL, tt.said...)
			c.m.rec.Side, c.m.rec.Epoch, c.m.rec.Phase = router.Target, 1, ReverseTailing
			if tt.connected != "" {
				connects(t, c.m, router.Source, tt.connected)
			}
			why := strings.Join(c.behind(t.Context()), "; ")
			if tt.says == "" && why != "" || !strings.Contains(why, tt.says) {
				t.Errorf("against the end: %q, want %q", why, tt.says)
			}
			_, err := c.m.Complete(t.Context(), CompleteOptions{})
			var refused *Refused
			if errors.As(err, &refused) != (tt.says != "") {
				t.Errorf("complete: %v", err)
			}
		})
	}
}

// TestCrewForgetsWhoIsGone: a member of whom nothing is heard is forgotten, unless it is
// connected.
func TestCrewForgetsWhoIsGone(t *testing.T) {
	c, _, _ := crewOf(t, FenceACL, fleet.Member{ID: "1", Name: "dead"}, fleet.Member{ID: "2", Name: "asleep"})
	connects(t, c.m, router.Source, "2")
	if err := c.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	for id, s := range c.seen {
		s.at = s.at.Add(-2 * shownFor)
		c.seen[id] = s
	}
	c.mu.Unlock()
	if err := c.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	list, err := c.store.Members(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != "2" || len(c.members()) != 1 || c.members()[0].Alive {
		t.Errorf("there are %+v, %+v, %v", list, c.members(), err)
	}
}

// TestEndClosesWhoIsLeft: the fence falls with all connections that were made behind it.
func TestEndClosesWhoIsLeft(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL, "default on nopass ~* &* +@all"))
	f, st := raised(t, s, FenceACL)
	do(t, f.db(), "SET", store.SeatKey, "x")
	app := s.Client(0).Conn()
	t.Cleanup(func() { _ = app.Close() })
	if err := app.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	// As if it had connected behind the kill: the transaction closes it by itself.
	if err := f.db().Watch(t.Context(), func(tx *redis.Tx) error { f.ends = true; return f.lowerOn(t.Context(), tx, st) }); err != nil {
		t.Fatal(err)
	}
	if err := app.Set(t.Context(), "k", "lost", 0).Err(); err == nil {
		t.Error("a connection from before the end writes")
	}
	if err := s.Client(0).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Errorf("the fence is not down: %v", err)
	}
	if n := f.db().Exists(t.Context(), store.SeatKey).Val(); n != 0 {
		t.Error("the seat is still there")
	}
}

// TestEndLetsMembersKnow: the end waits until nobody uses a connection any more by what was
// known before the last switch, and without members for nothing.
func TestEndLetsMembersKnow(t *testing.T) {
	for _, tt := range []struct {
		members []fleet.Member
		ago     time.Duration
		waits   bool
	}{
		{[]fleet.Member{{ID: "1", Protocol: fleet.Protocol, Epoch: 1}}, 0, true},
		{[]fleet.Member{{ID: "1", Protocol: fleet.Protocol, Epoch: 1}}, overAfter, false},
		{nil, 0, false},
	} {
		c, _, _ := crewOf(t, FenceACL, tt.members...)
		c.m.rec.Side, c.m.rec.Epoch, c.m.rec.Phase = router.Target, 1, ReverseTailing
		if err := c.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.let = time.Now().Add(-tt.ago)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if err := c.letKnow(ctx); (err != nil) != tt.waits {
			t.Errorf("%+v: %v", tt, err)
		}
		cancel()
	}
}

// TestCrewOfTheSilent: a member that does not reach the target is there all the same, where
// the fence would not keep its clients from reading what is old.
func TestCrewOfTheSilent(t *testing.T) {
	for level, says := range map[FenceLevel]string{FenceReplicas: "F3", FenceACL: ""} {
		c, _, _ := crewOf(t, level)
		connects(t, c.m, router.Source, "1")
		err := c.Prepare(t.Context(), router.Target)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Errorf("%s: %v", level, err)
		}
	}
}

// TestCrewSaysWhoAligned: the word behind a switch names those that did so in time.
func TestCrewSaysWhoAligned(t *testing.T) {
	c, _, _ := crewOf(t, FenceACL, fleet.Member{ID: "1", Name: "x", Protocol: fleet.Protocol}, fleet.Member{ID: "2", Name: "y", Protocol: fleet.Protocol})
	for _, tt := range []struct {
		aligned []string
		route   router.Route
		want    []string
	}{
		{[]string{"1"}, router.Route{Side: router.Target, Epoch: 1}, []string{"1"}},
		{[]string{"1"}, router.Route{Side: router.Source}, nil}, // it was given up
	} {
		c.next, c.aligned = router.Route{Side: router.Target, Epoch: 1}, tt.aligned
		w, err := c.say(t.Context(), fleet.Release, tt.route)
		if err != nil || !slices.Equal(w.Aligned, tt.want) {
			t.Errorf("%+v, %v", w, err)
		}
	}
}

// TestRollbackHeedsTheCrew: that the entered server is fenced excuses sessions, and nobody else.
func TestRollbackHeedsTheCrew(t *testing.T) {
	sessions := errors.New("NOPERM no permissions to run the 'ping' command")
	for name, tt := range map[string]struct {
		who    fleet.Member
		passes bool
	}{
		"sessions":         {fleet.Member{ID: "1", Protocol: fleet.Protocol}, true},
		"another language": {fleet.Member{ID: "1", Protocol: fleet.Protocol + 1}, false},
	} {
		c, proxy, _ := crewOf(t, FenceACL, tt.who)
		proxy.fail["prepare source"] = sessions
		c.m.rec.Side, c.m.rec.Epoch = router.Target, 1
		a := &attempt{Migration: c.m, from: router.Target, to: router.Source}
		if err := a.prepareTraffic(t.Context()); (err == nil) != tt.passes {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, _, _ := crewOf(t, FenceACL, fleet.Member{ID: "1", Protocol: fleet.Protocol})
	if err := c.store.Say(t.Context(), fleet.Word{By: "newer", Seq: 1, Token: 99, Stage: fleet.Prepare}); err != nil {
		t.Fatal(err)
	}
	a := &attempt{Migration: c.m, from: router.Target, to: router.Source}
	if err := a.prepareTraffic(t.Context()); !errors.Is(err, fleet.ErrOld) {
		t.Errorf("a newer coordinator speaks: %v", err)
	}
}
