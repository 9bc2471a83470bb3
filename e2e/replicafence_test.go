package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// What becomes of the replicas of a server that is left: they are fenced with it, so that
// one which is made the master lets nobody in.

// promoter is a user who may do what sentinels do, and nothing else: no fence concerns it.
const promoter = "promoter"

var promotable = redistest.WithACL(promoter + " on >" + promoter + " allchannels -@all +multi +slaveof +ping +exec +subscribe +config|rewrite +role +publish +info +client|setname +client|kill +script|kill")

// replicated is a stage whose servers have replicas.
type replicated struct {
	*stage
	replicas [2][]*redistest.Server // by router.Side
}

// newReplicated is newStage with replicas: each server has one, and the source's has one of
// its own.
func newReplicated(t *testing.T, failpoints string, extra ...string) *replicated {
	t.Helper()
	opts := append(slices.Clone(keeping), promotable)
	r := &replicated{stage: newServers(t, opts, opts)}
	first := follow(t, r.src, opts...)
	r.replicas[router.Source] = []*redistest.Server{first, follow(t, first, opts...)}
	r.replicas[router.Target] = []*redistest.Server{follow(t, r.dst, opts...)}
	r.c = r.sidecar(extra...)
	r.c.start(failpoints + r.ledApart())
	r.c.awaitReady()
	r.load(r.c.addr)
	return r
}

// follow starts a replica and waits until it follows.
func follow(t *testing.T, master *redistest.Server, opts ...redistest.Option) *redistest.Server {
	t.Helper()
	r := redistest.Start(t, append(slices.Clone(opts), redistest.WithConfig("replicaof", "127.0.0.1", fmt.Sprint(master.Port())))...)
	redistest.Eventually(t, 30*time.Second, func() bool {
		return strings.Contains(r.Client(0).Info(t.Context(), "replication").Val(), "master_link_status:up")
	}, "a replica of %s", master.Addr())
	return r
}

// refusesAll returns an error unless a server lets nobody read even.
func refusesAll(ctx context.Context, s *redistest.Server) error {
	c := s.Client(0)
	defer func() { _ = c.Close() }()
	if err := c.Get(ctx, "any").Err(); !redis.HasErrorPrefix(err, "NOPERM") {
		return fmt.Errorf("%s answers a read with %w", s.Addr(), errors.Join(err, errors.New("not NOPERM")))
	}
	return nil
}

// awaitFences waits until the replicas of the side that was left are fenced, and those of
// the other one as they were found.
func (r *replicated) awaitFences(home router.Side, left bool) {
	r.t.Helper()
	for _, s := range r.replicas[home] {
		mustBeClean(r.t, s)
	}
	for _, s := range r.replicas[home.Other()] {
		if !left {
			mustBeClean(r.t, s)
			continue
		}
		redistest.Eventually(r.t, 20*time.Second, func() error { return refusesAll(r.t.Context(), s) }, "the replica %s is fenced", s.Addr())
	}
}

// mustRefuse makes a replica a master by hand, and writes to it as an application would.
func mustRefuse(t *testing.T, s *redistest.Server) {
	t.Helper()
	c := s.ClientAs(promoter, promoter, 0)
	if err := c.Do(t.Context(), "SLAVEOF", "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	if role, err := c.Do(t.Context(), "ROLE").Slice(); err != nil || role[0] != "master" {
		t.Fatalf("%s is a %v: %v", s.Addr(), role, err)
	}
	for _, cmd := range [][]any{{"SET", "past:us", "v"}, {"PUBLISH", "ch", "m"}, {"EVAL", "return redis.call('set','past:us','v')", "0"}, {"FLUSHALL"}} {
		if err := s.Client(0).Do(t.Context(), cmd...).Err(); !redis.HasErrorPrefix(err, "NOPERM") {
			t.Errorf("%v, on the replica %s that was made the master: %v", cmd, s.Addr(), err)
		}
	}
}

