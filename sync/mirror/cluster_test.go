package mirror_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/slot"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// fleet is a source whose databases are mirrored into a cluster.
type fleet struct {
	src      *redistest.Server
	dst      *redistest.Cluster
	all      *redis.ClusterClient // which is nothing of ours
	from, to *conn.Pool
	places   map[int]router.Place
	m        *mirror.Mirror
}

// pooled is a pool of a cluster.
func pooled(t *testing.T, c *redistest.Cluster, name string) *conn.Pool {
	t.Helper()
	e, err := config.Server{URL: config.Secret(c.URL())}.Endpoint()
	ok(t, err)
	e, topology := cluster.Follow(e, 3*time.Second, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); topology.Run(ctx) }()
	p := conn.New(e, name, 3*time.Second)
	t.Cleanup(func() {
		_ = p.Close()
		cancel()
		<-ended
		topology.Close()
	})
	return p
}

func newFleet(t *testing.T, replicas int, places map[int]router.Place, change func(*mirror.Config)) *fleet {
	t.Helper()
	f := &fleet{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")), dst: redistest.StartCluster(t, 3, replicas), places: places,
	}
	f.all = f.dst.Client()
	f.from = conn.New(config.Endpoint{Network: "tcp", Address: f.src.Addr()}, "t:source", 3*time.Second)
	t.Cleanup(func() { _ = f.from.Close() })
	f.to = pooled(t, f.dst, "t:target")
	dbs, err := router.NewDBMap(places)
	ok(t, err)
	nothing := func(context.Context) error { return nil }
	cfg := mirror.Config{
		From: f.from, To: f.to, Map: dbs, Name: "source", Workers: 2, Batch: 64, ScanCount: 100, DirtyLimit: 100_000, BigKey: 16 << 10,
		Heartbeat: 500 * time.Millisecond, Timeout: 3 * time.Second, EnsureNotifications: nothing, CheckNotifications: nothing,
	}
	if change != nil {
		change(&cfg)
	}
	f.m = mirror.New(cfg, slog.New(slog.DiscardHandler))
	t.Cleanup(f.m.Stop)
	return f
}

// names are the keys of the cluster, without ours.
func (f *fleet) names(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	for _, s := range f.dst.Masters() {
		keys, err := f.dst.On(s).Keys(t.Context(), "*").Result()
		ok(t, err)
		for _, k := range keys {
			if !strings.HasPrefix(k, mirror.KeyPrefix) {
				names[k] = true
			}
		}
	}
	return names
}

// equal compares by plain commands of another client.
func (f *fleet) equal(t *testing.T) {
	t.Helper()
	left := f.names(t)
	total := 0
	for db, place := range f.places {
		c := f.src.Client(db)
		for _, k := range c.Keys(t.Context(), "*").Val() {
			if strings.HasPrefix(k, mirror.KeyPrefix) {
				continue
			}
			total++
			name := place.Prefix + k
			if !left[name] && c.Exists(t.Context(), k).Val() > 0 {
				t.Errorf("database %d: key %q is not there", db, k)
			}
			delete(left, name)
			if a, b := plain(t, c, k), plain(t, f.all, name); !slices.Equal(a, b) {
				t.Errorf("database %d: key %q differs: %.200q and %.200q", db, k, a, b)
			}
		}
	}
	for k := range left {
		if f.all.Exists(t.Context(), k).Val() > 0 {
			t.Errorf("key %q is on the target only", k)
		}
	}
	if total == 0 {
		t.Error("nothing was compared")
	}
	if t.Failed() {
		t.FailNow()
	}
}

func (f *fleet) drain(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := f.m.Drain(ctx); err != nil {
		t.Fatalf("%v; %+v", err, f.m.Progress())
	}
}

// everyType writes keys of all types, some of them big, and deletes some.
func everyType(t *testing.T, c *redis.Client, r *rand.Rand, n int) {
	t.Helper()
	ctx := context.Background()
	pipe := c.Pipeline()
	for range n {
		k := fmt.Sprintf("{%d}:%d", r.IntN(100), r.IntN(3))
		if r.IntN(2) == 0 {
			k = fmt.Sprintf("plain:%d", r.IntN(150))
		}
		size := 1
		if r.IntN(40) == 0 {
			k, size = fmt.Sprintf("big:%d", r.IntN(8)), 400
		}
		values := make([]any, 0, 2*size)
		for range size {
			values = append(values, fmt.Sprintf("f%d", r.IntN(1000)), strings.Repeat("v", r.IntN(100)))
		}
		switch r.IntN(9) {
		case 0:
			pipe.Set(ctx, "s:"+k, strings.Repeat("x", size*r.IntN(100)), 0)
		case 1:
			pipe.RPush(ctx, "l:"+k, values...)
		case 2:
			pipe.HSet(ctx, "h:"+k, values...)
		case 3:
			pipe.SAdd(ctx, "set:"+k, values...)
		case 4:
			for i, v := range values {
				pipe.ZAdd(ctx, "z:"+k, redis.Z{Score: float64(r.IntN(100)) / 4, Member: fmt.Sprint(i%10, v)})
			}
		case 5:
			for range min(size, 50) {
				pipe.XAdd(ctx, &redis.XAddArgs{Stream: "x:" + k, Values: values[:2]})
			}
		case 6:
			pipe.Del(ctx, "s:"+k, "l:"+k, "set:"+k)
		case 7:
			pipe.Expire(ctx, "h:"+k, time.Hour)
		case 8:
			pipe.LTrim(ctx, "l:"+k, 0, 50)
			pipe.Rename(ctx, "s:"+k, "s:moved:"+k)
		}
	}
	_, err := pipe.Exec(ctx)
	if err != nil && !strings.Contains(err.Error(), "no such key") {
		t.Error(err)
	}
}

