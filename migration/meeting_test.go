package migration

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/etcdtest"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/fleet/etcd"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// meeting is an etcd to meet in, behind a link.
func meeting(t *testing.T) (at *config.Meeting, server *etcdtest.Server, link *redistest.Link) {
	t.Helper()
	server = etcdtest.Start(t, nil)
	link = redistest.NewLink(t, server.Addr())
	return &config.Meeting{Addresses: []string{link.Addr()}, Prefix: "crossfade/"}, server, link
}

func goes(link *redistest.Link)  { link.Refuse(true); link.Cut() }
func comes(link *redistest.Link) { link.Refuse(false) }

// TestMemberMeetsInEtcd: a member hears what is said there, and answers. While etcd is away its
// clients go where the record says, and it says that nobody can tell it anything.
func TestMemberMeetsInEtcd(t *testing.T) {
	at, server, link := meeting(t)
	s := newStand(t, nil)
	s.m.opt.Meeting, s.rec.Meets = at, meetsIn(at)
	s.m.store = meet(at, s.m.ids[router.Target].first, s.m.migrationID, testTimeout)
	coordinator := etcd.New(*at, func() string { return s.rec.ID }, testTimeout)
	t.Cleanup(func() { _ = coordinator.Close() })
	say := func(stage fleet.Stage, seq uint64, epoch uint64) fleet.Word {
		t.Helper()
		w := fleet.Word{By: "c", Seq: seq, Token: 6, Stage: stage, To: router.Target, Epoch: epoch}
		redistest.Eventually(t, testTimeout, func() error { return coordinator.Say(t.Context(), w) }, "it speaks")
		return w
	}
	s.follows()
	say(fleet.Prepare, 1, 1)
	s.did("prepare target")
	w := say(fleet.Hold, 2, 1)
	s.did("hold")
	redistest.Eventually(t, testTimeout, func() error {
		list, err := coordinator.Answers(t.Context(), []string{s.m.id})
		if err == nil && list[s.m.id].Word != w.ID() {
			err = fmt.Errorf("it has answered %+v", list)
		}
		return err
	}, "it answers")
	goes(link)
	s.tell(router.Target, store.RecordKey, func(r *Record) { r.Token, r.Side, r.Epoch, r.Phase = 6, 1, 1, Committed })
	s.goes(router.Target, 1)
	s.says("does not hear of this sidecar", true)
	if st := s.m.Status(); st.State != string(fleet.Open) {
		t.Errorf("it is %s", st.State)
	}
	comes(link)
	s.says("does not hear of this sidecar", false)
	w = fleet.Word{By: "c", Seq: 3, Token: 6, Stage: fleet.Prepare, To: router.Source, Epoch: 2}
	redistest.Eventually(t, testTimeout, func() error { return coordinator.Say(t.Context(), w) }, "it speaks")
	s.did("prepare source")
	say(fleet.Release, 4, 1)
	s.did("release target")
	do(t, s.servers[1].ClientAs("admin", "secret", 0), "DEL", store.RecordKey) // completed
	redistest.Eventually(t, 4*testTimeout, func() error {
		for _, key := range server.Keys() {
			if !strings.HasSuffix(key, "/word") {
				return errors.New(key)
			}
		}
		return nil
	}, "nothing of it is left")
}

// says waits until the member's status gives a reason, or does not any more.
func (s *stand) says(what string, want bool) {
	s.t.Helper()
	redistest.Eventually(s.t, 4*testTimeout, func() error {
		if text := strings.Join(s.m.Status().Reasons, "\n"); strings.Contains(text, what) != want {
			return errors.New(text)
		}
		return nil
	}, "it says that it %s: %v", what, want)
}

// TestCrewMeetsInEtcd: whoever coordinates knows its members by etcd, says when that is away,
// and clears it at the end.
func TestCrewMeetsInEtcd(t *testing.T) {
	at, server, link := meeting(t)
	m := quietMigration(t, endpointOf(redistest.Start(t), "", ""), endpointOf(redistest.Start(t), "", ""), nil)
	m.opt.Meeting = at
	m.crew = newCrew(m, idle{})
	t.Cleanup(func() { _ = m.crew.store.Close() })
	look := func(fails bool) {
		t.Helper()
		redistest.Eventually(t, testTimeout, func() error {
			if err := m.crew.look(t.Context()); (err != nil) != fails {
				return fmt.Errorf("looking: %w", err)
			}
			return nil
		}, "a look fails: %v", fails)
	}
	open := func() bool {
		t.Helper()
		gates := m.crew.gates()
		if len(gates) != 1 || gates[0].OK != (len(gates[0].Why) == 0) {
			t.Fatalf("%+v", gates)
		}
		return gates[0].OK
	}
	beat := func() error {
		return m.crew.store.Beat(t.Context(), fleet.Member{ID: "1", Name: "one", Protocol: fleet.Protocol})
	}
	if err := beat(); err != nil {
		t.Fatal(err)
	}
	look(false)
	if names, _ := m.crew.alive(); names["1"] != "one" || !open() {
		t.Errorf("alive are %q", names)
	}
	seen := m.crew.seen["1"].at
	look(false)
	if !m.crew.seen["1"].at.After(seen) {
		t.Error("its heart beats, and because it has said nothing new it is not seen")
	}
	if f := meetingFindings(t.Context(), m.crew.store); len(f) != 1 || f[0].Level != preflight.Pass || !strings.Contains(f[0].What, "version 3.") {
		t.Errorf("%+v", f)
	}
	goes(link)
	look(true)
	if open() || !strings.Contains(m.crew.gates()[0].Why[0], "etcd "+link.Addr()) {
		t.Errorf("%+v", m.crew.gates())
	}
	if f := meetingFindings(t.Context(), m.crew.store); len(f) != 1 || f[0].Level != preflight.Fail || !strings.Contains(f[0].What, link.Addr()) {
		t.Errorf("%+v", f)
	}
	if _, err := m.crew.clear(t.Context()); err == nil || !strings.Contains(err.Error(), "complete again removes them") {
		t.Errorf("clearing what does not answer: %v", err)
	}
	comes(link)
	look(false)
	if !open() {
		t.Errorf("%+v", m.crew.gates())
	}
	if done, err := m.crew.clear(t.Context()); err != nil || len(done) != 1 || len(server.Keys()) > 0 {
		t.Errorf("%q, %v, left are %q", done, err, server.Keys())
	}
}

