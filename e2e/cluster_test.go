package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/verify"
)

// clusterMap makes parts of a cluster's one database of two.
const clusterMap = "0=0:c0:,3=0:c3:"

// clustered is a server, a cluster that it is moved to, and writers who believe in one server.
type clustered struct {
	t    *testing.T
	src  *redistest.Server
	dst  *redistest.Cluster
	c    *sidecar
	load *load
}

func newClustered(t *testing.T, failpoints string, extra ...string) *clustered {
	t.Helper()
	k := &clustered{t: t, src: redistest.Start(t, keeping...), dst: redistest.StartCluster(t, 3, 1, keeping...)}
	k.c = newSidecar(t, setup{source: k.src.URL(0), target: k.dst.URL(), dbmap: clusterMap, extra: extra})
	k.c.start(failpoints)
	return k
}

func (k *clustered) write() {
	k.t.Helper()
	k.load = startLoad(k.t, history.Config{Addr: k.c.addr, Databases: []int{0, 3}, Writers: 4, MaxRate: 200, OpTimeout: 20 * time.Second})
	moreAcked(k.t, k.load, 200)
}

// leave is a cutover, tried again when clients would have waited for too long.
func (k *clustered) leave(o admin.SwitchRequest) migration.Report {
	k.t.Helper()
	var r migration.Report
	redistest.Eventually(k.t, time.Minute, func() (err error) {
		if r, err = k.c.ask(router.Source, o); err != nil && !outOfTime(err) {
			k.t.Fatalf("the cutover: %v", err)
		}
		return err
	}, "a cutover")
	return r
}

// awaitTarget waits until the applications are on the cluster and the switch is through.
func (k *clustered) awaitTarget() migration.Status {
	k.t.Helper()
	return k.c.await("on the cluster", func(s migration.Status) bool {
		return s.Side == router.Target && s.Phase == migration.ReverseLost
	})
}

// calm ends the writers and waits until all replicas have what was acknowledged: a cluster
// promises no more to those whose master dies.
func (k *clustered) calm() {
	k.t.Helper()
	if err := k.load.end(); err != nil {
		k.t.Fatal(err)
	}
	for _, m := range k.dst.Masters() {
		redistest.Eventually(k.t, 20*time.Second, func() error {
			text, err := k.dst.On(m).Info(context.Background(), "replication").Result()
			if err != nil {
				return err
			}
			at := valueOf(text, "master_repl_offset:")
			for line := range strings.Lines(text) {
				if strings.HasPrefix(line, "slave") && !strings.Contains(line, "offset="+at+",") {
					return fmt.Errorf("the master is at %s: %s", at, line)
				}
			}
			return nil
		}, "the replicas of %s", m.Addr())
	}
}

func valueOf(text, name string) string {
	_, after, _ := strings.Cut(text, name)
	value, _, _ := strings.Cut(after, "\r\n")
	return value
}

// view is what a client of a database sees by SCAN and KEYS, which must be the same.
func (k *clustered) view(db int, pattern string) map[string]string {
	k.t.Helper()
	c := redis.NewClient(redistest.Options(k.c.addr, db))
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Minute)
	defer cancel()
	out := make(map[string]string)
	iter := c.Scan(ctx, 0, pattern, 100).Iterator()
	for iter.Next(ctx) {
		out[iter.Val()] = c.Get(ctx, iter.Val()).Val()
	}
	if err := iter.Err(); err != nil {
		k.t.Fatalf("SCAN of database %d, after %d keys: %v", db, len(out), err)
	}
	keys := must[[]string](k.t)(c.Keys(ctx, pattern).Result())
	slices.Sort(keys)
	if scanned := slices.Sorted(maps.Keys(out)); !slices.Equal(keys, scanned) {
		k.t.Errorf("database %d: KEYS has %d keys, SCAN %d", db, len(keys), len(scanned))
	}
	return out
}

func (k *clustered) compare() {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Minute)
	defer cancel()
	if r := must[verify.Report](k.t)(k.c.admin.Verify(ctx, admin.VerifyRequest{})); !r.Complete || r.Differing != 0 {
		k.t.Fatalf("the sides differ:\n%s", r)
	}
}

