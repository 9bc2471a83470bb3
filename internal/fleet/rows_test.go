package fleet

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/slot"
)

// TestRefusals says what no cluster can do as one server would: each is told why.
func TestRefusals(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	e := dial(t, over(t, c))
	cross := "-CROSSSLOT Keys in request don't hash to the same slot\r\n"
	for _, line := range []string{"MSETNX a 1 b 2", "RENAME a b", "COPY a b", "SMOVE a b x", "LMOVE a b LEFT LEFT", "SINTER a b", "SUNIONSTORE a b c",
		"ZUNION 2 a b", "BITOP AND a b c", "PFMERGE a b", "PFCOUNT a b", "LMPOP 2 a b LEFT", "SINTERCARD 2 a b", "EVAL x 2 a b", "EVALSHA x 2 a b",
		"FCALL f 2 a b", "BLPOP a b 1", "BLMOVE a b LEFT LEFT 1", "XREAD STREAMS a b 0 0", "XREAD BLOCK 10 STREAMS a b 0 0", "WATCH a b",
		"SORT a STORE b", "GEORADIUS a 1 1 1 km STORE b", "RPOPLPUSH a b", "ZUNIONSTORE a 1 b"} {
		if got := e.line(line); got != cross {
			t.Errorf("%s: %q", line, got)
		}
	}
	for line, word := range map[string]string{
		"SELECT 1": "SELECT is not allowed in cluster mode", "MOVE a 1": "cluster", "SWAPDB 0 1": "SWAPDB is not allowed in cluster mode",
		"COPY {t}a {t}b DB 1": "cluster", "MONITOR": "no one stream", "SYNC": "no one stream", "PSYNC ? -1": "no one stream",
		"CLUSTER NODES": "cluster support disabled", "CLUSTER SLOTS": "cluster support disabled", "CLUSTER KEYSLOT a": "cluster support disabled",
		"READONLY": "cluster support disabled", "ASKING": "cluster support disabled", "CLIENT TRACKING ON": "needs RESP3", "CLIENT TRACKING ON REDIRECT 1": "cannot redirect", "CLIENT CACHING YES": "only when the client is in tracking mode",
		"CLIENT LIST": "its own clients", "CLIENT KILL 1.2.3.4:5": "its own clients", "DEBUG JMAP": "ERR", "SHUTDOWN": "one server's process",
		"REPLICAOF NO ONE": "replication", "FAILOVER": "replication", "MIGRATE h 1 a 0 1": "moves its keys", "ACL SETUSER x": "each of its nodes",
		"MODULE LOAD x": "each of its nodes", "LATENCY LATEST": "one server's process", "MEMORY STATS": "one server's process",
		"SORT a BY w_*": "Cluster mode",
	} {
		if got := e.line(line); got[0] != '-' || !strings.Contains(got, word) {
			t.Errorf("%s: %q", line, got)
		}
	}
	// A script without keys may not touch what is elsewhere.
	refused := 0
	for i := range 20 {
		got := e.do("EVAL", "return redis.call('set', ARGV[1], 1)", "0", fmt.Sprint("k", i))
		if strings.Contains(got, "attempted to access a non local key") {
			refused++
		}
	}
	if refused == 0 || refused == 20 {
		t.Errorf("%d of 20 scripts without keys were refused", refused)
	}
}

