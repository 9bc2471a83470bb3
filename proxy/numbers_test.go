package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// counts are the commands of each family that has any.
func counts(n Numbers) string {
	var out []string
	for _, f := range n.Families {
		if f.Commands > 0 {
			out = append(out, fmt.Sprintf("%s=%d", f.Name, f.Commands))
		}
	}
	return strings.Join(out, " ")
}

func (n Numbers) family(name string) Family {
	i := slices.IndexFunc(n.Families, func(f Family) bool { return f.Name == name })
	return n.Families[i]
}

// wantCounts waits for the numbers of the last replies, which come after them.
func (w *world) wantCounts(before Numbers, want string) Numbers {
	w.t.Helper()
	var n Numbers
	defer func() {
		if got := counts(n); got != want {
			w.t.Logf("counted: %s", got)
		}
	}()
	until(w.t, "the numbers are "+want, func() bool {
		n = w.proxy.Numbers().Since(before)
		return counts(n) == want
	})
	return n
}

func TestEveryRowHasAFamily(t *testing.T) {
	for name, s := range table {
		if s.family == fOther || rows[s.row] != s {
			t.Errorf("%s is in no family", name)
		}
	}
	if len(rows) != len(table)+1 || len(rows) > len(rowFamily) {
		t.Errorf("%d rows, %d commands", len(rows), len(table))
	}
	for _, names := range members {
		for _, name := range strings.Fields(names) {
			if table[name] == nil {
				t.Errorf("%s is in a family and not in the table", name)
			}
		}
	}
}

// TestNumbersAreExact: each command counts once, in its own family, whichever way
// it went.
func TestNumbersAreExact(t *testing.T) {
	for _, shared := range []bool{true, false} {
		for _, proto := range []string{"2", "3"} {
			t.Run(fmt.Sprintf("shared=%v/RESP%s", shared, proto), func(t *testing.T) {
				w := newWorld(t, func(c *Config) { c.Shared = shared })
				c := w.client()
				c.do("HELLO " + proto)
				before := w.proxy.Numbers()

				const n = 300
				var lines []string
				for i := range n {
					lines = append(lines, "GET a", "SET a 1")
					if i%3 == 0 {
						lines = append(lines, "HSET h f v", "LPUSH l 1", "SADD s 1", "ZADD z 1 m", "XADD x * f v", "EXISTS a", "PING")
					}
				}
				c.send(lines...)
				for range lines {
					c.next()
				}
				c.send("MULTI", "GET a", "GET b", "LPUSH l 1", "EXEC", "GET a", "NOSUCH thing", "EVAL 'return 1' 0", "PUBLISH c m", "BLPOP l 1", "DBSIZE",
					"XREAD STREAMS x 0", "XREAD BLOCK 1 STREAMS x $", "CLIENT GETNAME", "GET a")
				for range 15 {
					c.next()
				}
				got := w.wantCounts(before, fmt.Sprintf("other=1 string_read=%d string_write=%d hash=100 list=101 set=100 zset=100 stream=101 "+
					"pubsub=1 script=1 transaction=2 blocking=2 keys=100 connection=101 server=1", n+4, n))
				if got.Commands != got.All().Commands+2 {
					t.Errorf("%d commands came, %d were answered", got.Commands, got.All().Commands+2)
				}
				for _, f := range got.Families {
					if up, total := f.Upstream.Count(), f.Total.Count(); up != total || total != f.Commands {
						t.Errorf("%s: %d upstream, %d in total, %d commands", f.Name, up, total, f.Commands)
					}
					if f.Total.Sum < f.Upstream.Sum {
						t.Errorf("%s: %v in total and %v upstream", f.Name, f.Total.Sum, f.Upstream.Sum)
					}
					for _, q := range []float64{0.5, 0.99} {
						if f.Total.Quantile(q) < f.Upstream.Quantile(q) {
							t.Errorf("%s: quantile %v is %v in total and %v upstream", f.Name, q, f.Total.Quantile(q), f.Upstream.Quantile(q))
						}
					}
				}
				if in := w.proxy.Numbers(); in.Sharing != 0 || in.Pinning != 0 {
					t.Errorf("%d and %d commands are in flight", in.Sharing, in.Pinning)
				}
				if got.Errors["ERR"] != 1 || len(got.Errors) != 1 {
					t.Errorf("errors: %v", got.Errors)
				}
			})
		}
	}
}

