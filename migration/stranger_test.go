package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// quickMaster starts a server whose replicas need not wait for others to come.
func quickMaster(t *testing.T) *redistest.Server {
	t.Helper()
	return redistest.Start(t, redistest.WithConfig("repl-diskless-sync-delay", "0"))
}

// following starts a replica and waits until it follows.
func following(t *testing.T, master *redistest.Server, opts ...redistest.Option) *redistest.Server {
	t.Helper()
	r := redistest.Start(t, append(opts, redistest.WithConfig("repl-diskless-sync-delay", "0"), redistest.WithConfig("replicaof", "127.0.0.1", fmt.Sprint(master.Port())))...)
	awaitLink(t, r)
	return r
}

func awaitLink(t *testing.T, r *redistest.Server) {
	t.Helper()
	redistest.Eventually(t, 20*time.Second, func() bool {
		return strings.Contains(r.Client(0).Info(t.Context(), "replication").Val(), "master_link_status:up")
	}, "the replica %s follows", r.Addr())
}

// announcing has a replica tell its master the address of another server.
func announcing(as *redistest.Server) []redistest.Option {
	return []redistest.Option{redistest.WithConfig("replica-announce-ip", "127.0.0.1"), redistest.WithConfig("replica-announce-port", fmt.Sprint(as.Port()))}
}

// leftBehind is a migration whose source was left and is fenced.
func leftBehind(t *testing.T) (m *Migration, src, dst *redistest.Server) {
	t.Helper()
	src, dst = quickMaster(t), quickMaster(t)
	m = quietMigration(t, endpointOf(src, "", ""), endpointOf(dst, "", ""), nil)
	t.Cleanup(m.closeOthers)
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	m.rec.Phase, m.rec.Side, m.rec.Token = ReverseTailing, router.Target, testToken
	if err := m.login(t.Context(), router.Source, router.Target); err != nil {
		t.Fatal(err)
	}
	if err := m.sitBoth(t); err != nil {
		t.Fatal(err)
	}
	f := m.fence(router.Source)
	st, err := f.save(t.Context(), FenceACL)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.arm(t.Context(), testToken), f.raise(t.Context(), st, testToken)); err != nil {
		t.Fatal(err)
	}
	st.Raised = true
	m.rec.Servers[router.Source].Fence = st
	return m, src, dst
}

// guardAwake is the guard's look after replicas, by who has not slept.
func (m *Migration) guardAwake(t *testing.T) {
	t.Helper()
	m.keepSeat(t.Context())
	m.guardReplicas(t.Context(), router.Source)
}

// problemOf returns what the status says of one replica: its fence, and what is wrong.
func (m *Migration) problemOf(address string) (fence, problem string) {
	for _, s := range m.replicaStatus(m.record()) {
		if s.Address == address {
			return s.Fence, s.Problem
		}
	}
	return "", ""
}

// mustBeUntouched fails when anything of ours is on a server.
func mustBeUntouched(t *testing.T, s *redistest.Server, users []string) {
	t.Helper()
	if diff := cmp.Diff(users, aclList(t, s.Client(0))); diff != "" {
		t.Errorf("the users of %s differ (-before +after):\n%s", s.Addr(), diff)
	}
	if got := minReplicas(t, s.Client(0)); got[0] != "0" {
		t.Errorf("min-replicas-to-write of %s is %s", s.Addr(), got[0])
	}
}

