package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/proxy"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// parts is what `crossfade run` consists of, in this process: only here can be
// counted what is left of it.
type parts struct {
	t         *testing.T
	file      *store.File
	pools     [2]*conn.Pool // to wake blocked clients with
	proxy     *proxy.Server
	migration *migration.Migration
	proxyEnds func()
	copyEnds  func()
}

type partsTraffic struct{ *proxy.Server }

func (t partsTraffic) Stalls() migration.Stalls {
	s := t.Server.Stalls()
	return migration.Stalls{Sessions: s.Sessions, P50: s.P50, P99: s.P99, Max: s.Max}
}

func (t partsTraffic) Shadow(percent int) { t.Server.Shadow(float64(percent) / 100) }

func (t partsTraffic) Shadowed() int64 { return t.Alike() }

type partsObserver struct{ *migration.Migration }

func newParts(t *testing.T, servers [2]*redistest.Server) *parts {
	t.Helper()
	p := &parts{t: t}
	c := config.Default()
	c.Listen = []string{"127.0.0.1:0"}
	c.Databases = map[int]config.Place{0: {DB: 3}, 3: {}}
	c.Sync.Heartbeat = 200 * time.Millisecond
	log := slog.New(slog.DiscardHandler)
	var ends [2]config.Endpoint
	pc := proxy.Config{Listen: []proxy.Listen{{Network: "tcp", Address: c.Listen[0]}}, DialTimeout: c.Proxy.DialTimeout, ShutdownTimeout: c.Proxy.ShutdownTimeout, Unblock: p.unblock}
	for side, s := range servers {
		ends[side] = must[config.Endpoint](t)(config.Server{URL: config.Secret(s.URL(0))}.Endpoint())
		p.pools[side] = conn.New(ends[side], "unblock", c.Proxy.DialTimeout)
		pc.Upstreams[side] = proxy.Upstream{Dial: func(ctx context.Context) (net.Conn, error) {
			return endpoint.Dial(ctx, ends[side], c.Proxy.DialTimeout)
		}}
	}
	p.file = must[*store.File](t)(store.OpenFile(filepath.Join(t.TempDir(), "state")))
	gate := router.NewGate(router.Route{Side: router.Source})
	if err := gate.Shut(t.Context()); err != nil {
		t.Fatal(err)
	}
	see := &partsObserver{}
	p.proxy = must[*proxy.Server](t)(proxy.New(pc, gate, see, log))
	p.migration = migration.New(migration.Options{
		Config: c, Source: ends[router.Source], Target: ends[router.Target],
		Gate: gate, Traffic: partsTraffic{p.proxy}, File: p.file,
	}, log)
	see.Migration = p.migration
	if err := p.proxy.Listen(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *parts) unblock(ctx context.Context, side router.Side, ids []int64) error {
	pipe := p.pools[side].DB(0).Pipeline()
	for _, id := range ids {
		pipe.ClientUnblockWithError(ctx, id)
	}
	_, err := pipe.Exec(ctx)
	return err
}

// begin serves; close ends the clients first and then the copy.
func (p *parts) begin() {
	p.t.Helper()
	if err := p.migration.Recover(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.proxyEnds = p.background("proxy", p.proxy.Serve)
	p.copyEnds = p.background("migration", p.migration.Run)
}

// background runs a part until the function that it returns is called.
func (p *parts) background(name string, run func(context.Context) error) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	return func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil && !errors.Is(err, context.Canceled) {
				p.t.Errorf("the %s ended with %v", name, err)
			}
		case <-time.After(30 * time.Second):
			p.t.Errorf("the %s has not ended after 30 s", name)
		}
	}
}

func (p *parts) close() {
	p.proxyEnds()
	p.copyEnds()
	for _, pool := range p.pools {
		_ = pool.Close()
	}
	if err := p.file.Close(); err != nil {
		p.t.Error(err)
	}
}

