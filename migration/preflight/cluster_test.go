package preflight

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/slot"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// clusterPool is pool for a URL that names a cluster.
func clusterPool(t *testing.T, url string) *conn.Pool {
	t.Helper()
	e, err := config.Server{URL: config.Secret(url)}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	e, topology := cluster.Follow(e, 2*time.Second, slog.New(slog.DiscardHandler))
	t.Cleanup(topology.Close)
	p := conn.New(e, "check", 2*time.Second)
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// intoCluster is environment for a cluster as the target.
func intoCluster(t *testing.T, from *redistest.Server, url string, places map[int]router.Place) Env {
	t.Helper()
	m, err := router.NewDBMap(places)
	if err != nil {
		t.Fatal(err)
	}
	return Env{
		From: pool(t, from.Addr(), "", from.Password()), To: clusterPool(t, url), FromName: "source", ToName: "target",
		Map: m, Explicit: true, SetNotifications: true, CreateUser: true,
	}
}

var apart = map[int]router.Place{0: {Prefix: "c0:"}, 3: {Prefix: "c3:"}}

// TestClusterAsTarget: what is said of a cluster that is whole, of each of its nodes, and of
// what clients do that it cannot.
func TestClusterAsTarget(t *testing.T) {
	ctx := t.Context()
	from := redistest.Start(t)
	must(t, from.Client(0).MSet(ctx, "a", 1, "b", 2).Err())
	must(t, from.Client(3).Set(ctx, "k", "hidden", 0).Err())
	must(t, from.Client(0).SInterStore(ctx, "c", "d", "e").Err())
	must(t, from.Client(0).Do(ctx, "SWAPDB", 4, 5).Err())
	c := redistest.StartCluster(t, 3, 1)
	env := intoCluster(t, from, c.URL(), apart)
	findings := run(t, env, StageCheck, append([]*redistest.Server{from}, c.Servers...)...)
	expect(t, findings, "reach", Pass, "6 nodes")
	expect(t, findings, "permissions", Pass, "all that is needed on 6 nodes")
	expect(t, findings, "cluster", Pass, "is whole: 3 masters")
	expect(t, findings, "cluster", Warn, "no way back", "--one-way")
	expect(t, findings, "cluster", Warn, "only with keys of one slot", "SINTERSTORE 1×", "hash tag")
	expect(t, findings, "cluster", Warn, "refused after the switch", "SWAPDB 1×")
	expect(t, findings, "role", Pass, "3 masters with 3 replicas")
	expect(t, findings, "databases", Pass, "3 keys are to be moved")
	only(t, findings, "restore")
	only(t, findings, "foreign-keys")
	if memory := count(findings, "memory"); memory != 3 {
		t.Errorf("the memory of %d masters was looked at", memory)
	}
	for _, f := range findings {
		if f.Level == Fail {
			t.Errorf("%+v", f)
		}
	}

	must(t, c.Client().Set(ctx, "c3:k", "theirs", 0).Err())
	master := c.Masters()[1]
	if master == c.Owner(slot.Of("c3:k")) { // it would throw the key away
		master = c.Masters()[2]
	}
	must(t, c.On(master).ConfigSet(ctx, "maxmemory", "1mb").Err())
	must(t, c.On(master).ConfigSet(ctx, "maxmemory-policy", "allkeys-lru").Err())
	must(t, c.On(c.Masters()[0]).Do(ctx, "ACL", "SETUSER", "default", "-restore").Err())
	must(t, c.On(c.Masters()[2]).ConfigSet(ctx, "cluster-require-full-coverage", "no").Err())
	findings = run(t, env, StageCheck)
	expect(t, findings, "foreign-keys", Fail, `begins with "c3:"`)
	expect(t, findings, "permissions", Warn, c.Masters()[0].Addr(), "RESTORE")
	expect(t, findings, "permissions", Pass, "on 5 nodes")
	expect(t, findings, "eviction", Fail, master.Addr())
	expect(t, findings, "cluster", Warn, "cluster-require-full-coverage", c.Masters()[2].Addr())
}

// count counts the findings of a check.
func count(findings []Finding, check string) (n int) {
	for _, f := range findings {
		if f.Check == check {
			n++
		}
	}
	return n
}

// TestClusterMap: databases that nobody has said a place of, and a map of numbers.
func TestClusterMap(t *testing.T) {
	ctx := t.Context()
	from := redistest.Start(t)
	must(t, from.Client(0).Set(ctx, "a", 1, 0).Err())
	must(t, from.Client(3).Set(ctx, "a", 1, 0).Err())
	c := redistest.StartCluster(t, 3, 0)
	env := intoCluster(t, from, c.URL(), map[int]router.Place{0: {}})
	env.Explicit = false
	findings := run(t, env, StageCheck)
	expect(t, findings, "databases", Fail, "database 3", "--map 0=0:c0:,3=0:c3:", "--leave-out 3")
	expect(t, findings, "cluster", Warn, "no replica")
	env = intoCluster(t, from, c.URL(), map[int]router.Place{0: {}, 3: {DB: 1}})
	expect(t, run(t, env, StageCheck), "databases", Fail, "has no database 1")
}

// TestClusterBroken: a cluster of which a part is gone.
func TestClusterBroken(t *testing.T) {
	from, c := redistest.Start(t), redistest.StartCluster(t, 3, 0)
	env := intoCluster(t, from, c.URL(), apart)
	dead := c.Servers[1]
	dead.Kill()
	redistest.Eventually(t, 20*time.Second, func() bool {
		text := c.On(c.Servers[0]).ClusterInfo(t.Context()).Val()
		return strings.Contains(text, "cluster_state:fail")
	}, "the cluster is down")
	if findings := run(t, env, StageCheck); !Failed(findings) {
		t.Errorf("nothing is wrong with a cluster without a master:\n%s", Table(findings, 120))
	} else {
		expect(t, findings, "reach", Fail, dead.Addr())
	}
}
