package proxy

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

const ok = "+OK\r\n"

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

func TestCrossDatabasesThereAndBack(t *testing.T) {
	w := newWorld(t)
	idle, busy := w.client(), w.client()
	busy.want("SELECT 3", ok)
	idle.want("SELECT 3", ok)
	busy.want("SET who source", ok)
	w.do(router.Target, 5, "SET", "who", "target")
	w.do(router.Target, 0, "SET", "zero", "t0")

	w.switchTo(router.Target)
	busy.want("GET who", bulk("target"))
	idle.want("GET who", bulk("target"))
	busy.want("SELECT 0", ok)
	busy.want("GET zero", bulk("t0"))
	busy.want("SELECT 7", "-ERR Crossfade: database 7 is not in the database map\r\n")
	busy.want("SELECT 03", "-ERR value is not an integer or out of range\r\n")
	busy.want("GET zero", bulk("t0"))
	busy.want("MOVE zero 3", ":1\r\n")
	if got := w.do(router.Target, 5, "GET", "zero"); got != "t0" {
		t.Fatalf("MOVE went elsewhere: %v", got)
	}
	busy.want("MOVE who 4", "-ERR Crossfade: database 4 is not in the database map\r\n")
	busy.want("SET c 1", ok)
	busy.want("COPY c c2 DB 3", ":1\r\n")
	if got := w.do(router.Target, 5, "GET", "c2"); got != "1" {
		t.Fatalf("COPY went elsewhere: %v", got)
	}
	busy.want("COPY c c2 DB 9 REPLACE", "-ERR Crossfade: database 9 is not in the database map\r\n")
	busy.want("SWAPDB 0 3", ok)
	busy.want("GET c2", bulk("1"))
	busy.want("SWAPDB 0 1", "-ERR Crossfade: database 1 is not in the database map\r\n")
	fresh := w.client()
	fresh.want("GET c2", bulk("1"))
	fresh.want("EVAL \"return redis.call('select', 1)\" 0", "-ERR Crossfade: this script names databases by number, which cannot be mapped; it is refused since the switch\r\n")
	fresh.want("SELECT 3", ok)
	fresh.want("RESET", "+RESET\r\n")
	fresh.want("GET c2", bulk("1"))

	w.switchTo(router.Source)
	idle.want("GET who", bulk("source"))
	busy.want("GET who", "$-1\r\n")
	busy.want("SELECT 7", ok)
}

func TestFlushAllSparesOthers(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.want("SELECT 3", ok)
	w.switchTo(router.Target)
	w.do(router.Target, 1, "SET", "tenant", "x")
	w.do(router.Target, 0, "SET", "a", "x")
	w.do(router.Target, 5, "SET", "b", "x")
	c.want("WATCH b", ok)
	c.want("FLUSHALL nonsense", "-ERR syntax error\r\n")
	c.send("SET x 1", "FLUSHALL ASYNC", "DBSIZE", "SET back 1")
	for _, want := range []string{ok, ok, ":0\r\n", ok} {
		c.expect(want)
	}
	if w.do(router.Target, 1, "GET", "tenant") != "x" || w.do(router.Target, 5, "GET", "back") != "1" || fmt.Sprint(w.do(router.Target, 0, "DBSIZE")) != "0" {
		t.Fatal("FLUSHALL was not for the mapped databases")
	}
	c.want("MULTI", ok)
	c.want("SET y 1", "+QUEUED\r\n")
	if got := c.do("FLUSHALL"); !strings.HasPrefix(got, "-ERR Crossfade: FLUSHALL") {
		t.Fatalf("got %q", got)
	}
	c.want("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n")
	if !slices.Contains(w.heard.all(), "flushed -1") {
		t.Fatalf("the observer heard %v", w.heard.all())
	}
	if forwarded, finished := w.proxy.Silent(); forwarded["flushdb"] != 2 || finished["flushdb"] != 2 {
		t.Fatalf("flushdb counted %d and %d times", forwarded["flushdb"], finished["flushdb"])
	}
}