func TestSplit(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	e := dial(t, over(t, c))
	keys := make([]string, 3)
	for i, s := range c.Masters() {
		keys[i] = at(c, s, "k")
	}
	e.want(fmt.Sprintf("MSET %s 0 %s 1 %s 2", keys[0], keys[1], keys[2]), "+OK\r\n")
	e.want(fmt.Sprintf("MGET %s %s none %s %s", keys[2], keys[0], keys[1], keys[2]), "*5\r\n$1\r\n2\r\n$1\r\n0\r\n$-1\r\n$1\r\n1\r\n$1\r\n2\r\n")
	e.want("SADD set 1", ":1\r\n")
	e.want(fmt.Sprintf("MGET set %s", keys[0]), "*2\r\n$-1\r\n$1\r\n0\r\n") // of another type: nil, as Redis says
	e.want(fmt.Sprintf("EXISTS %s %s %s %s", keys[0], keys[0], keys[1], "none"), ":3\r\n")
	e.want(fmt.Sprintf("MSET %s 5 %s 6 %s 7", keys[0], keys[1], keys[0]), "+OK\r\n")
	e.want("GET "+keys[0], "$1\r\n7\r\n")

	// One that fails is the whole's failure.
	if _, err := c.On(c.Masters()[1]).ConfigSet(t.Context(), "min-replicas-to-write", "5").Result(); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"DEL %s %s %s", "MSET %s 1 %s 2 %s 3", "UNLINK %s %s %s"} {
		if got := e.line(fmt.Sprintf(line, keys[0], keys[1], keys[2])); !strings.HasPrefix(got, "-NOREPLICAS") {
			t.Errorf("%s: %q", line, got)
		}
	}
	if got := e.line("FLUSHALL"); !strings.HasPrefix(got, "-NOREPLICAS") {
		t.Errorf("FLUSHALL: %q", got)
	}
}

func TestAllMasters(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	f := over(t, c)
	e := dial(t, f)
	for i := range 300 {
		e.want(fmt.Sprintf("SET k%d x", i), "+OK\r\n")
	}
	e.want("DBSIZE", ":300\r\n")
	got := make(map[string]bool)
	for range 200 {
		got[e.line("RANDOMKEY")] = true
	}
	if len(got) < 50 || got["$-1\r\n"] {
		t.Errorf("RANDOMKEY: %d different answers", len(got))
	}
	sum := e.line("SCRIPT LOAD \"return 7\"")
	sha, _, _ := resp.Text([]byte(sum))
	for _, m := range c.Masters() {
		if has := c.On(m).ScriptExists(t.Context(), string(sha)).Val(); !has[0] {
			t.Errorf("%s does not have the script", m.Addr())
		}
	}
	_ = c.On(c.Masters()[1]).ScriptFlush(t.Context()).Err()
	e.want("SCRIPT EXISTS "+string(sha), "*1\r\n:0\r\n")
	for i := range 30 { // it is given to the node that has lost it
		e.want(fmt.Sprintf("EVALSHA %s 1 k%d", sha, i), ":7\r\n")
	}
	e.want("CONFIG SET maxmemory-samples 7", "+OK\r\n")
	for _, m := range c.Masters() {
		if v := c.On(m).ConfigGet(t.Context(), "maxmemory-samples").Val()["maxmemory-samples"]; v != "7" {
			t.Errorf("CONFIG SET has reached %s not: %s", m.Addr(), v)
		}
	}
	info := e.line("INFO")
	for _, want := range []string{"redis_mode:standalone\r\n", "cluster_enabled:0\r\n", "role:master\r\n", "db0:keys=300,"} {
		if !strings.Contains(info, want) {
			t.Errorf("INFO lacks %q", want)
		}
	}
	if got := e.line("INFO keyspace"); !strings.Contains(got, "db0:keys=300,expires=0,avg_ttl=0\r\n") {
		t.Errorf("INFO keyspace: %q", got)
	}
	if got := e.line("ROLE"); !strings.HasPrefix(got, "*3\r\n$6\r\nmaster\r\n:") || !strings.HasSuffix(got, "*0\r\n") {
		t.Errorf("ROLE: %q", got)
	}
	e.want("FLUSHDB SYNC", "+OK\r\n")
	e.want("DBSIZE", ":0\r\n")
	e.want("RANDOMKEY", "$-1\r\n")
	e.want("SET only x", "+OK\r\n")
	for range 10 {
		e.want("RANDOMKEY", "$4\r\nonly\r\n")
	}
	if got := e.line("LASTSAVE"); got[0] != ':' {
		t.Errorf("LASTSAVE: %q", got)
	}
	if got := e.line("SLOWLOG GET"); got[0] != '*' {
		t.Errorf("SLOWLOG GET: %q", got)
	}
}

