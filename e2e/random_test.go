package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// randomMap swaps nothing and leaves databases out, so that MOVE and SWAPDB lead
// within what is copied and out of it.
const randomMap = "0=1,3=0"

// templates are commands on a key K (of any type), another one J, an element E, a
// number N and another database D.
var templates = strings.Split(strings.TrimSpace(`
SET K E
SET K E PX 100000
SET K E PX 1
SET K E NX
SET K E EXAT 1
SETRANGE K 5 E
APPEND K E
INCR K
INCRBYFLOAT K 0.1
GETDEL K
GETEX K PX 200000
GETEX K PERSIST
MSET K E J E
SETBIT K N 1
BITOP OR K J K
PFADD K E
PFADD K E N
PFMERGE K J
PFCOUNT K
LPUSH K E
RPUSH K E N
LPOP K
RPOP K 2
LSET K 0 E
LTRIM K 0 5
LREM K 1 E
LINSERT K BEFORE E N
LMOVE K J LEFT RIGHT
SADD K E N
SREM K E
SPOP K
SMOVE K J E
SINTERSTORE K J J
SUNIONSTORE K J K
ZADD K N E
ZADD K 1.7976931348623157e308 E
ZINCRBY K 0.3 E
ZREM K E
ZPOPMIN K
ZRANGESTORE K J 0 -1
ZUNIONSTORE K 2 J K
GEOADD K 13.361389 38.115556 E
HSET K E N
HSET K E N f v
HDEL K E
HINCRBY K f 1
HINCRBYFLOAT K f 0.7
XADD K * f E
XADD K MAXLEN 3 * f E
XTRIM K MAXLEN 1
XGROUP CREATE K g 0 MKSTREAM
XGROUP CREATECONSUMER K g E
XGROUP DESTROY K g
XGROUP SETID K g $
XREADGROUP GROUP g E COUNT 2 STREAMS K >
XACK K g 0-1
XCLAIM K g E 0 0-1
XAUTOCLAIM K g E 0 0
XDEL K 0-1
XSETID K 9999999999999-5
SORT K ALPHA STORE J
DEL K
UNLINK K
RENAME K J
RENAMENX K J
COPY K J REPLACE
COPY K J DB D REPLACE
MOVE K D
EXPIRE K 1000
PEXPIRE K 1
EXPIRE K 0
PERSIST K
EVAL return(redis.call('SET',KEYS[1],ARGV[1])) 1 K E
EVAL return(redis.call('DEL',KEYS[1])) 1 K
FLUSHDB
FLUSHALL
SWAPDB 0 3
`), "\n")

// action is one step of a random test.
type action struct {
	Direct  bool // at the source, past the proxy
	DB      int
	Command []string // nil: a fault
	Fault   string
}

func (a action) String() string {
	if a.Fault != "" {
		return a.Fault
	}
	way := "proxy"
	if a.Direct {
		way = "direct"
	}
	return fmt.Sprintf("%s %d: %s", way, a.DB, strings.Join(a.Command, " "))
}

var faults = []string{"cut the feed", "stall the feed", "kill connections on the source", "kill connections on the target", "flags off"}

func randomAction(t *rapid.T) action {
	if rapid.IntRange(0, 24).Draw(t, "fault") == 0 {
		return action{Fault: rapid.SampledFrom(faults).Draw(t, "which")}
	}
	a := action{DB: rapid.SampledFrom([]int{0, 3}).Draw(t, "db"), Direct: rapid.Bool().Draw(t, "direct")}
	i := rapid.IntRange(0, len(templates)-1).Draw(t, "command")
	if strings.HasPrefix(templates[i], "FLUSH") && rapid.Bool().Draw(t, "spared") {
		i = 0
	}
	key := func() string { return "k" + strconv.Itoa(rapid.IntRange(0, 9).Draw(t, "key")) }
	for _, w := range strings.Fields(templates[i]) {
		switch w {
		case "K", "J":
			w = key()
		case "E":
			w = "e" + strconv.Itoa(rapid.IntRange(0, 4).Draw(t, "element"))
		case "N":
			w = strconv.Itoa(rapid.IntRange(-3, 9).Draw(t, "number"))
		case "D":
			w = strconv.Itoa(3 - a.DB)
		}
		a.Command = append(a.Command, w)
	}
	return a
}

