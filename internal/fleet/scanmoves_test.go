package fleet

import (
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/slot"
)

// restOfKeys ends a scan of keys that is at a cursor, and adds what it shows.
func restOfKeys(t *testing.T, rdb *redis.Client, cursor uint64, count int64, shown map[string]bool) {
	t.Helper()
	for pages := 0; ; pages++ {
		keys, next, err := rdb.Scan(t.Context(), cursor, "", count).Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range keys {
			shown[k] = true
		}
		if cursor = next; cursor == 0 {
			return
		}
		if pages > 10000 {
			t.Fatal("the scan does not end")
		}
	}
}

// TestScanWithAnOpenSlot: keys that go to a master that was looked through before are shown,
// while their slot stays between the two, and where it arrives.
func TestScanWithAnOpenSlot(t *testing.T) {
	for _, last := range []string{"stays", "arrives"} {
		t.Run(last, func(t *testing.T) {
			c := redistest.StartCluster(t, 3, 0)
			rdb := client(t, over(t, c), 2)
			list := c.Masters()
			from, to := list[0], list[0]
			for _, s := range list {
				if s.Addr() > from.Addr() {
					from = s
				}
				if s.Addr() < to.Addr() {
					to = s
				}
			}
			name := at(c, from, "")
			want := []string{at(c, to, "first")}
			for i := range 500 {
				want = append(want, fmt.Sprint(name, i))
			}
			for _, k := range want {
				if err := rdb.Set(t.Context(), k, "v", 0).Err(); err != nil {
					t.Fatal(err)
				}
			}
			keys, cursor, err := rdb.Scan(t.Context(), 0, "", 1000).Result()
			if err != nil || len(keys) != 1 || keys[0] != want[0] || cursor == 0 {
				t.Fatalf("the first page: %q, %d, %v", keys, cursor, err)
			}
			shown := map[string]bool{want[0]: true}
			moving := slot.Of(name)
			c.Open(to, moving)
			if n := c.Carry(to, moving, 400); n != 400 {
				t.Fatalf("%d keys carried", n)
			}
			if last == "arrives" {
				for c.Carry(to, moving, 400) > 0 {
				}
				c.Finish(to, moving)
			}
			restOfKeys(t, rdb, cursor, 20, shown)
			missing := 0
			for _, k := range want {
				if !shown[k] {
					missing++
				}
			}
			if missing > 0 {
				t.Errorf("%d of %d keys were not shown", missing, len(want))
			}
		})
	}
}

