package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/etcdtest"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/fleet"
)

const patience = 20 * time.Second

// storeAt returns a store of a migration, which is closed with the test.
func storeAt(t *testing.T, id, addr string) *Store {
	t.Helper()
	return storeOf(t, id, config.Meeting{Addresses: []string{addr}, Prefix: "crossfade/"})
}

func storeOf(t *testing.T, id string, at config.Meeting) *Store {
	t.Helper()
	s := New(at, func() string { return id }, 2*time.Second)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func beat(t *testing.T, s *Store, m fleet.Member) {
	t.Helper()
	if err := s.Beat(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

// lives waits until the members are these, and all of them live, or none does.
func lives(t *testing.T, s *Store, want bool, ids ...string) {
	t.Helper()
	redistest.Eventually(t, patience, func() error {
		list, err := s.Members(t.Context())
		if err != nil {
			return err
		}
		var there []string
		for _, m := range list {
			if there = append(there, m.ID); m.Lives != want {
				return fmt.Errorf("%s lives: %v", m.ID, m.Lives)
			}
		}
		if !slices.Equal(there, ids) {
			return fmt.Errorf("there are %q", there)
		}
		return nil
	}, "%q live: %v", ids, want)
}

func say(t *testing.T, s *Store, seq uint64) fleet.Word {
	t.Helper()
	w := fleet.Word{By: "c", Seq: seq, Token: 1, Stage: fleet.Hold}
	if err := s.Say(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	return w
}

// TestTheDeadAreTold: who beats no more lives no more, and is still there.
func TestTheDeadAreTold(t *testing.T) {
	server := etcdtest.Start(t, nil)
	s, other := storeAt(t, "m", server.Addr()), storeAt(t, "m", server.Addr())
	beat(t, s, fleet.Member{ID: "1"})
	beat(t, other, fleet.Member{ID: "2"})
	lives(t, s, true, "1", "2")
	_ = other.Close()
	if err := other.Beat(t.Context(), fleet.Member{ID: "2"}); err == nil {
		t.Error("a store that was closed takes a heartbeat")
	}
	redistest.Eventually(t, patience, func() error {
		list, err := s.Members(t.Context())
		if err != nil || len(list) != 2 || !list[0].Lives || list[1].Lives {
			return fmt.Errorf("%+v, %w", list, err)
		}
		return nil
	}, "one is dead")
	if err := s.Leave(t.Context(), "1", "2"); err != nil {
		t.Fatal(err)
	}
	if keys := server.Keys(); len(keys) > 0 {
		t.Errorf("left behind: %q", keys)
	}
	beat(t, s, fleet.Member{ID: "1"}) // it comes again
	lives(t, s, true, "1")
}

// TestBeatsAreNoWrites: a heartbeat that says nothing new changes nothing in etcd, and what is
// new is there at once.
func TestBeatsAreNoWrites(t *testing.T) {
	server := etcdtest.Start(t, nil)
	s, c := storeAt(t, "m", server.Addr()), server.Client()
	revision := func() int64 {
		t.Helper()
		got, err := c.Get(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		return got.Header.Revision
	}
	beat(t, s, fleet.Member{ID: "1", State: fleet.Open})
	before := revision()
	for n := range 20 {
		beat(t, s, fleet.Member{ID: "1", State: fleet.Open, Beat: uint64(n), Inside: int64(n), Commands: int64(n)})
	}
	if now := revision(); now != before {
		t.Errorf("%d writes for heartbeats", now-before)
	}
	beat(t, s, fleet.Member{ID: "1", State: fleet.Held})
	if list, err := s.Members(t.Context()); err != nil || len(list) != 1 || list[0].State != fleet.Held {
		t.Errorf("members: %+v, %v", list, err)
	}
	if err := s.Leave(t.Context(), "1"); err != nil {
		t.Fatal(err)
	}
	before = revision()
	if err := s.Leave(t.Context(), "1"); err != nil || revision() != before {
		t.Errorf("who has left leaves again: %v", err)
	}
}

// TestMigrationsDoNotMeet: each has its keys, and clears no others.
func TestMigrationsDoNotMeet(t *testing.T) {
	server := etcdtest.Start(t, nil)
	one, two := storeAt(t, "one", server.Addr()), storeAt(t, "two", server.Addr())
	beat(t, one, fleet.Member{ID: "1"})
	w := say(t, one, 1)
	if err := one.Answer(t.Context(), "1", fleet.Answer{Word: w.ID()}); err != nil {
		t.Fatal(err)
	}
	got, err := two.Heard(t.Context())
	list, err2 := two.Members(t.Context())
	answers, err3 := two.Answers(t.Context(), []string{"1"})
	if err := errors.Join(err, err2, err3); err != nil || got.Says() || len(list) > 0 || len(answers) > 0 {
		t.Errorf("%+v, %+v, %+v, %v", got, list, answers, err)
	}
	beat(t, two, fleet.Member{ID: "2"})
	say(t, two, 1)
	if keys := server.Keys(); len(keys) != 7 || !strings.HasPrefix(keys[0], "crossfade/one/") {
		t.Errorf("keys: %q", keys)
	}
	if err := one.Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, key := range server.Keys() {
		if !strings.HasPrefix(key, "crossfade/two/") {
			t.Errorf("left behind: %s", key)
		}
	}
	lives(t, two, true, "2")
	unknown := storeAt(t, "", server.Addr())
	if err := unknown.Beat(t.Context(), fleet.Member{ID: "3"}); err == nil || !strings.Contains(err.Error(), "not known yet") {
		t.Errorf("a migration that is not known: %v", err)
	}
}

// TestNothingStaysForEver: all keys are under leases.
func TestNothingStaysForEver(t *testing.T) {
	server := etcdtest.Start(t, nil)
	s, c := storeAt(t, "m", server.Addr()), server.Client()
	all := func() {
		t.Helper()
		beat(t, s, fleet.Member{ID: "1", Epoch: uint64(time.Now().UnixNano())})
		w := say(t, s, uint64(time.Now().UnixNano()))
		if err := s.Answer(t.Context(), "1", fleet.Answer{Word: w.ID()}); err != nil {
			t.Fatal(err)
		}
	}
	all()
	got, err := c.Get(t.Context(), "", clientv3.WithPrefix())
	if err != nil || len(got.Kvs) != 4 {
		t.Fatalf("%d keys, %v", len(got.Kvs), err)
	}
	for _, kv := range got.Kvs {
		if kv.Lease == 0 {
			t.Errorf("%s is under no lease", kv.Key)
			continue
		}
		left, err := c.TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease))
		if err != nil || left.TTL > keptFor {
			t.Errorf("%s stays for %+v, %v", kv.Key, left, err)
		}
		if _, err := c.Revoke(t.Context(), clientv3.LeaseID(kv.Lease)); err != nil && !strings.Contains(err.Error(), "not found") {
			t.Error(err)
		}
	}
	redistest.Eventually(t, patience, func() error { // a lease that is lost is replaced
		return s.Beat(t.Context(), fleet.Member{ID: "1", Epoch: uint64(time.Now().UnixNano())})
	}, "it beats")
	all()
	lives(t, s, true, "1")
}

// away is a store that is reached by a link, and listens.
type away struct {
	*Store
	link *redistest.Link
	lost chan error
	end  context.CancelFunc
}

func newAway(t *testing.T, addr string) *away {
	t.Helper()
	a := &away{link: redistest.NewLink(t, addr), lost: make(chan error, 1)}
	a.Store = storeAt(t, "m", a.link.Addr())
	a.listens(t)
	return a
}

// listens begins to listen, once the etcd is there.
func (a *away) listens(t *testing.T) {
	t.Helper()
	ctx, end := context.WithCancel(context.Background())
	a.end = end
	t.Cleanup(end)
	redistest.Eventually(t, patience, func() error {
		woken := make(chan struct{}, 100)
		go func() { a.lost <- a.Listen(ctx, func() { woken <- struct{}{} }) }()
		select {
		case <-woken:
			return nil
		case err := <-a.lost:
			return err
		}
	}, "it listens")
}

func (a *away) hears(t *testing.T, want fleet.Word) {
	t.Helper()
	redistest.Eventually(t, patience, func() error {
		if got, err := a.Heard(t.Context()); err != nil || got.ID() != want.ID() {
			return fmt.Errorf("heard %+v, %w", got, err)
		}
		return nil
	}, "it hears %s", want.ID())
}

// TestAway: while etcd is cut off, or answers nothing, who waits for a word is told so at once,
// and everything comes back by itself.
func TestAway(t *testing.T) {
	server := etcdtest.Start(t, nil)
	for name, tt := range map[string]struct{ goes, comes func(l *redistest.Link) }{
		"cut off": {func(l *redistest.Link) { l.Refuse(true); l.Cut() }, func(l *redistest.Link) { l.Refuse(false) }},
		"silent":  {func(l *redistest.Link) { l.Stall(true) }, func(l *redistest.Link) { l.Stall(false) }},
	} {
		t.Run(name, func(t *testing.T) {
			a, speaker := newAway(t, server.Addr()), storeAt(t, "m", server.Addr())
			m := fleet.Member{ID: name, State: fleet.Open}
			beat(t, a.Store, m)
			a.hears(t, say(t, speaker, 1))
			tt.goes(a.link)
			if err := <-a.lost; err == nil || !strings.Contains(err.Error(), "etcd "+a.link.Addr()) {
				t.Errorf("lost: %v", err)
			}
			began := time.Now()
			if _, err := a.Heard(t.Context()); err == nil || time.Since(began) > time.Second {
				t.Errorf("heard after %v: %v", time.Since(began), err)
			}
			redistest.Eventually(t, patience, func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
				defer cancel()
				if err := a.Beat(ctx, m); err == nil {
					return errors.New("it beats")
				}
				return nil
			}, "a heartbeat is told that it does not arrive")
			lives(t, speaker, false, name)
			w := say(t, speaker, 2)
			tt.comes(a.link)
			a.listens(t)
			a.hears(t, w)
			redistest.Eventually(t, patience, func() error { return a.Beat(t.Context(), m) }, "it beats again")
			lives(t, speaker, true, name)
			a.hears(t, say(t, speaker, 3))
			a.end()
			if err := errors.Join(a.Leave(t.Context(), name), speaker.Clear(t.Context())); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestComesBackEmpty: an etcd that has lost all it had is told everything again.
func TestComesBackEmpty(t *testing.T) {
	server := etcdtest.Start(t, nil)
	a := newAway(t, server.Addr())
	beat(t, a.Store, fleet.Member{ID: "1"})
	say(t, a.Store, 2)
	a.link.SetUpstream(etcdtest.Start(t, nil).Addr())
	a.link.Cut()
	if err := <-a.lost; err == nil {
		t.Error("it is lost without a reason")
	}
	a.listens(t)
	redistest.Eventually(t, patience, func() error { // its heart beats until a renewal tells that the lease is gone
		if err := a.Beat(t.Context(), fleet.Member{ID: "1"}); err != nil {
			return err
		}
		list, err := a.Members(t.Context())
		if err == nil && (len(list) != 1 || !list[0].Lives) {
			err = fmt.Errorf("members: %+v", list)
		}
		return err
	}, "it lives there")
	a.hears(t, say(t, a.Store, 3))
}

// TestNothingIsLeftRunning: a store that is closed leaves no goroutine, also while its etcd is
// away.
func TestNothingIsLeftRunning(t *testing.T) {
	server := etcdtest.Start(t, nil)
	link := redistest.NewLink(t, server.Addr())
	use := func(cut bool) {
		t.Helper()
		s := New(config.Meeting{Addresses: []string{link.Addr()}, Prefix: "x/"}, func() string { return "m" }, 2*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		ended, woken := make(chan struct{}), make(chan struct{}, 10)
		go func() { defer close(ended); _ = s.Listen(ctx, func() { woken <- struct{}{} }) }()
		<-woken
		beat(t, s, fleet.Member{ID: "1"})
		if cut {
			link.Refuse(true)
			link.Cut()
			<-ended
		}
		cancel()
		<-ended
		for range 2 {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	use(false) // the server begins some of its own with the first client
	before := goleak.IgnoreCurrent()
	use(false)
	use(true)
	goleak.VerifyNone(t, before)
}

// TestLoginAndTLS: by certificates and as a user who may touch our keys alone.
func TestLoginAndTLS(t *testing.T) {
	authority := redistest.NewAuthority(t, "ca")
	own, ours := authority.Issue("127.0.0.1"), authority.Issue("crossfade")
	server := etcdtest.Start(t, &transport.TLSInfo{CertFile: own.CertFile, KeyFile: own.KeyFile, TrustedCAFile: authority.File, ClientCertAuth: true})
	f := config.Fleet{Store: "etcd", Etcd: config.Etcd{
		Endpoints: []string{"https://" + server.Addr()}, Prefix: "crossfade",
		TLS: config.TLS{CAFile: authority.File, CertFile: ours.CertFile, KeyFile: ours.KeyFile},
	}}
	open := func(change func(*config.Etcd)) *Store {
		t.Helper()
		f := f
		change(&f.Etcd)
		at, err := f.Meeting()
		if err != nil {
			t.Fatal(err)
		}
		return storeOf(t, "m", *at)
	}
	s := open(func(*config.Etcd) {})
	beat(t, s, fleet.Member{ID: "1"})
	admin, err := s.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []func() error{
		func() error { _, err := admin.UserAdd(t.Context(), "root", "r"); return err },
		func() error { _, err := admin.UserGrantRole(t.Context(), "root", "root"); return err },
		func() error { _, err := admin.UserAdd(t.Context(), "cf", "hidden"); return err },
		func() error { _, err := admin.RoleAdd(t.Context(), "cf"); return err },
		func() error {
			_, err := admin.RoleGrantPermission(t.Context(), "cf", "crossfade/", clientv3.GetPrefixRangeEnd("crossfade/"), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := admin.UserGrantRole(t.Context(), "cf", "cf"); return err },
		func() error { _, err := admin.AuthEnable(t.Context()); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Beat(t.Context(), fleet.Member{ID: "2"}); err == nil {
		t.Error("nobody has logged in")
	}
	known := open(func(e *config.Etcd) { e.Username, e.Password = "cf", "hidden" })
	beat(t, known, fleet.Member{ID: "2"})
	heard := make(chan struct{}, 10)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { _ = known.Listen(ctx, func() { heard <- struct{}{} }) }()
	<-heard
	say(t, known, 1)
	<-heard
	if all, err := known.Probe(t.Context()); err != nil || len(all) != 1 || all[0].Err != nil {
		t.Errorf("%+v, %v", all, err)
	}
	elsewhere := open(func(e *config.Etcd) { e.Username, e.Password, e.Prefix = "cf", "hidden", "others" })
	if _, err := elsewhere.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("keys of others: %v", err)
	}
	wrong := open(func(e *config.Etcd) { e.Username, e.Password = "cf", "wrong" })
	if err := wrong.Beat(t.Context(), fleet.Member{ID: "3"}); err == nil || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("a wrong password: %v", err)
	}
	stranger := open(func(e *config.Etcd) { e.TLS.CAFile, e.TLS.ServerName = "", "127.0.0.1" })
	if _, err := stranger.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an etcd that nobody vouches for: %v", err)
	}
}

// TestProbe: what a look at an etcd finds.
func TestProbe(t *testing.T) {
	server, redis := etcdtest.Start(t, nil), redistest.Start(t)
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = nobody.Close()
	for name, tt := range map[string]struct {
		addrs []string
		ok    bool
		found []string // in each one's error; empty: none
	}{
		"an etcd":        {[]string{server.Addr()}, true, []string{""}},
		"one of two":     {[]string{server.Addr(), nobody.Addr().String()}, true, []string{"", "refused"}},
		"nobody":         {[]string{nobody.Addr().String()}, false, []string{"refused"}},
		"something else": {[]string{redis.Addr()}, false, []string{"server"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := storeOf(t, "", config.Meeting{Addresses: tt.addrs, Prefix: "crossfade/"})
			all, err := s.Probe(t.Context())
			if (err == nil) != tt.ok || len(all) != len(tt.addrs) {
				t.Fatalf("%+v, %v", all, err)
			}
			for i, p := range all {
				switch want := tt.found[i]; {
				case want == "" && (p.Err != nil || !strings.HasPrefix(p.Version, "3.")):
					t.Errorf("%+v", p)
				case want != "" && (p.Err == nil || !strings.Contains(p.Err.Error(), want)):
					t.Errorf("%s: %v, want %s", p.Address, p.Err, want)
				}
			}
			if keys := server.Keys(); len(keys) > 0 {
				t.Errorf("left behind: %q", keys)
			}
		})
	}
}

func TestVersionsThatWillDo(t *testing.T) {
	for version, want := range map[string]bool{"3.7.3": true, "3.4.0": true, "3.10.0": true, "3.3.27": false, "2.3.8": false, "4.0.0": false, "": false, "x": false} {
		if got := willDo(version); got != want {
			t.Errorf("%q: %v", version, got)
		}
	}
}