// TestReplicasAreFencedWithTheirMaster: there, back and there again. One that is made the
// master by hand afterwards takes no write, and at the end all are as they were found.
func TestReplicasAreFencedWithTheirMaster(t *testing.T) {
	t.Parallel()
	r := newReplicated(t, "")
	for _, from := range []router.Side{router.Source, router.Target, router.Source} {
		r.mustSwitch(from)
		for _, s := range r.replicas[from] { // at once: they were fenced before the journal
			if err := refusesAll(t.Context(), s); err != nil {
				t.Errorf("after the switch away from the %s: %v", from, err)
			}
		}
		r.goOn(50)
		r.awaitFences(from.Other(), true)
	}
	st := r.c.awaitReady()
	var listed []string
	for _, s := range st.Replicas {
		if s.Side != router.Source || s.Fence != string(migration.FenceACL) || s.Problem != "" {
			t.Errorf("the status has %+v", s)
		}
		listed = append(listed, s.Address)
	}
	var want []string
	for _, s := range r.replicas[router.Source] {
		want = append(want, s.Addr())
	}
	slices.Sort(want)
	if !slices.Equal(listed, want) {
		t.Errorf("the status lists %q, want %q", listed, want)
	}
	// The second one follows the first one, and that one is no replica any more then.
	mustRefuse(t, r.replicas[router.Source][1])
	mustRefuse(t, r.replicas[router.Source][0])
	r.goOn(50)
	r.through.mustHold(t, r.dst.Addr(), mapping(crashMap))
	r.c.await("nothing dirty", func(s migration.Status) bool { return s.Dirty == 0 })
	done := must[[]string](t)(r.c.admin.Complete(t.Context(), admin.CompleteRequest{}))
	for _, s := range r.replicas[router.Source] {
		mustBeClean(t, s)
		if !slices.ContainsFunc(done, func(line string) bool { return strings.Contains(line, s.Addr()) }) {
			t.Errorf("complete does not say that it has put back %s: %q", s.Addr(), done)
		}
		if keys := s.Client(0).Keys(t.Context(), "crossfade:*").Val(); len(keys) > 0 {
			t.Errorf("on %s there is %q", s.Addr(), keys)
		}
	}
	for _, s := range r.replicas[router.Target] {
		mustBeClean(t, s)
	}
}

// TestReplicaThatCannotBeFenced is named, keeps no switch from being made, and is fenced as
// soon as it answers; so is one that has forgotten the fence in a restart, and one that
// comes later.
func TestReplicaThatCannotBeFenced(t *testing.T) {
	t.Parallel()
	r := newReplicated(t, "", "--proxy.dial_timeout", "2s")
	r.hasty = true
	silent, forgetful := r.replicas[router.Source][0], r.replicas[router.Source][1]
	if err := silent.Stop(); err != nil {
		t.Fatal(err)
	}
	r.mustSwitch(router.Source)
	r.c.await("the replica that says nothing is named", func(st migration.Status) bool {
		return slices.ContainsFunc(st.Replicas, func(s migration.ReplicaStatus) bool {
			return s.Address == silent.Addr() && s.Problem != "" && s.Fence == ""
		})
	})
	if err := silent.Cont(); err != nil {
		t.Fatal(err)
	}
	r.awaitFences(router.Target, true)
	forgetful.Kill()
	if err := forgetful.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	late := redistest.Start(t, append(slices.Clone(keeping), promotable, redistest.WithConfig("replicaof", "127.0.0.1", fmt.Sprint(silent.Port())))...)
	r.replicas[router.Source] = append(r.replicas[router.Source], late)
	r.awaitFences(router.Target, true)
	r.c.await("all are fenced", func(st migration.Status) bool {
		return len(st.Replicas) == 3 && !slices.ContainsFunc(st.Replicas, func(s migration.ReplicaStatus) bool { return s.Fence == "" })
	})
	r.settle(router.Target)
	for _, s := range r.replicas[router.Source] {
		mustBeClean(t, s)
	}
}