// TestElementsOfAKeyThatMoves: the pages of a hash, a set and a sorted set have all elements
// in them, though the key's slot moves in the middle, or its master is replaced.
func TestElementsOfAKeyThatMoves(t *testing.T) {
	const elements = 3000
	type page func(p redis.Cmdable, cursor uint64) *redis.ScanCmd
	c := redistest.StartCluster(t, 2, 1)
	rdb := client(t, over(t, c), 2)
	name := at(c, c.Masters()[0], "")
	pipe := rdb.Pipeline()
	for i := range elements {
		e := fmt.Sprint("e", i)
		pipe.HSet(t.Context(), name+"h", e, "v")
		pipe.SAdd(t.Context(), name+"s", e)
		pipe.ZAdd(t.Context(), name+"z", redis.Z{Member: e, Score: float64(i)})
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	pages := map[string]page{
		"HSCAN": func(p redis.Cmdable, at uint64) *redis.ScanCmd { return p.HScan(t.Context(), name+"h", at, "", 100) },
		"SSCAN": func(p redis.Cmdable, at uint64) *redis.ScanCmd { return p.SScan(t.Context(), name+"s", at, "", 100) },
		"ZSCAN": func(p redis.Cmdable, at uint64) *redis.ScanCmd { return p.ZScan(t.Context(), name+"z", at, "", 100) },
	}
	plainly := func(p page, at uint64) ([]string, uint64, error) { return p(rdb, at).Result() }
	inMulti := func(p page, at uint64) ([]string, uint64, error) {
		var cmd *redis.ScanCmd
		_, err := rdb.TxPipelined(t.Context(), func(tx redis.Pipeliner) error {
			tx.Exists(t.Context(), name+"h")
			cmd = p(tx, at)
			return nil
		})
		elements, next := cmd.Val()
		return elements, next, err
	}
	scan := func(what string, p page, between func()) {
		t.Helper()
		shown, cursor := make(map[string]bool), uint64(0)
		for n := 0; n == 0 || cursor != 0; n++ {
			ask := plainly
			if n%3 == 1 {
				ask = inMulti
			}
			elements, next, err := ask(p, cursor)
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			for _, e := range elements {
				if e[0] == 'e' {
					shown[e] = true
				}
			}
			if cursor = next; n == 10 {
				between()
			}
			if n > 1000 {
				t.Fatalf("%s: the scan does not end", what)
			}
		}
		if len(shown) != elements {
			t.Errorf("%s: %d of %d elements were shown", what, len(shown), elements)
		}
	}
	for what, p := range pages {
		scan(what+" while nothing happens", p, func() {})
		scan(what+" while the slot moves", p, func() {
			for _, to := range c.Masters() {
				if to != c.Owner(slot.Of(name)) {
					c.Move(to, slot.Of(name))
					break
				}
			}
		})
		scan(what+" while the master is replaced", p, func() { c.Failover(c.Replicas(c.Owner(slot.Of(name)))[0]) })
	}
	for _, wrong := range [][]any{{"HSCAN", name + "h"}, {"HSCAN", name + "h", "x"}, {"HSCAN", name + "h", "-1"}, {"HSCAN", name + "s", "12345"}, {"HSCAN", name + "none", "12345"}} {
		direct := c.On(c.Owner(slot.Of(name))).Do(t.Context(), wrong...)
		if got := rdb.Do(t.Context(), wrong...); got.String() != direct.String() {
			t.Errorf("%v: %v, want %v", wrong, got, direct)
		}
	}
}

// TestEmptiesWhatIsOnItsWay: a key that was on its way to a master which had been emptied
// already is not there behind FLUSHALL.
func TestEmptiesWhatIsOnItsWay(t *testing.T) {
	for _, verb := range []string{"FLUSHALL", "FLUSHDB"} {
		c := redistest.StartCluster(t, 2, 0)
		e := dial(t, over(t, c))
		from, to := c.Masters()[0], c.Masters()[1]
		key := at(c, from, "k")
		e.want("SET "+key+" v", "+OK\r\n")
		c.Open(to, slot.Of(key))
		// The old master is busy for a while, then it gives the key away, and deletes all.
		giver := dialServer(t, from)
		giver.want("PING", "+PONG\r\n") // it is known there
		const busy = "local from = redis.call('TIME') repeat local now = redis.call('TIME') until (now[1] - from[1]) * 1e6 + now[2] - from[2] > 3e5 return redis.status_reply('OK')"
		giver.send([]string{"EVAL", busy, "0"}, []string{"MIGRATE", "127.0.0.1", fmt.Sprint(to.Port()), key, "0", "10000"})
		e.send([]string{verb})
		redistest.Eventually(t, patience, func() bool {
			return strings.Contains(c.On(to).Info(t.Context(), "commandstats").Val(), "cmdstat_"+strings.ToLower(verb)+":")
		}, "the new master is emptied")
		if got := giver.read() + giver.read() + e.read(); got != "+OK\r\n+OK\r\n+OK\r\n" {
			t.Fatalf("MIGRATE and %s: %q", verb, got)
		}
		for _, s := range c.Masters() {
			if n := c.On(s).DBSize(t.Context()).Val(); n != 0 {
				t.Errorf("behind %s %d keys are on %s", verb, n, s.Addr())
			}
		}
	}
}

// TestHubStays: who publishes is told of all who listen, also where these have done so since
// before slots went elsewhere.
func TestHubStays(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	f := over(t, c)
	early, late := dial(t, f), dial(t, f)
	early.want("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
	c.Move(c.Masters()[1], 0)
	p := dial(t, f)
	redistest.Eventually(t, patience, func() bool {
		_ = f.topo.Refresh(t.Context())
		return f.topo.Map().Owner(0).Address == c.Masters()[1].Addr()
	}, "the map knows of it")
	p.want("PUBLISH news 1", ":1\r\n")
	late.want("SUBSCRIBE news", "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n")
	p.want("PUBLISH news 2", ":2\r\n")
	for _, want := range []string{"1", "2"} {
		if got := early.read(); got != "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\n"+want+"\r\n" {
			t.Errorf("the early one was told %q, want %s", got, want)
		}
	}
	if got := late.read(); got != "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$1\r\n2\r\n" {
		t.Errorf("the late one was told %q", got)
	}
}
