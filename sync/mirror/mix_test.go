package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/filter"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/value"
)

// TestMix takes together what other tests try one at a time: servers that refuse
// commands, keys that count as big, filters, marks that are lost, scans that are slow,
// changes through the proxy and past it, and whatever may break meanwhile. After each
// round a Drain that says that all is on the other side must be right at once. MIX_RUNS
// is how many of them, MIX_SEED repeats one, MIX_TARGET is another server for the target.
func TestMix(t *testing.T) {
	runs, err := strconv.Atoi(os.Getenv("MIX_RUNS"))
	if err != nil {
		runs = 2
	}
	seed, err := strconv.ParseUint(os.Getenv("MIX_SEED"), 10, 64)
	if err != nil || seed == 0 {
		seed = rand.Uint64()
	} else {
		runs = 1
	}
	for i := range runs {
		if i > 0 {
			seed = rand.Uint64()
		}
		if !t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { newMix(t, seed).run() }) {
			return
		}
	}
}

// mix is one run.
type mix struct {
	t      *testing.T
	r      *rand.Rand
	w      *world
	f      *filter.Filter
	own    map[int]map[string]string // what the target has of its own
	words  []string                  // how this run is
	back   *redistest.Server         // a replica of the source, for a failover
	feed   *redistest.Link           // between the source and all
	copies *redistest.Link           // before the target
	cfg    mirror.Config
	ended  bool      // the mirror was stopped, and there is another that does not follow yet
	ways   [2]string // to the source: through the proxy, and past it
	faults []string
	fields bool // of hashes may expire
}

func (x *mix) chance(n int, word string) bool {
	if x.r.IntN(n) > 0 {
		return false
	}
	x.words = append(x.words, word)
	return true
}

var mixFilters = map[string][2][]string{
	"names":           {{"a:*", "b:?"}, nil},
	"types":           {nil, {"hash", "string", "list"}},
	"one type":        {nil, {"zset"}},
	"names and types": {{"?:[0-4]"}, {"hash", "set", "stream", "list"}},
}