// Who answers at the address of a replica, and is none, is left alone and named: another
// master, a replica of another one, and the target itself.
func TestStrangersAreNotFenced(t *testing.T) {
	m, src, dst := leftBehind(t)
	alone := redistest.Start(t)
	others := following(t, quickMaster(t))
	for _, stranger := range []*redistest.Server{alone, others} {
		before := aclList(t, stranger.Client(0))
		hidden := following(t, src, announcing(stranger)...)
		m.guardAwake(t)
		mustBeUntouched(t, stranger, before)
		mustBeUntouched(t, hidden, before)
		if fence, problem := m.problemOf(stranger.Addr()); fence != "" || !strings.Contains(problem, preflight.ErrStranger.Error()) {
			t.Errorf("the status says of %s: %q, %q", stranger.Addr(), fence, problem)
		}
		// Nor is one opened, or its users removed, that has taken the place of one that was fenced.
		do(t, stranger.Client(0), "ACL", "SETUSER", OwnUser, "on", ">theirs", "+@all", "~*")
		theirs := aclList(t, stranger.Client(0))
		m.rec.keep(router.Source, stranger.Addr(), "a run", func(k *Kept) {
			*k = Kept{User: true, Fence: &FenceState{Level: FenceACL, Raised: true, Mark: "test.1", Users: []ACLUser{{Name: "default", Commands: "-@all"}}}}
		})
		if _, err := m.sweep(t.Context(), func(Former) bool { return true }); err != nil {
			t.Error(err)
		}
		mustBeUntouched(t, stranger, theirs)
		do(t, hidden.Client(0), "REPLICAOF", "NO", "ONE")
	}
	users := aclList(t, m.ids[router.Target].Pool().DB(0))
	following(t, src, announcing(dst)...)
	m.guardAwake(t)
	mustBeUntouched(t, dst, users)
}

// The master itself may answer at a replica's address, and one replica at two.
func TestReplicaUnderAnotherAddress(t *testing.T) {
	m, src, _ := leftBehind(t)
	original := m.rec.Servers[router.Source].Fence
	following(t, src, announcing(src)...)
	replica := following(t, src)
	before := aclList(t, replica.Client(0))
	link := redistest.NewLink(t, replica.Addr())
	m.guardAwake(t)
	m.guardAwake(t)
	if fence, problem := m.problemOf(replica.Addr()); fence != string(FenceACL) || problem != "" {
		t.Errorf("the status says of the replica: %q, %q", fence, problem)
	}
	if k, ok := m.record().kept(router.Source, src.Addr()); ok {
		t.Errorf("the master is noted as a replica of itself: %+v", k)
	}
	host, port, _ := strings.Cut(link.Addr(), ":")
	do(t, m.other(router.Source, replica.Addr()).Pool().DB(0), "CONFIG", "SET", "replica-announce-ip", host)
	do(t, m.other(router.Source, replica.Addr()).Pool().DB(0), "CONFIG", "SET", "replica-announce-port", port)
	do(t, m.other(router.Source, replica.Addr()).Pool().DB(0), "CLIENT", "KILL", "TYPE", "master")
	redistest.Eventually(t, 20*time.Second, func() bool {
		s, err := preflight.AskStanding(t.Context(), m.ids[router.Source].Pool())
		return err == nil && slices.Contains(s.Replicas, link.Addr())
	}, "the master knows the other address")
	m.guardAwake(t)
	if k, ok := m.record().kept(router.Source, link.Addr()); ok {
		t.Errorf("it is noted twice: %+v", k)
	}
	// Even where nobody sees that they are one, what is to be put back is not the fence.
	m.rec.Former[0].Run = "forgotten"
	m.guardAwake(t)
	for _, f := range m.record().Former {
		if !cmp.Equal(f.Kept.Fence.Users, original.Users) {
			t.Errorf("to be put back on %s: %+v", f.Address, f.Kept.Fence.Users)
		}
	}
	m.keepSeat(t.Context())
	if _, err := m.sweep(t.Context(), func(Former) bool { return true }); err != nil {
		t.Error(err)
	}
	mustBeUntouched(t, replica, before)
}

// One that goes over to another master, or becomes one, between the look at it and the fence.
func TestReplicaLeavesBeforeItsFence(t *testing.T) {
	m, src, _ := leftBehind(t)
	elsewhere := redistest.Start(t)
	for _, promoted := range []bool{false, true} {
		replica := following(t, src)
		before := aclList(t, replica.Client(0))
		mb := m.memberAt(t, replica)
		st, err := m.saveFence(t.Context(), mb, FenceACL)
		if err != nil {
			t.Fatal(err)
		}
		f := m.fenceOn(mb)
		c := f.db().Conn()
		defer func() { _ = c.Close() }()
		redistest.Eventually(t, testTimeout, func() error { return f.watchBeside(t.Context(), c, true) }, "the token is there")
		do(t, replica.Client(0), "REPLICAOF", "NO", "ONE")
		if !promoted {
			do(t, replica.Client(0), "REPLICAOF", "127.0.0.1", elsewhere.Port())
		}
		if err := f.lift(t.Context(), c, st); !errors.Is(err, errFenceLost) {
			t.Fatalf("promoted %v: %v", promoted, err)
		}
		err = replica.Client(0).Get(t.Context(), "any").Err()
		if fenced := redis.HasErrorPrefix(err, "NOPERM"); fenced != promoted {
			t.Errorf("promoted %v: a read is answered with %v", promoted, err)
		}
		if !promoted {
			do(t, replica.Client(0), "ACL", "DELUSER", OwnUser)
			mustBeUntouched(t, replica, before)
		}
	}
}