func TestScan(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	f := over(t, c)
	e := dial(t, f)
	const n = 2000
	var all [][]string
	for i := range n {
		all = append(all, []string{"SET", fmt.Sprint("k", i), "x"})
	}
	e.send(all...)
	for range all {
		e.read()
	}
	// walk scans all, each step by another connection, and calls between.
	walk := func(dialled func() *end, step func(i int)) map[string]int {
		found := make(map[string]int)
		cursor := "0"
		for i := 0; ; i++ {
			reply := resp.Elements([]byte(dialled().line("SCAN " + cursor + " COUNT 50")))
			if len(reply) != 2 {
				t.Fatalf("SCAN %s: %q", cursor, reply)
			}
			text, _, _ := resp.Text(reply[0])
			for _, el := range resp.Elements(reply[1]) {
				key, _, _ := resp.Text(el)
				found[string(key)]++
			}
			if cursor = string(text); cursor == "0" {
				return found
			}
			if v, err := strconv.ParseInt(cursor, 10, 64); err != nil || v <= 0 || v >= 1<<40 {
				t.Fatalf("the cursor is %s", cursor)
			}
			if i > 5000 {
				t.Fatal("no end")
			}
			step(i)
		}
	}
	same := func() *end { return e }
	found := walk(same, func(int) {})
	if len(found) != n {
		t.Errorf("%d of %d keys found", len(found), n)
	}
	// The same cursors hold with another sidecar.
	other := dial(t, over(t, c))
	turn := 0
	found = walk(func() *end {
		if turn++; turn%2 == 0 {
			return other
		}
		return e
	}, func(int) {})
	if len(found) != n {
		t.Errorf("with two fleets: %d of %d keys found", len(found), n)
	}
	// Slots go from one master to another meanwhile.
	from, to := c.Masters()[2], c.Masters()[0]
	var slots []uint16
	for s := 16383; len(slots) < 30; s-- {
		slots = append(slots, uint16(s))
	}
	found = walk(same, func(i int) {
		if i == 20 {
			c.Move(to, slots...)
		}
	})
	if len(found) != n {
		t.Errorf("with a move from %s: %d of %d keys found", from.Addr(), len(found), n)
	}
}