// writing writes to the databases until stop is called.
func (f *fleet) writing(t *testing.T) (stop func()) {
	var wg sync.WaitGroup
	ended := make(chan struct{})
	for db := range f.places {
		c, r := f.src.Client(db), rand.New(rand.NewPCG(7, uint64(db)))
		wg.Go(func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(2 * time.Millisecond):
				}
				everyType(t, c, r, 20)
			}
		})
	}
	stop = sync.OnceFunc(func() { close(ended); wg.Wait() })
	t.Cleanup(stop) // before the servers end
	return stop
}

// some is n, or less where tests are to be short.
func some(n int) int {
	if testing.Short() {
		return n / 4
	}
	return n
}

func TestClusterCopyAndTail(t *testing.T) {
	f := newFleet(t, 0, map[int]router.Place{0: {Prefix: "c0:"}, 3: {Prefix: "{c3}:"}}, nil)
	for db := range f.places {
		everyType(t, f.src.Client(db), rand.New(rand.NewPCG(1, uint64(db))), some(4000))
		for i := range 3 { // they are written piece by piece
			ok(t, f.src.Client(db).Set(t.Context(), fmt.Sprintf("huge:%d", i), strings.Repeat("x", 5<<20+i), 0).Err())
		}
	}
	for i := range 200 { // nobody has them on the source
		ok(t, f.all.Set(t.Context(), fmt.Sprintf("c0:extra:%d", i), 1, 0).Err())
	}
	ok(t, f.src.Client(0).FunctionLoad(t.Context(), "#!lua name=lib\nredis.register_function('f', function() return 1 end)").Err())
	ok(t, f.m.Follow(t.Context(), true))
	stop := f.writing(t)
	redistest.Eventually(t, 60*time.Second, func() error {
		if p := f.m.Progress(); p.State != mirror.Live && p.State != mirror.Behind {
			return fmt.Errorf("%+v", p)
		}
		return nil
	}, "the first copy")
	time.AfterFunc(time.Second, stop)
	f.drain(t)
	stop()
	f.drain(t)
	f.equal(t)
	for _, s := range f.dst.Masters() {
		redistest.Eventually(t, 20*time.Second, func() bool {
			return len(f.dst.On(s).FunctionList(t.Context(), redis.FunctionListQuery{}).Val()) == 1
		}, "the function on %s", s.Addr())
		if n := len(f.dst.On(s).Keys(t.Context(), mirror.KeyPrefix+"tmp:*").Val()); n > 0 {
			t.Errorf("%d temporary keys are left on %s", n, s.Addr())
		}
	}
	if restarted, err := f.m.Restarted(t.Context()); restarted || err != nil {
		t.Errorf("restarted %v, %v", restarted, err)
	}
	p := f.m.Progress()
	if p.Gaps > 0 || len(p.Errors) > 0 {
		t.Errorf("%+v", p)
	}
}