func TestUnmappedDatabaseIsRefused(t *testing.T) {
	w := newWorld(t)
	c, m := w.client(), w.client()
	c.want("SELECT 7", ok)
	m.want("SELECT 7", ok)
	m.want("MULTI", ok)
	m.want("SET a 1", "+QUEUED\r\n")
	w.switchTo(router.Target)
	refusal := "-ERR Crossfade: database 7 is not in the database map\r\n"
	c.want("SET a 1", refusal)
	c.want("BLPOP a 0", refusal)
	c.want("MULTI", refusal)
	c.want("PING", "+PONG\r\n")
	c.send("SELECT 8", "SET a 1", "SELECT 3", "SET a 2")
	c.expect("-ERR Crossfade: database 8 is not in the database map\r\n")
	c.expect(refusal)
	c.expect(ok)
	c.expect(ok)
	if got := w.do(router.Target, 5, "GET", "a"); got != "2" {
		t.Fatalf("got %v", got)
	}
	if got := m.next(); !strings.Contains(got, "not in the database map") {
		t.Fatalf("got %q", got)
	}
	m.expect("EOF")
	w.do(router.Target, 0, "PING")
	if got := fmt.Sprint(w.do(router.Target, 0, "DBSIZE")); got != "0" {
		t.Fatalf("something was written into database 0: %v keys", got)
	}
}

func TestCrossMulti(t *testing.T) {
	w := newWorld(t)
	plainTx, dirty, watching, flush, selects := w.client(), w.client(), w.client(), w.client(), w.client()
	plainTx.want("SELECT 3", ok)
	plainTx.send("MULTI", "SET a 1", "INCR a", "XACK s g 1-1")
	for _, want := range []string{ok, "+QUEUED\r\n", "+QUEUED\r\n", "+QUEUED\r\n"} {
		plainTx.expect(want)
	}
	dirty.want("MULTI", ok)
	dirty.want("GET", "-ERR wrong number of arguments for 'get' command\r\n")
	watching.want("WATCH k", ok)
	watching.want("MULTI", ok)
	watching.want("SET k 1", "+QUEUED\r\n")
	flush.want("MULTI", ok)
	flush.want("FLUSHALL", "+QUEUED\r\n")
	selects.want("MULTI", ok)
	selects.want("SELECT 3", "+QUEUED\r\n")
	selects.want("SET sel 1", "+QUEUED\r\n")

	w.switchTo(router.Target)
	plainTx.want("EXEC", "*3\r\n+OK\r\n:2\r\n:0\r\n")
	if w.do(router.Target, 5, "GET", "a") != "2" || fmt.Sprint(w.do(router.Source, 3, "EXISTS", "a")) != "0" {
		t.Fatal("the transaction ran in the wrong place")
	}
	dirty.want("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n")
	watching.want("EXEC", "*-1\r\n")
	watching.want("SET k 2", ok)
	watching.want("MULTI", ok)
	watching.want("GET k", "+QUEUED\r\n")
	watching.want("EXEC", "*1\r\n$1\r\n2\r\n")
	flush.want("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n")
	selects.want("EXEC", "*2\r\n+OK\r\n+OK\r\n")
	selects.want("GET sel", bulk("1"))
	if got := w.do(router.Target, 5, "GET", "sel"); got != "1" {
		t.Fatalf("got %v", got)
	}
	if !slices.Contains(w.heard.all(), "silent 3 s") {
		t.Fatalf("the observer heard %v", w.heard.all())
	}

	// RESP3 nil, and UNWATCH lifts the mark.
	three, lifted := w.client(), w.client()
	three.do("HELLO 3")
	three.want("WATCH k", ok)
	lifted.want("WATCH k", ok)
	w.switchTo(router.Source)
	three.send("MULTI", "GET k", "EXEC", "MULTI", "GET k", "EXEC")
	for _, want := range []string{ok, "+QUEUED\r\n", "_\r\n", ok, "+QUEUED\r\n", "*1\r\n_\r\n"} {
		three.expect(want)
	}
	lifted.send("UNWATCH", "MULTI", "GET k", "EXEC")
	for _, want := range []string{ok, ok, "+QUEUED\r\n", "*1\r\n$-1\r\n"} {
		lifted.expect(want)
	}
}

func (w *world) blockedOn(side router.Side, cmd string) {
	w.t.Helper()
	until(w.t, cmd+" blocks", func() bool {
		return strings.Contains(fmt.Sprint(w.do(side, 0, "CLIENT", "LIST")), "cmd="+cmd)
	})
}

