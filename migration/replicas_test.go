package migration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// TestRecordMeetsReplicas: what was changed on a replica is the master's when it becomes
// that, and what was changed on the master stays with its address.
func TestRecordMeetsReplicas(t *testing.T) {
	r := Record{Side: router.Target, Phase: ReverseTailing}
	r.Servers[router.Source] = Kept{At: "a:1", User: true, Fence: &FenceState{Level: FenceACL, Raised: true}}
	r.keep(router.Source, "b:1", "run", func(k *Kept) { k.User = true })
	before := r.Former
	r.keep(router.Source, "b:1", "run", func(k *Kept) {
		k.Fence = &FenceState{Level: FenceACL, Watched: true, Users: []ACLUser{{Name: "app"}}}
	})
	if before[0].Kept.Fence != nil {
		t.Error("a record that was handed out is changed")
	}
	before = r.Former
	r.announceReplicas(router.Source)
	if before[0].Kept.Fence.Raised || !r.Former[0].Kept.Fence.Raised {
		t.Errorf("announced: %+v", r.Former)
	}
	if !r.staysFenced(router.Source) || r.staysFenced(router.Target) {
		t.Error("the side that was left does not stay fenced, or the other one does")
	}
	r.meet(router.Source, "b:1")
	if k := r.Servers[router.Source]; k.At != "b:1" || !k.User || k.Fence == nil || len(k.Fence.Users) != 1 {
		t.Errorf("the new master: %+v", k)
	}
	if len(r.Former) != 1 || r.Former[0].Address != "a:1" || r.Former[0].Replica {
		t.Errorf("beside it: %+v", r.Former)
	}
}

// TestReplicaFenceSparesFailovers: who may do all still may do what sentinels need, and
// nobody reads or writes a key.
func TestReplicaFenceSparesFailovers(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL, "app on >pw ~* &* +@all -@admin", "some on >pw ~* &* +@all -debug", "none on >pw ~* &* +@all -config"))
	f := fence{pool: poolOf(t, s, OwnUser, ownPassword), own: OwnUser}
	st, err := f.save(t.Context(), FenceACL)
	if err != nil {
		t.Fatal(err)
	}
	st.Watched = true
	before := aclList(t, f.db())
	c := f.db().Conn()
	defer func() { _ = c.Close() }()
	if err := f.lift(t.Context(), c, st); err != nil {
		t.Fatal(err)
	}
	if err := f.check(t.Context(), st); err != nil {
		t.Errorf("the fence is up, but check says: %v", err)
	}
	unwatched := *st
	unwatched.Watched = false
	if err := f.check(t.Context(), &unwatched); !errors.Is(err, errFenceLost) {
		t.Errorf("check of a fence without these rights: %v", err)
	}
	for user, may := range map[string]bool{"": true, "some": true, "app": false, "none": false} {
		c := s.Client(0)
		if user != "" {
			c = s.ClientAs(user, "pw", 0)
		}
		if err := c.Do(t.Context(), "ROLE").Err(); may != (err == nil) {
			t.Errorf("ROLE as %q: %v", user, err)
		}
		_, err := c.TxPipelined(t.Context(), func(p redis.Pipeliner) error {
			p.Do(t.Context(), "SLAVEOF", "NO", "ONE")
			p.Do(t.Context(), "CLIENT", "KILL", "TYPE", "replica")
			return nil
		})
		if may != (err == nil) {
			t.Errorf("a failover's transaction as %q: %v", user, err)
		}
		for _, cmd := range [][]any{{"GET", "k"}, {"SET", "k", "v"}, {"PUBLISH", "c", "m"}, {"CONFIG", "SET", "maxmemory", "0"}, {"ACL", "SETUSER", "default", "+@all"}, {"FLUSHALL"}} {
			if err := c.Do(t.Context(), cmd...).Err(); !redis.HasErrorPrefix(err, "NOPERM") {
				t.Errorf("%v as %q: %v", cmd, user, err)
			}
		}
	}
	if err := f.lower(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	if after := aclList(t, f.db()); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the users are\n%q, and were\n%q", after, before)
	}
}

// TestFenceIsThatOfAProcess: another one in its place counts as one without.
func TestFenceIsThatOfAProcess(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL(ownACL))
	f, st := raised(t, s, FenceACL)
	f.run = "another process"
	if err := f.check(t.Context(), st); !errors.Is(err, errFenceLost) {
		t.Errorf("the fence of another process: %v", err)
	}
	text := f.db().Info(t.Context(), "server").Val()
	if f.run = runIDIn(text); f.run == "" {
		t.Fatal("the server does not tell its run id")
	}
	if err := f.check(t.Context(), st); err != nil {
		t.Errorf("the fence of this process: %v", err)
	}
}

