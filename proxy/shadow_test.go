package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
	"github.com/redis/go-redis/v9"
)

// shadowData is written to both servers; %s is "far", an expiry.
const shadowData = `
set s value pxat FAR|set n 17|setbit bits 7 1|set gone value|set exp v pxat FAR|set noexp v|set wrong v
rpush l a b c d|hset h f 1 g 2 k 3|sadd set a b c 1|sadd set2 b c|zadd z 1 a 2 b 3 c|zadd z2 2 b|geoadd geo 13.361389 38.115556 Palermo 15.087269 37.502669 Catania
xadd st 1-1 f v|xadd st 2-1 f w|xgroup create st grp 0|set other v`

// shadowReads are reads of all of it, each with what the target must have become for it
// to be answered differently.
var shadowReads = []struct{ read, plant string }{
	{"get s", "set s VALUE pxat FAR"}, {"get gone", "del gone"}, {"get extra", "set extra 1"}, {"get wrong", "del wrong|rpush wrong v"},
	{"mget n s other nope", "set other w"}, {"getrange s 0 2", "setrange s 1 X"}, {"substr s 0 2", "setrange s 1 X"}, {"strlen s", "append s x"}, {"exists s gone nope", "del gone"},
	{"getbit bits 7", "setbit bits 7 0"}, {"bitcount bits", "setbit bits 9 1"}, {"bitpos bits 1", "setbit bits 3 1"}, {"bitfield_ro bits get u8 0", "setbit bits 3 1"},
	{"lcs s other", "set other value"}, {"type s", "del s|sadd s x"},
	{"ttl exp", "persist exp"}, {"pttl exp", "pexpireat exp SOON"}, {"pttl noexp", "pexpireat noexp FAR"}, {"ttl gone", "del gone"}, {"pexpiretime exp", "pexpireat exp LATER"}, {"expiretime exp", "pexpireat exp SOON"},
	{"hget h f", "hset h f 9"}, {"hmget h f g nope", "hset h g 9"}, {"hgetall h", "hdel h k"}, {"hgetall h", "hset h k 4"}, {"hkeys h", "hset h new 1"}, {"hvals h", "hset h f 9"}, {"hlen h", "hset h new 1"},
	{"hexists h f", "hdel h f"}, {"hstrlen h f", "hset h f 10"},
	{"lrange l 0 -1", "lset l 1 x"}, {"lindex l 1", "lset l 1 x"}, {"llen l", "rpush l e"}, {"lpos l c", "lpush l c"},
	{"smembers set", "sadd set new"}, {"smembers set", "srem set a|sadd set A"}, {"sismember set a", "srem set a"}, {"smismember set a x", "sadd set x"}, {"scard set", "sadd set x"},
	{"sinter set set2", "srem set2 b"}, {"sunion set set2", "sadd set2 z"}, {"sdiff set set2", "sadd set2 a"}, {"sintercard 2 set set2", "srem set2 b"},
	{"zrange z 0 -1", "zrem z b"}, {"zrange z 0 -1 withscores", "zadd z 2.5 b"}, {"zscore z a", "zadd z 1.0000000000000002 a"}, {"zmscore z a b", "zadd z 5 b"}, {"zrank z c", "zrem z a"}, {"zrevrank z a", "zrem z c"},
	{"zcard z", "zadd z 4 d"}, {"zcount z 1 2", "zadd z 9 b"}, {"zrangebyscore z 1 2", "zadd z 9 b"}, {"zrevrange z 0 -1", "zrem z b"}, {"zunion 2 z z2", "zadd z2 1 q"}, {"zinter 2 z z2", "zrem z2 b"}, {"zdiff 2 z z2", "zadd z2 1 a"},
	{"geopos geo Palermo", "zrem geo Palermo"}, {"geodist geo Palermo Catania", "geoadd geo 13.4 38.1 Palermo"}, {"geosearch geo fromlonlat 15 37 byradius 300 km", "zrem geo Catania"},
	{"xlen st", "xdel st 1-1"}, {"xrange st - +", "xdel st 1-1|xadd st 3-1 f w"}, {"xrevrange st + -", "xadd st 3-1 f v"}, {"xpending st grp", "xreadgroup group grp c count 1 streams st >"},
}