func TestCrossBlocked(t *testing.T) {
	w := newWorld(t)
	pop, brief, stream, group, move := w.client(), w.client(), w.client(), w.client(), w.client()
	w.do(router.Source, 3, "XADD", "st", "5-0", "f", "v")
	w.do(router.Target, 5, "XADD", "st", "5-0", "f", "v")
	w.do(router.Source, 0, "XGROUP", "CREATE", "gr", "g", "0", "MKSTREAM")
	w.do(router.Target, 0, "XGROUP", "CREATE", "gr", "g", "0", "MKSTREAM")
	pop.want("SELECT 3", ok)
	pop.send("BLPOP q 0", "GET after")
	begin := time.Now()
	brief.send("BLPOP never 1")
	stream.want("SELECT 3", ok)
	stream.send("XREAD BLOCK 0 STREAMS st $")
	group.send("XREADGROUP GROUP g c BLOCK 0 STREAMS gr >")
	move.send("BLMOVE m1 m2 LEFT RIGHT 0")
	for _, cmd := range []string{"blpop", "xread", "xreadgroup", "blmove"} {
		w.blockedOn(router.Source, cmd)
	}
	w.switchTo(router.Target, func() {
		w.do(router.Target, 5, "XADD", "st", "6-0", "f", "new") // before the session is there: must be seen
		w.do(router.Target, 5, "SET", "after", "yes")
	})
	stream.expect("*1\r\n*2\r\n$2\r\nst\r\n*1\r\n*2\r\n$3\r\n6-0\r\n*2\r\n$1\r\nf\r\n$3\r\nnew\r\n")
	w.do(router.Target, 5, "RPUSH", "q", "e")
	pop.expect("*2\r\n$1\r\nq\r\n$1\r\ne\r\n")
	pop.expect(bulk("yes"))
	asked := time.Since(begin) // the steps so far may have taken longer than its second
	brief.expect("*-1\r\n")
	if d := time.Since(begin); d < 950*time.Millisecond || d > max(time.Second, asked)+2*time.Second {
		t.Fatalf("BLPOP with a second came back after %v, waited for since %v", d, asked)
	}
	w.blockedOn(router.Target, "blmove")
	w.switchTo(router.Source)
	w.do(router.Source, 0, "RPUSH", "m1", "x")
	move.expect(bulk("x"))
	w.do(router.Source, 0, "XADD", "gr", "1-0", "f", "v")
	if got := group.next(); !strings.Contains(got, "1-0") {
		t.Fatalf("got %q", got)
	}
	if n := w.proxy.Stalls().Sessions; n < 2 {
		t.Fatalf("%d sessions waited", n)
	}
	// The application's own UNBLOCK is passed on.
	app := w.client()
	id := strings.Trim(app.do("CLIENT ID"), ":\r\n")
	app.send("BLPOP q 0")
	until(t, "blocks", func() bool { return fmt.Sprint(w.do(router.Source, 0, "CLIENT", "UNBLOCK", id, "ERROR")) == "1" })
	app.expect("-UNBLOCKED client unblocked via CLIENT UNBLOCK\r\n")
}

func TestHoldGivenUp(t *testing.T) {
	w := newWorld(t)
	c, d := w.client(), w.client()
	c.send("BLPOP q 0")
	w.blockedOn(router.Source, "blpop")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.proxy.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	d.send("RPUSH q e")
	w.proxy.Release(w.gate.Route())
	c.expect("*2\r\n$1\r\nq\r\n$1\r\ne\r\n")
	d.expect(":1\r\n")
}

// TestIdleWhoLooksTooEarly has a subscriber look whether it has to move while the gate is
// still shut, because a loop takes its time: it must move all the same.
func TestIdleWhoLooksTooEarly(t *testing.T) {
	w := newWorld(t)
	sub := w.client()
	sub.send("SUBSCRIBE c")
	sub.next()
	held := make(chan struct{})
	w.switchTo(router.Target, func() {
		if loops := w.proxy.eventLoops(); !loops[0].post(func() { <-held }) {
			t.Error("the loop has ended")
		}
		w.do(router.Target, 0, "PUBLISH", "c", "kept")
		go func() {
			defer close(held)
			for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); runtime.Gosched() {
				for _, sess := range w.proxy.snapshotSessions() {
					sess.poke()
				}
			}
		}()
	})
	sub.expect("*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n" + bulk("kept"))
}