// moving is a finder whose master is another one when it is asked again.
type moving struct {
	mu            sync.Mutex
	present, next string
	silent        bool
}

func (f *moving) Find(ctx context.Context) (string, error) {
	if f.silent {
		<-ctx.Done()
		return "", ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.present = f.next
	return f.present, nil
}

func (f *moving) Keep(context.Context, *net.TCPConn, string) error { return nil }
func (f *moving) Doubt(string)                                     {}
func (f *moving) Present() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.present
}

// TestFailoverBeforeTheJournalIsAskedFor: nobody has told of it yet. Sentinels that say
// nothing are no reason to wait, or to end the attempt.
func TestFailoverBeforeTheJournalIsAskedFor(t *testing.T) {
	m := quietMigration(t, config.Endpoint{Network: "tcp", Address: "a:1"}, config.Endpoint{Network: "tcp", Address: "c:1"}, nil)
	a := &attempt{Migration: m, from: router.Source, opt: SwitchOptions{MaxStall: 200 * time.Millisecond}}
	if err := a.sameMaster(t.Context()); err != nil {
		t.Errorf("without sentinels: %v", err)
	}
	f := &moving{present: "a:1", next: "a:1"}
	m.ids[router.Source].url.Finder = f
	if err := a.sameMaster(t.Context()); err != nil {
		t.Errorf("where nothing has changed: %v", err)
	}
	f.silent = true
	began := time.Now()
	if err := a.sameMaster(t.Context()); err != nil || time.Since(began) > testTimeout/2 {
		t.Errorf("where they say nothing: %v, after %v", err, time.Since(began))
	}
	f.silent, f.next = false, "b:1"
	if err := a.sameMaster(t.Context()); err == nil || !strings.Contains(err.Error(), "a:1 is it no more") {
		t.Errorf("after a failover: %v", err)
	}
}

// TestReplicaThatLeftEndsTheAttempt, whatever it was that it became; one that only says
// nothing is named, and no more is waited for than a part of the budget.
func TestReplicaThatLeftEndsTheAttempt(t *testing.T) {
	m := quietMigration(t, config.Endpoint{Network: "tcp", Address: "a:1"}, config.Endpoint{Network: "tcp", Address: "c:1"}, nil)
	for name, tt := range map[string]struct {
		err  error
		ends bool
	}{"fenced": {nil, false}, "silent": {context.DeadlineExceeded, false}, "left": {fmt.Errorf("raising: %w", errFenceLost), true}} {
		raised := make(chan struct{})
		close(raised)
		a := &attempt{Migration: m, from: router.Source, raising: raised, replicas: []*replica{{address: name, err: tt.err}}}
		if err := a.replicasFenced(t.Context()); (err != nil) != tt.ends {
			t.Errorf("%s: %v", name, err)
		}
		if _, problem := m.problemOf(name); (problem != "") != (name == "silent") {
			t.Errorf("%s: the status says %q", name, problem)
		}
	}
}

// What is at a replica's address may be somebody else's, or have been away for long: who it
// says has the seat ends nobody, and nothing is changed there.
func TestNobodyLosesTheSeatToAReplica(t *testing.T) {
	m, src, _ := leftBehind(t)
	stranger := redistest.Start(t)
	other := store.Seat{Token: 99, Holder: "somebody else"}
	if err := store.TakeSeat(t.Context(), stranger.Client(0), other); err != nil {
		t.Fatal(err)
	}
	do(t, stranger.Client(0), "ACL", "SETUSER", OwnUser, "on", ">"+m.password, "+@all", "~*", "&*")
	before := aclList(t, stranger.Client(0))
	following(t, src, announcing(stranger)...)
	preflight.Run(t.Context(), m.env(router.Source), preflight.StageCutover)
	if err := m.lostTo(); err != nil {
		t.Errorf("the checks: %v", err)
	}
	m.guardAwake(t)
	if _, problem := m.problemOf(stranger.Addr()); !strings.Contains(problem, other.Holder) {
		t.Errorf("the status says: %s", problem)
	}
	m.rec.keep(router.Source, stranger.Addr(), "a run", func(k *Kept) { k.User = true })
	if _, err := m.sweep(t.Context(), func(Former) bool { return true }); err == nil || !strings.Contains(err.Error(), other.Holder) {
		t.Errorf("putting it back: %v", err)
	}
	if err := m.lostTo(); err != nil || m.seat.highest() >= other.Token {
		t.Errorf("the seat: %v, and the highest token seen is %d", err, m.seat.highest())
	}
	mustBeUntouched(t, stranger, before)
}