func newMix(t *testing.T, seed uint64) *mix {
	x := &mix{t: t, r: rand.New(rand.NewPCG(seed, 0))}
	src := []redistest.Option{redistest.WithConfig("notify-keyspace-events", "KEA")}
	var dst []redistest.Option
	if path := os.Getenv("MIX_TARGET"); path != "" {
		dst = append(dst, redistest.WithBinary(path))
	}
	for _, one := range []struct {
		chance int
		source bool
		what   string
	}{
		{2, false, "RESTORE"}, {6, false, "UNLINK"}, {6, false, "MEMORY"}, {8, false, "PEXPIRETIME"}, {10, false, "DUMP"},
		{6, true, "MEMORY"}, {6, true, "PEXPIRETIME"}, {8, true, "DUMP"}, {10, true, "SMISMEMBER"}, {10, true, "ZMSCORE"}, {4, true, "GETRANGE"}, {4, false, "GETRANGE"},
	} {
		if one.what == "GETRANGE" && len(x.words) > 0 {
			continue // with others there may be no way at all, nor one to compare
		}
		side := &dst
		if one.source {
			side = &src
		}
		if x.chance(one.chance, fmt.Sprintf("no %s (source %v)", one.what, one.source)) {
			*side = append(*side, redistest.WithRenamed(one.what, ""))
		}
	}
	x.w = &world{src: redistest.Start(t, src...), dst: redistest.Start(t, dst...)}
	err := x.w.src.Client(0).Do(t.Context(), "HPERSIST", "none", "FIELDS", 1, "f").Err()
	x.fields = err == nil || errors.Is(err, redis.Nil)
	x.feed, x.copies = redistest.NewLink(t, x.w.src.Addr()), redistest.NewLink(t, x.w.dst.Addr())
	if x.r.IntN(3) == 0 {
		name := []string{"names", "types", "one type", "names and types"}[x.r.IntN(4)]
		x.words = append(x.words, "filter by "+name)
		x.f = only(t, mixFilters[name][0], mixFilters[name][1])
	}
	failover := x.chance(3, "failover")
	if failover {
		x.back = redistest.Start(t, append(src, redistest.WithConfig("replicaof", "127.0.0.1", strconv.Itoa(x.w.src.Port())))...)
	}
	x.own = map[int]map[string]string{}
	restarts := x.chance(3, "the target loses its data")
	if x.f != nil && !restarts {
		for _, to := range []int{0, 5} {
			c := x.w.dst.Client(to)
			for i := range 20 {
				ok(t, c.SetBit(t.Context(), fmt.Sprintf("other:%d", i), 5, 1).Err())
			}
			if x.f.Typed() {
				ok(t, c.GeoAdd(t.Context(), "hll", &redis.GeoLocation{Name: "x"}).Err())
			}
			x.own[to] = x.names(c)
			for k := range x.own[to] {
				if x.f.Name(k) && x.f.Type(c.Type(t.Context(), k).Val()) {
					ok(t, c.Del(t.Context(), k).Err())
					delete(x.own[to], k)
				}
			}
		}
	}
	x.w.connect(t, x.feed.Addr(), x.copies.Addr(), func(c *mirror.Config) {
		c.Only, c.AcceptLoss = x.f, true
		c.Timeout = 500 * time.Millisecond
		c.Heartbeat = 100 * time.Millisecond
		c.Workers, c.Batch = 1+x.r.IntN(3), []int{0, 1, 5, 64}[x.r.IntN(4)]
		c.ScanCount = []int{0, 1, 10}[x.r.IntN(3)]
		if x.chance(2, "all are big") {
			c.BigKey = int64([]int{100, 1000, 4000}[x.r.IntN(3)])
		}
		if x.chance(3, "marks are lost") {
			c.DirtyLimit = 1 + x.r.IntN(5)
		}
		if x.chance(8, "tracking") {
			c.Feed = mirror.FeedTracking
		}
		check := func(ctx context.Context) error {
			got, err := c.From.DB(0).ConfigGet(ctx, "notify-keyspace-events").Result()
			if err == nil && got["notify-keyspace-events"] == "" {
				return &mirror.NotificationsOff{Need: "KEA", Command: "CONFIG SET"}
			}
			return nil
		}
		c.CheckNotifications = check
		c.EnsureNotifications = func(ctx context.Context) error {
			if check(ctx) != nil {
				return c.From.DB(0).ConfigSet(ctx, "notify-keyspace-events", "KEA").Err()
			}
			return nil
		}
		x.cfg = *c
	})
	x.ways = [2]string{x.w.proxyBefore(t, x.feed.Addr()), x.feed.Addr()}
	x.faults = []string{"cut all", "cut the target", "cut some", "feed gone", "clients of the source gone", "clients of the target gone", "stall the source", "stall the target",
		"torn", "torn up", "swallow", "flags off", "slow", "rescan", "drain", "another mirror"}
	if failover {
		x.faults = append(x.faults, "failover", "failover")
	}
	if restarts {
		x.faults = append(x.faults, "restart the target", "restart the target")
	}
	if x.chance(4, "the source restarts") && !failover {
		x.faults = append(x.faults, "restart the source")
	}
	return x
}

func (x *mix) run() {
	t := x.t
	t.Logf("%s", strings.Join(x.words, "; "))
	if x.r.IntN(2) == 0 {
		x.write(40, nil)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ok(t, x.w.m.Follow(ctx, true))
	for round := range 5 {
		faults := make([]string, x.r.IntN(4))
		for i := range faults {
			faults[i] = x.faults[x.r.IntN(len(x.faults))]
		}
		x.write(10+x.r.IntN(150), faults)
		what := fmt.Sprintf("round %d, after %v", round, faults)
		// At once, with whatever is broken still: it may not be able to tell, but what
		// it tells must be so.
		early, done := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if !x.ended && x.w.m.Drain(early) == nil {
			x.compare(what + ", early")
		}
		done()
		x.heal()
		if x.ended {
			x.ended = false
			redistest.Eventually(t, time.Minute, func() error { return x.w.m.Follow(t.Context(), true) }, "%s: another mirror follows", what)
		}
		redistest.Eventually(t, time.Minute, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := x.w.m.Drain(ctx); err != nil {
				return fmt.Errorf("%w: %+v", err, x.w.m.Progress())
			}
			return nil
		}, "%s: drained", what)
		x.compare(what)
		redistest.Eventually(t, time.Minute, func() error {
			if p := x.w.m.Progress(); p.State != mirror.Live {
				return fmt.Errorf("%+v", p)
			}
			return nil
		}, "%s: live", what)
	}
}