func TestBlocking(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	f := over(t, c)
	a, b := dial(t, f), dial(t, f)
	a.send(fields("BLPOP q 0"), fields("GET after"))
	redistest.Eventually(t, patience, func() bool { _, id := f.byID(1).blockedAt(); return id != 0 }, "it blocks")
	b.want("RPUSH q 1 2", ":2\r\n")
	if got := a.read(); got != "*2\r\n$1\r\nq\r\n$1\r\n1\r\n" {
		t.Errorf("BLPOP: %q", got)
	}
	if got := a.read(); got != "$-1\r\n" {
		t.Errorf("GET: %q", got)
	}
	began := time.Now()
	a.want("BLPOP none 0.2", "*-1\r\n")
	if d := time.Since(began); d < 150*time.Millisecond || d > 2*time.Second {
		t.Errorf("BLPOP of 0.2 s has taken %v", d)
	}

	// Unblocked by the id that CLIENT ID answers.
	text := a.line("CLIENT ID")
	id, _ := number([]byte(text))
	blocks := func() {
		redistest.Eventually(t, patience, func() bool { _, at := f.byID(id).blockedAt(); return at != 0 }, "it blocks")
	}
	blocked := func(address string) func() bool {
		return func() bool {
			for _, s := range c.Masters() {
				if s.Addr() == address && strings.Contains(c.On(s).Info(t.Context(), "clients").Val(), "blocked_clients:0") {
					return false
				}
			}
			return true
		}
	}
	a.send(fields("BLPOP none 0"))
	blocks()
	address, _ := f.byID(id).blockedAt()
	redistest.Eventually(t, patience, blocked(address), "it blocks in the server")
	if err := f.Unblock(t.Context(), []int64{id, 12345}); err != nil {
		t.Fatal(err)
	}
	if got := a.read(); got != "-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n" {
		t.Errorf("unblocked: %q", got)
	}
	a.send(fields("XREAD BLOCK 0 STREAMS st $"))
	blocks()
	address, _ = f.byID(id).blockedAt()
	redistest.Eventually(t, patience, blocked(address), "it blocks in the server")
	b.want("CLIENT UNBLOCK "+strconv.FormatInt(id, 10), ":1\r\n")
	if got := a.read(); got != "*-1\r\n" {
		t.Errorf("unblocked: %q", got)
	}

	// Its slot goes elsewhere.
	key := at(c, c.Masters()[0], "q")
	a.send([]string{"BLPOP", key, "0"})
	blocks()
	redistest.Eventually(t, patience, blocked(c.Masters()[0].Addr()), "it blocks in the server")
	c.Move(c.Masters()[1], slotOfKey(key))
	b.want("RPUSH "+key+" moved", ":1\r\n")
	if got := a.read(); !strings.Contains(got, "moved") {
		t.Errorf("BLPOP over a move: %q", got)
	}

	// A client that hangs up takes no element with it.
	gone := dial(t, f)
	gone.send(fields("BLPOP left 0"))
	redistest.Eventually(t, patience, func() bool {
		n := 0
		for _, m := range c.Masters() {
			if !strings.Contains(c.On(m).Info(t.Context(), "clients").Val(), "blocked_clients:0") {
				n++
			}
		}
		return n == 1
	}, "it blocks in the server")
	_ = gone.conn.Close()
	redistest.Eventually(t, patience, func() bool {
		for _, m := range c.Masters() {
			if !strings.Contains(c.On(m).Info(t.Context(), "clients").Val(), "blocked_clients:0") {
				return false
			}
		}
		return true
	}, "it blocks no more")
	b.want("RPUSH left 1", ":1\r\n")
	b.want("LLEN left", ":1\r\n")
}

func TestWait(t *testing.T) {
	c := redistest.StartCluster(t, 2, 1)
	e := dial(t, over(t, c))
	for i := range 20 {
		e.want(fmt.Sprintf("SET k%d x", i), "+OK\r\n")
	}
	e.want("WAIT 1 5000", ":1\r\n")
	replica := c.Replicas(c.Masters()[1])[0]
	if err := replica.Stop(); err != nil {
		t.Fatal(err)
	}
	e.want("SET "+at(c, c.Masters()[1], "k")+" x", "+OK\r\n")
	e.want("WAIT 1 100", ":0\r\n")
	if err := replica.Cont(); err != nil {
		t.Fatal(err)
	}
	e.want("WAIT 1 10000", ":1\r\n")
}

// TestWaitForATransaction: what EXEC wrote went over another connection, and WAIT is for it
// all the same. Servers since Redis 7.2 wait for nothing where the connection that asks has
// written nothing itself.
func TestWaitForATransaction(t *testing.T) {
	c := redistest.StartCluster(t, 2, 1)
	f := over(t, c)
	master := c.Masters()[1]
	replica, k := c.Replicas(master)[0], at(c, master, "k")
	e := dial(t, f)
	e.want("SET "+k+" x", "+OK\r\n")
	e.want("WAIT 1 10000", ":1\r\n")

	writer := dial(t, f)
	if err := replica.Stop(); err != nil {
		t.Fatal(err)
	}
	writer.want("MULTI", "+OK\r\n")
	writer.want("SET "+k+" y", "+QUEUED\r\n")
	writer.want("EXEC", "*1\r\n+OK\r\n")
	writer.want("WAIT 1 100", ":0\r\n")
	if err := replica.Cont(); err != nil {
		t.Fatal(err)
	}
	writer.want("WAIT 1 10000", ":1\r\n")
	for _, m := range c.Masters() {
		if keys := c.On(m).Keys(t.Context(), waitKeys+"*").Val(); len(keys) > 0 {
			t.Errorf("it has left %q on %s", keys, m.Addr())
		}
	}
}

