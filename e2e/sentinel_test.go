package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// Servers that sentinels watch, on one side or on both, and failovers at every moment.
// With E2E_SENTINELS=all (make sentinels) all of it is run, otherwise a part.

func allSentinels() bool { return os.Getenv("E2E_SENTINELS") == "all" }

// place is where one side is: a server alone, or one that sentinels watch.
type place struct {
	alone *redistest.Server
	group *redistest.Group
}

func standalone(t *testing.T) place {
	t.Helper()
	return place{alone: redistest.Start(t, keeping...)}
}

func groupOf(t *testing.T, c redistest.GroupConfig) place {
	t.Helper()
	return place{group: redistest.StartGroup(t, c, keeping...)}
}

func (p place) url() string {
	if p.group != nil {
		return p.group.URL()
	}
	return p.alone.URL(0)
}

// server is the one that is meant now.
func (p place) server() *redistest.Server {
	if p.group != nil {
		return p.group.Master()
	}
	return p.alone
}

// watched is a sidecar between two places, and writers.
type watched struct {
	t      *testing.T
	places [2]place // by router.Side
	c      *sidecar
	load   *load
}

func newWatched(t *testing.T, source, target place, failpoints string, extra ...string) *watched {
	t.Helper()
	w := &watched{t: t, places: [2]place{source, target}}
	w.c = newSidecar(t, setup{source: w.places[0].url(), target: w.places[1].url(), dbmap: crashMap, extra: extra})
	w.c.start(failpoints)
	w.c.awaitReady()
	w.load = startLoad(t, history.Config{Addr: w.c.addr, Databases: []int{0, 3}, Writers: 4, MaxRate: 300, OpTimeout: 20 * time.Second})
	w.goOn(200)
	return w
}

// goOn waits until the writers had n more writes acknowledged.
func (w *watched) goOn(n uint64) {
	w.t.Helper()
	before := w.load.h.Stats().Acked
	redistest.Eventually(w.t, 30*time.Second, func() error {
		if now := w.load.h.Stats().Acked; now < before+n {
			return fmt.Errorf("%d writes acknowledged since, want %d; last error: %s", now-before, n, w.load.h.Stats().LastError)
		}
		return nil
	}, "the writers go on")
}

// calm ends the writers, and waits until a side's replicas have what was acknowledged: a
// failover then takes nothing back that a client was told.
func (w *watched) calm(side router.Side) {
	w.t.Helper()
	if err := w.load.end(); err != nil {
		w.t.Fatal(err)
	}
	if g := w.places[side].group; g != nil {
		g.Level()
	}
}

// mustSwitch switches away from side; see stage.mustSwitch.
func (w *watched) mustSwitch(from router.Side) {
	w.t.Helper()
	w.c.awaitReady()
	redistest.Eventually(w.t, time.Minute, func() error {
		err := w.switchOnce(from)
		if err != nil && !outOfTime(err) {
			w.t.Fatalf("the switch away from the %s: %v", from, err)
		}
		return err
	}, "a switch away from the %s", from)
}

func (w *watched) switchOnce(from router.Side) (err error) {
	if from == router.Source {
		_, err = w.c.cutover()
	} else {
		_, err = w.c.rollback()
	}
	return err
}

// mapOf is the database map as a side numbers.
func mapOf(side router.Side) func(int) int {
	if side == router.Target {
		return mapping(crashMap)
	}
	return func(db int) int { return db }
}

// mustHold checks that nothing acknowledged is lost where the applications are, and lets
// the writers go on.
func (w *watched) mustHold(side router.Side) history.Report {
	w.t.Helper()
	if st := w.c.awaitReady(); st.Side != side {
		w.t.Fatalf("the applications are on the %s, want the %s", st.Side, side)
	}
	return w.load.mustHold(w.t, w.places[side].server().Addr(), mapOf(side))
}