// filled is a world whose two servers hold the same.
func filled(t *testing.T, settings ...setting) *world {
	t.Helper()
	w := newWorld(t, settings...)
	for _, db := range []int{0, 3} {
		fillShadows(t, w, db)
	}
	return w
}

func fillShadows(t *testing.T, w *world, db int) {
	t.Helper()
	to, _ := w.dbs.Target(db)
	for side, at := range map[router.Side]int{router.Source: db, router.Target: to} {
		w.do(side, at, "FLUSHDB")
		w.say(side, at, shadowData)
	}
}

// say runs commands, with | between, on a server itself.
func (w *world) say(side router.Side, db int, text string) {
	w.t.Helper()
	text = strings.NewReplacer("FAR", "4000000000000", "LATER", "4000000009999", "SOON", "3000000000000").Replace(text)
	c := w.server(side).Client(db)
	defer func() { _ = c.Close() }()
	for cmd := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '|' || r == '\n' }) {
		var args []any
		for word := range strings.FieldsSeq(cmd) {
			args = append(args, word)
		}
		if err := c.Do(context.Background(), args...).Err(); err != nil && !errors.Is(err, redis.Nil) {
			w.t.Fatalf("%s: %v", cmd, err)
		}
	}
}

// judged waits until so many reads have got an outcome, and returns what it was.
func (w *world) judged(n int64) (sum ShadowFamily) {
	w.t.Helper()
	until(w.t, fmt.Sprintf("%d shadow reads", n), func() bool {
		sum = ShadowFamily{}
		for _, f := range w.proxy.Shadowed().Families {
			sum.Equal += f.Equal
			sum.Differed += f.Differed
			sum.Failed += f.Failed
			sum.Skipped += f.Skipped
		}
		return sum.Equal+sum.Differed+sum.Failed+sum.Skipped >= n
	})
	return sum
}

func (w *world) differing() []ShadowRead {
	w.heard.mu.Lock()
	defer w.heard.mu.Unlock()
	return slices.Clone(w.heard.reads)
}

// TestShadowReads asks everything of two servers that hold the same, and then finds
// each difference by a read of it.
func TestShadowReads(t *testing.T) {
	w := filled(t)
	w.proxy.Shadow(1)
	var clients []*raw
	for _, hello := range []string{"PING", "HELLO 3"} {
		for _, db := range []int{0, 3} {
			c := w.client()
			c.do(hello)
			c.do(fmt.Sprint("SELECT ", db))
			clients = append(clients, c)
		}
	}
	back(t, w, len(clients))
	asked := int64(0)
	for _, c := range clients {
		for _, tt := range shadowReads {
			if got := c.do(tt.read); resp.IsError([]byte(got)) {
				t.Fatalf("%s: %s", tt.read, got)
			}
			asked++
		}
	}
	if got := w.judged(asked); got.Equal != asked {
		t.Fatalf("%+v of %d; %+v", got, asked, w.differing())
	}
	across := func() (bool, error) { return true, nil }
	for i, tt := range shadowReads {
		db := 3 * (i % 2)
		fillShadows(t, w, db)
		to, _ := w.dbs.Target(db)
		w.say(router.Target, to, tt.plant)
		clients[i%len(clients)].do(tt.read)
		asked++
		got := w.judged(asked)
		if got.Differed != int64(i+1) || got.Skipped+got.Failed != 0 {
			t.Fatalf("%s after %s on the target: %+v, with %d found", tt.read, tt.plant, got, i+1)
		}
		until(t, "it is told", func() bool { return len(w.differing()) > i }) // the count comes first
		read := w.differing()[i]
		if command, _, _ := strings.Cut(tt.read, " "); read.DB != db || read.Command != command || len(read.Keys) == 0 {
			t.Errorf("%s after %s: told of %+v", tt.read, tt.plant, read)
		}
		if differs, err := read.Again(t.Context(), across); err != nil || !differs {
			t.Errorf("%s after %s: asked again, it differs: %v, %v", tt.read, tt.plant, differs, err)
		}
		if differs, err := read.Again(t.Context(), func() (bool, error) { return false, nil }); err != nil || differs {
			t.Errorf("%s after %s: asked again while it is on its way, it differs: %v, %v", tt.read, tt.plant, differs, err)
		}
		arrives := func() (bool, error) {
			w.say(router.Target, to, "flushdb|"+shadowData)
			return true, nil
		}
		if differs, err := read.Again(t.Context(), arrives); err != nil || differs {
			t.Errorf("%s after %s: asked again as it arrives, it differs: %v, %v", tt.read, tt.plant, differs, err)
		}
		if differs, err := read.Again(t.Context(), across); err != nil || differs {
			t.Errorf("%s after %s was undone: asked again, it differs: %v, %v", tt.read, tt.plant, differs, err)
		}
	}
	if n := w.proxy.Shadowed(); n.Source.Count() != asked || n.Target.Count() != asked || n.Connections != len(clients) {
		t.Errorf("%d and %d times of %d reads, %d connections", n.Source.Count(), n.Target.Count(), asked, n.Connections)
	}
}