func TestCrossSubscribers(t *testing.T) {
	for _, proto := range []string{"2", "3"} {
		t.Run("RESP"+proto, func(t *testing.T) {
			w := newWorld(t)
			sub := w.client()
			if got := sub.do("HELLO " + proto); resp.IsError([]byte(got)) {
				t.Fatal(got)
			}
			head := "*"
			if proto == "3" {
				head = ">"
			}
			sub.send("SUBSCRIBE c", "PSUBSCRIBE p.*", "SUBSCRIBE __keyspace@3__:k")
			for range 3 {
				sub.next()
			}
			n := 0
			publish := func(side router.Side, count int) {
				for range count {
					w.do(side, 0, "PUBLISH", "c", fmt.Sprintf("m%d", n))
					n++
				}
			}
			side := router.Source
			for range 3 {
				publish(side, 20)
				other := side.Other()
				w.switchTo(other, func() { w.do(other, 0, "PUBLISH", "p.x", "kept") })
				publish(other, 20)
				for i := range 40 {
					if i == 20 {
						sub.expect(head + "4\r\n$8\r\npmessage\r\n$3\r\np.*\r\n$3\r\np.x\r\n" + bulk("kept"))
					}
					sub.expect(head + "3\r\n$7\r\nmessage\r\n$1\r\nc\r\n" + bulk(fmt.Sprintf("m%d", n-40+i)))
				}
				side = other
			}
			// On the target, the keyspace channel of database 3 is that of 5.
			w.do(router.Target, 5, "CONFIG", "SET", "notify-keyspace-events", "KEA")
			w.do(router.Target, 3, "SET", "k", "other tenant")
			w.do(router.Target, 5, "SET", "k", "v")
			sub.expect(head + "3\r\n$7\r\nmessage\r\n$16\r\n__keyspace@3__:k\r\n$3\r\nset\r\n")
			sub.want("UNSUBSCRIBE __keyspace@3__:k", head+"3\r\n$11\r\nunsubscribe\r\n$16\r\n__keyspace@3__:k\r\n:2\r\n")
			sub.want("UNSUBSCRIBE", head+"3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:1\r\n")
			sub.want("PUNSUBSCRIBE", head+"3\r\n$12\r\npunsubscribe\r\n$3\r\np.*\r\n:0\r\n")
			sub.want("PING", "+PONG\r\n")
		})
	}
}

func TestCrossScan(t *testing.T) {
	w := newWorld(t)
	keys := map[string]bool{}
	for i := range 500 {
		k := fmt.Sprintf("key%d", i)
		keys[k] = true
		w.do(router.Source, 0, "SET", k, i)
		w.do(router.Target, 0, "SET", k, i)
	}
	c := w.client()
	cursor, seen, rounds := "0", map[string]bool{}, 0
	scan := func() {
		els := resp.Elements([]byte(c.do("SCAN " + cursor + " COUNT 50")))
		text, _, _ := resp.Text(els[0])
		cursor = string(text)
		for _, k := range resp.Elements(els[1]) {
			name, _, _ := resp.Text(k)
			seen[string(name)] = true
		}
		rounds++
	}
	for range 4 {
		scan()
	}
	w.switchTo(router.Target)
	seen = map[string]bool{}
	for scan(); cursor != "0"; scan() {
		if rounds > 100 {
			t.Fatal("the scan does not end")
		}
	}
	if len(seen) != len(keys) {
		t.Fatalf("%d of %d keys seen after the switch", len(seen), len(keys))
	}
}