// finish checks once more, completes, and compares both sides.
func (w *watched) finish(side router.Side) {
	w.t.Helper()
	w.mustHold(side)
	w.c.end(side == router.Source)
	equalSides(w.t, w.places[0].server(), w.places[1].server(), crashMap)
	for _, p := range w.places {
		servers := []*redistest.Server{p.alone}
		if p.group != nil {
			servers = p.group.Servers
		}
		for _, s := range servers {
			if s.Running() {
				mustBeClean(w.t, s)
			}
		}
	}
}

// mustBeClean waits until nothing that we have changed is left on a server.
func mustBeClean(t *testing.T, s *redistest.Server) {
	t.Helper()
	redistest.Eventually(t, 20*time.Second, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		c := s.Client(0)
		defer func() { _ = c.Close() }()
		users, err := c.Do(ctx, "ACL", "LIST").StringSlice()
		if err != nil {
			return err
		}
		for _, u := range users {
			if strings.HasPrefix(u, "user "+migration.OwnUser+" ") || strings.HasPrefix(u, "user default ") && !strings.Contains(u, "+@all") {
				return fmt.Errorf("on %s there is %q", s.Addr(), u)
			}
		}
		events, err := c.ConfigGet(ctx, "notify-keyspace-events").Result()
		if err == nil && events["notify-keyspace-events"] != "" {
			err = fmt.Errorf("notify-keyspace-events of %s is %q", s.Addr(), events["notify-keyspace-events"])
		}
		return err
	}, "%s is as it was found", s.Addr())
}

// TestSentinels: there, back, and there again, under load, with 0 lost and no error that
// a client sees.
func TestSentinels(t *testing.T) {
	for name, watching := range map[string][2]bool{"both": {true, true}, "source": {true, false}, "target": {false, true}} {
		if !allSentinels() && name != "both" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var places [2]place
			for side, is := range watching {
				if places[side] = standalone(t); is {
					places[side] = groupOf(t, redistest.GroupConfig{})
				}
			}
			w := newWatched(t, places[0], places[1], "")
			st := w.c.awaitReady()
			for side, at := range map[router.Side]string{router.Source: st.SourceMaster, router.Target: st.TargetMaster} {
				want := ""
				if g := w.places[side].group; g != nil {
					want = g.Master().Addr()
				}
				if at != want {
					t.Errorf("the master of the %s is %q, want %q", side, at, want)
				}
			}
			w.mustSwitch(router.Source)
			w.goOn(100)
			w.mustSwitch(router.Target)
			w.goOn(100)
			w.mustSwitch(router.Source)
			w.goOn(100)
			if r := w.mustHold(router.Target); r.Stats.Errors > 0 {
				t.Errorf("clients saw %d errors, the last: %s", r.Stats.Errors, r.Stats.LastError)
			}
			w.finish(router.Target)
		})
	}
}

// failovers, by kind.
var failovers = map[string]func(*redistest.Group) (old, now *redistest.Server){
	"planned": (*redistest.Group).Failover,
	"killed":  (*redistest.Group).KillMaster,
}

// each runs a test with each kind of failover, but for make sentinels with one only.
func eachFailover(t *testing.T, usual string, f func(t *testing.T, failover func(*redistest.Group) (old, now *redistest.Server))) {
	for kind, failover := range failovers {
		if !allSentinels() && kind != usual {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f(t, failover)
		})
	}
}

// elsewhere reports whether a master is known that is not old. On a slow machine
// sentinels may move on at once from the one that they have chosen.
func elsewhere(at string, old *redistest.Server) bool { return at != "" && at != old.Addr() }

// complete has the old master come back, leaves these sides one after the other under
// load, and ends the migration where that leads.
func (w *watched) complete(t *testing.T, old *redistest.Server, leaving ...router.Side) {
	t.Helper()
	if !old.Running() {
		rise(t, old)
	}
	w.load.begin()
	for _, side := range leaving {
		w.mustSwitch(side)
		w.goOn(100)
	}
	w.finish(leaving[len(leaving)-1].Other())
}

