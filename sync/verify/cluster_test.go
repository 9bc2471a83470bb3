package verify

import (
	"context"
	"log/slog"
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
	"github.com/crossfade/crossfade/sync/value"
)

// TestCluster compares a server with a cluster: what was planted there is found and mended,
// and nothing else, also while slots move and a master is replaced.
func TestCluster(t *testing.T) {
	a, b := redistest.Start(t), redistest.StartCluster(t, 3, 1)
	e, err := config.Server{URL: config.Secret(b.URL())}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	e, topology := cluster.Follow(e, 5*time.Second, slog.New(slog.DiscardHandler))
	pool := conn.New(e, "t", 5*time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { topology.Run(ctx) })
	t.Cleanup(func() {
		_ = pool.Close()
		cancel()
		following.Wait()
		topology.Close()
	})
	place := router.Place{Prefix: "v:"}
	src, dst := a.Client(0), pool.At(place)
	cfg := Config{
		Source: func(router.Place) *redis.Client { return src }, Target: pool.At, Databases: map[int]router.Place{0: place},
		Settle: 10 * time.Millisecond, Rounds: 3, Batch: 50,
	}
	compare := func() Report {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		began := time.Now()
		r, err := Run(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("compared in %v", time.Since(began))
		return r
	}
	fill(t, 200, src, dst)
	want := plantAll(t, src, dst)
	all := b.Client()
	run(t, src, "SET", "by another", 1)
	if err := all.Set(t.Context(), "v:by another", 2, 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := all.Set(t.Context(), "of others", 2, 0).Err(); err != nil {
		t.Fatal(err)
	}
	want["by another"] = value.Value
	wantFound(t, compare(), want)

	cfg.Repair = Mender(cfg)
	if r := compare(); !r.OK() || r.Repaired != int64(len(want)) {
		t.Errorf("not mended:\n%s", r)
	}
	cfg.Repair = nil
	if v, err := all.Get(t.Context(), "v:by another").Int(); err != nil || v != 1 {
		t.Errorf("%d, %v", v, err)
	}

	stop := b.Churn(func(i int) (*redistest.Server, uint16) {
		return b.Servers[i%3], slot.Of([]string{"v:str:7", "v:hash:7", "v:set:7", "v:big hash", "v:big string", "v:stream:8"}[i%6])
	})
	wantFound(t, compare(), map[string]value.Kind{})
	stop()

	if testing.Short() {
		return
	}
	b.Settle()
	heirs := b.Replicas(b.Servers[0])
	b.Servers[0].Kill()
	r := compare() // while one takes its place
	b.AwaitHeir(heirs)
	wantFound(t, r, map[string]value.Kind{})
	wantFound(t, compare(), map[string]value.Kind{})
}
