package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/fleet"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// newFleetWorld is one whose target is a cluster. Its clients' databases are 0 only.
func newFleetWorld(t *testing.T, c *redistest.Cluster, places map[int]router.Place) *world {
	t.Helper()
	e := config.Endpoint{Network: "cluster", Address: c.Addrs()[0], Cluster: &config.Cluster{Seeds: c.Addrs()}}
	log := slog.New(slog.DiscardHandler)
	_, topo := cluster.Follow(e, 5*time.Second, log)
	f, err := fleet.New(topo, fleet.Options{}, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan struct{})
	go func() { defer close(ran); topo.Run(ctx) }()
	t.Cleanup(func() {
		f.Close()
		cancel()
		<-ran
		topo.Close()
	})
	dbs, err := router.NewDBMap(places)
	if err != nil {
		t.Fatal(err)
	}
	return newWorldMapped(t, redistest.Start(t), c.Servers[0], router.Route{Map: dbs}, func(cfg *Config) {
		cfg.Upstreams[router.Target].Dial = f.Dial
		before := cfg.Unblock
		cfg.Unblock = func(ctx context.Context, side router.Side, ids []int64) error {
			if side == router.Target {
				return f.Unblock(ctx, ids)
			}
			return before(ctx, side, ids)
		}
	})
}

// TestClusterTakesOver has clients in all states be switched from one server to a cluster.
func TestClusterTakesOver(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	w := newFleetWorld(t, c, map[int]router.Place{0: {}})
	plain, three, multi, watching, blocked, listening, scanning := w.client(), w.client(), w.client(), w.client(), w.client(), w.client(), w.client()
	plain.want("SET a 1", "+OK\r\n")
	three.do("HELLO 3")
	three.do("CLIENT SETNAME me")
	multi.want("MULTI", "+OK\r\n")
	multi.want("INCR {t}n", "+QUEUED\r\n")
	multi.want("INCR {t}n", "+QUEUED\r\n")
	watching.want("WATCH a", "+OK\r\n")
	listening.want("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
	blocked.send("BLPOP queue 0")
	until(t, "BLPOP waits", func() bool {
		return strings.Contains(fmt.Sprint(w.do(router.Source, 0, "INFO", "clients")), "blocked_clients:1")
	})
	for i := range 100 {
		plain.want(fmt.Sprint("SET scan:", i, " x"), "+OK\r\n")
	}
	scanning.do("SCAN 0 COUNT 10")

	w.switchTo(router.Target, func() {
		cc := c.Client()
		for i := range 100 {
			cc.Set(context.Background(), fmt.Sprint("scan:", i), "x", 0)
		}
		cc.Set(context.Background(), "a", "1", 0)
	})
	plain.want("GET a", "$1\r\n1\r\n")
	plain.want("MSET a 2 b 3 c 4", "+OK\r\n")
	plain.want("MGET a b c none", "*4\r\n$1\r\n2\r\n$1\r\n3\r\n$1\r\n4\r\n$-1\r\n")
	three.want("HSET h f v", ":1\r\n")
	three.want("HGETALL h", "%1\r\n$1\r\nf\r\n$1\r\nv\r\n")
	three.want("CLIENT GETNAME", "$2\r\nme\r\n")
	multi.want("EXEC", "*2\r\n:1\r\n:2\r\n")
	watching.want("MULTI", "+OK\r\n")
	watching.want("INCR a", "+QUEUED\r\n")
	watching.want("EXEC", "*-1\r\n")
	plain.want("PUBLISH news hi", ":1\r\n")
	listening.expect("*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$2\r\nhi\r\n")
	plain.want("RPUSH queue x", ":1\r\n")
	blocked.expect("*2\r\n$5\r\nqueue\r\n$1\r\nx\r\n")
	found := make(map[string]bool)
	for i, cursor := 0, "0"; ; i++ {
		if i > 1000 {
			t.Fatalf("SCAN has no end: it is at %s", cursor)
		}
		words := strings.Fields(scanning.do("SCAN " + cursor + " COUNT 20"))
		cursor = words[2]
		for _, word := range words {
			if strings.HasPrefix(word, "scan:") {
				found[word] = true
			}
		}
		if cursor == "0" {
			break
		}
	}
	if len(found) != 100 {
		t.Errorf("SCAN finds %d of 100 keys", len(found))
	}
	plain.want("SELECT 0", "+OK\r\n")
	if got := plain.do("SELECT 1"); got[0] != '-' {
		t.Errorf("SELECT 1: %q", got)
	}
	plain.want("DBSIZE", ":105\r\n")
	if got := plain.do("CLUSTER SLOTS"); got != "-ERR This instance has cluster support disabled\r\n" {
		t.Errorf("CLUSTER SLOTS: %q", got)
	}
}

// TestClusterBehindPrefixes has two databases be prefixes of the cluster's one.
func TestClusterBehindPrefixes(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	w := newFleetWorld(t, c, map[int]router.Place{0: {Prefix: "a:"}, 1: {Prefix: "b:"}})
	r := w.client()
	r.want("SET k 1", "+OK\r\n")
	w.switchTo(router.Target)
	for i := range 20 {
		r.want(fmt.Sprintf("SET k%d a", i), "+OK\r\n")
	}
	r.want("SELECT 1", "+OK\r\n")
	for i := range 10 {
		r.want(fmt.Sprintf("SET k%d b", i), "+OK\r\n")
		r.want(fmt.Sprintf("GET k%d", i), "$1\r\nb\r\n")
	}
	r.want("DBSIZE", ":10\r\n")
	r.want("MGET k0 k1 k15", "*3\r\n$1\r\nb\r\n$1\r\nb\r\n$-1\r\n")
	r.want("FLUSHDB", "+OK\r\n")
	r.want("DBSIZE", ":0\r\n")
	r.want("SELECT 0", "+OK\r\n")
	r.want("DBSIZE", ":20\r\n")
}

// TestClusterUnderLoad switches while clients write: none of them may notice.
func TestClusterUnderLoad(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	w := newFleetWorld(t, c, map[int]router.Place{0: {}})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var rounds atomic.Int64
	for n := range 8 {
		rdb := redis.NewClient(&redis.Options{Addr: w.proxy.Addr().String(), Protocol: 2 + n%2, MaxRetries: -1})
		wg.Add(1)
		go func() {
			defer wg.Done()
			defer func() { _ = rdb.Close() }()
			for i := 0; ctx.Err() == nil; i++ {
				k := fmt.Sprintf("c%d:%d", n, i%50)
				want := fmt.Sprint(i)
				pipe := rdb.Pipeline()
				pipe.Set(context.Background(), k, want, 0)
				got := pipe.Get(context.Background(), k)
				if _, err := pipe.Exec(context.Background()); err != nil || got.Val() != want {
					t.Errorf("%s is %q, %v, want %s", k, got.Val(), err, want)
					return
				}
				if _, err := rdb.TxPipelined(context.Background(), func(p redis.Pipeliner) error {
					p.Set(context.Background(), k, want, time.Hour)
					p.Get(context.Background(), k)
					return nil
				}); err != nil {
					t.Error(err)
					return
				}
				rounds.Add(1)
			}
		}()
	}
	until(t, "clients write", func() bool { return rounds.Load() > 200 })
	w.switchTo(router.Target)
	before := rounds.Load()
	until(t, "clients write to the cluster", func() bool { return rounds.Load() > before+500 })
	cancel()
	wg.Wait()
}