// TestSourceFailsOverWhileCopied is a gap. Then the migration goes its way.
func TestSourceFailsOverWhileCopied(t *testing.T) {
	eachFailover(t, "planned", func(t *testing.T, failover func(*redistest.Group) (old, now *redistest.Server)) {
		w := newWatched(t, groupOf(t, redistest.GroupConfig{}), standalone(t), "")
		before := w.c.awaitReady()
		w.calm(router.Source)
		old, _ := failover(w.places[router.Source].group)
		st := w.c.await("the gap is repaired", func(s migration.Status) bool {
			return s.Ready && s.Gaps > before.Gaps && elsewhere(s.SourceMaster, old)
		})
		if st.Side != router.Source {
			t.Fatalf("the applications are on the %s", st.Side)
		}
		w.load.begin()
		w.goOn(100)
		w.mustHold(router.Source)
		w.complete(t, old, router.Source, router.Target, router.Source)
	})
}

// TestSourceFailsOverUnderLoad: what the old master had acknowledged and the new one never
// had is lost, as it is without us. Both sides are the same afterwards.
func TestSourceFailsOverUnderLoad(t *testing.T) {
	eachFailover(t, "", func(t *testing.T, failover func(*redistest.Group) (old, now *redistest.Server)) {
		w := newWatched(t, groupOf(t, redistest.GroupConfig{}), standalone(t), "")
		w.goOn(100)
		old, now := failover(w.places[router.Source].group)
		w.goOn(200)
		w.c.await("the gap is repaired", func(s migration.Status) bool { return s.Ready && s.Gaps > 0 && elsewhere(s.SourceMaster, old) })
		if err := w.load.end(); err != nil {
			t.Fatal(err)
		}
		if !old.Running() {
			rise(t, old)
		}
		w.c.end(true)
		equalSides(t, now, w.places[router.Target].server(), crashMap)
	})
}

// TestSourceFailsOverToOneThatLags: what the new master has counts. What it never had is
// taken from the target, and what it still has comes back there.
func TestSourceFailsOverToOneThatLags(t *testing.T) {
	t.Parallel()
	w := newWatched(t, groupOf(t, redistest.GroupConfig{}), standalone(t), "")
	g := w.places[router.Source].group
	old := g.Master()
	c := old.Client(0)
	do(t, c, "SET", "only:kept", "v")
	w.calm(router.Source)
	w.c.awaitReady()
	cutOff(t, old) // from here on it acknowledges what nobody else will have
	do(t, c, "SET", "only:lost", "v")
	do(t, c, "DEL", "only:kept")
	target := w.places[router.Target].server().Client(mapping(crashMap)(0))
	exists := func(key string) bool { return target.Exists(t.Context(), key).Val() == 1 }
	redistest.Eventually(t, 20*time.Second, func() bool { return exists("only:lost") && !exists("only:kept") }, "both are on the target")
	g.KillMaster()
	w.c.await("the gap is repaired", func(s migration.Status) bool { return s.Ready && s.Gaps > 0 && elsewhere(s.SourceMaster, old) })
	if exists("only:lost") || !exists("only:kept") {
		t.Errorf("the target has what was lost: %v, and what was kept: %v", exists("only:lost"), exists("only:kept"))
	}
	rise(t, old)
	w.load.begin()
	w.goOn(100)
	w.finish(router.Source)
}

// cutOff keeps the replicas of a master from following it any more.
func cutOff(t *testing.T, master *redistest.Server) {
	t.Helper()
	c := master.Client(0)
	do(t, c, "ACL", "SETUSER", "default", "-psync", "-sync")
	do(t, c, "CLIENT", "KILL", "TYPE", "replica")
	redistest.Eventually(t, 20*time.Second, func() bool {
		return strings.Contains(c.Info(t.Context(), "replication").Val(), "connected_slaves:0\r\n")
	}, "no replica follows %s", master.Addr())
}