// back waits until all so many clients are served by loops again.
func back(t *testing.T, w *world, clients int) {
	t.Helper()
	until(t, "all clients guests again", func() bool { return w.proxy.Stats().Clients == clients && w.guests() == clients })
}

// guests counts them.
func (w *world) guests() (n int) {
	for _, l := range w.proxy.eventLoops() {
		n += l.numbers().guests
	}
	return n
}

// TestShadowsOfOneAnother: the order of a hash table and the encoding are no difference,
// pieces of large replies are put together, and what is too large is left out.
func TestShadowsOfOneAnother(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	src, dst := w.source.Client(0), w.target.Client(0)
	if err := dst.ConfigSet(ctx, "set-max-intset-entries", "0").Err(); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		src.SAdd(ctx, "set", i)
		src.HSet(ctx, "hash", i, -i)
		dst.SAdd(ctx, "set", 999-i)
		dst.HSet(ctx, "hash", 999-i, i-999)
	}
	for _, c := range []*redis.Client{src, dst} {
		c.Set(ctx, "large", strings.Repeat("x", 900_000), 0)
		c.Set(ctx, "huge", strings.Repeat("x", 2_000_000), 0)
	}
	dst.Set(ctx, "grown", strings.Repeat("x", 3_000_000), 0)
	src.Set(ctx, "grown", "x", 0)
	w.proxy.Shadow(1)
	c := w.client()
	for _, read := range []string{"SMEMBERS set", "HGETALL hash", "HKEYS hash", "GET large"} {
		if n := len(c.do(read)); n < 1000 {
			t.Fatal(read, n)
		}
	}
	got := w.judged(4)
	if got.Equal != 4 {
		t.Errorf("%+v; %+v", got, w.differing())
	}
	w.client().do("GET huge")
	if got = w.judged(5); got.Skipped != 1 {
		t.Errorf("a reply of 2 MB: %+v", got)
	}
	w.client().do("GET grown")
	if got = w.judged(6); got.Differed != 1 {
		t.Errorf("a reply that is much larger on the target: %+v", got)
	}
	w.client().do("GET set")
	if got = w.judged(7); got.Equal != 5 {
		t.Errorf("behind it: %+v", got)
	}
}

// TestShadowShare: about as many reads are asked twice as was said, nothing that is not
// a read of a mapped database, and nothing when it is off.
func TestShadowShare(t *testing.T) {
	w := filled(t)
	c := w.client()
	pipe := strings.Repeat(string(wireOf([]byte("get"), []byte("s"))), 100)
	ask := func(n int) {
		for range n {
			c.write([]byte(pipe))
			for range 100 {
				c.next()
			}
		}
	}
	ask(1)
	if n := w.proxy.Shadowed(); len(n.Families) != 0 || n.Connections != 0 {
		t.Fatalf("without being asked for: %+v", n)
	}
	w.proxy.Shadow(0.25)
	ask(40)
	w.judged(800) // of a thousand, seven deviations below
	w.proxy.Shadow(0)
	ask(1)
	until(t, "no connection is left", func() bool {
		return w.proxy.Shadowed().Connections == 0 && len(w.proxy.UpstreamAddrs(router.Target)) == 0
	})
	if got := w.judged(0); got.Equal+got.Skipped > 1200 || got.Differed+got.Failed > 0 {
		t.Errorf("a quarter of 4000: %+v", got)
	}
	w.proxy.Shadow(1)
	before := w.judged(0)
	c.do("SELECT 7") // is not in the map
	back(t, w, 1)
	c.do("GET s")
	c.do("SET s x")
	c.do("RANDOMKEY")
	c.do("TIME")
	c.do("XPENDING st grp - + 10")
	c.do("SELECT 0")
	back(t, w, 1)
	c.do("INCR n")
	c.do("GET s")
	if after := w.judged(before.Equal + before.Skipped + 1); after.Equal != before.Equal+1 || after.Skipped != before.Skipped {
		t.Errorf("of one read: %+v, before %+v", after, before)
	}
}