// TestNoWordTakesTheClientsTime: a store that does not answer costs clients that wait a part of
// the time that is left.
func TestNoWordTakesTheClientsTime(t *testing.T) {
	at, _, link := meeting(t)
	m := quietMigration(t, endpointOf(redistest.Start(t), "", ""), endpointOf(redistest.Start(t), "", ""), nil)
	m.opt.Meeting = at
	m.crew = newCrew(m, idle{})
	t.Cleanup(func() { _ = m.crew.store.Close() })
	if _, err := m.crew.say(t.Context(), fleet.Prepare, router.Route{}); err != nil {
		t.Fatal(err)
	}
	link.Stall(true)
	m.crew.holds, m.crew.plan = []string{"1"}, &FleetReport{}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	if err := m.crew.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Second || len(m.crew.plan.Missing) != 1 || !strings.Contains(m.crew.plan.Missing[0], "does not answer") {
		t.Errorf("it took %v: %+v", took, m.crew.plan)
	}
	if err := m.crew.Align(ctx, router.Route{}); err != nil || ctx.Err() != nil {
		t.Errorf("nobody is waited for any more: %v", err)
	}
}

// TestMemberMeetsElsewhere: a member that meets others elsewhere than the one that copies says so.
func TestMemberMeetsElsewhere(t *testing.T) {
	at := &config.Meeting{Addresses: []string{"127.0.0.1:1"}, Prefix: "crossfade/"}
	for name, tt := range map[string]struct {
		at   *config.Meeting
		in   string
		says bool
	}{
		"both on the target":     {nil, "", false},
		"both in etcd":           {at, "etcd, below crossfade/", false},
		"this one on the target": {nil, "etcd, below crossfade/", true},
		"this one in etcd":       {at, "", true},
		"below another prefix":   {at, "etcd, below x/", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, nil)
			s.m.opt.Meeting = tt.at
			s.tell(router.Target, store.RecordKey, func(r *Record) { r.Meets = tt.in })
			if err := s.m.begin(t.Context()); err != nil {
				t.Fatal(err)
			}
			if text := strings.Join(s.m.Status().Reasons, "\n"); strings.Contains(text, "give all the same fleet settings") != tt.says {
				t.Error(text)
			}
		})
	}
}

// TestCheckLooksWhereTheyMeet: check says whether the sidecars can meet, and finds those that do.
func TestCheckLooksWhereTheyMeet(t *testing.T) {
	at, server, _ := meeting(t)
	s := newStand(t, nil)
	s.tell(router.Target, store.RecordKey, nil)
	member := etcd.New(*at, func() string { return s.rec.ID }, testTimeout)
	t.Cleanup(func() { _ = member.Close() })
	if err := member.Beat(t.Context(), fleet.Member{ID: "1", Name: "one", Protocol: fleet.Protocol}); err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Source.URL, cfg.Target.URL = config.Secret("redis://"+s.servers[0].Addr()), config.Secret("redis://"+s.servers[1].Addr())
	cfg.Fleet.Store, cfg.Fleet.Etcd.Endpoints = "etcd", []string{"http://" + server.Addr()}
	findings, err := Check(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]preflight.Finding)
	for _, f := range findings {
		found[f.Check] = f
	}
	if f := found["fleet"]; f.Level != preflight.Pass || !strings.Contains(f.What, "1 other sidecars are alive") {
		t.Errorf("%+v", f)
	}
	if f := found["fleet-store"]; f.Level != preflight.Pass {
		t.Errorf("%+v", f)
	}
	cfg.Fleet.Etcd.Endpoints = []string{"http://127.0.0.1:1"}
	if findings, err = Check(t.Context(), cfg); err != nil || !preflight.Failed(findings) {
		t.Errorf("an etcd that is not there: %+v, %v", findings, err)
	}
}