// TestWaitWithoutTheRight: who may not have a master replicate something is told so, not a
// number that may be wrong, and its connections are not left within a MULTI.
func TestWaitWithoutTheRight(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	_, version, _ := strings.Cut(c.On(c.Masters()[0]).Info(t.Context(), "server").Val(), "redis_version:")
	var major, minor int
	if _, err := fmt.Sscanf(version, "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major < 7 || major == 7 && minor < 2 {
		t.Skip("these servers need no right for it")
	}
	for _, m := range c.Masters() {
		for user, rights := range map[string]string{"keyless": "~{* +@all", "multiless": "~* +@all -multi"} {
			args := []any{"ACL", "SETUSER", user, "on", ">pw"}
			for _, r := range strings.Fields(rights) {
				args = append(args, r)
			}
			if err := c.On(m).Do(t.Context(), args...).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	f := over(t, c)
	for _, user := range []string{"keyless", "multiless"} {
		e := dial(t, f)
		e.want("AUTH "+user+" pw", "+OK\r\n")
		for i, m := range c.Masters() {
			e.want("SET "+at(c, m, "k")+" x", "+OK\r\n")
			if got := e.line("WAIT 0 10"); !strings.HasPrefix(got, "-ERR Crossfade: WAIT on a cluster needs the right") {
				t.Errorf("%s, %d: WAIT: %q", user, i, got)
			}
			e.want("GET "+at(c, m, "k"), "$1\r\nx\r\n")
		}
	}
}

func TestPubSub(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0, redistest.WithConfig("notify-keyspace-events", "KEA"))
	f := over(t, c)
	s := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	for _, proto := range []string{"2", "3"} {
		type pair struct{ sub, pub *end }
		fleet, server := pair{dial(t, f), dial(t, f)}, pair{dialServer(t, s), dialServer(t, s)}
		for _, p := range []pair{fleet, server} {
			p.sub.line("HELLO " + proto)
		}
		said := func(p pair, line string, replies int) (all []string) {
			p.sub.send(fields(line))
			for range replies {
				all = append(all, p.sub.read())
			}
			return all
		}
		check := func(what string, got, want any) {
			t.Helper()
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("RESP%s: %s: %q, a server says %q", proto, what, got, want)
			}
		}
		both := func(line string, replies int) {
			t.Helper()
			check(line, said(fleet, line, replies), said(server, line, replies))
		}
		both("SUBSCRIBE a b c", 3)
		both("SUBSCRIBE a", 1)
		both("PSUBSCRIBE n*", 1)
		both("PING", 1)
		both("PING x", 1)
		if proto == "2" {
			both("GET a", 1)
		}
		for i := range 20 {
			line := fmt.Sprintf("PUBLISH %s %d", []string{"a", "b", "news", "none"}[i%4], i)
			check(line, fleet.pub.line(line), server.pub.line(line))
		}
		for range 20 {
			check("a message", fleet.sub.read(), server.sub.read())
		}
		for _, line := range []string{"PUBSUB CHANNELS", "PUBSUB NUMSUB a none", "PUBSUB NUMPAT"} {
			check(line, sorted(fleet.pub.line(line)), sorted(server.pub.line(line)))
		}
		both("UNSUBSCRIBE b none", 2)
		both("SSUBSCRIBE sh1 ", 1)
		both("SSUBSCRIBE sh2", 1)
		for i := range 6 {
			line := fmt.Sprintf("SPUBLISH sh%d %d", i%3, i)
			check(line, fleet.pub.line(line), server.pub.line(line))
			if i%3 > 0 {
				check("a message", fleet.sub.read(), server.sub.read())
			}
		}
		both("SUNSUBSCRIBE sh1", 1)
		both("SUNSUBSCRIBE", 1)
		both("SUNSUBSCRIBE", 1)
		// Notifications come of all masters.
		both("PSUBSCRIBE __keyevent@0__:*", 1)
		for i := range 30 {
			line := fmt.Sprintf("SET k%d x", i)
			check(line, fleet.pub.line(line), server.pub.line(line))
			got, err := fleet.sub.next()
			if err != nil {
				t.Fatalf("RESP%s: the notification of k%d: %v", proto, i, err)
			}
			check("a notification", got, server.sub.read())
		}
		both("PUNSUBSCRIBE n* __keyevent@0__:*", 2)
		both("UNSUBSCRIBE a c", 2)
		both("GET a", 1)
		both("UNSUBSCRIBE", 1)
		fleet.sub.silent()
		fleet.pub.line("FLUSHALL")
		server.pub.line("FLUSHALL")
	}
}