// TestCrossSubscribingTransactions: who subscribes inside a transaction does so on the
// side where that is executed, and hears what is published there.
func TestCrossSubscribingTransactions(t *testing.T) {
	for _, proto := range []string{"2", "3"} {
		t.Run("RESP"+proto, func(t *testing.T) {
			w := newWorld(t)
			c, head := w.client(), "*"
			c.send("HELLO " + proto)
			c.next()
			if proto == "3" {
				head = ">"
			}
			c.want("MULTI", ok)
			c.want("SET a 1", "+QUEUED\r\n")
			c.want("SUBSCRIBE news other", "+QUEUED\r\n")
			c.want("PSUBSCRIBE n*", "+QUEUED\r\n")
			w.switchTo(router.Target)
			c.want("UNSUBSCRIBE other", "+QUEUED\r\n")
			c.send("EXEC")
			want := "*4\r\n" + ok
			for _, one := range []struct {
				kind, name string
				n          int
			}{{"subscribe", "news", 1}, {"subscribe", "other", 2}, {"psubscribe", "n*", 3}, {"unsubscribe", "other", 2}} {
				want += fmt.Sprintf("%s3\r\n%s%s:%d\r\n", head, bulk(one.kind), bulk(one.name), one.n)
			}
			got := ""
			for len(got) < len(want) {
				got += c.next()
			}
			if got != want {
				t.Fatalf("got  %q\nwant %q", got, want)
			}
			for _, side := range []router.Side{router.Source, router.Target} {
				w.switchTo(side)
				w.do(side, 0, "PUBLISH", "other", "unheard")
				w.do(side, 0, "PUBLISH", "news", "x")
				c.expect(head + "3\r\n$7\r\nmessage\r\n" + bulk("news") + bulk("x"))
				c.expect(head + "4\r\n$8\r\npmessage\r\n" + bulk("n*") + bulk("news") + bulk("x"))
			}
		})
	}
}

// TestCrossScanInTransactions: an iteration of which every step is in a transaction
// ends, misses nothing, and may be mixed with steps outside.
func TestCrossScanInTransactions(t *testing.T) {
	w := newWorld(t)
	const many = 1000
	for i := range many {
		for _, side := range []router.Side{router.Source, router.Target} {
			w.do(side, 0, "SADD", "set", fmt.Sprintf("m%d", i))
		}
	}
	c := w.client()
	cursor, seen := "0", map[string]bool{}
	step := func(inside bool) {
		el := []byte(nil)
		if inside {
			c.send("MULTI", "PING", "SSCAN set "+cursor+" COUNT 50", "CLIENT SETNAME me", "EXEC")
			c.expect(ok)
			for range 3 {
				c.expect("+QUEUED\r\n")
			}
			all := resp.Elements([]byte(c.next()))
			if len(all) != 3 || string(all[0]) != "+PONG\r\n" {
				t.Fatalf("got %q", all)
			}
			el = all[1]
		} else {
			el = []byte(c.do("SSCAN set " + cursor + " COUNT 50"))
		}
		els := resp.Elements(el)
		text, _, _ := resp.Text(els[0])
		cursor = string(text)
		for _, m := range resp.Elements(els[1]) {
			name, _, _ := resp.Text(m)
			seen[string(name)] = true
		}
	}
	for round := range 3 {
		clear(seen)
		for i := range 5 {
			step(i%2 == round%2)
		}
		if round == 1 { // queued before the switch, with a cursor of the other server
			c.want("MULTI", ok)
			c.want("SSCAN set "+cursor+" COUNT 5000", "+QUEUED\r\n")
		}
		w.switchTo(w.gate.Route().Side.Other())
		if round == 1 {
			if got := c.do("EXEC"); strings.Count(got, "$") < many {
				t.Fatalf("the iteration did not begin again: %d lines", strings.Count(got, "$"))
			}
		}
		calls := 0
		for step(true); cursor != "0"; step(calls%3 > 0) {
			if calls++; calls > 100 {
				t.Fatal("the iteration does not end")
			}
		}
		if len(seen) != many {
			t.Errorf("round %d: %d of %d members were seen", round, len(seen), many)
		}
	}
}