// TestSourceFailsOverDuringCutover: the attempt is taken back wherever it was, clients go
// on on the new master, and the next attempt works. The old master is opened again.
func TestSourceFailsOverDuringCutover(t *testing.T) {
	for _, at := range []string{"lag-gate:after", "hold:after", "soft-fence:after", "hard-fence:after", "drain-2:after", "journal:before"} {
		t.Run(at, func(t *testing.T) {
			if !allSentinels() && at != "hard-fence:after" {
				t.Skip("make sentinels runs it")
			}
			eachFailover(t, "planned", func(t *testing.T, failover func(*redistest.Group) (old, now *redistest.Server)) {
				file := filepath.Join(t.TempDir(), "reached")
				w := newWatched(t, groupOf(t, redistest.GroupConfig{OwnUser: true}), standalone(t), "cutover."+at+"#1=wait:"+file, "--cutover.max_stall", "1m")
				if at == "lag-gate:after" { // nobody is held yet, and what is written would be lost
					w.calm(router.Source)
				}
				g := w.places[router.Source].group
				result := make(chan error, 1)
				go func() { result <- w.switchOnce(router.Source) }()
				redistest.Eventually(t, time.Minute, func() error { _, err := os.Stat(file); return err }, "the failpoint")
				g.Level()
				old, _ := failover(g)
				w.c.await("the failover is known", func(s migration.Status) bool { return elsewhere(s.SourceMaster, old) })
				if err := os.Remove(file); err != nil {
					t.Fatal(err)
				}
				want := "the master of the source has changed"
				if at == "journal:before" { // it is decided there, by what the new master says of the fence
					want = "may have taken writes since"
				}
				if err := <-result; err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("the cutover: %v", err)
				}
				if w.load.stop == nil {
					w.load.begin()
				}
				if st := w.c.awaitReady(); st.Side != router.Source || !elsewhere(st.SourceMaster, old) {
					t.Fatalf("the applications are on the %s, at %s", st.Side, st.SourceMaster)
				}
				w.goOn(100)
				w.mustHold(router.Source)
				if !old.Running() {
					rise(t, old)
				}
				mustLetIn(t, old)
				w.load.begin()
				w.mustSwitch(router.Source)
				w.goOn(100)
				w.finish(router.Target)
			})
		})
	}
}

// mustLetIn waits until the default user of a server may do what it likes.
func mustLetIn(t *testing.T, s *redistest.Server) {
	t.Helper()
	c := s.Client(0)
	redistest.Eventually(t, 30*time.Second, func() error {
		return c.ConfigGet(t.Context(), "maxmemory").Err()
	}, "%s is not fenced any more", s.Addr())
}

// TestEnteredFailsOverAfterCommit: clients go on on the new master, which knows of the
// switch, and the way back works when all was compared.
func TestEnteredFailsOverAfterCommit(t *testing.T) {
	eachFailover(t, "killed", func(t *testing.T, failover func(*redistest.Group) (old, now *redistest.Server)) {
		w := newWatched(t, standalone(t), groupOf(t, redistest.GroupConfig{Replicas: 2}), "")
		w.mustSwitch(router.Source)
		w.goOn(50)
		w.calm(router.Target)
		old, _ := failover(w.places[router.Target].group)
		w.load.begin()
		w.goOn(100)
		st := w.c.await("the way back", func(s migration.Status) bool { return s.Ready && s.Gaps > 0 && elsewhere(s.TargetMaster, old) })
		if st.Side != router.Target {
			t.Fatalf("the applications are on the %s", st.Side)
		}
		w.mustHold(router.Target)
		w.complete(t, old, router.Target, router.Source)
	})
}

