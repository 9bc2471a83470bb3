package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/internal/redistest/witness"
	"github.com/crossfade/crossfade/router"
)

const chaosMap = "0=0,3=5"

// TestChaosAcrossSwitches cuts, tears, stalls and swallows connections on all
// sides while clients of every kind check each of their replies, writers keep
// their history, and the traffic goes there and back. E2E_CHAOS says for how long
// in each mode, E2E_SEED repeats one.
func TestChaosAcrossSwitches(t *testing.T) {
	seed, err := strconv.ParseUint(os.Getenv("E2E_SEED"), 10, 64)
	if err != nil || seed == 0 {
		seed = rand.Uint64()
	}
	long, _ := time.ParseDuration(os.Getenv("E2E_CHAOS"))
	t.Logf("E2E_SEED=%d", seed)
	for _, mode := range []string{"shared", "pinned"} {
		t.Run(mode, func(t *testing.T) { chaosAcrossSwitches(t, mode, seed, long) })
	}
}

// tempest is a sidecar between links that break, and its clients.
type tempest struct {
	*testing.T
	servers [2]*redistest.Server
	up      [2]*redistest.Link
	down    *redistest.Link
	c       *sidecar
	crowd   *witness.Crowd
	seed    uint64
	n       uint64 // storms so far
}

func chaosAcrossSwitches(t *testing.T, mode string, seed uint64, long time.Duration) {
	x := &tempest{T: t, seed: seed}
	var urls [2]string
	for i := range x.servers {
		x.servers[i] = redistest.Start(t, redistest.WithACL("app on >secret ~w:* ~shared &* +@all", "lim on >word ~w:* &* +@all"))
		x.up[i] = redistest.NewLink(t, x.servers[i].Addr())
		urls[i] = "redis://" + x.up[i].Addr()
	}
	// A machine that is too busy for a short stall is no fault; a drain that hangs is.
	x.c = newSidecar(t, setup{source: urls[0], target: urls[1], dbmap: chaosMap, extra: []string{
		"--proxy.upstream", mode, "--proxy.loops", "2", "--cutover.max_stall", "15s",
	}})
	x.c.start("")
	x.c.awaitReady()
	x.down = redistest.NewLink(t, x.c.addr)
	x.crowd = witness.New(witness.Config{
		Addrs: []string{x.c.addr, x.down.Addr()}, Clients: 12, Prefix: "w", Databases: []int{0, 3}, Seed: seed, Big: 1 << 18, Switches: true,
		Users: []witness.User{{}, {Name: "app", Password: "secret"}, {Name: "lim", Password: "word", Denied: "shared"}},
	})
	loads := []*load{
		startLoad(t, history.Config{Addr: x.c.addr, Databases: []int{0, 3}, Writers: 2, Prefix: "steady", MaxRate: 300, OpTimeout: 20 * time.Second}),
		startLoad(t, history.Config{Addr: x.down.Addr(), Databases: []int{0, 3}, Writers: 2, Prefix: "shaken", MaxRate: 300, OpTimeout: 20 * time.Second, Protocol: 2}),
	}
	begin, rounds := time.Now(), 0
	for ; rounds < 2 || time.Since(begin) < long; rounds++ {
		x.round(rounds)
		if t.Failed() {
			return
		}
	}
	side := router.Side(rounds % 2)
	at := func(db int) int { return db }
	if side == router.Target {
		at = mapping(chaosMap)
	}
	for _, l := range loads {
		t.Logf("%s", l.mustHold(t, x.servers[side].Addr(), at))
	}
	x.c.end(side == router.Source)
	equalSides(t, x.servers[0], x.servers[1], chaosMap)
}

// storm disturbs a link until the returned function is called.
func (x *tempest) storm(l *redistest.Link) (end func()) {
	x.n++
	rng := rand.New(rand.NewPCG(x.seed, x.n))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.Storm(ctx, rng, 50*time.Millisecond) })
	return func() { cancel(); wg.Wait() }
}

// round storms on all sides, then switches the traffic while only the clients of
// one link are disturbed: nobody else may lose a connection by a switch.
func (x *tempest) round(i int) {
	lives, lost := x.crowd.Stats().Lives.Load(), x.crowd.Stats().Lost.Load()
	run := func(during func()) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() { x.crowd.Run(ctx) })
		defer wg.Wait()
		defer cancel()
		during()
	}
	x.crowd.Strict(x.c.addr, false)
	run(func() {
		ends := []func(){x.storm(x.down), x.storm(x.up[0]), x.storm(x.up[1])}
		<-time.After(1500 * time.Millisecond)
		for _, end := range ends {
			end()
		}
	})
	x.check(i, "in the storm", router.Side(i%2))
	x.c.awaitReady()
	x.crowd.Strict(x.c.addr, true)
	run(func() {
		end := x.storm(x.down)
		defer end()
		<-time.After(200 * time.Millisecond)
		do := x.c.cutover
		if i%2 == 1 {
			do = x.c.rollback
		}
		if _, err := do(); err != nil {
			x.Errorf("switch %d: %v", i, err)
		}
		<-time.After(300 * time.Millisecond)
	})
	if x.Failed() {
		x.Fatal(x.crowd.Violations())
	}
	x.check(i, "at the switch", router.Side((i+1)%2))
	x.Logf("round %d: %d lives, %d lost, %d commands so far", i, x.crowd.Stats().Lives.Load()-lives, x.crowd.Stats().Lost.Load()-lost, x.crowd.Stats().Commands.Load())
}

// check has the witnesses say what was wrong, and looks at what they have left.
func (x *tempest) check(i int, when string, side router.Side) {
	x.Helper()
	if err := x.crowd.Violations(); err != nil {
		x.Fatalf("round %d, %s (E2E_SEED=%d): %v", i, when, x.seed, err)
	}
	at := func(db int) int { return db }
	if side == router.Target {
		at = mapping(chaosMap)
	}
	clients := map[int]*redis.Client{}
	for _, db := range []int{0, 3} {
		clients[db] = x.servers[side].Client(at(db))
	}
	redistest.Eventually(x, 15*time.Second, func() error {
		return x.crowd.Verify(context.Background(), func(db int) *redis.Client { return clients[db] })
	}, "round %d, %s (E2E_SEED=%d): what is on the %s", i, when, x.seed, side)
}
