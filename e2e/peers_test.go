package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// full says that the cases take as long as the peers were given; else they are
// shortened, to be run with everything.
var full = os.Getenv("E2E_PEERS") == "full"

func scaled[T any](long, short T) T {
	if full {
		return long
	}
	return short
}

const peersMap = "0=0,3=5"

// peerCase is one case of the comparison with RedisShake 4.6.2, scan mode with
// keyspace notifications; shake is what that did.
type peerCase struct {
	name   string
	shake  string
	source []redistest.Option
	target []redistest.Option
	slow   bool // the target stands behind a slow link
	run    func(t *testing.T, p *peers)
}

var peerCases = []peerCase{
	{name: "SET and DEL storm", shake: "222 of 20 000 deleted keys live on", run: setAndDelete},
	{name: "short expiry", shake: "1 901 of 2 000 keys stay for ever", run: shortExpiry},
	{name: "RENAME, MOVE, COPY, EXAT in the past", shake: "the old keys stay for ever", run: movedKeys},
	{name: "eviction", shake: "11 259 of 11 618 evicted keys stay for ever",
		source: []redistest.Option{redistest.WithConfig("maxmemory", "4mb"), redistest.WithConfig("maxmemory-policy", "allkeys-lru")}, run: eviction},
	{name: "FLUSHDB through the proxy", shake: "the target is unchanged", run: flush(true, "FLUSHDB")},
	{name: "FLUSHDB past the proxy", shake: "the target is unchanged", run: flush(false, "FLUSHDB")},
	{name: "FLUSHALL through the proxy", shake: "the target is unchanged", run: flush(true, "FLUSHALL")},
	{name: "FLUSHALL past the proxy", shake: "the target is unchanged", run: flush(false, "FLUSHALL")},
	{name: "SWAPDB through the proxy", shake: "the target is unchanged", run: swap(true)},
	{name: "SWAPDB past the proxy", shake: "the target is unchanged", run: swap(false)},
	{name: "notification connection killed every second", shake: "exit 1; deletes lost for ever after a restart", run: feedKilled},
	{name: "notification buffer of 64 KB", shake: "the source closes it, exit 1",
		source: []redistest.Option{redistest.WithConfig("client-output-buffer-limit", "pubsub", "64kb", "64kb", "1")}, run: feedOverrun},
	{name: "notifications switched off", shake: "ignores every change from then on, says consistent: true", run: feedSwitchedOff},
	{name: "target stopped", shake: "exit 1 after 5 s", run: targetStopped},
	{name: "target killed, data kept", shake: "exit 1 after 5 s", target: []redistest.Option{redistest.WithAOF()}, run: targetKilled},
	{name: "target killed, data lost", shake: "exit 1 after 5 s", run: targetKilled},
	{name: "mass DEL with a slow target", shake: "its queue takes 1.9 GB", slow: true, run: massDelete},
	{name: "the tool is killed", shake: "starts from zero; extras stay", run: toolKilled},
}

// TestPeers has the cases in which others lose changes. The data must be equal at
// the end, by a comparison with plain commands, and what the sidecar says of
// itself true all along. (Notifications that cannot be switched on at all are in
// TestNotificationsCannotBeSwitchedOn.)
func TestPeers(t *testing.T) {
	if testing.Short() {
		t.Skip("takes its time; in the full run")
	}
	for _, pc := range peerCases {
		t.Run(pc.name, func(t *testing.T) {
			if !full {
				t.Parallel()
			}
			p := newPeers(t, pc)
			pc.run(t, p)
			p.end(t)
			t.Logf("equal; RedisShake: %s", pc.shake)
		})
	}
}

// peers is a running migration with everything watched.
type peers struct {
	src, dst *redistest.Server
	feed, to *redistest.Link // of the notifications; to the target, nil unless slow
	c        *sidecar
	truth    *truth
	proxied  [2]*redis.Client // of databases 0 and 3, through the proxy
	direct   [2]*redis.Client // past it
}

func newPeers(t *testing.T, pc peerCase) *peers {
	t.Helper()
	p := &peers{src: redistest.Start(t, pc.source...), dst: redistest.Start(t, pc.target...)}
	p.feed = redistest.NewLink(t, p.src.Addr())
	target := p.dst.URL(0)
	if pc.slow {
		p.to = redistest.NewLink(t, p.dst.Addr())
		target = "redis://" + p.to.Addr()
	}
	p.c = newSidecar(t, setup{source: p.src.URL(0), target: target, dbmap: peersMap, extra: []string{"--cutover.max_lag", truthLag.String()}})
	p.c.start(fmt.Sprintf("mirror.feed.%s=%s", router.Source, p.feed.Addr()))
	for i, db := range []int{0, 3} {
		p.direct[i] = p.src.Client(db)
		p.proxied[i] = redis.NewClient(redistest.Options(p.c.addr, db))
		t.Cleanup(func() { _ = p.proxied[i].Close() })
	}
	p.c.awaitReady()
	p.truth = watchTruth(t, p.c, p.src.Client(3), p.dst.Client(5))
	return p
}