// TestNumbersOfErrors: errors count by their first word, those that a script has
// made of a value do not show it.
func TestNumbersOfErrors(t *testing.T) {
	w := newWorld(t)
	w.do(router.Source, 0, "SET", "text", "x")
	c := w.client()
	c.send("INCR text", "LPUSH text 1", "GET", "MULTI", "GET", "EXEC", "EVALSHA 0000000000000000000000000000000000000000 0",
		"EVAL 'return redis.error_reply(\"SECRETWORD is out\")' 0", "GET text")
	for range 9 {
		c.next()
	}
	c.do("SELECT 7")
	w.switchTo(router.Target)
	if got := c.do("GET a"); !strings.HasPrefix(got, "-ERR") { // our own refusal
		t.Fatalf("a database that is not in the map: %q", got)
	}
	var n Numbers
	const want = "map[ERR:4 EXECABORT:1 NOSCRIPT:1 WRONGTYPE:1 other:1]"
	until(t, "all errors are counted", func() bool { n = w.proxy.Numbers(); return n.family("string_read").Commands == 4 })
	if fmt.Sprint(n.Errors) != want {
		t.Errorf("errors: %v, want %s", n.Errors, want)
	}
	if f := n.family("string_read"); f.Upstream.Count() != 3 {
		t.Errorf("%d reads went upstream, want 3", f.Upstream.Count())
	}
}

func TestErrorKinds(t *testing.T) {
	for text, want := range map[string]string{
		"-ERR x\r\n": "ERR", "-WRONGTYPE\r\n": "WRONGTYPE", "!11\r\nERR unknown\r\n": "ERR", "!5\r\nMOVED\r\n": "MOVED",
		"-secret value\r\n": "other", "-\r\n": "other", "-A12345678901234567890123456789012345678901234567890 x\r\n": "other",
	} {
		for step := 1; step <= len(text); step++ {
			var head replyHead
			head.begin(text[0])
			for at := 0; at < len(text); at += step {
				head.add([]byte(text[at:min(len(text), at+step)]))
			}
			if got := errorNames[head.kind()]; !head.failing || got != want {
				t.Errorf("%q in pieces of %d: %s, want %s", text, step, got, want)
			}
		}
	}
}

// TestNumbersOfConnections tells who shares, and on which side.
func TestNumbersOfConnections(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared, c.MaxClients = true, 6 })
	var plain, own []*raw
	for range 4 {
		c := w.client()
		c.do("GET a")
		plain = append(plain, c)
	}
	for i := range 2 {
		c := w.client()
		c.send(fmt.Sprintf("SUBSCRIBE c%d", i))
		c.next()
		own = append(own, c)
	}
	extra := w.client()
	if got := extra.next(); !strings.Contains(got, "max number of clients") {
		t.Fatalf("the seventh client got %q", got)
	}
	n := w.proxy.Numbers()
	if n.Shared != 4 || n.Pinned != 2 || n.Clients != 6 || n.Accepted != 6 || n.Refused != 1 {
		t.Errorf("clients: %+v", n)
	}
	if n.Connections[router.Source] != (Upstreams{Shared: 1, Pinned: 2}) || n.Connections[router.Target] != (Upstreams{}) {
		t.Errorf("connections: %+v", n.Connections)
	}
	if n.BytesIn == 0 || n.BytesOut == 0 {
		t.Errorf("bytes: %d in, %d out", n.BytesIn, n.BytesOut)
	}
	blocked := own[0]
	blocked.close()
	b := plain[0]
	b.send("BLPOP nothing 0")
	until(t, "a command is in flight", func() bool { return w.proxy.Numbers().Pinning == 1 })
	w.do(router.Source, 0, "RPUSH", "nothing", "x")
	b.next()
	until(t, "it is answered", func() bool { return w.proxy.Numbers().Pinning == 0 })
}