// memberAt is what eachReplica makes of a server.
func (m *Migration) memberAt(t *testing.T, s *redistest.Server) *member {
	t.Helper()
	var found *member
	m.eachReplica(t.Context(), router.Source, testTimeout, nil, func(_ context.Context, mb *member) error {
		if mb.address == s.Addr() {
			found = mb
		}
		return nil
	})
	if found == nil {
		t.Fatalf("%s is no replica", s.Addr())
	}
	if found.doubt != nil {
		t.Fatal(found.doubt)
	}
	return found
}

// Whoever was superseded, or has slept and does not know it yet, neither fences a replica nor
// opens one.
func TestWhoIsOutLeavesReplicasAlone(t *testing.T) {
	for name, out := range map[string]func(*testing.T, *Migration){
		"superseded": func(t *testing.T, m *Migration) {
			m.seat.mu.Lock()
			defer m.seat.mu.Unlock()
			_ = m.seat.lose(store.Seat{Token: 99, Holder: "another"})
		},
		"asleep": func(t *testing.T, m *Migration) {
			for _, s := range m.ids { // it was ended
				do(t, s.Pool().DB(0), "DEL", store.SeatKey, store.FenceKey)
			}
			m.asleep()
		},
		"a newer token": func(t *testing.T, m *Migration) {
			do(t, m.ids[router.Source].Pool().DB(0), "SET", store.FenceKey, testToken+1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, src, _ := leftBehind(t)
			fenced, open := following(t, src), following(t, src)
			m.guardAwake(t)
			if fence, problem := m.problemOf(fenced.Addr()); fence == "" {
				t.Fatal(problem)
			}
			admin := m.other(router.Source, open.Addr()).Pool().DB(0)
			if err := m.fenceOn(m.memberAt(t, open)).lower(t.Context(), m.rec.Former[slices.IndexFunc(m.rec.Former, func(f Former) bool { return f.Address == open.Addr() })].Kept.Fence); err != nil {
				t.Fatal(err)
			}
			before := aclList(t, admin)
			unfenced := poolOf(t, open, "", "").DB(0)
			look := poolOf(t, fenced, OwnUser, m.password).DB(0)
			stands := aclList(t, look)
			out(t, m)
			redistest.Eventually(t, testTimeout, func() bool {
				for _, c := range []*redis.Client{look, unfenced} {
					if name != "superseded" && c.Get(t.Context(), store.FenceKey).Val() == fmt.Sprint(testToken) {
						return false
					}
				}
				return true
			}, "the replicas hear of it")
			m.closeOthers() // as whoever takes over does
			m.guardReplicas(t.Context(), router.Source)
			if _, err := m.sweep(t.Context(), func(Former) bool { return true }); err == nil {
				t.Error("it says that it has put back the replicas")
			}
			if diff := cmp.Diff(stands, aclList(t, look)); diff != "" {
				t.Errorf("the replica that was fenced:\n%s", diff)
			}
			if diff := cmp.Diff(before, aclList(t, unfenced)); diff != "" {
				t.Errorf("the replica that was not:\n%s", diff)
			}
		})
	}
}