// write lets three clients change keys while faults happen.
func (x *mix) write(n int, faults []string) {
	var wg sync.WaitGroup
	ctx, stop := context.WithTimeout(x.t.Context(), 3*time.Second)
	defer stop()
	hot := x.r.IntN(2) == 0
	for g := range 3 {
		r := rand.New(rand.NewPCG(x.r.Uint64(), 0))
		wg.Go(func() {
			way := g % 2 // two through the proxy
			var clients [2]*redis.Client
			for i, db := range []int{0, 3} {
				o := redistest.Options(x.ways[way], db)
				o.DialTimeout, o.ReadTimeout, o.WriteTimeout = time.Second, time.Second, time.Second
				clients[i] = redis.NewClient(o)
				defer func() { _ = clients[i].Close() }()
			}
			for range n {
				if ctx.Err() != nil {
					return
				}
				x.change(ctx, clients[r.IntN(2)], r, way == 0, hot)
				if r.IntN(4) == 0 {
					<-time.After(time.Duration(r.IntN(3)) * time.Millisecond) // as clients do
				}
			}
		})
	}
	for _, f := range faults {
		pause := time.NewTimer(time.Duration(x.r.IntN(40)) * time.Millisecond)
		<-pause.C
		x.fault(f)
	}
	wg.Wait()
}

func mixKey(r *rand.Rand, hot bool) string {
	if hot {
		return fmt.Sprintf("a:%d", r.IntN(3))
	}
	return fmt.Sprintf("%c:%d", 'a'+rune(r.IntN(3)), r.IntN(7))
}

// mixTemplates are commands on a key K, another one J, an element E, a number N, many
// elements ES, many pairs PS, many scores ZS, a long text L.
var mixTemplates = strings.Split(strings.TrimSpace(`
SET K E
SET K E
SET K L
SET K E PX 100000
SET K E PX 3
SET K E EXAT 1
SETRANGE K 700 E
APPEND K E
APPEND K L
GETEX K PX 200000
GETEX K PERSIST
PFADD K E N
RPUSH K E
RPUSH K E
RPUSH K ES
LPUSH K E
LPUSH K ES
LPOP K
LPOP K 5
RPOP K 3
LSET K 0 E
LTRIM K 0 20
LINSERT K BEFORE E N
LMOVE K J LEFT RIGHT
SADD K E
SADD K E N
SADD K ES
SREM K E
SREM K ES
SPOP K
SMOVE K J E
SUNIONSTORE K J K
ZADD K N E
ZADD K CH N E
ZADD K NX N E
ZADD K INCR N E
ZADD K ZS
ZINCRBY K 0.3 E
ZINCRBY K 0 E
ZREM K E
ZPOPMIN K 2
ZUNIONSTORE K 2 J K
HSET K E N
HSET K E N
HSET K PS
HDEL K E
HDEL K ES
HINCRBY K n 1
HINCRBYFLOAT K f 0.7
HSETNX K E N
XADD K * f E
XADD K MAXLEN 3 * f L
XADD K * PS
XTRIM K MAXLEN 2
DEL K
DEL K
UNLINK K
RENAME K J
COPY K J REPLACE
MOVE K 3
EXPIRE K 1000
PEXPIRE K 3
EXPIRE K 0
PERSIST K
EVAL return(redis.call('SET',KEYS[1],ARGV[1])) 1 K E
EVAL return(redis.call('HSET',KEYS[1],ARGV[1],ARGV[1])) 1 K E
`), "\n")