func (p *parts) awaitReady() {
	p.t.Helper()
	redistest.Eventually(p.t, 30*time.Second, func() error {
		if s := p.migration.Status(); !s.Ready {
			return fmt.Errorf("phase %s, reasons %q", s.Phase, s.Reasons)
		}
		return nil
	}, "ready")
}

// idlers are clients that hold something open over every switch and are never
// closed by themselves: blocked, subscribed, in a transaction, watching.
type idlers struct {
	clients []*redis.Client
	ended   sync.WaitGroup
}

func startIdlers(t *testing.T, addr string) *idlers {
	t.Helper()
	i := &idlers{}
	client := func() *redis.Client {
		o := redistest.Options(addr, 3)
		o.PoolSize, o.ReadTimeout = 1, time.Minute
		c := redis.NewClient(o)
		i.clients = append(i.clients, c)
		return c
	}
	blocked := client()
	i.ended.Go(func() { _ = blocked.BLPop(context.Background(), 0, "never pushed").Err() })
	sub := client().Subscribe(t.Context(), "news")
	if _, err := sub.Receive(t.Context()); err != nil {
		t.Fatal(err)
	}
	i.ended.Go(func() {
		for {
			if _, err := sub.ReceiveMessage(context.Background()); err != nil {
				_ = sub.Close()
				return
			}
		}
	})
	queued := client().Conn()
	for _, args := range [][]any{{"WATCH", "a"}, {"MULTI"}, {"SET", "a", 1}} {
		if err := queued.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

func (i *idlers) close() {
	for _, c := range i.clients {
		_ = c.Close()
	}
	i.ended.Wait()
}

// TestNothingLeft makes a cutover and a rollback under load, with clients that
// block, subscribe and queue, ends everything, and looks for goroutines. One
// time the clients go first, one time the proxy has to close them.
func TestNothingLeft(t *testing.T) {
	for name, clientsFirst := range map[string]bool{"clients close first": true, "the proxy closes clients": false} {
		t.Run(name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			// Cleanups run in the opposite order: after the servers have ended. It
			// may take a moment: a go-redis client that was refused (the writers',
			// once the proxy has ended) sleeps a second before it sees that it is closed.
			t.Cleanup(func() {
				redistest.Eventually(t, 10*time.Second, func() error { return goleak.Find(before) }, "no goroutine is left")
			})
			nothingLeft(t, clientsFirst)
		})
	}
}

func nothingLeft(t *testing.T, clientsFirst bool) {
	servers := [2]*redistest.Server{redistest.Start(t), redistest.Start(t)}
	p := newParts(t, servers)
	p.begin()
	addr := p.proxy.Addr().String()
	through := startLoad(t, history.Config{Addr: addr, Databases: []int{0, 3}, Writers: 4, Prefix: "app", MaxRate: 200})
	direct := startLoad(t, history.Config{Addr: servers[0].Addr(), Databases: []int{0}, Writers: 1, Prefix: "direct", MaxRate: 200})
	idle := startIdlers(t, addr)
	moreAcked(t, through, 100)
	p.awaitReady()
	if _, err := p.migration.Cutover(t.Context(), migration.SwitchOptions{}); err != nil {
		t.Fatal(err)
	}
	moreAcked(t, through, 100)
	p.awaitReady()
	if _, err := p.migration.Rollback(t.Context(), migration.SwitchOptions{}); err != nil {
		t.Fatal(err)
	}
	moreAcked(t, through, 100)
	p.awaitReady()
	t.Logf("%d goroutines", runtime.NumGoroutine())
	if clientsFirst {
		idle.close()
		through.mustHold(t, servers[0].Addr(), func(db int) int { return db })
		direct.mustHold(t, servers[0].Addr(), func(db int) int { return db })
		p.close()
		return
	}
	p.close()
	idle.close()
	if err := errors.Join(through.end(), direct.end()); err != nil {
		t.Fatal(err)
	}
}