// TestPubSubSurvives has the node of the subscriptions go, and slots.
func TestPubSubSurvives(t *testing.T) {
	c := redistest.StartCluster(t, 3, 1)
	f := over(t, c, func(o *Options) { o.Patience = 30 * time.Second })
	sub, pub := dial(t, f), dial(t, f)
	sub.line("HELLO 3")
	sub.line("SUBSCRIBE news")
	channel := at(c, c.Masters()[2], "sh")
	sub.line("SSUBSCRIBE " + channel)
	pub.want("PUBLISH news 1", ":1\r\n")
	sub.read()
	c.Move(c.Masters()[1], slotOfKey(channel))
	redistest.Eventually(t, patience, func() bool { return pub.line("SPUBLISH "+channel+" moved") == ":1\r\n" }, "the shard channel's subscription has moved")
	if got := sub.read(); !strings.Contains(got, "moved") {
		t.Errorf("the message is %q", got)
	}
	c.Kill(c.Owner(0))
	redistest.Eventually(t, 40*time.Second, func() bool { return dial(t, f).line("PUBLISH news again") == ":1\r\n" }, "the subscription is back")
	if got := sub.read(); !strings.Contains(got, "again") {
		t.Errorf("the message is %q", got)
	}
	sub.want("PING", "+PONG\r\n")
}

// TestRefusedAgainAfterAMove: a transaction whose slot has moved is said again where it is now,
// and a command of it is refused there. Nothing that comes later meets its MULTI.
func TestRefusedAgainAfterAMove(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	e := dial(t, over(t, c))
	to := c.Masters()[1]
	one := at(c, c.Masters()[0], "a")
	e.want("MULTI", "+OK\r\n")
	e.want("INCR "+one, "+QUEUED\r\n")
	c.Move(to, slotOfKey(one))
	few := func(n string) {
		t.Helper()
		if err := c.On(to).ConfigSet(t.Context(), "min-replicas-to-write", n).Err(); err != nil {
			t.Fatal(err)
		}
	}
	few("1")
	if got := e.line("EXEC"); !strings.HasPrefix(got, "-NOREPLICAS") {
		t.Errorf("EXEC: %q", got)
	}
	few("0")
	list := strings.TrimSuffix(one, "a") + "list"
	e.want("BLPOP "+list+" 0.01", "*-1\r\n")
	e.want("WATCH "+one, "+OK\r\n")
	e.want("MULTI", "+OK\r\n")
	e.want("INCR "+one, "+QUEUED\r\n")
	e.want("EXEC", "*1\r\n:1\r\n")
}