// mixSilent are those of which no event comes, or none where tracking is the feed: for
// clients of the proxy.
var mixSilent = strings.Split(strings.TrimSpace(`
XGROUP CREATE K g 0 MKSTREAM
XGROUP SETID K g $
XGROUP DESTROY K g
XSETID K 9999999999999-5
XREADGROUP GROUP g E COUNT 2 STREAMS K >
XREADGROUP GROUP g E COUNT 20 STREAMS K >
XAUTOCLAIM K g E 0 0
PFCOUNT K
FLUSHDB
SWAPDB 0 3
`), "\n")

// mixFields are about the expiries of fields, where the source knows such (Redis 7.4, 8.0,
// Valkey 9).
var mixFields = strings.Split(strings.TrimSpace(`
HPEXPIRE K 100000 FIELDS 1 E
HPEXPIRE K 3 FIELDS 1 E
HPEXPIRE K 3 FIELDS 3 e1 e2 e3
HEXPIRE K 1000 FIELDS 2 e4 e5
HEXPIRE K 0 FIELDS 1 E
HPERSIST K FIELDS 1 E
HSET K E N
HSETEX K PX 100000 FIELDS 1 E N
HSETEX K PX 3 FIELDS 1 E N
HGETEX K PX 100000 FIELDS 1 E
HGETEX K PERSIST FIELDS 1 E
HGETDEL K FIELDS 1 E
`), "\n")

func mixCommand(r *rand.Rand, proxied, hot, fields bool) []any {
	var text string
	switch {
	case fields && r.IntN(8) == 0:
		text = mixFields[r.IntN(len(mixFields))]
	case !proxied || r.IntN(12) > 0:
		text = mixTemplates[r.IntN(len(mixTemplates))]
	default:
		if text = mixSilent[r.IntN(len(mixSilent))]; !strings.Contains(text, "K") && r.IntN(4) > 0 {
			text = "XREADGROUP GROUP g E COUNT 2 STREAMS K >"
		}
	}
	element := func() string { return "e" + strconv.Itoa(r.IntN(40)) }
	var args []any
	many := 10 + r.IntN(90)
	for _, w := range strings.Fields(text) {
		switch w {
		case "K", "J":
			args = append(args, mixKey(r, hot))
		case "E":
			args = append(args, element())
		case "N":
			args = append(args, r.IntN(12)-3)
		case "L":
			args = append(args, strings.Repeat(element(), many*4))
		case "ES":
			for i := range many {
				args = append(args, "e"+strconv.Itoa(i))
			}
		case "PS":
			for i := range many {
				args = append(args, "e"+strconv.Itoa(i), r.IntN(100))
			}
		case "ZS":
			for i := range many {
				args = append(args, r.Float64(), "e"+strconv.Itoa(i))
			}
		default:
			args = append(args, w)
		}
	}
	return args
}

// change runs one command, or several at once. Many are refused, by type.
func (x *mix) change(ctx context.Context, c *redis.Client, r *rand.Rand, proxied, hot bool) {
	n, p := 1, c.Pipeline()
	switch r.IntN(8) {
	case 0:
		n = 2 + r.IntN(15)
	case 1:
		n, p = 1+r.IntN(4), c.TxPipeline()
	}
	for range n {
		p.Do(ctx, mixCommand(r, proxied, hot, x.fields)...)
	}
	_, _ = p.Exec(ctx)
}

func (x *mix) fault(what string) {
	ctx := x.t.Context()
	some := func() bool { return x.r.IntN(3) == 0 }
	kill := func(s *redistest.Server, kind string) {
		_ = s.Client(0).ClientKillByFilter(ctx, "TYPE", kind, "SKIPME", "yes").Err()
	}
	switch what {
	case "cut all":
		x.feed.Cut()
		x.copies.Cut()
	case "cut the target":
		x.copies.Cut()
	case "cut some":
		x.feed.CutSome(some)
		x.copies.CutSome(some)
	case "feed gone":
		kill(x.w.src, "pubsub")
	case "clients of the source gone":
		kill(x.w.src, "normal")
	case "clients of the target gone":
		kill(x.w.dst, "normal")
	case "stall the source":
		x.feed.StallDown(true)
	case "stall the target":
		x.copies.StallDown(true)
	case "torn":
		x.feed.CutAfter(x.r.Int64N(20_000))
		x.copies.CutAfter(x.r.Int64N(2000))
	case "torn up":
		x.copies.CutAfterUp(x.r.Int64N(20_000))
	case "swallow":
		x.copies.Swallow(some)
	case "flags off":
		_ = x.w.src.Client(0).ConfigSet(ctx, "notify-keyspace-events", "").Err()
	case "slow":
		x.copies.SetDelay(2 * time.Millisecond)
	case "rescan":
		x.w.m.Rescan(-1, "asked")
	case "drain":
		if x.ended {
			return
		}
		soon, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		_ = x.w.m.Drain(soon)
		cancel()
	case "another mirror":
		x.w.m.Stop()
		x.w.m = mirror.New(x.cfg, slog.New(slog.DiscardHandler))
		x.w.now.Store(x.w.m)
		x.ended = true
	case "restart the target":
		x.w.dst.Kill()
		ok(x.t, x.w.dst.Restart(ctx))
	case "restart the source":
		x.w.src.Kill()
		ok(x.t, x.w.src.Restart(ctx))
	case "failover":
		x.failover()
	}
}

