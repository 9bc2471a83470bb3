package proxy

import (
	"context"
	"flag"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/witness"
	"github.com/redis/go-redis/v9"
)

var (
	chaosTime = flag.Duration("chaos", 0, "how long TestChaos lasts, for each of the modes; 0: one short round")
	chaosSeed = flag.Uint64("seed", 0, "of TestChaos; 0: another each time")
)

// inBothModes leaves a test that tries both modes to the run without -upstream pinned.
func inBothModes(t *testing.T) {
	t.Helper()
	if *upstreams == "pinned" {
		t.Skip("runs in both modes without -upstream pinned")
	}
}

// eachMode runs a test with shared connections and with one for each client.
func eachMode(t *testing.T, f func(t *testing.T, mode setting)) {
	inBothModes(t)
	for _, shared := range []bool{true, false} {
		name := "pinned"
		if shared {
			name = "shared"
		}
		t.Run(name, func(t *testing.T) { f(t, func(c *Config) { c.Shared = shared }) })
	}
}

// TestChaos has clients of every kind check each of their replies while
// connections are cut, torn, stalled and swallowed on both sides of the proxy:
// no reply is wrong, doubled or another's, nothing acknowledged is lost, and a
// connection is lost only where something was done to it.
func TestChaos(t *testing.T) {
	seed := *chaosSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	eachMode(t, func(t *testing.T, mode setting) {
		begin := time.Now()
		for i := uint64(0); i == 0 || time.Since(begin) < *chaosTime && !t.Failed(); i++ {
			chaos(t, mode, seed+i)
		}
	})
}

func chaos(t *testing.T, mode setting, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	source := redistest.Start(t, redistest.WithACL("app on >secret ~w:* ~shared &* +@all", "lim on >word ~w:* &* +@all"))
	up := redistest.NewLink(t, source.Addr())
	w := newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) {
		c.Upstreams[0].Dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", up.Addr())
		}
		c.Loops = 2
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of the proxy's log:\n%s", w.logs.end(8<<10))
		}
	})
	direct := w.proxy.Addr().String()
	down := redistest.NewLink(t, direct)
	crowd := witness.New(witness.Config{
		Addrs: []string{direct, down.Addr()}, Clients: 24, Prefix: "w", Databases: []int{0, 3}, Seed: seed,
		Users: []witness.User{{}, {Name: "app", Password: "secret"}, {Name: "lim", Password: "word", Denied: "shared"}},
	})
	phase := func(what string, d time.Duration, storms ...func(context.Context)) {
		before := crowd.Stats().Lives.Load()
		lost := crowd.Stats().Lost.Load()
		commands := crowd.Stats().Commands.Load()
		ctx, cancel := context.WithTimeout(context.Background(), d)
		defer cancel()
		var wg sync.WaitGroup
		for _, storm := range storms {
			wg.Go(func() { storm(ctx) })
		}
		crowd.Run(ctx)
		wg.Wait()
		lost, commands = crowd.Stats().Lost.Load()-lost, crowd.Stats().Commands.Load()-commands
		t.Logf("%s: %d commands in %d lives, %d lost", what, commands, crowd.Stats().Lives.Load()-before, lost)
		if commands == 0 || lost == 0 && len(storms) > 0 {
			t.Errorf("%s (-seed %d): that many commands and losses prove nothing", what, seed)
		}
		until(t, "all clients are gone", func() bool { return w.proxy.Stats().Clients == 0 })
		if err := crowd.Violations(); err != nil {
			t.Fatalf("%s (-seed %d): %v", what, seed, err)
		}
		var wrong error
		clients := map[int]*redis.Client{0: source.Client(0), 3: source.Client(3)}
		redistest.Eventually(t, patience, func() error {
			wrong = crowd.Verify(context.Background(), func(db int) *redis.Client { return clients[db] })
			return wrong
		}, "%s (-seed %d): what is on the server", what, seed)
	}
	const pause = 50 * time.Millisecond
	length := 1500 * time.Millisecond
	crowd.Strict(direct, true)
	crowd.Strict(down.Addr(), true)
	phase("calm", length)
	crowd.Strict(down.Addr(), false)
	r1, r2, r3, r4 := rand.New(rand.NewPCG(seed, 2)), rand.New(rand.NewPCG(seed, 3)), rand.New(rand.NewPCG(seed, 4)), rng
	phase("clients' side", length, func(ctx context.Context) { down.Storm(ctx, r1, pause) })
	crowd.Strict(direct, false)
	phase("server's side", length, func(ctx context.Context) { up.Storm(ctx, r2, pause) })
	phase("both sides", length, func(ctx context.Context) { up.Storm(ctx, r3, pause) }, func(ctx context.Context) { down.Storm(ctx, r4, pause) })
	crowd.Strict(direct, true)
	crowd.Strict(down.Addr(), true)
	until(t, "the last failures are forgotten", w.forgets)
	phase("calm again", length/2)
	if n := w.gate.Inside(); n != 0 {
		t.Errorf("%d commands are left inside the gate", n)
	}
}

// forgets reports whether nobody is being connected, or would be refused for an attempt of
// before: for redialWait after one that has failed others get what it got.
func (w *world) forgets() bool {
	forgets := true
	for i := range w.proxy.dampers {
		d := &w.proxy.dampers[i]
		d.mu.Lock()
		forgets = forgets && d.trying == nil && (d.err == nil || time.Since(d.at) > redialWait)
		d.mu.Unlock()
	}
	for _, l := range w.proxy.eventLoops() {
		l.call(func() {
			for _, tr := range l.trunks {
				forgets = forgets && (tr.ready || tr.failed != 0 && l.now-tr.failed > int64(redialWait))
			}
		})
	}
	return forgets
}