// TestShadowsWaitForNobody: with a target that hangs, refuses, or is gone, clients go
// on, and when it is back it is asked again.
func TestShadowsWaitForNobody(t *testing.T) {
	w := filled(t)
	w.proxy.Shadow(1)
	c := w.client()
	c.want("GET s", "$5\r\nvalue\r\n")
	asked := int64(1)
	w.judged(asked)
	ask := func(n int) {
		pipe := strings.Repeat(string(wireOf([]byte("get"), []byte("s"))), 100)
		for range n {
			c.write([]byte(pipe))
			for range 100 {
				c.expect("$5\r\nvalue\r\n")
				asked++
			}
		}
	}
	if err := w.target.Stop(); err != nil {
		t.Fatal(err)
	}
	ask(200)
	if got := w.judged(10_000); got.Skipped < 9_000 || got.Differed+got.Failed > 0 {
		t.Errorf("while it hangs: %+v", got)
	}
	if err := w.target.Cont(); err != nil {
		t.Fatal(err)
	}
	again := func(what string) {
		t.Helper()
		before := w.judged(0).Equal
		until(t, what, func() bool { ask(1); return w.judged(0).Equal > before })
	}
	again("it is asked again after it has hung")
	w.target.Kill()
	ask(100)
	if err := w.target.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	fillShadows(t, w, 0)
	again("it is asked again after a restart")

	// What the target refuses is no difference in the data.
	before := w.judged(asked)
	w.say(router.Target, 0, "acl setuser default -get")
	ask(1)
	if got := w.judged(asked); got.Failed != before.Failed+100 || got.Differed != before.Differed {
		t.Errorf("refused: %+v, before %+v", got, before)
	}
	if n := w.proxy.Shadowed().Failed["NOPERM"]; n != 100 {
		t.Errorf("%d refused with NOPERM", n)
	}
	w.say(router.Target, 0, "acl setuser default +get")
}

// TestShadowsEndAtTheHold: a switch ends them, they do not begin by themselves, and the
// target is asked for nothing but by clients once it serves them.
func TestShadowsEndAtTheHold(t *testing.T) {
	w := filled(t)
	w.proxy.Shadow(1)
	c := w.client()
	c.do("GET s")
	w.judged(1)
	w.switchTo(router.Target, func() {
		until(t, "the connection is closed", func() bool { return w.proxy.Shadowed().Connections == 0 })
	})
	c.do("GET s")
	w.proxy.Shadow(1)
	c.do("GET s")
	w.switchTo(router.Source)
	c.do("GET s")
	if got := w.judged(0); got != (ShadowFamily{Equal: 1}) {
		t.Errorf("%+v", got)
	}
	w.proxy.Shadow(1)
	c.do("GET s")
	if got := w.judged(2); got.Equal != 2 {
		t.Errorf("after the way back: %+v", got)
	}
}

// TestShadowPathHardlyAllocates: reads that are asked twice cost no memory each either.
func TestShadowPathHardlyAllocates(t *testing.T) {
	if raceEnabled || *upstreams == "pinned" {
		t.Skip("the race detector allocates")
	}
	w := newWorld(t)
	list := askers(t, w, steadies()[0], 8, 16)
	w.do(router.Target, 0, "SET", "key", strings.Repeat("x", 64))
	w.proxy.Shadow(0.1)
	together(t, list, 500)
	const batches = 600
	n := allocs(func() { together(t, list, batches) })
	w.proxy.Shadow(0)
	t.Logf("%d allocations in %d requests, of which every tenth read was asked twice", n, batches*8*16)
	if each := float64(n) / (batches * 8 * 16); each > 0.05 {
		t.Errorf("%.3f allocations a request", each)
	}
}