// TestRandomCommands runs commands of all types on both databases, at the source and
// through the proxy, while feeds and copies break, and finds both sides equal in the
// end: by plain commands. E2E_RANDOM is how many sequences, 8 by default.
func TestRandomCommands(t *testing.T) {
	checks := os.Getenv("E2E_RANDOM")
	if checks == "" {
		checks = "8"
	}
	if testing.Short() {
		checks = "3"
	}
	for name, value := range map[string]string{"rapid.checks": checks, "rapid.shrinktime": "60s"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	r := newRandomRig(t)
	rapid.Check(t, func(rt *rapid.T) {
		r.play(rt, rapid.SliceOfN(rapid.Custom(randomAction), 1, 150).Draw(rt, "actions"))
	})
}

// randomRig is servers and a sidecar that all sequences use, one after the other.
type randomRig struct {
	t        *testing.T
	src, dst *redistest.Server
	feed     *redistest.Link
	c        *sidecar
	clients  map[bool]map[int]*redis.Client // by direct, by database
}

func newRandomRig(t *testing.T) *randomRig {
	r := &randomRig{t: t, src: redistest.Start(t), dst: redistest.Start(t), clients: make(map[bool]map[int]*redis.Client)}
	r.feed = redistest.NewLink(t, r.src.Addr())
	r.c = newSidecar(t, setup{source: r.src.URL(0), target: r.dst.URL(0), dbmap: randomMap})
	r.c.start("mirror.feed." + router.Source.String() + "=" + r.feed.Addr())
	r.c.awaitReady()
	for _, direct := range []bool{false, true} {
		addr := r.c.addr
		if direct {
			addr = r.src.Addr()
		}
		r.clients[direct] = make(map[int]*redis.Client)
		for _, db := range []int{0, 3} {
			o := redistest.Options(addr, db)
			o.PoolSize = 1
			c := redis.NewClient(o)
			t.Cleanup(func() { _ = c.Close() })
			r.clients[direct][db] = c
		}
	}
	return r
}

func (r *randomRig) play(t *rapid.T, actions []action) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, a := range actions {
		if a.Fault != "" {
			r.fault(ctx, a.Fault)
			continue
		}
		args := make([]any, len(a.Command))
		for i, w := range a.Command {
			args[i] = w
		}
		_ = r.clients[a.Direct][a.DB].Do(ctx, args...).Err() // many are refused, by type
	}
	r.feed.Stall(false)
	redistest.Eventually(replay{t}, time.Minute, func() error {
		st, err := r.c.status()
		switch {
		case err != nil:
			return err
		case !st.Ready || st.Dirty > 0:
			return fmt.Errorf("not ready: %q, %d dirty", st.Reasons, st.Dirty)
		}
		return sidesDiffer(r.t, r.src, r.dst, randomMap)
	}, "after the last of\n%s", script(actions))
}

// replay is one sequence of rapid's, which has no folder of its own.
type replay struct{ *rapid.T }

func (replay) TempDir() string { return "" }

func script(actions []action) string {
	var b strings.Builder
	for _, a := range actions {
		fmt.Fprintln(&b, a)
	}
	return b.String()
}

func (r *randomRig) fault(ctx context.Context, what string) {
	switch what {
	case "cut the feed":
		r.feed.Stall(false)
		r.feed.Cut()
	case "stall the feed":
		r.feed.Stall(true)
	case "kill connections on the source":
		_ = r.src.Client(0).ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes").Err()
	case "kill connections on the target":
		_ = r.dst.Client(0).ClientKillByFilter(ctx, "TYPE", "normal", "SKIPME", "yes").Err()
	case "flags off":
		_ = r.src.Client(0).ConfigSet(ctx, "notify-keyspace-events", "").Err()
	}
}