func (p *peers) client(proxied bool, i int) *redis.Client {
	if proxied {
		return p.proxied[i]
	}
	return p.direct[i]
}

// end checks everything: the account that the sidecar gave of itself, the data,
// and its memory.
func (p *peers) end(t *testing.T) {
	t.Helper()
	p.truth.settled(t)
	// It said that it is equal, so it must be now, not some time later.
	if err := sidesDiffer(t, p.src, p.dst, peersMap); err != nil {
		t.Errorf("ready, nothing dirty, and yet: %v", err)
	}
	peak := p.c.memory("VmHWM")
	t.Logf("%d MB of memory at most", peak>>20)
	if !raceDetector && peak > 200<<20 {
		t.Errorf("the sidecar took %d MB of memory", peak>>20)
	}
}

// missing says of a key whether the target has got rid of it.
func (p *peers) missing(db int, key string) func(context.Context) (bool, error) {
	c := p.dst.Client(db)
	return func(ctx context.Context) (bool, error) {
		n, err := c.Exists(ctx, key).Result()
		return err == nil && n == 0, err
	}
}

// fill makes n strings in chunks.
func fill(t *testing.T, c *redis.Client, prefix string, n int) {
	t.Helper()
	for from := 0; from < n; from += 2000 {
		pipe := c.Pipeline()
		for i := from; i < min(n, from+2000); i++ {
			pipe.Set(t.Context(), fmt.Sprintf("%s:%d", prefix, i), i, 0)
		}
		if _, err := pipe.Exec(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func do(t *testing.T, c *redis.Client, args ...any) {
	t.Helper()
	if err := c.Do(t.Context(), args...).Err(); err != nil && !errors.Is(err, redis.Nil) {
		t.Fatalf("%v: %v", args, err)
	}
}

func setAndDelete(t *testing.T, p *peers) {
	const conns, keys, batch = 20, 20_000, 25
	var wg sync.WaitGroup
	for n := range conns {
		wg.Go(func() {
			c := p.client(n%2 == 0, n/2%2)
			for from := n; from < keys; from += conns * batch {
				pipe := c.Pipeline()
				for i := from; i < min(keys, from+conns*batch); i += conns {
					key := fmt.Sprintf("storm:%d", i)
					pipe.Set(t.Context(), key, "here", 0)
					pipe.Del(t.Context(), key)
				}
				if _, err := pipe.Exec(t.Context()); err != nil {
					t.Errorf("connection %d: %v", n, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func shortExpiry(t *testing.T, p *peers) {
	const keys = 2000
	for i := range keys {
		c := p.client(i%2 == 0, i/2%2)
		if err := c.Set(t.Context(), fmt.Sprintf("short:%d", i), "x", time.Duration(1+i%6)*time.Millisecond).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func movedKeys(t *testing.T, p *peers) {
	const each = 500
	for i := range 2 {
		fill(t, p.direct[i], "old", each)
		fill(t, p.direct[i], "over", each)
		fill(t, p.direct[i], "past", each)
		fill(t, p.direct[i], fmt.Sprintf("move%d", i), each)
	}
	for k := range each {
		proxied := k%2 == 0
		a, b := p.client(proxied, 0), p.client(proxied, 1)
		for _, c := range []*redis.Client{a, b} {
			do(t, c, "RENAME", fmt.Sprintf("old:%d", k), fmt.Sprintf("over:%d", k))
			do(t, c, "SET", fmt.Sprintf("past:%d", k), "x", "EXAT", 1)
		}
		do(t, a, "MOVE", fmt.Sprintf("move0:%d", k), 3)
		do(t, b, "MOVE", fmt.Sprintf("move1:%d", k), 0)
		do(t, a, "COPY", fmt.Sprintf("over:%d", k), fmt.Sprintf("copied:%d", k), "DB", 3)
		do(t, b, "COPY", fmt.Sprintf("over:%d", k), fmt.Sprintf("copied:%d", k), "DB", 0, "REPLACE")
	}
	p.truth.owe("RENAME", p.missing(0, "old:0"))
	p.truth.owe("MOVE", p.missing(0, "move0:0"))
	p.truth.owe("EXAT in the past", p.missing(5, "past:1"))
}

func eviction(t *testing.T, p *peers) {
	for i := range 2 {
		for from := 0; from < 10_000; from += 1000 {
			pipe := p.client(i == 0, i).Pipeline()
			for k := from; k < from+1000; k++ {
				pipe.Set(t.Context(), fmt.Sprintf("evict:%d", k), fmt.Sprintf("%0300d", k), 0)
			}
			if _, err := pipe.Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	stats, err := p.direct[0].InfoMap(t.Context(), "stats").Result()
	if err != nil || stats["Stats"]["evicted_keys"] == "0" {
		t.Fatalf("nothing was evicted: %v", err)
	}
	t.Logf("%s keys evicted", stats["Stats"]["evicted_keys"])
}

func flush(proxied bool, command string) func(*testing.T, *peers) {
	return func(t *testing.T, p *peers) {
		fill(t, p.direct[0], "flushed", 3000)
		fill(t, p.direct[1], "flushed", 3000)
		equalSides(t, p.src, p.dst, peersMap)
		do(t, p.client(proxied, 0), command)
		p.truth.owe(command, p.missing(0, "flushed:0"))
		fill(t, p.client(proxied, 0), "new", 300)
		equalSides(t, p.src, p.dst, peersMap)
	}
}

func swap(proxied bool) func(*testing.T, *peers) {
	return func(t *testing.T, p *peers) {
		fill(t, p.direct[0], "zero", 3000)
		fill(t, p.direct[1], "three", 2000)
		equalSides(t, p.src, p.dst, peersMap)
		do(t, p.client(proxied, 0), "SWAPDB", 0, 3)
		p.truth.owe("SWAPDB", p.missing(0, "zero:0"))
		fill(t, p.client(proxied, 0), "new", 300)
		equalSides(t, p.src, p.dst, peersMap)
	}
}

// churn writes, renames, expires and deletes at a rate, half of it through the
// proxy and half past it, until it is stopped.
type churn struct {
	stop   chan struct{}
	wg     sync.WaitGroup
	writes atomic.Int64
}

func startChurn(t *testing.T, p *peers, perSecond int, proxied ...bool) *churn {
	t.Helper()
	ch := &churn{stop: make(chan struct{})}
	const batch, keys = 25, 5000
	writers := 2 * len(proxied)
	every := time.Second * time.Duration(batch*writers) / time.Duration(perSecond)
	for n := range writers {
		ch.wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 7))
			c := p.client(proxied[n/2], n%2)
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				pipe := c.Pipeline()
				for range batch {
					one(pipe, rng, fmt.Sprintf("churn:%d", rng.IntN(keys)), fmt.Sprintf("churn:%d", rng.IntN(keys)))
				}
				// RENAME of a key that is not there is an error, and no harm.
				if _, err := pipe.Exec(context.Background()); err != nil && !strings.Contains(err.Error(), "no such key") {
					t.Errorf("writer %d (through the proxy: %v): %v", n, proxied[n/2], err)
					return
				}
				ch.writes.Add(batch)
				select {
				case <-tick.C:
				case <-ch.stop:
					return
				}
			}
		})
	}
	t.Cleanup(ch.end)
	return ch
}

// end returns when every writer has had its last reply.
func (ch *churn) end() {
	select {
	case <-ch.stop:
	default:
		close(ch.stop)
	}
	ch.wg.Wait()
}

func one(pipe redis.Pipeliner, rng *rand.Rand, a, b string) {
	ctx := context.Background()
	switch rng.IntN(10) {
	case 0, 1, 2:
		pipe.Set(ctx, a, rng.Uint64(), 0)
	case 3, 4:
		pipe.Del(ctx, a)
	case 5:
		pipe.Rename(ctx, a, b)
	case 6:
		pipe.HSet(ctx, a+":h", b, rng.Uint32())
	case 7:
		pipe.RPush(ctx, a+":l", b)
		pipe.LTrim(ctx, a+":l", -5, -1)
	case 8:
		pipe.PExpire(ctx, a, time.Duration(1+rng.IntN(3000))*time.Millisecond)
	case 9:
		pipe.ZAdd(ctx, a+":z", redis.Z{Score: rng.Float64(), Member: b})
	}
}

// testsOf are the tests of a file that the page names, before the file.
var testsOf = regexp.MustCompile("((?:`Test[A-Za-z]+`(?:, )?)+) \\(([a-z0-9/]+_test\\.go)\\)")

// TestPeersPage: the page for those who come from there has every case, and the tests
// that it names are there.
func TestPeersPage(t *testing.T) {
	page := must[[]byte](t)(os.ReadFile("../docs/redisshake.md"))
	for _, pc := range peerCases {
		if line := "| " + pc.name + " | " + pc.shake + " |\n"; !strings.Contains(string(page), line) {
			t.Errorf("docs/redisshake.md lacks the line %s", line)
		}
	}
	named := 0
	for _, m := range testsOf.FindAllSubmatch(page, -1) {
		file := must[[]byte](t)(os.ReadFile(filepath.Join("..", string(m[2]))))
		for name := range strings.SplitSeq(string(m[1]), ", ") {
			named++
			if name = strings.Trim(name, "`"); !strings.Contains(string(file), "func "+name+"(t *testing.T)") {
				t.Errorf("docs/redisshake.md names %s, which is not in %s", name, m[2])
			}
		}
	}
	if all := strings.Count(string(page), "`Test"); named != all {
		t.Errorf("%d tests are named, %d of them with their file", all, named)
	}
}