// TestMultiIsRefused: where a user may not say MULTI, nothing of a transaction is done.
func TestMultiIsRefused(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	f := over(t, c)
	for _, m := range c.Masters() {
		if err := c.On(m).Do(t.Context(), "ACL", "SETUSER", "default", "-multi").Err(); err != nil {
			t.Fatal(err)
		}
	}
	for name, lines := range map[string][][]string{
		"one by one": {{"MULTI"}, {"INCR k"}, {"INCR k"}, {"EXEC"}},
		"a pipeline": {{"MULTI", "INCR k", "INCR k", "EXEC"}},
	} {
		e := dial(t, f)
		var got []string
		for _, together := range lines {
			var all [][]string
			for _, line := range together {
				all = append(all, fields(line))
			}
			e.send(all...)
			for range together {
				got = append(got, e.read())
			}
		}
		if last := got[len(got)-1]; !strings.HasPrefix(last, "-") {
			t.Errorf("%s: EXEC: %q", name, got)
		}
		e.want("GET k", "$-1\r\n")
	}
}

// TestNotificationsComeOnce: the subscriptions go to a master that is listened to for
// notifications already, because the one that had them is no master any more.
func TestNotificationsComeOnce(t *testing.T) {
	c := redistest.StartCluster(t, 3, 1, redistest.WithConfig("notify-keyspace-events", "KEA"))
	f := over(t, c)
	sub, pub := dial(t, f), dial(t, f)
	sub.line("HELLO 3")
	sub.line("PSUBSCRIBE __keyevent@0__:set")
	sub.line("SUBSCRIBE news")
	from, to := c.Owner(0), c.Masters()[1]
	if from == to {
		to = c.Masters()[2]
	}
	key := at(c, to, "k")
	event := func(key string) string {
		return fmt.Sprintf(">4\r\n$8\r\npmessage\r\n$18\r\n__keyevent@0__:set\r\n$18\r\n__keyevent@0__:set\r\n$%d\r\n%s\r\n", len(key), key)
	}
	pub.want("SET "+key+" 1", "+OK\r\n")
	if got := sub.read(); got != event(key) {
		t.Fatalf("the event is %q", got)
	}
	c.Move(to, 0)
	pub.want("SET {"+slot.Tag(0)+"}x 1", "+OK\r\n") // the map is known to have changed
	if got := sub.read(); !strings.Contains(got, "}x") {
		t.Fatalf("the event is %q", got)
	}
	c.Failover(c.Replicas(from)[0])
	redistest.Eventually(t, patience, func() bool {
		pub = dial(t, f) // whose outcome is unknown is closed
		pub.send([]string{"PUBLISH", "news", "again"})
		got, err := pub.next()
		return err == nil && got == ":1\r\n"
	}, "all is subscribed at the other master")
	pub.line("PUBLISH news end")
	for !strings.Contains(sub.read(), "\r\nend\r\n") { // more than one may have got through
	}
	for i := range 10 {
		name := fmt.Sprint(key, i)
		pub.want("SET "+name+" 1", "+OK\r\n")
		if got := sub.read(); got != event(name) {
			t.Fatalf("event %d is %q", i, got)
		}
	}
	sub.silent()
}

