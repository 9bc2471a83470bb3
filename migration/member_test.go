package migration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// told is a proxy that writes down what it is told.
type told struct {
	idle
	mu   sync.Mutex
	did  []string
	at   router.Route
	fail map[string]error
}

func (p *told) note(what string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.did = append(p.did, what)
	return p.fail[what]
}

func (p *told) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.did)
}

func (p *told) route() router.Route {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at
}

func (p *told) Prepare(_ context.Context, to router.Side) error {
	return p.note("prepare " + to.String())
}
func (p *told) Hold(context.Context) error                { return p.note("hold") }
func (p *told) Align(context.Context, router.Route) error { return p.note("align") }
func (p *told) Sever(side router.Side)                    { _ = p.note("sever " + side.String()) }
func (p *told) DropListeners(side router.Side)            { _ = p.note("drop " + side.String()) }
func (p *told) Retry()                                    { _ = p.note("retry") }
func (p *told) Release(r router.Route) {
	_ = p.note("release " + r.Side.String())
	p.mu.Lock()
	p.at = r
	p.mu.Unlock()
}

// stand is two servers with a record, and a member between them.
type stand struct {
	t       *testing.T
	servers [2]*redistest.Server
	m       *Member
	proxy   *told
	rec     Record
}

func newStand(t *testing.T, change func(*config.Config)) *stand {
	t.Helper()
	s := &stand{t: t, proxy: &told{fail: make(map[string]error)}}
	for side := range s.servers {
		s.servers[side] = redistest.Start(t, redistest.WithACL("admin on >secret ~* &* +@all"))
	}
	file, err := store.OpenFile(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Proxy.DialTimeout = testTimeout
	if change != nil {
		change(&cfg)
	}
	s.m = NewMember(MemberOptions{
		Config: cfg, Source: endpointOf(s.servers[0], "", ""), Target: endpointOf(s.servers[1], "", ""),
		Gate: router.NewGate(router.Route{}), Traffic: s.proxy, File: file, Version: "test",
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		_ = file.Close()
		for _, id := range s.m.ids {
			_ = id.Pool().Close()
		}
	})
	s.rec = Record{
		ID: "one", Token: 5, Seq: 1, Phase: Tailing, Map: map[int]router.Place{0: {}}, Copied: true,
		Source: s.servers[0].Addr(), Target: s.servers[1].Addr(),
	}
	return s
}

// tell writes a changed record to a control key.
func (s *stand) tell(side router.Side, key string, change func(*Record)) {
	s.t.Helper()
	s.rec.Seq++
	if change != nil {
		change(&s.rec)
	}
	e, err := s.rec.entry()
	if err == nil {
		err = store.Save(s.t.Context(), s.servers[side].ClientAs("admin", "secret", 0), key, e)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stand) say(stage fleet.Stage, seq, token uint64, to router.Side, epoch uint64) {
	s.t.Helper()
	st := fleet.Target{Client: func() *redis.Client { return s.servers[1].ClientAs("admin", "secret", 0) }}
	if err := st.Say(s.t.Context(), fleet.Word{By: "c", Seq: seq, Token: token, Stage: stage, To: to, Epoch: epoch}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stand) fence(side router.Side, up bool) {
	s.t.Helper()
	rules := []any{"ACL", "SETUSER", "default", "+@all", "clearselectors"}
	if up {
		rules = []any{"ACL", "SETUSER", "default", "-@all", "+ping", "+hello", "+auth", "+select", "+client|setname", "clearselectors", "(resetchannels +get %R~crossfade:*)"}
	}
	do(s.t, s.servers[side].ClientAs("admin", "secret", 0), rules...)
}

// run runs the member until the test ends.
func (s *stand) run() {
	ctx, cancel := context.WithCancel(s.t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = s.m.Run(ctx) }()
	s.t.Cleanup(func() { cancel(); <-ended })
}

// follows has the member run, with its clients on the source and no switch made yet.
func (s *stand) follows() {
	s.t.Helper()
	s.tell(router.Target, store.RecordKey, nil)
	if err := s.m.Recover(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.run()
	s.goes(router.Source, 0)
}

// goes waits until the member's clients are let through to a side, by a switch.
func (s *stand) goes(side router.Side, epoch uint64) {
	s.t.Helper()
	redistest.Eventually(s.t, testTimeout, func() error {
		if r := s.proxy.route(); r.Side != side || r.Epoch != epoch || len(s.proxy.all()) == 0 {
			return errors.New("it goes elsewhere: " + strings.Join(s.proxy.all(), ", "))
		}
		return nil
	}, "the clients go to the %s", side)
}

// did waits until the proxy was told something last.
func (s *stand) did(last string) {
	s.t.Helper()
	redistest.Eventually(s.t, testTimeout, func() error {
		if all := s.proxy.all(); len(all) == 0 || all[len(all)-1] != last {
			return errors.New(strings.Join(all, ", "))
		}
		return nil
	}, "it is told to %s", last)
}

func TestMemberReadsTheTruth(t *testing.T) {
	for name, tt := range map[string]struct {
		tell func(s *stand)
		side router.Side
		err  string
	}{
		"nothing":         {func(*stand) {}, 0, "no migration"},
		"before a switch": {func(s *stand) { s.tell(router.Target, store.RecordKey, nil) }, router.Source, ""},
		"behind a switch": {func(s *stand) {
			s.tell(router.Target, store.RecordKey, func(r *Record) { r.Side, r.Epoch, r.Phase = 1, 1, ReverseTailing })
		}, router.Target, ""},
		"in the middle": {func(s *stand) { s.tell(router.Target, store.RecordKey, func(r *Record) { r.Phase = Prepared }) }, 0, "a switch is under way"},
		"decided and not so yet": {func(s *stand) {
			s.tell(router.Target, store.RecordKey, nil)
			s.tell(router.Source, store.JournalKey, func(r *Record) { r.Phase = Committing })
		}, 0, "a switch is under way"},
		"there and back": {func(s *stand) {
			s.tell(router.Target, store.RecordKey, func(r *Record) { r.Side, r.Epoch, r.Phase = 1, 1, ReverseTailing })
			s.tell(router.Target, store.JournalKey, func(r *Record) { r.Phase = Committing })
			s.tell(router.Source, store.RecordKey, func(r *Record) { r.Side, r.Epoch, r.Phase = 0, 2, RolledBack })
		}, router.Source, ""},
		"no map yet": {func(s *stand) { s.tell(router.Target, store.RecordKey, func(r *Record) { r.Map = nil }) }, 0, "a switch is under way"},
		"two migrations": {func(s *stand) {
			s.tell(router.Target, store.RecordKey, nil)
			s.tell(router.Source, store.RecordKey, func(r *Record) { r.ID = "two" })
		}, 0, "two migrations"},
		"other servers":      {func(s *stand) { s.tell(router.Target, store.RecordKey, func(r *Record) { r.Source = "10.0.0.9:1" }) }, 0, "10.0.0.9:1"},
		"an older epoch":     {func(s *stand) { s.keep(2); s.tell(router.Target, store.RecordKey, func(r *Record) { r.Epoch = 1 }) }, 0, "forgotten a switch"},
		"another state file": {func(s *stand) { s.keep(2); s.tell(router.Target, store.RecordKey, func(r *Record) { r.ID = "two" }) }, 0, "the state file"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, nil)
			tt.tell(s)
			err := s.m.begin(t.Context())
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || len(s.proxy.all()) > 0 {
					t.Fatalf("%v, %q; want an error that says %q", err, s.proxy.all(), tt.err)
				}
				return
			}
			if err != nil || s.proxy.route().Side != tt.side || s.proxy.route().Epoch != s.rec.Epoch {
				t.Fatalf("%v, %+v", err, s.proxy.route())
			}
		})
	}
}

// keep has the member's state file know of switches.
func (s *stand) keep(epoch uint64) {
	r := s.rec
	r.Epoch = epoch
	e, err := r.entry()
	if err == nil {
		err = s.m.opt.File.Save(e, false)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// looks waits until the member has looked at the record and the journal so many times more. On
// the source nothing else is read with GET.
func (s *stand) looks(times int) {
	s.t.Helper()
	c := s.servers[router.Source].ClientAs("admin", "secret", 0)
	reads := func() (n int) {
		text := c.Info(s.t.Context(), "commandstats").Val()
		_, text, _ = strings.Cut(text, "cmdstat_get:calls=")
		_, _ = fmt.Sscanf(text, "%d", &n)
		return n
	}
	before := reads()
	redistest.Eventually(s.t, testTimeout, func() bool { return reads() >= before+2*times+1 }, "the member looks at the record")
}

// TestMemberBelievesTheRecordAlone: what is said moves nobody.
func TestMemberBelievesTheRecordAlone(t *testing.T) {
	s := newStand(t, nil)
	s.follows()
	s.say(fleet.Prepare, 1, 6, router.Target, 1)
	s.did("prepare target")
	s.say(fleet.Hold, 2, 6, router.Target, 1)
	s.did("hold")
	s.say(fleet.Align, 3, 6, router.Target, 1)
	s.did("align")
	s.say(fleet.Release, 4, 6, router.Target, 1)
	s.looks(3) // it asks, and is told otherwise
	s.did("align")
	s.tell(router.Target, store.RecordKey, func(r *Record) { r.Token, r.Side, r.Epoch, r.Phase = 6, 1, 1, Committed })
	s.goes(router.Target, 1)
	// An older record misleads nobody.
	do(t, s.servers[1].ClientAs("admin", "secret", 0), "DEL", store.RecordKey)
	s.tell(router.Target, store.RecordKey, func(r *Record) { r.Seq, r.Side, r.Epoch, r.Phase = 1, 0, 0, Tailing })
	s.looks(2)
	s.goes(router.Target, 1)
}

// TestMemberLeavesNothing: when the migration is completed, a member's clients stay where
// they are, and nothing of it stays on the servers.
func TestMemberLeavesNothing(t *testing.T) {
	s := newStand(t, nil)
	s.tell(router.Target, store.RecordKey, func(r *Record) { r.Side, r.Epoch, r.Phase = 1, 1, ReverseTailing })
	if err := s.m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.run()
	c := s.servers[1].ClientAs("admin", "secret", 0)
	redistest.Eventually(t, testTimeout, func() error {
		if c.HLen(t.Context(), fleet.MembersKey).Val() != 1 {
			return errors.New("it is not there")
		}
		return nil
	}, "it is a member")
	do(t, c, "DEL", store.RecordKey)
	redistest.Eventually(t, testTimeout, func() error {
		if keys := c.Keys(t.Context(), "*").Val(); len(keys) > 0 {
			return errors.New(strings.Join(keys, ", "))
		}
		return nil
	}, "nothing is left")
	s.goes(router.Target, 1)
}

// TestMemberIsGivenBack: a switch that is given up, and one of which nobody says how it ends.
func TestMemberIsGivenBack(t *testing.T) {
	s := newStand(t, func(c *config.Config) { c.Cutover.MaxStall = 100 * time.Millisecond })
	s.tell(router.Target, store.RecordKey, nil)
	if err := s.m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.run()
	hold := func(seq uint64) {
		t.Helper()
		s.tell(router.Target, store.RecordKey, func(r *Record) { r.Phase = Prepared })
		s.say(fleet.Prepare, seq, 6, router.Target, 1)
		s.say(fleet.Hold, seq+1, 6, router.Target, 1)
		s.did("hold")
	}
	hold(1)
	s.say(fleet.Release, 3, 6, router.Source, 0)
	s.did("release source")
	hold(4)
	s.did("release source") // by itself: the source is not fenced
	hold(6)
	s.fence(router.Source, true)
	redistest.Eventually(t, testTimeout, func() error {
		if st := s.m.Status(); st.State != string(fleet.Waiting) || !strings.Contains(st.Reasons[0], "fenced") {
			return errors.New(st.State + ": " + st.Reasons[0])
		}
		return nil
	}, "it waits, and says why")
	s.fence(router.Source, false)
	s.did("release source")
}

// TestMemberIsRefused: what a member does when a server refuses its clients.
func TestMemberIsRefused(t *testing.T) {
	s := newStand(t, nil)
	s.tell(router.Target, store.RecordKey, nil)
	if err := s.m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.run()
	s.m.RefusedByFence()
	s.did("retry") // there is no fence
	s.fence(router.Source, true)
	s.m.RefusedByFence()
	s.did("hold")
	s.fence(router.Source, false)
	s.did("retry")
	s.fence(router.Source, true)
	s.tell(router.Target, store.RecordKey, func(r *Record) { r.Side, r.Epoch, r.Phase = 1, 1, Committed })
	s.m.RefusedByFence()
	s.goes(router.Target, 1)
	if all := s.proxy.all(); !slices.Contains(all, "drop target") {
		t.Errorf("subscribers are not told that they have missed something: %q", all)
	}
	s.fence(router.Source, false)
	s.fence(router.Target, true)
	s.proxy.mu.Lock()
	s.proxy.fail["hold"] = errors.New("they do not end")
	s.proxy.mu.Unlock()
	s.tell(router.Source, store.RecordKey, func(r *Record) { r.Side, r.Epoch, r.Phase = 0, 2, RolledBack })
	s.m.RefusedByFence()
	s.did("hold")
	if all := s.proxy.all(); !slices.Contains(all, "sever target") {
		t.Errorf("clients that do not end are kept: %q", all)
	}
}

// TestMemberWithAnUnansweredCommand: a hold that has failed when a fence was met is none. Where
// the switch has led elsewhere, what is unanswered is cut off before clients go there.
func TestMemberWithAnUnansweredCommand(t *testing.T) {
	s := newStand(t, nil)
	s.tell(router.Target, store.RecordKey, nil)
	if err := s.m.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.run()
	if _, in := s.m.opt.Gate.TryEnter(); !in {
		t.Fatal("the gate is shut")
	}
	fail := func(err error) {
		s.proxy.mu.Lock()
		defer s.proxy.mu.Unlock()
		s.proxy.fail["hold"] = err
	}
	fail(errors.New("they do not end"))
	s.fence(router.Source, true)
	s.m.RefusedByFence()
	s.did("hold")
	s.tell(router.Target, store.RecordKey, func(r *Record) { r.Side, r.Epoch, r.Phase = 1, 1, Committed })
	s.m.RefusedByFence()
	redistest.Eventually(t, testTimeout, func() error {
		if !slices.Contains(s.proxy.all(), "sever source") {
			return errors.New("nothing was cut off")
		}
		return nil
	}, "what is unanswered is cut off")
	if all := s.proxy.all(); slices.Contains(all, "release target") {
		t.Errorf("clients were let go beside a command that is not answered: %q", all)
	}
	fail(nil)
	s.m.opt.Gate.Leave()
	s.goes(router.Target, 1)
}

// crewOf returns a coordinator's, before a target with members.
func crewOf(t *testing.T, level FenceLevel, members ...fleet.Member) (*crew, *told, *redistest.Server) {
	t.Helper()
	servers := [2]*redistest.Server{redistest.Start(t), redistest.Start(t)}
	m := quietMigration(t, endpointOf(servers[0], "", ""), endpointOf(servers[1], "", ""), nil)
	m.rec.Servers[router.Source].Fence = &FenceState{Level: level}
	proxy := &told{fail: make(map[string]error)}
	m.crew.Traffic = proxy
	for _, one := range members {
		if err := m.crew.store.Beat(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	return m.crew, proxy, servers[1]
}

// TestCrewOfNone: without members nothing is said, and nothing left on a server.
func TestCrewOfNone(t *testing.T) {
	c, proxy, target := crewOf(t, FenceReplicas)
	route := router.Route{Side: router.Target, Epoch: 1}
	if err := errors.Join(c.Prepare(t.Context(), router.Target), c.Hold(t.Context()), c.Align(t.Context(), route)); err != nil {
		t.Fatal(err)
	}
	c.Release(route)
	if got := strings.Join(proxy.all(), ", "); got != "prepare target, hold, align, release target" {
		t.Errorf("the proxy was told %s", got)
	}
	if keys := target.Client(0).Keys(t.Context(), "*").Val(); len(keys) > 0 || c.reported() != nil || len(c.members()) > 0 {
		t.Errorf("left behind: %q", keys)
	}
}

// TestCrewRefuses: what a fleet cannot be switched safely with.
func TestCrewRefuses(t *testing.T) {
	member := fleet.Member{ID: "1", Name: "x", Version: "v", Protocol: fleet.Protocol}
	other := member
	other.Protocol++
	for _, tt := range []struct {
		level FenceLevel
		who   fleet.Member
		says  string
	}{
		{FenceReplicas, member, "F3"}, {FenceKey, member, "F3"}, {FenceNone, member, "F3"}, {FenceACL, other, "another language"},
	} {
		c, proxy, _ := crewOf(t, tt.level, tt.who)
		var refused *Refused
		if err := c.Prepare(t.Context(), router.Target); !errors.As(err, &refused) || !strings.Contains(err.Error(), tt.says) || len(proxy.all()) > 0 {
			t.Errorf("%s: %v, %q", tt.level, err, proxy.all())
		}
	}
	c, proxy, _ := crewOf(t, FenceACL, member) // clients that have not logged in would be its user
	c.m.ids[router.Source].url.Username = "operator"
	if err := c.Prepare(t.Context(), router.Target); err == nil || !strings.Contains(err.Error(), "create_user") || len(proxy.all()) > 0 {
		t.Errorf("the fence spares the operator's user: %v, %q", err, proxy.all())
	}
	c.m.rec.Servers[router.Source].User = true
	if err := c.Prepare(t.Context(), router.Target); err != nil {
		t.Errorf("it does not: %v", err)
	}
}

// TestCrewDoesNotWait: a member that does not answer is named, and asked for nothing more.
func TestCrewDoesNotWait(t *testing.T) {
	c, proxy, _ := crewOf(t, FenceACL,
		fleet.Member{ID: "1", Name: "answers", Protocol: fleet.Protocol}, fleet.Member{ID: "2", Name: "silent", Protocol: fleet.Protocol})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if w, err := c.store.Heard(ctx); err == nil && w.Says() {
				_ = c.store.Answer(ctx, "1", fleet.Answer{Word: w.ID()})
			}
			select {
			case <-time.After(time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	defer func() { cancel(); <-done }()
	for _, step := range []func() error{
		func() error { return c.Prepare(t.Context(), router.Target) }, func() error { return c.Hold(t.Context()) },
		func() error { return c.Align(t.Context(), router.Route{Side: router.Target, Epoch: 1}) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	c.Release(router.Route{Side: router.Target, Epoch: 1})
	w, err := c.store.Heard(t.Context())
	if err != nil || w.Stage != fleet.Release || w.To != router.Target || w.Epoch != 1 {
		t.Errorf("the last word is %+v, %v", w, err)
	}
	r := c.reported()
	if r == nil || r.Members != 2 || r.Held != 1 || len(r.Missing) != 1 || !strings.HasPrefix(r.Missing[0], "silent: ") {
		t.Errorf("the report is %+v", r)
	}
	if got := strings.Join(proxy.all(), ", "); got != "prepare target, hold, align, release target" {
		t.Errorf("the proxy was told %s", got)
	}
}

// asking counts how often a member asks for a word.
type asking struct {
	fleet.Store
	n atomic.Int64
}

func (a *asking) Heard(ctx context.Context) (fleet.Word, error) {
	a.n.Add(1)
	return a.Store.Heard(ctx)
}

// TestMemberOfMany: in a switch of a large fleet, each member asks for the next word less often,
// because whoever speaks wakes them, and all of them together would be a load on the server.
func TestMemberOfMany(t *testing.T) {
	t.Parallel()
	s := newStand(t, nil)
	store := &asking{Store: s.m.store}
	s.m.store = store
	s.follows()
	st := fleet.Target{Client: func() *redis.Client { return s.servers[1].ClientAs("admin", "secret", 0) }}
	w := fleet.Word{By: "c", Seq: 1, Token: 5, Stage: fleet.Prepare, To: router.Target, Epoch: 1, Members: 1000}
	if err := st.Say(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	s.did("prepare target")
	began, asked := time.Now(), store.n.Load()
	redistest.Eventually(t, testTimeout, func() error {
		if store.n.Load() < asked+6 {
			return errors.New("it has not asked so often yet")
		}
		return nil
	}, "it asks six times")
	if took := time.Since(began); took < 4*50*time.Millisecond { // the first may have been under way
		t.Errorf("one of 1000 members asked six times in %v: all of them ask %.0f times a second", took, 6000/took.Seconds())
	}
	w.Seq, w.Stage = 2, fleet.Hold
	if err := st.Say(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	s.did("hold")
}