// One that says nothing keeps nobody from the others, those behind a third one included.
func TestSilentReplicaKeepsNobody(t *testing.T) {
	m, src, _ := leftBehind(t)
	silent := following(t, src)
	middle := following(t, src)
	last := following(t, middle)
	if err := silent.Stop(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	m.guardAwake(t)
	if took := time.Since(began); took > 3*replicaTime {
		t.Errorf("it took %v", took)
	}
	for _, s := range []*redistest.Server{middle, last} {
		if fence, problem := m.problemOf(s.Addr()); fence == "" || problem != "" {
			t.Errorf("%s: %q, %q", s.Addr(), fence, problem)
		}
	}
	if fence, problem := m.problemOf(silent.Addr()); fence != "" || problem == "" {
		t.Errorf("the one that says nothing: %q, %q", fence, problem)
	}
	if err := silent.Cont(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 20*time.Second, func() error {
		m.guardAwake(t)
		if fence, problem := m.problemOf(silent.Addr()); fence == "" {
			return errors.New(problem)
		}
		return nil
	}, "it is fenced when it speaks")
	// Whoever goes on from the servers alone knows of all of them.
	there, ok, err := store.Load(t.Context(), m.ids[router.Target].Pool().DB(0), store.RecordKey)
	if err != nil || !ok {
		t.Fatalf("%v, %v", ok, err)
	}
	r, err := decode(there)
	if err != nil || len(r.Former) != 3 {
		t.Errorf("the record on the target: %v, %+v", err, r.Former)
	}
}

// One that has forgotten the fence in a restart, and our user with it, is fenced again; what
// is to be put back is what was there at first.
func TestReplicaThatForgetsIsFencedAgain(t *testing.T) {
	m, src, _ := leftBehind(t)
	replica := following(t, following(t, src))
	before := aclList(t, replica.Client(0))
	m.guardAwake(t)
	m.guardAwake(t)
	replica.Kill()
	if err := replica.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitLink(t, replica)
	redistest.Eventually(t, 20*time.Second, func() error {
		m.guardAwake(t)
		if err := replica.Client(0).Get(t.Context(), "any").Err(); !redis.HasErrorPrefix(err, "NOPERM") {
			_, problem := m.problemOf(replica.Addr())
			return fmt.Errorf("a read is answered with %w; the status says %q", err, problem)
		}
		return nil
	}, "it is fenced again")
	if _, err := m.sweep(t.Context(), func(Former) bool { return true }); err != nil {
		t.Error(err)
	}
	mustBeUntouched(t, replica, before)
}

// Replicas that come at the same time do not keep each other from their fences.
func TestReplicasAreFencedAtOnce(t *testing.T) {
	m, src, _ := leftBehind(t)
	var replicas [6]*redistest.Server
	for i := range replicas {
		replicas[i] = following(t, src)
	}
	m.guardAwake(t)
	for _, s := range replicas {
		if fence, problem := m.problemOf(s.Addr()); fence == "" || problem != "" {
			t.Errorf("%s: %q, %q", s.Addr(), fence, problem)
		}
	}
}

// A replica that is its side's master by now, under another address, is not put back as a
// replica: we work there.
func TestPuttingBackSparesTheMaster(t *testing.T) {
	m, src, _ := leftBehind(t)
	link := redistest.NewLink(t, src.Addr())
	st := *m.rec.Servers[router.Source].Fence
	before := aclList(t, m.ids[router.Source].Pool().DB(0))
	notify := "KEA"
	m.rec.Servers[router.Source] = Kept{At: src.Addr(), Fence: &st}
	m.rec.keep(router.Source, link.Addr(), "", func(k *Kept) { *k = Kept{User: true, Notify: &notify, Fence: &st} })
	w, err := m.ids[router.Source].Pool().Wire(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err := m.sweep(t.Context(), func(Former) bool { return true }); err != nil {
		t.Error(err)
	}
	w.Command("PING")
	if err := errors.Join(w.Flush(), w.Status()); err != nil {
		t.Errorf("our connection to the master: %v", err)
	}
	after := aclList(t, m.ids[router.Source].Pool().DB(0))
	if len(after) != len(before) || slices.ContainsFunc(after, func(u string) bool { return strings.Contains(u, "default") && strings.Contains(u, "-@all") }) {
		t.Errorf("the users: %s", after)
	}
	r := m.record()
	if k := r.Servers[router.Source]; len(r.Former) != 0 || !k.User || k.Notify == nil || *k.Notify != notify {
		t.Errorf("what is left to be put back: %+v, %+v", k, r.Former)
	}
}
