package proxy

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// partsOfOne has all sixteen databases go into the first one, each with a prefix.
func partsOfOne(t testing.TB) router.DBMap {
	t.Helper()
	places := make(map[int]router.Place)
	for db := range 16 {
		places[db] = router.Place{Prefix: fmt.Sprintf("c%d:", db)}
	}
	m, err := router.NewDBMap(places)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// backwards has the sixteen databases in the opposite order.
func backwards(t testing.TB) router.DBMap {
	t.Helper()
	places := make(map[int]int)
	for db := range 16 {
		places[db] = 15 - db
	}
	m, err := router.NewDBMap(places)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// strangers are keys of nobody's, beside those of the clients.
var strangers = []string{"a", "foreign", "c", "c16:a", "C0:a", "x:c0:a"}

// partStage is a server of which the clients have parts, with foreign keys in it.
func partStage(t testing.TB, shared bool) stage {
	target := redistest.Start(t, corpusServer)
	w := newWorldMapped(t, redistest.Start(t), target, router.Route{Side: router.Target, Epoch: 1, Map: partsOfOne(t)}, func(c *Config) { c.Shared = shared })
	settled := func() {
		until(t, "the client shares again", func() bool { return len(w.proxy.snapshotSessions()) == 0 })
	}
	return stage{w.proxy.Addr().String(), target, settled}
}

func (s stage) addForeign(t testing.TB) {
	t.Helper()
	for _, k := range strangers {
		if err := s.server.Client(0).Set(context.Background(), k, "foreign", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// checkForeign fails where a foreign key was touched, or one more is there.
func (s stage) checkForeign(t testing.TB) {
	t.Helper()
	ctx, c := context.Background(), s.server.Client(0)
	keys, err := c.Keys(ctx, "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	left := slices.Clone(strangers)
	for _, k := range keys {
		if regexp.MustCompile(`^c([0-9]|1[0-5]):`).MatchString(k) {
			continue
		}
		i := slices.Index(left, k)
		if i < 0 {
			t.Errorf("the key %q is there, which has no prefix", k)
			continue
		}
		if v, err := c.Get(ctx, k).Result(); v != "foreign" || err != nil {
			t.Errorf("the foreign key %q is %q, %v", k, v, err)
		}
		left = slices.Delete(left, i, i+1)
	}
	if len(left) > 0 {
		t.Errorf("the foreign keys %q are gone", left)
	}
}

// exceptions are the commands that clients behind a prefix are answered otherwise, with
// what they are answered; "" is anything.
var exceptions = []struct{ step, way, reply string }{
	{`^SWAPDB`, "", `ERR Crossfade: SWAPDB is refused`},
	{`^(DBSIZE|RANDOMKEY|FLUSHDB|FLUSHALL)`, "", `cannot be part of a transaction`},
	{` 99$`, "", `database 99 is not in the database map`},
	{`BCAST PREFIX ab`, "", `Prefix 'c0:ab' overlaps`},
	{`^\(\)`, "", `invalidate\\r\\n\*1\\r\\n\$1\\r\\nt`}, // FLUSHALL tells each key
	{``, "", `unknown command '\w+', with args beginning with: .*'c0:`},
	{`^EXEC$`, "", `EXECABORT`}, // one of these was in it
	{`KEYS\[1\]\.\.|^FCALL f 1 k v`, "", `c0:k`},
	{`^ACL DRYRUN`, "", ``},
	{`NONSENSE`, "", `the server does not tell`}, // in a transaction
}

func isOtherwise(t *testing.T, way, got, want string) bool {
	t.Helper()
	at, reply, _ := strings.Cut(got, " -> ")
	_, line, _ := strings.Cut(at, ": ")
	for _, o := range exceptions {
		if o.way != "" && o.way != way || !regexp.MustCompile(o.step).MatchString(line) {
			continue
		}
		if regexp.MustCompile(o.reply).MatchString(reply) {
			return true
		}
	}
	return false
}

// TestCorpusBehindAPrefix runs the corpus in a part of a database, beside foreign keys, and
// compares the replies with those of a server of its own.
func TestCorpusBehindAPrefix(t *testing.T) {
	corpus := readCorpus(t)
	ways := []string{oneByOne, transaction, pipelined}
	if testing.Short() {
		ways = ways[:1]
	}
	for _, proto := range []int{2, 3} {
		t.Run(fmt.Sprintf("RESP%d", proto), func(t *testing.T) {
			direct, part := directStage(t), partStage(t, *upstreams == "shared")
			for _, way := range ways {
				for _, name := range slices.Sorted(maps.Keys(corpus)) {
					t.Run(way+"/"+name, func(t *testing.T) {
						for _, sc := range corpus[name] {
							if way == transaction && sc.alone || way == pipelined && sc.apart || sc.tooNew() {
								continue
							}
							direct.clear(t)
							part.clear(t)
							part.addForeign(t)
							sc.steps = slices.DeleteFunc(slices.Clone(sc.steps), func(st step) bool {
								return strings.HasPrefix(st.text, "SWAPDB ") && len(st.args()) == 3 || way == transaction && notInTransactions.MatchString(st.text)
							})
							want := play(t, direct.addr, sc, proto, way, direct.settled)
							got := play(t, part.addr, behindPrefix(sc), proto, way, part.settled)
							comparePart(t, way, got, want)
							if !strings.Contains(fmt.Sprint(sc.steps), "'set','") { // a key that no spec tells of
								part.checkForeign(t)
							}
						}
					})
				}
			}
		})
	}
}

// notInTransactions are refused there, or have their replies changed only where they are
// not in one.
var notInTransactions = regexp.MustCompile(`^(DBSIZE|RANDOMKEY|FLUSHDB|FLUSHALL|SCAN|CLIENT TRACKINGINFO|"" a|"non sense")|(?i:nonsense)| 99$`)

// behindPrefix is a scene whose users may touch the same keys.
func behindPrefix(sc scene) scene {
	sc.steps = slices.Clone(sc.steps)
	for i := range sc.steps {
		if st := &sc.steps[i]; strings.HasPrefix(st.text, "ACL SETUSER u") {
			st.text = regexp.MustCompile(`~([ab])\*`).ReplaceAllString(st.text, "~c0:$1* ~c3:$1*")
		}
	}
	return sc
}

func comparePart(t *testing.T, way string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w && !isOtherwise(t, way, g, w) {
			t.Errorf("behind a prefix:\n\t%.2000s\nby itself:\n\t%.2000s", g, w)
		}
	}
}

// TestErrorsBehindAPrefix makes every command's errors in a part of a database.
func TestErrorsBehindAPrefix(t *testing.T) {
	inBothModes(t)
	rules, left := readTable(t, "rules.txt"), readTable(t, "left-out.txt")
	for _, name := range strings.Fields("subscribe psubscribe ssubscribe unsubscribe punsubscribe sunsubscribe quit reset multi exec discard hello client|reply client|tracking bgsave") {
		left[name] = "has more than one reply"
	}
	left["swapdb"] = "is refused"
	left["host:"], left["post"] = "end the connection", "end the connection" // before 7.0
	rules["scan"] = "type"
	protos := []int{3, 2}
	if testing.Short() {
		protos = protos[:1]
	}
	for _, proto := range protos {
		t.Run(fmt.Sprintf("RESP%d", proto), func(t *testing.T) {
			direct, part := directStage(t), partStage(t, true)
			for _, k := range commandsOf(t, direct.server) {
				if left[k.name] != "" {
					continue
				}
				sc := scene{}
				for _, seed := range seeds {
					sc.steps = append(sc.steps, step{at: "seed: " + seed, replies: 1, text: seed})
				}
				for _, words := range errorsOf(k) {
					if blocksForLong(k.name, words) {
						continue
					}
					text := strings.Builder{}
					for _, w := range words {
						fmt.Fprintf(&text, "%q ", w)
					}
					st := step{at: k.name + ": " + text.String(), replies: 1, text: text.String()}
					st.rule = ruleOf(rules, st.args())
					sc.steps = append(sc.steps, st)
				}
				direct.clear(t)
				part.clear(t)
				way := pipelined
				if k.name == "auth" {
					way = oneByOne
				}
				want := play(t, direct.addr, sc, proto, way, func() {})
				got := play(t, part.addr, sc, proto, way, func() {})
				comparePart(t, way, got, want)
			}
		})
	}
}

// partWorld is one whose databases 0 and 3 are parts of the target's database 0, and 4 is
// the database 2 there, with keys of nobody's beside.
func partWorld(t testing.TB, settings ...setting) *world {
	t.Helper()
	m, err := router.NewDBMap(map[int]router.Place{0: {DB: 0, Prefix: "c0:"}, 3: {DB: 0, Prefix: "c3:"}, 4: {DB: 2}, 5: {DB: 1, Prefix: "c5:"}})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldMapped(t, redistest.Start(t), redistest.Start(t), router.Route{Map: m}, settings...)
	for _, k := range strangers {
		w.do(router.Target, 0, "SET", k, "foreign")
	}
	return w
}

// keysAt returns the keys of a database of a server, in order.
func (w *world) keysAt(side router.Side, db int) []string {
	w.t.Helper()
	c := w.server(side).Client(db)
	defer func() { _ = c.Close() }()
	keys, err := c.Keys(context.Background(), "*").Result()
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

// list is an array of strings as it is written.
func list(words ...string) string {
	b := fmt.Appendf(nil, "*%d\r\n", len(words))
	for _, w := range words {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(w), w)
	}
	return string(b)
}

// sortedKeys returns the names in an array, in order.
func sortedKeys(t testing.TB, reply string) []string {
	t.Helper()
	var out []string
	for _, el := range resp.Elements([]byte(reply)) {
		text, _, ok := resp.Text(el)
		if !ok {
			t.Fatalf("%q is no list of names", reply)
		}
		out = append(out, string(text))
	}
	slices.Sort(out)
	return out
}

// TestDatabasesThatArePartsOfOne: each client sees its own keys, and no others, whichever
// command it asks with.
func TestDatabasesThatArePartsOfOne(t *testing.T) {
	w := partWorld(t)
	w.switchTo(router.Target)
	a, b := w.client(), w.client()
	b.want("SELECT 3", ok)
	for i := range 3 {
		a.want(fmt.Sprintf("SET k%d a", i), ok)
		b.want(fmt.Sprintf("SET k%d b", i), ok)
	}
	a.want("GET k1", "$1\r\na\r\n")
	b.want("GET k1", "$1\r\nb\r\n")
	a.want("DBSIZE", ":3\r\n")
	if got := sortedKeys(t, a.do("KEYS *")); !slices.Equal(got, []string{"k0", "k1", "k2"}) {
		t.Errorf("KEYS has %q", got)
	}
	if got := resp.Elements([]byte(a.do("SCAN 0 COUNT 100"))); len(got) != 2 || fmt.Sprint(sortedKeys(t, string(got[1]))) != "[k0 k1 k2]" {
		t.Errorf("SCAN has %q", got)
	}
	for range 20 {
		if got := a.do("RANDOMKEY"); !strings.HasPrefix(got, "$2\r\nk") {
			t.Errorf("RANDOMKEY is %q", got)
		}
	}
	// Between parts of one database, of another one, and to one that is nobody's part.
	a.want("MOVE k0 3", ":0\r\n")
	a.want("MOVE none 3", ":0\r\n")
	a.want("SET m 1 EX 1000", ok)
	a.want("MOVE m 3", ":1\r\n")
	b.want("PERSIST m", ":1\r\n")
	b.want("MOVE m 5", ":1\r\n")
	b.want("EXISTS m", ":0\r\n")
	b.want("MULTI", ok)
	b.want("MOVE none 0", "+QUEUED\r\n")
	b.want("MOVE k0 4", "+QUEUED\r\n")
	b.want("SELECT 4", "+QUEUED\r\n")
	b.want("KEYS *", "+QUEUED\r\n")
	b.want("SELECT 5", "+QUEUED\r\n")
	b.want("KEYS *", "+QUEUED\r\n")
	b.want("LPUSH l v", "+QUEUED\r\n")
	b.want("BLPOP none l 0", "+QUEUED\r\n")
	b.want("EXEC", "*8\r\n:0\r\n:1\r\n+OK\r\n"+list("k0")+"+OK\r\n"+list("m")+":1\r\n"+list("l", "v"))
	b.want("KEYS *", list("m"))
	b.want("COPY m n DB 3", ":1\r\n")
	b.want("SELECT 3", ok)
	if got := sortedKeys(t, b.do("KEYS *")); !slices.Equal(got, []string{"k1", "k2", "n"}) {
		t.Errorf("KEYS has %q", got)
	}
	b.want("FLUSHDB nonsense", "-ERR syntax error\r\n")
	b.want("FLUSHDB", ok)
	b.want("DBSIZE", ":0\r\n")
	b.want("RANDOMKEY", "$-1\r\n")
	a.want("DBSIZE", ":3\r\n")
	a.want("FLUSHALL", ok)
	a.want("DBSIZE", ":0\r\n")
	want := slices.Sorted(slices.Values(strangers))
	if got := w.keysAt(router.Target, 0); !slices.Equal(got, want) {
		t.Errorf("there are %q, want %q", got, want)
	}
	for _, db := range []int{1, 2} {
		if got := w.keysAt(router.Target, db); len(got) > 0 {
			t.Errorf("database %d has %q", db, got)
		}
	}
}

// TestFlushesThatAreRefused: what the server has refused it has not counted, and neither is
// it here, or one by somebody else would go unnoticed later.
func TestFlushesThatAreRefused(t *testing.T) {
	w := partWorld(t)
	w.switchTo(router.Target)
	w.do(router.Target, 0, "ACL", "SETUSER", "few", "on", "nopass", "~*", "+@all", "-flushdb")
	w.do(router.Target, 0, "ACL", "SETUSER", "fewer", "on", "nopass", "~*", "+@all", "-flushdb", "-flushall")
	a := w.client()
	a.want("SET k v", ok)
	for _, user := range []string{"few", "fewer"} {
		a.want("AUTH "+user+" any", ok)
		if got := a.do("FLUSHDB"); !strings.HasPrefix(got, "-NOPERM") {
			t.Errorf("FLUSHDB of %s is answered %q", user, got)
		}
		if got := a.do("FLUSHALL"); !strings.HasPrefix(got, "-NOPERM") {
			t.Errorf("FLUSHALL of %s is answered %q", user, got)
		} // of one user when it comes to a database that is no part
	}
	a.want("AUTH default any", ok)
	a.want("FLUSHDB", ok)
	a.want("FLUSHALL", ok)
	forwarded, finished := w.proxy.Silent()
	stats := fmt.Sprint(w.do(router.Target, 0, "INFO", "commandstats"))
	for _, name := range []string{"flushdb", "flushall"} {
		ran := "0"
		if m := regexp.MustCompile("cmdstat_" + name + ":calls=([0-9]+)").FindStringSubmatch(stats); m != nil {
			ran = m[1]
		}
		if fmt.Sprint(forwarded[name]) != ran || fmt.Sprint(finished[name]) != ran {
			t.Errorf("%d to %d %s are counted, the server has %s", finished[name], forwarded[name], name, ran)
		}
	}
}

// TestFlushallThatCannotComeBack closes the client: its next command would go to another
// database of the target.
func TestFlushallThatCannotComeBack(t *testing.T) {
	w := partWorld(t, func(c *Config) { c.Shared = false })
	w.switchTo(router.Target)
	a := w.client()
	a.want("SELECT 5", ok)
	a.want("SET k v", ok)
	w.do(router.Target, 0, "ACL", "SETUSER", "default", "-select", "+select|0")
	a.send("FLUSHALL")
	a.send("SET misplaced v")
	if got := a.next(); got != "EOF" {
		t.Errorf("the client goes on: %q", got)
	}
	w.do(router.Target, 0, "ACL", "SETUSER", "default", "+select")
	for db := range 3 {
		if n := w.do(router.Target, db, "EXISTS", "c5:misplaced"); n != int64(0) {
			t.Errorf("database %d has %v of what the client wrote", db, n)
		}
	}
}

// TestBroadcastOfParts: what begins with another one of the prefixes is not said, servers
// refuse it.
func TestBroadcastOfParts(t *testing.T) {
	m, err := router.NewDBMap(map[int]router.Place{0: {DB: 0, Prefix: "c:"}, 1: {DB: 1, Prefix: "c:1:"}, 2: {DB: 1, Prefix: "d:"}})
	if err != nil {
		t.Fatal(err)
	}
	for given, want := range map[string]string{
		"":                    "PREFIX c: PREFIX d:",
		" PREFIX x":           "PREFIX c:x PREFIX c:1:x PREFIX d:x",
		" PREFIX 1 PREFIX y":  "PREFIX c:1 PREFIX c:y PREFIX d:1 PREFIX d:y",
		" PREFIX xx PREFIX x": "PREFIX c:xx PREFIX c:x PREFIX c:1:xx PREFIX c:1:x PREFIX d:xx PREFIX d:x",
	} {
		var args [][]byte
		for _, word := range strings.Fields("CLIENT TRACKING ON BCAST" + given) {
			args = append(args, []byte(word))
		}
		got := string(bytes.Join(broadcast(m, args)[4:], []byte(" ")))
		if got != want {
			t.Errorf("with%q: %q, want %q", given, got, want)
		}
	}
}

// TestPartsAcrossSwitches: what a client is in the middle of goes on behind the prefix, and
// back without it.
func TestPartsAcrossSwitches(t *testing.T) {
	w := partWorld(t)
	watches, queues, waits, hears := w.client(), w.client(), w.client(), w.client()
	for _, c := range []*raw{watches, queues, waits, hears} {
		c.want("SELECT 3", ok)
	}
	for i, side := range []router.Side{router.Target, router.Source, router.Target} {
		key := func(name string) string { return fmt.Sprintf("%s%d", name, i) }
		watches.want("WATCH "+key("w"), ok)
		queues.want("SELECT 0", ok)
		queues.want("MULTI", ok)
		queues.want("SELECT 3", "+QUEUED\r\n")
		queues.want("SET "+key("q")+" 1", "+QUEUED\r\n")
		queues.want("RPUSH "+key("l")+" v", "+QUEUED\r\n")
		queues.want("LMPOP 1 "+key("l")+" LEFT", "+QUEUED\r\n")
		waits.send("BLPOP none " + key("b") + " 0")
		until(t, "it waits", func() bool {
			return strings.Contains(fmt.Sprint(w.do(side.Other(), 0, "CLIENT", "LIST")), "cmd=blpop")
		})
		w.switchTo(side)
		db, with := 0, "c3:"
		if side == router.Source {
			db, with = 3, ""
		}
		watches.want("MULTI", ok)
		watches.want("EXEC", "*-1\r\n")
		queues.want("GET "+key("q"), "+QUEUED\r\n")
		queues.want("EXEC", "*5\r\n+OK\r\n+OK\r\n:1\r\n*2\r\n"+"$2\r\n"+key("l")+"\r\n"+list("v")+"$1\r\n1\r\n")
		w.do(side, db, "RPUSH", with+key("b"), "v")
		waits.expect(list(key("b"), "v"))
		if got := w.do(side, db, "GET", with+key("q")); got != "1" {
			t.Errorf("on the %s %s is %v", side, key("q"), got)
		}
	}
}

// TestFlushAcrossASwitch: a scan of ours holds no switch up, and what it was for is done
// where the client is then.
func TestFlushAcrossASwitch(t *testing.T) {
	w := partWorld(t)
	w.do(router.Target, 0, "EVAL", "for i = 1, 50000 do redis.call('SET', 'c3:k'..i, 1) end", 0)
	w.do(router.Source, 3, "SET", "there", 1)
	w.switchTo(router.Target)
	c := w.client()
	c.want("SELECT 3", ok)
	c.send("FLUSHDB")
	until(t, "it has begun", func() bool {
		n, _ := w.do(router.Target, 0, "DBSIZE").(int64)
		return n < 50_000
	})
	w.switchTo(router.Source)
	c.expect(ok)
	there, _ := w.do(router.Source, 3, "DBSIZE").(int64)
	left, _ := w.do(router.Target, 0, "DBSIZE").(int64)
	if there > 0 && int(left) > len(strangers) {
		t.Errorf("there are %d keys on the source and %d on the target", there, left)
	}
	c.want("DBSIZE", fmt.Sprintf(":%d\r\n", there))
}

// TestNotificationsOfParts: a client hears of its own keys by the names that it knows.
func TestNotificationsOfParts(t *testing.T) {
	w := partWorld(t)
	for _, side := range []router.Side{router.Source, router.Target} {
		w.do(side, 0, "CONFIG", "SET", "notify-keyspace-events", "KEA")
	}
	a := w.client()
	subscribed := func(kind, name string, n int) string {
		return fmt.Sprintf("*3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n:%d\r\n", len(kind), kind, len(name), name, n)
	}
	a.want("SUBSCRIBE __keyspace@3__:k", subscribed("subscribe", "__keyspace@3__:k", 1))
	a.want("SUBSCRIBE __keyevent@3__:set", subscribed("subscribe", "__keyevent@3__:set", 2))
	a.want("SUBSCRIBE __keyevent@0__:del", subscribed("subscribe", "__keyevent@0__:del", 3))
	a.want("PSUBSCRIBE __keyevent@3__:d*", subscribed("psubscribe", "__keyevent@3__:d*", 4))
	writer := w.client()
	round := func() {
		t.Helper()
		writer.want("SELECT 3", ok)
		writer.want("SET k v", ok)
		for _, want := range []string{list("message", "__keyspace@3__:k", "set"), list("message", "__keyevent@3__:set", "k")} {
			a.expect(want)
		}
		writer.want("DEL k", ":1\r\n")
		a.expect(list("message", "__keyspace@3__:k", "del"))
		a.expect(list("pmessage", "__keyevent@3__:d*", "__keyevent@3__:del", "k"))
		writer.want("SELECT 0", ok)
		writer.want("SET k v", ok)
		writer.want("DEL k", ":1\r\n")
		a.expect(list("message", "__keyevent@0__:del", "k"))
		writer.want("SELECT 4", ok)
		writer.want("SET k v", ok)
		writer.want("DEL k", ":1\r\n")
	}
	round()
	w.switchTo(router.Target)
	w.do(router.Target, 0, "SET", "a", "foreign")
	round()
	// Events of two databases have one channel there; what is left of them is heard.
	a.want("SUBSCRIBE __keyevent@0__:set", subscribed("subscribe", "__keyevent@0__:set", 5))
	a.want("UNSUBSCRIBE __keyevent@0__:set", subscribed("unsubscribe", "__keyevent@0__:set", 4))
	round()
	w.switchTo(router.Source)
	round()
	a.send("UNSUBSCRIBE")
	for i := range 3 {
		if got := a.next(); !strings.HasPrefix(got, "*3\r\n$11\r\nunsubscribe\r\n") || !strings.HasSuffix(got, fmt.Sprintf(":%d\r\n", 3-i)) {
			t.Errorf("confirmation %d is %q", i, got)
		}
	}
	a.quiet(list("pong", ""))
}

// TestTrackingOfParts: what a client caches is told by the names that it knows.
func TestTrackingOfParts(t *testing.T) {
	w := newWorldMapped(t, redistest.Start(t), redistest.Start(t), router.Route{Map: partsOfOne(t)})
	a, all := w.client(), w.client()
	for _, c := range []*raw{a, all} {
		c.send("HELLO 3")
		c.next()
		c.want("SELECT 3", ok)
	}
	a.want("CLIENT TRACKING ON", ok)
	all.want("CLIENT TRACKING ON BCAST PREFIX k", ok)
	writer := w.client()
	writer.want("SELECT 3", ok)
	push := func(keys ...string) string { return ">2\r\n$10\r\ninvalidate\r\n" + list(keys...) }
	everything := ">2\r\n$10\r\ninvalidate\r\n_\r\n"
	for i, side := range []router.Side{router.Source, router.Target, router.Source} {
		if i > 0 {
			w.switchTo(side)
			a.expect(everything)
			all.expect(everything)
		}
		all.want("CLIENT TRACKINGINFO", "%3\r\n$5\r\nflags\r\n~2\r\n$2\r\non\r\n$5\r\nbcast\r\n$8\r\nredirect\r\n:0\r\n$8\r\nprefixes\r\n"+list("k"))
		a.do("GET key")
		writer.want("SET key 1", ok)
		a.expect(push("key"))
		all.expect(push("key"))
		if side == router.Target {
			w.do(side, 0, "SET", "key", "foreign")
		}
		a.quiet("+PONG\r\n")
	}
}

// TestLargeRequestsBehindAPrefix: one that is passed on piece by piece gets its prefix too.
func TestLargeRequestsBehindAPrefix(t *testing.T) {
	w := partWorld(t)
	w.switchTo(router.Target)
	c := w.client()
	c.want("SELECT 3", ok)
	value := strings.Repeat("v", 3*streamFrom)
	for _, command := range [][]string{{"SET", "large", value}, {"APPEND", "large", value}, {"MSET", "small", "x", "huge", value}, {"RPUSH", "list", "x", value, "y"}} {
		var args [][]byte
		for _, a := range command {
			args = append(args, []byte(a))
		}
		wire := wireOf(args...)
		for len(wire) > 0 {
			n := min(len(wire), 50_000)
			c.write(wire[:n])
			wire = wire[n:]
		}
		c.next()
	}
	for key, want := range map[string]int64{"c3:large": 2 * int64(len(value)), "c3:huge": int64(len(value)), "c3:small": 1} {
		if got := w.do(router.Target, 0, "STRLEN", key); got != want {
			t.Errorf("%s has the length %v, want %d", key, got, want)
		}
	}
	if got := w.do(router.Target, 0, "LLEN", "c3:list"); got != int64(3) {
		t.Errorf("the list has %v elements", got)
	}
	w.do(router.Target, 0, "XADD", "c3:s", "1-1", "f", value)
	if got := c.do("XREAD STREAMS s 0"); len(got) < len(value) || !strings.HasPrefix(got, "*1\r\n*2\r\n$1\r\ns\r\n") {
		t.Errorf("XREAD says %d bytes, %.40q", len(got), got)
	}
}

// TestCommandsOfUnknownKeys: where nobody but the server knows the keys, it is asked; and
// what it does not tell is refused.
func TestCommandsOfUnknownKeys(t *testing.T) {
	renamed := redistest.WithRenamed
	target := redistest.Start(t, renamed("GETSET", "odd.getset"), renamed("LCS", "odd.lcs"), renamed("LASTSAVE", "odd.lastsave"), renamed("RANDOMKEY", "odd.random"))
	m, err := router.NewDBMap(map[int]router.Place{0: {DB: 0, Prefix: "c0:"}})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorldMapped(t, redistest.Start(t), target, router.Route{Side: router.Target, Epoch: 1, Map: m})
	c := w.client()
	c.want("ODD.GETSET k k", "$-1\r\n")
	c.want("GET k", "$1\r\nk\r\n")
	c.want("ODD.GETSET k v", "$1\r\nk\r\n")
	c.want("SET len v", ok)
	c.want("ODD.LCS k len LEN", ":1\r\n")
	c.want("ODD.LCS len len LEN", ":1\r\n")
	if got := c.do("ODD.LASTSAVE"); !strings.HasPrefix(got, ":") {
		t.Errorf("a command without keys is answered %q", got)
	}
	c.want("ODD.RANDOM", "-"+untold+"\r\n")
	if got := c.do("ODD.GETSET k"); !strings.HasPrefix(got, "-ERR wrong number of arguments") {
		t.Errorf("too few words are answered %q", got)
	}
	if got := c.do("NONSENSE k"); !strings.HasPrefix(got, "-ERR unknown command") {
		t.Errorf("what no server knows is answered %q", got)
	}
	c.want("MULTI", ok)
	c.want("ODD.GETSET k v", "-"+untold+"\r\n")
	if got := c.do("EXEC"); !strings.HasPrefix(got, "-EXECABORT") {
		t.Errorf("EXEC is answered %q", got)
	}
	if got := w.keysAt(router.Target, 0); !slices.Equal(got, []string{"c0:k", "c0:len"}) {
		t.Errorf("there are %q", got)
	}
}