// TestAttemptLeavesNoFenceOnReplicas: an attempt that ends without a switch, a dry run and a
// rehearsal leave them as they were.
func TestAttemptLeavesNoFenceOnReplicas(t *testing.T) {
	t.Parallel()
	r := newReplicated(t, "")
	replica := r.replicas[router.Source][0]
	for name, req := range map[string]admin.SwitchRequest{"a dry run": {DryRun: true}, "a rehearsal": {Rehearse: true}, "no time": {MaxStall: "1ns"}} {
		_, err := r.c.ask(router.Source, req)
		t.Logf("%s: %v", name, err)
		if name == "no time" && err == nil {
			t.Error("a switch without any time was made")
		}
		for _, s := range r.replicas[router.Source] {
			mustBeClean(t, s)
		}
	}
	if st := r.c.awaitReady(); len(st.Replicas) != 0 || st.Side != router.Source {
		t.Errorf("the applications are on the %s, and the status lists %+v", st.Side, st.Replicas)
	}
	if err := replica.Client(0).Get(t.Context(), "any").Err(); err != nil && !errors.Is(err, redis.Nil) {
		t.Errorf("the replica answers a read with %v", err)
	}
	r.settle(router.Source)
}

// TestSilentReplicaHoldsNobodyUp: one that has answered until then says nothing when it is to
// be fenced. The switch is made without it, in time, and it is named, and fenced when it speaks.
func TestSilentReplicaHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "here")
	r := newReplicated(t, "cutover.hard-fence:before#1=wait:"+file, "--cutover.max_stall", "40s", "--proxy.dial_timeout", "10s")
	silent := r.replicas[router.Source][0]
	var began time.Time
	err := r.faultAt(router.Source, file, func() {
		if err := silent.Stop(); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
	})
	if err != nil {
		t.Fatalf("the switch: %v", err)
	}
	t.Logf("it took %v more", time.Since(began))
	st := must[migration.Status](t)(r.c.status())
	for _, step := range st.LastCutover.Steps {
		if step.MS > 8000 {
			t.Errorf("step %s took %v ms", step.Name, step.MS)
		}
	}
	r.c.await("the replica that says nothing is named", func(st migration.Status) bool {
		return slices.ContainsFunc(st.Replicas, func(s migration.ReplicaStatus) bool {
			return s.Address == silent.Addr() && s.Problem != "" && s.Fence == ""
		})
	})
	if err := silent.Cont(); err != nil {
		t.Fatal(err)
	}
	r.awaitFences(router.Target, true)
	r.settle(router.Target)
	for _, s := range r.replicas[router.Source] {
		mustBeClean(t, s)
	}
}

// TestStrangerAtAReplicasAddress: the source says that its replica is where somebody else's
// master answers. That one takes writes all the time, and nothing is changed on it; so it is
// when it takes the place of a replica that was fenced.
func TestStrangerAtAReplicasAddress(t *testing.T) {
	t.Parallel()
	stranger := redistest.Start(t)
	aclOf := func() []string {
		return must[[]string](t)(stranger.Client(0).Do(t.Context(), "ACL", "LIST").StringSlice())
	}
	users := aclOf()
	r := newReplicated(t, "")
	follow(t, r.src, redistest.WithConfig("replica-announce-ip", "127.0.0.1"), redistest.WithConfig("replica-announce-port", fmt.Sprint(stranger.Port())))
	r.mustSwitch(router.Source)
	r.awaitFences(router.Target, true)
	r.c.await("the stranger is named", func(st migration.Status) bool {
		return slices.ContainsFunc(st.Replicas, func(s migration.ReplicaStatus) bool {
			return s.Address == stranger.Addr() && strings.Contains(s.Problem, "no replica of this master") && s.Fence == ""
		})
	})
	untouched := func() {
		t.Helper()
		do(t, stranger.Client(0), "SET", "theirs", "v")
		if now := aclOf(); !slices.Equal(now, users) {
			t.Errorf("the stranger's users are %q, and were %q", now, users)
		}
	}
	untouched()
	r.settle(router.Target)
	untouched()
}