func TestCrossTracking(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.do("HELLO 3")
	c.want("CLIENT TRACKING ON", ok)
	c.want("SET a 1", ok)
	c.want("GET a", bulk("1"))
	w.switchTo(router.Target)
	c.expect(">2\r\n$10\r\ninvalidate\r\n_\r\n")
	c.want("GET a", "_\r\n")
	w.do(router.Target, 0, "SET", "a", "2")
	c.expect(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n")
	redirected := w.client()
	past := dialRaw(t, w.target.Addr()) // which nobody can find on the other server
	redirected.want("CLIENT TRACKING ON REDIRECT "+strings.Trim(past.do("CLIENT ID"), ":\r\n"), ok)
	w.switchTo(router.Source)
	if got := redirected.next(); !strings.HasPrefix(got, "-ERR Crossfade") {
		t.Fatalf("got %q", got)
	}
	redirected.expect("EOF")
}

func TestCrossReplyOffNameAndProtocol(t *testing.T) {
	w := newWorld(t)
	off, named, monitor := w.client(), w.client(), w.client()
	off.send("CLIENT REPLY OFF", "SELECT 3", "SET a 1")
	named.do("HELLO 3 SETNAME me")
	if !older(programVersion(), 7, 0) {
		named.want("CLIENT NO-EVICT ON", ok)
	}
	monitor.want("MONITOR", ok)
	until(t, "the silent commands have run", func() bool { return w.do(router.Source, 3, "GET", "a") == "1" })
	w.switchTo(router.Target)
	off.send("SET b 2", "CLIENT REPLY ON", "GET b")
	off.expect(ok)
	off.expect(bulk("2"))
	if w.do(router.Source, 3, "GET", "a") != "1" || w.do(router.Target, 5, "GET", "b") != "2" {
		t.Fatal("silent commands went elsewhere")
	}
	named.want("CLIENT GETNAME", bulk("me"))
	named.want("GET none", "_\r\n")
	for got := monitor.next(); got != "EOF"; got = monitor.next() {
		if !strings.HasPrefix(got, "+") {
			t.Fatalf("got %q", got)
		}
	}
}

func TestCrossCredentials(t *testing.T) {
	acl := func(pass string) []redistest.Option {
		return []redistest.Option{redistest.WithPassword(pass), redistest.WithACL("app on >apppass ~* &* +@all", "default on >"+pass+" ~* &* +@all")}
	}
	source, target := redistest.Start(t, acl("sp")...), redistest.Start(t, acl("tp")...)
	w := newWorldOn(t, source, target, func(c *Config) {
		c.Upstreams[0].Password, c.Upstreams[1].Password = "sp", "tp"
		c.MaxClients = 4
	})
	operator, app, anon, lone := w.client(), w.client(), w.client(), w.client()
	fifth := w.client()
	fifth.expect("-ERR max number of clients reached\r\n")
	operator.want("AUTH sp", ok)
	app.want("AUTH app apppass", ok)
	app.want("SELECT 3", ok)
	noauth := "-NOAUTH Authentication required.\r\n"
	anon.want("GET a", noauth)
	lone.want("AUTH wrong", "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
	w.switchTo(router.Target)
	operator.want("SET a 1", ok)
	operator.want("ACL WHOAMI", bulk("default"))
	app.want("ACL WHOAMI", bulk("app"))
	app.want("SET in3 1", ok)
	anon.want("GET a", noauth)
	anon.want("BLPOP a 0", noauth)
	anon.want("AUTH sp", ok)
	anon.want("GET a", bulk("1"))
	lone.want("HELLO 3 AUTH default nothing", "-WRONGPASS invalid username-password pair or user is disabled.\r\n")
	if got := lone.do("HELLO 3 AUTH default sp"); !strings.HasPrefix(got, "%") {
		t.Fatalf("got %q", got)
	}
	c := target.ClientAs("default", "tp", 5)
	defer func() { _ = c.Close() }()
	if n := c.Exists(context.Background(), "in3").Val(); n != 1 {
		t.Fatal("the app's write went elsewhere")
	}
	// A user whom the other side does not know is an error of Prepare.
	if err := c.Do(context.Background(), "ACL", "SETUSER", "only", "on", ">x", "~*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	app.want("AUTH only x", ok)
	if err := w.proxy.Prepare(context.Background(), router.Source); err == nil || !strings.Contains(err.Error(), "WRONGPASS") || strings.Contains(err.Error(), "apppass") {
		t.Fatalf("Prepare: %v", err)
	}
}

func TestUnauthenticatedSelectsBeforeItRuns(t *testing.T) {
	target := redistest.Start(t, redistest.WithPassword("tp"))
	w := newWorldOn(t, redistest.Start(t, redistest.WithPassword("tp")), target)
	w.dbs, _ = router.NewDBMap(map[int]int{0: 5})
	w.gate.Open(router.Route{Side: router.Target, Epoch: 1, Map: w.dbs})
	c := w.client()
	c.send("SET a 1", "AUTH tp", "SET a 2", "GET a")
	c.expect("-NOAUTH Authentication required.\r\n")
	for _, want := range []string{ok, ok, bulk("2")} {
		c.expect(want)
	}
	five := target.ClientAs("default", "tp", 5)
	defer func() { _ = five.Close() }()
	if five.Get(context.Background(), "a").Val() != "2" {
		t.Fatal("written into the wrong database")
	}
}