// failover has the replica take over, and the old source follow it.
func (x *mix) failover() {
	ctx := x.t.Context()
	ok(x.t, x.back.Client(0).Do(ctx, "REPLICAOF", "NO", "ONE").Err())
	x.feed.SetUpstream(x.back.Addr())
	x.feed.Cut()
	x.w.src, x.back = x.back, x.w.src
	ok(x.t, x.back.Client(0).Do(ctx, "REPLICAOF", "127.0.0.1", strconv.Itoa(x.w.src.Port())).Err())
	redistest.Eventually(x.t, 20*time.Second, func() bool {
		return strings.Contains(x.back.Client(0).Info(ctx, "replication").Val(), "master_link_status:up")
	}, "the old source follows")
}

func (x *mix) heal() {
	x.feed.StallDown(false)
	x.copies.StallDown(false)
	x.feed.CutAfter(-1)
	x.copies.CutAfter(-1)
	x.copies.CutAfterUp(-1)
	x.copies.SetDelay(0)
	x.copies.Cut() // what was swallowed
}

// compare finds what differs, in what is copied, and what was touched of what is not.
func (x *mix) compare(what string) {
	x.t.Helper()
	ctx, t := x.t.Context(), x.t
	for from, to := range map[int]int{0: 0, 3: 5} {
		a, b := x.w.src.Client(from), x.w.dst.Client(to)
		has, have := x.names(a), x.names(b)
		for k := range x.own[to] {
			if _, taken := has[k]; !taken {
				if have[k] == "" {
					t.Errorf("%s: %d: key %q of the target's own is gone", what, to, k)
				}
				delete(have, k)
			}
		}
		for k, kind := range has {
			if x.f != nil && (!x.f.Name(k) || !x.f.Type(kind)) {
				continue // and nothing of it may be there
			}
			d, err := value.Equal(ctx, a, b, k, k)
			switch {
			case err != nil:
				t.Errorf("%s: %d→%d: comparing %q: %v", what, from, to, k, err)
			case !d.Equal():
				t.Errorf("%s: %d→%d: key %q (%s): %s %s", what, from, to, k, kind, d.Kind, d.Words)
			}
			delete(have, k)
		}
		for k, kind := range have {
			if d, err := value.Equal(ctx, a, b, k, k); err == nil && d.Gone {
				continue // a hash all of whose fields have expired
			}
			t.Errorf("%s: %d→%d: key %q (%s) is on the target only; on the source %q", what, from, to, k, kind, has[k])
		}
	}
	if t.Failed() {
		t.Fatalf("%+v", x.w.m.Progress())
	}
}

// names has the type of each key.
func (x *mix) names(c *redis.Client) map[string]string {
	x.t.Helper()
	ctx, out := x.t.Context(), make(map[string]string)
	keys, err := c.Keys(ctx, "*").Result()
	ok(x.t, err)
	for _, k := range slices.Sorted(slices.Values(keys)) {
		if strings.HasPrefix(k, mirror.KeyPrefix) {
			continue
		}
		kind, err := c.Type(ctx, k).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			x.t.Fatal(err)
		}
		if kind != "none" {
			out[k] = kind
		}
	}
	return out
}