func TestTransactionsPinned(t *testing.T) {
	c := redistest.StartCluster(t, 3, 0)
	f := over(t, c)
	e, other := dial(t, f), dial(t, f)
	one, two := at(c, c.Masters()[0], "a"), at(c, c.Masters()[1], "b")
	e.want("MULTI", "+OK\r\n")
	e.want("PING", "+QUEUED\r\n")
	e.want("SET "+one+" 1", "+QUEUED\r\n")
	e.want("SET "+two+" 1", "-CROSSSLOT Keys in request don't hash to the same slot\r\n")
	e.want("INCR "+one, "+QUEUED\r\n")
	e.want("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n")
	e.want("EXISTS "+one+" "+two, ":0\r\n")
	e.want("MULTI", "+OK\r\n")
	if got := e.line("DBSIZE"); !strings.HasPrefix(got, "-ERR Crossfade: this command cannot be part of a transaction") {
		t.Errorf("DBSIZE inside MULTI: %q", got)
	}
	e.want("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n")

	e.want("WATCH "+one, "+OK\r\n")
	e.want("WATCH "+two, "-CROSSSLOT Keys in request don't hash to the same slot\r\n")
	other.want("SET "+one+" 5", "+OK\r\n")
	e.want("MULTI", "+OK\r\n")
	e.want("INCR "+one, "+QUEUED\r\n")
	e.want("EXEC", "*-1\r\n")
	e.want("GET "+one, "$1\r\n5\r\n")

	// The slot moves between WATCH and EXEC, and between MULTI and EXEC.
	e.want("WATCH "+one, "+OK\r\n")
	c.Move(c.Masters()[2], slotOfKey(one))
	e.want("MULTI", "+OK\r\n")
	e.want("INCR "+one, "+QUEUED\r\n")
	e.want("EXEC", "*-1\r\n")
	e.want("MULTI", "+OK\r\n")
	e.want("INCR "+one, "+QUEUED\r\n")
	c.Move(c.Masters()[1], slotOfKey(one))
	e.want("INCR "+one, "+QUEUED\r\n")
	e.want("EXEC", "*2\r\n:6\r\n:7\r\n")
	e.want("MULTI", "+OK\r\n")
	e.want("INCR "+one, "+QUEUED\r\n")
	c.Move(c.Masters()[0], slotOfKey(one))
	e.want("EXEC", "*1\r\n:8\r\n")
	e.want("GET "+one, "$1\r\n8\r\n")

	// Scripts that only the fleet knows.
	e.want(`EVAL "return redis.call('incr', KEYS[1])" 1 x`, ":1\r\n")
	text, _, _ := resp.Text([]byte(e.line(`SCRIPT LOAD "return redis.call('incr', KEYS[1])"`)))
	sum := string(text)
	for _, m := range c.Masters() {
		_ = c.On(m).ScriptFlush(t.Context()).Err()
	}
	e.want("MULTI", "+OK\r\n")
	e.want("EVALSHA "+sum+" 1 "+one, "+QUEUED\r\n")
	e.want("EXEC", "*1\r\n:9\r\n")

	// Who hangs up leaves nothing behind.
	e.want("MULTI", "+OK\r\n")
	e.want("SET "+one+" left", "+QUEUED\r\n")
	_ = e.conn.Close()
	other.want("GET "+one, "$1\r\n9\r\n")
}

func TestUnknownCommands(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0, redistest.WithRenamed("get", "fetch"), redistest.WithRenamed("dbsize", "howmany"))
	e := dial(t, over(t, c))
	for i := range 10 {
		e.want(fmt.Sprintf("SET k%d %d", i, i), "+OK\r\n")
		e.want(fmt.Sprintf("FETCH k%d", i), fmt.Sprintf("$1\r\n%d\r\n", i))
	}
	if got := e.line("HOWMANY"); !strings.Contains(got, "nobody knows to which nodes") {
		t.Errorf("a command without keys that nobody knows: %q", got)
	}
	if got := e.line("NOSUCH a b"); !strings.HasPrefix(got, "-ERR unknown command 'NOSUCH'") {
		t.Errorf("NOSUCH: %q", got)
	}
	if got := e.line("GET a"); !strings.HasPrefix(got, "-ERR unknown command 'GET'") {
		t.Errorf("GET: %q", got)
	}
}

func TestQuit(t *testing.T) {
	c := redistest.StartCluster(t, 2, 0)
	e := dial(t, over(t, c))
	e.send(fields("SET a 1"), fields("QUIT"), fields("SET a 2"))
	_ = e.conn.SetReadDeadline(time.Now().Add(patience))
	if b, err := io.ReadAll(e.conn); err != nil || string(b) != "+OK\r\n+OK\r\n" {
		t.Errorf("%q, %v", b, err)
	}
	e = dial(t, over(t, c))
	e.want("GET a", "$1\r\n1\r\n")
}