// TestSlowLog: what takes long is in it, what blocks is not, and nothing in it
// comes from a client.
func TestSlowLog(t *testing.T) {
	const secret = "s3cr3t-value"
	for _, shared := range []bool{true, false} {
		t.Run(fmt.Sprintf("shared=%v", shared), func(t *testing.T) {
			source := redistest.Start(t, withDebug)
			w := newWorldOn(t, source, redistest.Start(t), func(c *Config) {
				c.Shared, c.SlowLogEntries, c.SlowLogSlowerThan = shared, 4, 150*time.Millisecond
			})
			c, other := w.client(), w.client()
			other.do("SELECT 3")
			other.want("GET "+secret, "$-1\r\n")
			c.send("BLPOP "+secret+" 0.3", "SET "+secret+" "+secret)
			c.next()
			c.next()
			if slow := w.proxy.Slow(); len(slow) != 0 {
				t.Fatalf("slow before anything was: %+v", slow)
			}
			c.want("DEBUG SLEEP 0.2 "+secret, "-ERR unknown subcommand or wrong number of arguments for 'SLEEP'. Try DEBUG HELP.\r\n")
			c.send("DEBUG SLEEP 0.4")
			// The server sleeps: this one waits there.
			until(t, "the server sleeps", func() bool { return w.proxy.Numbers().Pinning >= 1 })
			other.send("SET k " + secret)
			other.next()
			c.next()
			until(t, "two slow commands", func() bool { return len(w.proxy.Slow()) >= 2 })
			var names []string
			for i, s := range w.proxy.Slow() {
				names = append(names, s.Command)
				if s.Total < 150*time.Millisecond || s.Upstream > s.Total || s.Upstream <= 0 || s.Time.IsZero() || s.ID != uint64(2-i) {
					t.Errorf("an entry: %+v", s)
				}
				want := []any{c.conn.LocalAddr().String(), 0, 3, len(wireOf([]byte("DEBUG"), []byte("SLEEP"), []byte("0.4")))}
				if s.Command == "set" {
					want = []any{other.conn.LocalAddr().String(), 3, 3, len(wireOf([]byte("SET"), []byte("k"), []byte(secret)))}
				}
				if got := []any{s.Client, s.Database, s.Args, s.Bytes}; fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("%s: %v, want %v", s.Command, got, want)
				}
			}
			slices.Sort(names)
			if fmt.Sprint(names) != "[debug set]" {
				t.Errorf("slow are %v", names)
			}
			if text := fmt.Sprintf("%+v", w.proxy.Slow()); strings.Contains(text, secret) {
				t.Errorf("a value is in the slow log: %s", text)
			}
			until(t, "the client is at home", func() bool { n := w.proxy.Numbers(); return n.Sharing+n.Pinning == 0 })
		})
	}
}

// TestSlowLogIsARing: the latest are kept, and at 0 every command is in it.
func TestSlowLogIsARing(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.SlowLogEntries = 3 })
	c := w.client()
	for _, line := range []string{"GET a", "SET a 1", "HLEN h", "LLEN l", "SCARD s"} {
		c.do(line)
	}
	var names []string
	for _, s := range w.proxy.Slow() {
		names = append(names, fmt.Sprint(s.ID, s.Command))
	}
	if fmt.Sprint(names) != "[5scard 4llen 3hlen]" {
		t.Errorf("slow are %v", names)
	}
	off := newSlowLog(10, -1)
	if none := newSlowLog(0, 0); off.least != never || none.least != never {
		t.Error("it is not off")
	}
}

// TestSlowLogOfMany: where everything is slow, all of it is counted and some of it logged.
func TestSlowLogOfMany(t *testing.T) {
	for _, line := range []string{"GET a", "ECHO a"} { // of a guest, of a session
		w := newWorld(t, func(c *Config) { c.SlowLogEntries = 1000 })
		c := w.client()
		const n = 500
		if line == "ECHO a" {
			c.do("CLIENT ID") // it keeps its connection
		}
		before := w.proxy.Numbers().SlowLogged
		c.send(slices.Repeat([]string{line}, n)...)
		for range n {
			c.next()
		}
		until(t, "all are counted", func() bool { return w.proxy.Numbers().SlowLogged-before == n })
		if logged := len(w.proxy.Slow()); logged == 0 || logged >= n {
			t.Errorf("%s: %d of %d are logged", line, logged, n)
		}
	}
}

// TestSlowLogBehindABalancer names the client, and not the balancer, whichever way
// its command goes.
func TestSlowLogBehindABalancer(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.SlowLogEntries = 2
		c.Headers = Headers{Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	})
	c := w.client()
	c.write([]byte("PROXY TCP4 203.0.113.7 127.0.0.1 54321 6380\r\n"))
	for _, line := range []string{"GET a", "CLIENT GETNAME"} {
		c.want(line, "$-1\r\n")
		until(t, line+" is in the log", func() bool {
			slow := w.proxy.Slow()
			return len(slow) > 0 && strings.HasPrefix(strings.ToLower(line), slow[0].Command)
		})
		if got := w.proxy.Slow()[0].Client; got != "203.0.113.7:54321" {
			t.Errorf("%s is said to be of %s", line, got)
		}
	}
}