// TestCluster moves two databases of a server into a cluster, under load, while masters of
// the cluster die before and after the switch.
func TestCluster(t *testing.T) {
	t.Parallel()
	k := newClustered(t, "")
	ctx := t.Context()
	for _, db := range []int{0, 3} {
		pipe := k.src.Client(db).Pipeline()
		for i := range 3000 {
			pipe.Set(ctx, fmt.Sprint("still:", i), fmt.Sprint(db, " ", i), 0)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			t.Fatal(err)
		}
	}
	k.c.await("the copy begins", func(s migration.Status) bool { return s.Phase != migration.Idle && s.Phase != migration.Preflight })
	k.write()
	st := k.c.awaitReady()
	if len(st.TargetNodes) != 6 || !strings.Contains(st.NoWayBack, "cluster") {
		t.Errorf("status: nodes %+v, no way back: %q", st.TargetNodes, st.NoWayBack)
	}
	before := map[int]map[string]string{0: k.view(0, "still:*"), 3: k.view(3, "still:*")}

	k.dst.Kill(k.dst.Masters()[0])
	k.c.awaitReady()
	k.compare()

	if why := wasRefused(t, second(k.c.ask(router.Source, admin.SwitchRequest{}))); !strings.Contains(why, "--one-way") {
		t.Errorf("a cutover that is not asked for as one without a way back: %s", why)
	}
	if r := k.leave(admin.SwitchRequest{DryRun: true}); !strings.Contains(strings.Join(r.Findings, " "), "no way back") {
		t.Errorf("the dry run does not say that there is no way back: %q", r.Findings)
	}
	k.leave(admin.SwitchRequest{Rehearse: true})
	r := k.leave(admin.SwitchRequest{OneWay: true})
	t.Logf("held %.1f ms, %d keys compared, the longest wait %.1f ms", r.Held, r.Checked, r.Stall.Max)
	if !r.OneWay || r.Fence != migration.FenceACL {
		t.Errorf("the report: one way %v, fence %s", r.OneWay, r.Fence)
	}
	k.awaitTarget()
	moreAcked(t, k.load, 200)
	if s := k.load.h.Stats(); s.Errors > 0 {
		t.Errorf("clients saw %d errors, the last: %s", s.Errors, s.LastError)
	}
	for db, want := range before {
		if got := k.view(db, "still:*"); !maps.Equal(got, want) {
			t.Errorf("database %d: clients see %d keys of %d", db, len(got), len(want))
		}
	}
	if why := wasRefused(t, second(k.c.rollback())); !strings.Contains(why, "no way back") {
		t.Errorf("a rollback: %s", why)
	}
	k.calm()
	k.dst.Kill(k.dst.Masters()[0])
	k.load.begin()
	moreAcked(t, k.load, 200)
	report := k.load.mustHold(t, k.c.addr, func(db int) int { return db })
	t.Log(report)

	// A restarted sidecar knows where the clients are, and that there is no way back.
	k.c.kill()
	k.c.start("")
	k.awaitTarget()
	k.load.mustHold(t, k.c.addr, func(db int) int { return db })
	cctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := k.c.admin.Complete(cctx, admin.CompleteRequest{}); err != nil {
		t.Fatal(err)
	}
	k.clean()
}

// clean checks that no key of ours is left on the cluster, nor keys outside the map.
func (k *clustered) clean() {
	k.t.Helper()
	for _, m := range k.dst.Masters() {
		for _, key := range must[[]string](k.t)(k.dst.On(m).Keys(k.t.Context(), "*").Result()) {
			if !strings.HasPrefix(key, "c0:") && !strings.HasPrefix(key, "c3:") {
				k.t.Errorf("left over on %s: %q", m.Addr(), key)
			}
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestClusterDeaths kills the sidecar at steps of a cutover to a cluster. Afterwards all
// that was acknowledged is where the clients are led to. E2E_CLUSTER=all takes more steps.
func TestClusterDeaths(t *testing.T) {
	t.Parallel()
	points := map[string]router.Side{
		"cutover.check:after":   router.Source,
		"cutover.journal:after": router.Target,
	}
	if os.Getenv("E2E_CLUSTER") == "all" {
		points["cutover.hard-fence:after"] = router.Source
		points["cutover.commit:after"] = router.Target
	}
	for point, want := range points {
		t.Run(point, func(t *testing.T) {
			k := newClustered(t, point+"=kill")
			k.c.awaitReady()
			k.write()
			redistest.Eventually(t, time.Minute, func() error {
				_, err := k.c.ask(router.Source, admin.SwitchRequest{OneWay: true})
				if !outOfTime(err) {
					err = nil
				}
				return err
			}, "the cutover")
			_ = k.c.awaitExit(20 * time.Second)
			k.c.start("")
			k.c.await("settled", func(s migration.Status) bool {
				return s.Side == want && (s.Phase == migration.Tailing || s.Phase == migration.ReverseLost)
			})
			moreAcked(t, k.load, 100)
			k.load.mustHold(t, k.c.addr, func(db int) int { return db })
			if want == router.Target {
				return
			}
			k.c.awaitReady()
			k.leave(admin.SwitchRequest{OneWay: true})
			k.awaitTarget()
			k.load.mustHold(t, k.c.addr, func(db int) int { return db })
		})
	}
}

// TestClusterFailsOver has a master of the cluster replaced in the middle of a cutover:
// before the journal it is taken back, or the new master is found whole.
func TestClusterFailsOver(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "point")
	k := newClustered(t, "cutover.drain-2:after#1=wait:"+file, "--cutover.max_stall", "60s")
	k.c.awaitReady()
	k.write()
	result := make(chan error, 1)
	go func() { result <- second(k.c.ask(router.Source, admin.SwitchRequest{OneWay: true})) }()
	s := &stage{t: t}
	err := <-s.heldDuring(result, new(atomic.Bool), file, func() {
		k.dst.Failover(k.dst.Replicas(k.dst.Masters()[1])[0])
	})
	t.Logf("the cutover: %v", err)
	var answered *admin.Error
	if err != nil && !errors.As(err, &answered) {
		t.Fatal(err)
	}
	if err != nil {
		k.c.awaitReady()
		moreAcked(t, k.load, 100)
		k.leave(admin.SwitchRequest{OneWay: true})
	}
	k.awaitTarget()
	moreAcked(t, k.load, 100)
	k.load.mustHold(t, k.c.addr, func(db int) int { return db })
}