// TestEnteredFailsOverBetweenJournalAndCommit: the switch is decided, so it is carried
// through, onto the new master, when all was copied there once more.
func TestEnteredFailsOverBetweenJournalAndCommit(t *testing.T) {
	eachFailover(t, "", func(t *testing.T, failover func(*redistest.Group) (old, now *redistest.Server)) {
		file := filepath.Join(t.TempDir(), "reached")
		w := newWatched(t, standalone(t), groupOf(t, redistest.GroupConfig{}), "cutover.commit:before#1=wait:"+file)
		result := make(chan error, 1)
		go func() { result <- w.switchOnce(router.Source) }()
		redistest.Eventually(t, time.Minute, func() error { _, err := os.Stat(file); return err }, "the failpoint")
		old, _ := failover(w.places[router.Target].group)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := <-result; err != nil {
			t.Errorf("the cutover: %v", err)
		}
		w.goOn(100)
		if st := w.c.awaitReady(); !elsewhere(st.TargetMaster, old) {
			t.Errorf("the target is at %q, and its master was %s", st.TargetMaster, old.Addr())
		}
		if !old.Running() {
			rise(t, old)
		}
		w.finish(router.Target)
	})
}

// TestEnteredFailsOverToOneThatKnowsNothing: the replica that takes the place has nothing
// of what was copied, and does not know of the switch. The source, which has the only copy
// left, is not touched, and there is no way back before an operator has decided.
func TestEnteredFailsOverToOneThatKnowsNothing(t *testing.T) {
	if !allSentinels() {
		t.Skip("make sentinels runs it")
	}
	t.Parallel()
	// A replica without its master counts for ten times as long as a master may say nothing.
	g := redistest.StartGroup(t, redistest.GroupConfig{DownAfter: 5 * time.Second}, keeping...)
	cutOff(t, g.Master())
	w := newWatched(t, standalone(t), place{group: g}, "")
	w.mustSwitch(router.Source)
	w.goOn(50)
	if err := w.load.end(); err != nil {
		t.Fatal(err)
	}
	w.c.await("all is on the source too", func(s migration.Status) bool { return s.Ready && s.Dirty == 0 })
	old, _ := g.KillMaster()
	st := w.c.await("the loss is seen", func(s migration.Status) bool {
		return !s.Ready && elsewhere(s.TargetMaster, old) && strings.Contains(s.Resync, "--sync.accept_loss")
	})
	if st.Phase != migration.ReverseLost || st.Side != router.Target {
		t.Errorf("phase %s, side %s", st.Phase, st.Side)
	}
	if _, err := w.c.rollback(); err == nil {
		t.Error("a rollback was made")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := w.c.admin.Complete(ctx, admin.CompleteRequest{}); err == nil || !strings.Contains(err.Error(), "putting back "+old.Addr()) {
		t.Errorf("complete, while the old master is down: %v", err)
	}
	rise(t, old)
	if _, err := w.c.admin.Complete(ctx, admin.CompleteRequest{}); err != nil {
		t.Fatal(err)
	}
	w.load.mustHold(t, w.places[router.Source].server().Addr(), mapOf(router.Source))
}

// TestLeftFailsOverAfterCommit: the new master of the source was fenced as a replica, so
// that at no moment a write of an application gets in, whichever user the sentinels have.
// The old one stays fenced, as a replica, until a rollback opens both.
func TestLeftFailsOverAfterCommit(t *testing.T) {
	eachFailover(t, "", func(t *testing.T, failover func(*redistest.Group) (old, now *redistest.Server)) {
		for _, own := range []bool{false, true} {
			if own && !allSentinels() {
				continue
			}
			t.Run(fmt.Sprintf("own user %v", own), func(t *testing.T) {
				w := newWatched(t, groupOf(t, redistest.GroupConfig{OwnUser: own}), standalone(t), "")
				w.mustSwitch(router.Source)
				w.goOn(50)
				w.c.awaitReady()
				g := w.places[router.Source].group
				mustRefuseAll := tryAll(t, g.Servers)
				old, now := failover(g)
				w.c.await("the failover is known", func(s migration.Status) bool { return elsewhere(s.SourceMaster, old) })
				w.goOn(50)
				mustRefuseAll()
				if err := refusesAll(t.Context(), now); err != nil {
					t.Errorf("the new master: %v", err)
				}
				if !old.Running() {
					rise(t, old)
				}
				redistest.Eventually(t, 30*time.Second, func() error { return refusesAll(t.Context(), old) }, "the old master is fenced, as a replica")
				w.goOn(100)
				w.mustSwitch(router.Target)
				w.goOn(100)
				mustLetIn(t, now)
				mustLetIn(t, old)
				w.mustSwitch(router.Source)
				w.goOn(100)
				w.finish(router.Target)
			})
		}
	})
}

// tryAll writes to servers all the time, as an application past the proxy would, until the
// function is called that it returns; that fails if one of them has taken a write.
func tryAll(t *testing.T, servers []*redistest.Server) (mustRefuseAll func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var refused, other atomic.Int64
	for _, s := range servers {
		c := s.Client(0)
		all.Go(func() {
			for ctx.Err() == nil {
				switch err := c.Set(ctx, "past:us", "v", 0).Err(); {
				case err == nil:
					t.Errorf("%s has taken a write", s.Addr())
					return
				case strings.HasPrefix(err.Error(), "NOPERM"):
					refused.Add(1)
				default: // it is down, or a replica
					other.Add(1)
				}
				select {
				case <-time.After(5 * time.Millisecond): // often, and not all the time
				case <-ctx.Done():
				}
			}
		})
	}
	t.Cleanup(func() { cancel(); all.Wait() })
	return func() {
		t.Helper()
		cancel()
		all.Wait()
		t.Logf("%d writes were refused, %d had another error", refused.Load(), other.Load())
		if refused.Load() == 0 {
			t.Error("nothing was tried")
		}
	}
}

// TestRestartAfterFailover: a sidecar that was down during failovers of both sides finds
// its way, also with a sentinel that was replaced.
func TestRestartAfterFailover(t *testing.T) {
	if !allSentinels() {
		t.Skip("make sentinels runs it")
	}
	t.Parallel()
	w := newWatched(t, groupOf(t, redistest.GroupConfig{}), groupOf(t, redistest.GroupConfig{}), "")
	w.mustSwitch(router.Source)
	w.goOn(50)
	w.calm(router.Target)
	w.c.kill()
	for _, p := range w.places {
		url := p.url()
		old, _ := p.group.KillMaster()
		rise(t, old)
		p.group.Sentinels[0].Kill()
		w.c.replaceArg(url, strings.Replace(url, p.group.Sentinels[0].Addr(), freeAddr(t), 1))
	}
	w.c.start("")
	w.load.begin()
	w.goOn(100)
	w.mustHold(router.Target)
	w.load.begin()
	w.mustSwitch(router.Target)
	w.goOn(100)
	w.finish(router.Source)
}

// replaceArg has the next start use another argument.
func (c *sidecar) replaceArg(old, now string) {
	c.tb.Helper()
	i := slices.Index(c.args, old)
	if i < 0 {
		c.tb.Fatalf("%q is no argument of the sidecar", old)
	}
	c.args[i] = now
}

// TestOtherSentinelsAfterSwitch: those of another name are not those that the traffic was
// moved with, and nobody is led there.
func TestOtherSentinelsAfterSwitch(t *testing.T) {
	if !allSentinels() {
		t.Skip("make sentinels runs it")
	}
	t.Parallel()
	w := newWatched(t, standalone(t), groupOf(t, redistest.GroupConfig{Name: "entered"}), "")
	w.mustSwitch(router.Source)
	w.calm(router.Target)
	w.c.kill()
	url := w.places[router.Target].url()
	w.c.replaceArg(url, strings.Replace(url, "/entered", "/other", 1))
	w.c.start("")
	if err := w.c.awaitExit(30 * time.Second); err == nil {
		t.Error("it has ended without an error")
	}
	want := "but the traffic was moved with the target at " + w.places[router.Target].group.Sentinels[0].Addr()
	if text := string(must[[]byte](t)(os.ReadFile(w.c.logs))); !strings.Contains(text, want) {
		t.Errorf("the log does not say %q:\n%s", want, tail(text, 20))
	}
}