// TestRightsChangedOnReplicasWhileASwitchWaits: what an administrator makes of the users of a
// replica until the fence goes up is what they are when it is down again.
func TestRightsChangedOnReplicasWhileASwitchWaits(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "here")
	r := newReplicated(t, "cutover.lag-gate:before#1=wait:"+file)
	list := func(s *redistest.Server) []string {
		t.Helper()
		all := must[[]string](t)(s.Client(0).Do(t.Context(), "ACL", "LIST").StringSlice())
		all = slices.DeleteFunc(all, func(u string) bool { return strings.HasPrefix(u, "user "+migration.OwnUser+" ") })
		slices.Sort(all)
		return all
	}
	var want [][]string
	err := r.faultAt(router.Source, file, func() {
		for _, s := range r.replicas[router.Source] {
			hand := s.Client(0)
			do(t, hand, "ACL", "SETUSER", "default", "-flushall")
			do(t, hand, "ACL", "SETUSER", "late", "on", ">pw", "~*", "+@all")
			want = append(want, list(s))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range r.replicas[router.Source] { // at once: the guard has nothing to mend
		if err := refusesAll(t.Context(), s); err != nil {
			t.Error(err)
		}
	}
	r.settle(router.Target)
	for i, s := range r.replicas[router.Source] {
		if diff := cmp.Diff(want[i], list(s)); diff != "" {
			t.Errorf("the users of %s differ (-wanted +there):\n%s", s.Addr(), diff)
		}
	}
}

// replicaFaults happen, at a step of a switch, to a stage with replicas.
var replicaFaults = []struct {
	name string
	run  func(t *testing.T, at point) *replicated
}{
	{"kill", func(t *testing.T, at point) *replicated {
		r := newReplicated(t, at.name+"=kill")
		r.dieAt(at)
		r.c.start("")
		return r
	}},
	{"kill-state-lost", func(t *testing.T, at point) *replicated {
		r := newReplicated(t, at.name+"=kill")
		r.dieAt(at)
		if err := os.Remove(r.c.state); err != nil {
			t.Fatal(err)
		}
		r.c.start("")
		return r
	}},
	{"replica-restarted", whileReplicated(func(t *testing.T, r *replicated, at point) {
		for _, s := range r.replicas[at.from] {
			s.Kill()
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})},
	{"replica-stopped", whileReplicated(func(t *testing.T, r *replicated, at point) {
		s := r.replicas[at.from][0]
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(outlasting, func() { _ = s.Cont() })
	})},
}

// whileReplicated is a fault that happens while the switch stands still at its point.
func whileReplicated(f func(*testing.T, *replicated, point)) func(*testing.T, point) *replicated {
	return func(t *testing.T, at point) *replicated {
		file := t.TempDir() + "/here"
		r := newReplicated(t, at.name+"#1=wait:"+file, shortTimeouts...)
		r.hasty = true
		r.reach(at.from)
		t.Logf("the switch ended with: %v", r.faultAt(at.from, file, func() { f(t, r, at) }))
		return r
	}
}

// TestFailpointsWithReplicas is the matrix for servers with replicas: after each row those
// of the server that was left are fenced like itself, and all others are as they were found.
func TestFailpointsWithReplicas(t *testing.T) {
	for _, f := range replicaFaults {
		for _, from := range []router.Side{router.Source, router.Target} {
			for _, at := range points(from) {
				if os.Getenv("E2E_FAILPOINTS") != "all" && !replicaSampled(f.name, at) {
					continue
				}
				t.Run(f.name+"/"+at.name, func(t *testing.T) {
					t.Parallel()
					r := f.run(t, at)
					st := r.c.awaitReady()
					if at.decided && st.Side == at.from {
						t.Fatalf("the switch was decided, and the applications are on the %s", st.Side)
					}
					r.oneWritable(st.Side)
					r.awaitFences(st.Side, st.Epoch > 0)
					r.settle(st.Side)
					for _, list := range r.replicas {
						for _, s := range list {
							mustBeClean(t, s)
						}
					}
				})
			}
		}
	}
}

// replicaSampled chooses the rows that are always run.
func replicaSampled(fault string, at point) bool {
	switch fault {
	case "kill":
		return at.name == "cutover.lag-gate:before" || at.name == "cutover.drain-2:before" || at.name == "rollback.release:before"
	case "kill-state-lost":
		return at.name == "rollback.journal:before"
	case "replica-restarted":
		return at.name == "cutover.hard-fence:before"
	case "replica-stopped":
		return at.name == "rollback.hard-fence:before"
	}
	return true
}