// TestClusterIsResharded moves slots while keys are copied, and a scan of both sides runs.
func TestClusterIsResharded(t *testing.T) {
	f := newFleet(t, 0, map[int]router.Place{0: {}}, nil)
	everyType(t, f.src.Client(0), rand.New(rand.NewPCG(3, 3)), some(4000))
	for i := range 500 {
		ok(t, f.all.Set(t.Context(), fmt.Sprintf("extra:%d", i), 1, 0).Err())
	}
	stop := f.writing(t)
	ok(t, f.m.Follow(t.Context(), true))
	added := f.dst.Join()
	servers := append(slices.Clone(f.dst.Servers[:3]), added)
	r := rand.New(rand.NewPCG(5, 5))
	used := make(map[uint16]bool)
	for k := range f.names(t) {
		used[slot.Of(k)] = true
	}
	list := slices.Sorted(maps.Keys(used))
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	for i, s := range list[:min(len(list), some(300))] {
		f.dst.Move(servers[r.IntN(len(servers))], s)
		if i == some(150) {
			f.m.Rescan(-1, "of a test")
		}
	}
	// One stays half way.
	half := f.quiet(t)
	from := f.dst.Owner(half)
	next := servers[0]
	if next == from {
		next = servers[1]
	}
	f.dst.Open(next, half)
	f.dst.Carry(next, half, 1)
	f.m.Rescan(-1, "of a test")
	time.AfterFunc(500*time.Millisecond, stop)
	f.drain(t)
	stop()
	f.dst.Finish(next, half)
	f.drain(t)
	f.dst.Settle()
	f.equal(t)
	p := f.m.Progress()
	t.Logf("%+v", p.Errors)
	if p.Gaps > 0 {
		t.Errorf("%d gaps: %s", p.Gaps, p.Reason)
	}
	if restarted, err := f.m.Restarted(t.Context()); restarted || err != nil {
		t.Errorf("restarted %v, %v", restarted, err)
	}
}

// quiet returns a slot that has small strings only: others are put into place under another
// name, which a slot that is being moved does not let us.
func (f *fleet) quiet(t *testing.T) uint16 {
	t.Helper()
	names := make(map[uint16][]string)
	for k := range f.names(t) {
		names[slot.Of(k)] = append(names[slot.Of(k)], k)
	}
	for s, list := range names {
		if !slices.ContainsFunc(list, func(k string) bool { return !strings.HasPrefix(k, "s:plain:") }) {
			return s
		}
	}
	t.Fatal("no slot has small strings only")
	return 0
}

// TestClusterLosesMasters kills one, and has the replica of another take its place, while
// keys are copied.
func TestClusterLosesMasters(t *testing.T) {
	f := newFleet(t, 1, map[int]router.Place{0: {Prefix: "p:"}}, nil)
	everyType(t, f.src.Client(0), rand.New(rand.NewPCG(9, 9)), some(3000))
	ok(t, f.m.Follow(t.Context(), true))
	f.drain(t)
	stop := f.writing(t)
	killed := f.dst.Servers[0]
	f.dst.Kill(killed)
	redistest.Eventually(t, 60*time.Second, func() bool { return f.m.Progress().Gaps > 0 }, "a gap")
	if restarted, err := f.m.Restarted(t.Context()); !restarted || err != nil {
		t.Errorf("after a failover: restarted %v, %v", restarted, err)
	}
	for _, whole := range []bool{false, true} {
		still := func(context.Context) (bool, error) { return whole, nil }
		if got, err := f.m.Refilled(t.Context(), still); got != whole || err != nil {
			t.Errorf("whole: %v, %v", got, err)
		}
		if restarted, err := f.m.Restarted(t.Context()); restarted == whole || err != nil {
			t.Errorf("whole %v: restarted %v, %v", whole, restarted, err)
		}
		if err := f.m.Filled(t.Context(), nil)(); (err == nil) != whole {
			t.Errorf("whole %v: filled: %v", whole, err)
		}
	}
	stop()
	f.drain(t)
	f.equal(t)
	stop = f.writing(t)
	f.dst.Failover(f.dst.Replicas(f.dst.Servers[1])[0])
	ok(t, killed.Restart(t.Context()))
	f.dst.Settle()
	stop()
	f.drain(t)
	f.equal(t)
	for _, s := range f.dst.Masters() {
		redistest.Eventually(t, 20*time.Second, func() bool { return len(f.dst.On(s).Keys(t.Context(), mirror.KeyPrefix+"tmp:*").Val()) == 0 }, "no temporary keys on %s", s.Addr())
	}
}

// TestClusterNodeStopsAnswering freezes a master for longer than answers are waited for, but
// not for as long as a failover takes: what was sent to it may arrive late, and must not.
func TestClusterNodeStopsAnswering(t *testing.T) {
	f := newFleet(t, 0, map[int]router.Place{0: {}}, func(c *mirror.Config) { c.Timeout = time.Second })
	everyType(t, f.src.Client(0), rand.New(rand.NewPCG(2, 2)), some(3000))
	ok(t, f.m.Follow(t.Context(), true))
	f.drain(t)
	servers := f.dst.Servers
	if testing.Short() {
		servers = servers[:1]
	}
	for _, s := range servers {
		stop := f.writing(t)
		ok(t, s.Stop())
		redistest.Eventually(t, 20*time.Second, func() bool {
			return slices.ContainsFunc(f.m.Progress().Errors, func(e mirror.Error) bool { return strings.Contains(e.Text, s.Addr()) })
		}, "trouble with %s", s.Addr())
		ok(t, s.Cont())
		f.dst.Settle()
		stop()
		f.drain(t)
		f.equal(t)
	}
}
