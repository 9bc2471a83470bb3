package proxy

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestOrderUnderLoad switches while pipelines run: every command is answered
// once and in order, and each ran on one side only.
func TestOrderUnderLoad(t *testing.T) {
	w := newWorld(t)
	var stop atomic.Bool
	var wg sync.WaitGroup
	const clients = 16
	acked := make([]int, clients)
	for i := range clients {
		c := w.client()
		wg.Go(func() {
			n := 0
			for !stop.Load() {
				var lines []string
				for range 10 {
					n++
					lines = append(lines, fmt.Sprintf("RPUSH list%d %d", i, n), fmt.Sprintf("ECHO %d", n))
				}
				if i%4 == 0 {
					lines = append(lines, "MULTI", "SELECT 3", fmt.Sprintf("RPUSH tx%d %d", i, n), "SELECT 0", "EXEC")
				}
				c.send(lines...)
				for k := range 10 {
					c.next()
					if got, want := c.next(), bulk(fmt.Sprint(n-9+k)); got != want {
						t.Errorf("client %d: got %q, want %q", i, got, want)
						return
					}
				}
				if i%4 == 0 {
					for range 4 {
						c.next()
					}
					if got := c.next(); !strings.HasPrefix(got, "*3\r\n+OK\r\n:") {
						t.Errorf("client %d: EXEC: %q", i, got)
						return
					}
				}
			}
			acked[i] = n
		})
	}
	side, longest := router.Source, time.Duration(0)
	for range 10 {
		side = side.Other()
		begin := time.Now()
		w.switchTo(side)
		longest = max(longest, time.Since(begin))
	}
	stop.Store(true)
	wg.Wait()
	for i := range clients {
		var all []int
		for _, s := range []router.Side{router.Source, router.Target} {
			part := w.do(s, 0, "LRANGE", fmt.Sprintf("list%d", i), 0, -1).([]any)
			before := 0
			for _, v := range part {
				var x int
				_, _ = fmt.Sscan(fmt.Sprint(v), &x)
				if x <= before {
					t.Fatalf("client %d: %d after %d", i, x, before)
				}
				before = x
				all = append(all, x)
			}
		}
		slices.Sort(all)
		if len(all) != acked[i] || len(slices.Compact(all)) != acked[i] {
			t.Fatalf("client %d: %d written, %d acknowledged", i, len(all), acked[i])
		}
	}
	// What a busy machine takes for a switch itself is no client's fault.
	if st := w.proxy.Stalls(); st.Max > longest+2*time.Second {
		t.Errorf("a client waited %v, the longest switch took %v", st.Max, longest)
	}
}

func TestSlowReaderDoesNotStopHold(t *testing.T) {
	w := newWorld(t)
	big := bytes.Repeat([]byte("x"), 1<<20)
	w.do(router.Source, 0, "SET", "big", big)
	w.do(router.Target, 0, "SET", "big", bytes.Repeat([]byte("y"), 1<<20))
	c := w.client()
	const n = 30
	for range n {
		c.send("GET big")
	}
	until(t, "the client's socket is full", func() bool { return w.gate.Inside() > 0 })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.proxy.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	w.epoch++
	w.proxy.Release(router.Route{Side: router.Target, Epoch: w.epoch, Map: w.dbs})
	from := "x" // a command that had not arrived at the hold is served by the target
	for range n {
		got := c.next()
		if len(got) < 1<<20 {
			t.Fatalf("a reply of %d bytes: %.40q", len(got), got)
		}
		got = got[10 : len(got)-2]
		if from == "x" && got[0] == 'y' {
			from = "y"
		}
		if strings.Trim(got, from) != "" {
			t.Fatalf("a reply that is not all of %s: %.40q", from, got)
		}
	}
	c.want("GETRANGE big 0 0", "$1\r\ny\r\n")
}

func TestUpstreamKilledInReply(t *testing.T) {
	source := redistest.Start(t)
	link := redistest.NewLink(t, source.Addr())
	w := newWorldOn(t, source, redistest.Start(t), func(c *Config) {
		c.Upstreams[0].Dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", link.Addr())
		}
	})
	w.do(router.Source, 0, "SET", "big", bytes.Repeat([]byte("x"), 1<<20))
	c := w.client()
	c.want("PING", "+PONG\r\n")
	link.CutAfter(100_000)
	c.send("SET a 1", "PFCOUNT hll", "GET big", "XACK st g 1-1")
	c.expect(ok)
	c.expect(":0\r\n")
	if got := c.next(); !strings.HasPrefix(got, "EOF after $1048576\r\nxxx") {
		t.Fatalf("got %.60q", got)
	}
	until(t, "all have left the gate", func() bool { return w.gate.Inside() == 0 })
	if log := w.heard.all(); !slices.Contains(log, "silent 0 hll") || !slices.Contains(log, "silent 0 st") {
		t.Fatalf("the observer heard %v", log)
	}
}

func TestObserverAndCounters(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	for _, l := range []string{"SELECT 3", "XGROUP CREATE s g 0 MKSTREAM", "XADD s 1-1 f v", "XREADGROUP GROUP g streams BLOCK 5 STREAMS s >", "XACK s g 1-1", "XACK s g", "PFCOUNT h1 h2",
		"EVAL \"return 1\" 2 k1 k2", "FUNCTION LOAD bad", "FUNCTION FLUSH", "SWAPDB 1 2", "FLUSHDB", "MULTI", "PFCOUNT t1", "SELECT 0", "PFCOUNT t2", "EXEC", "MULTI", "PFCOUNT never", "DISCARD",
		"WATCH k", "SET k 1", "MULTI", "PFCOUNT never", "EXEC", "FLUSHALL", "SET str x", "PFCOUNT str", "EVAL_RO \"return 1\" 1 ro"} {
		c.do(l)
	}
	want := []string{"silent 3 s", "silent 3 s", "silent 3 s", "silent 3 h1,h2", "silent 3 k1,k2", "functions", "swapped 1 2", "flushed 3", "silent 3 t1", "silent 0 t2", "flushed -1", "silent 0 str"}
	if got := w.heard.all(); !slices.Equal(got, want) {
		t.Fatalf("heard %q,\nwant %q", got, want)
	}
	counts, finished := w.proxy.Silent()
	info := fmt.Sprint(w.do(router.Source, 0, "INFO", "commandstats"))
	for name, n := range counts {
		if name == "scripts" {
			if n != 1 {
				t.Errorf("%d scripts", n)
			}
			continue
		}
		calls := int64(0)
		for line := range strings.Lines(info) {
			key, rest, _ := strings.Cut(line, ":calls=")
			key = strings.TrimPrefix(key, "cmdstat_")
			if key == name || strings.HasPrefix(key, name+"|") {
				var k int64
				_, _ = fmt.Sscanf(rest, "%d", &k)
				calls += k
			}
		}
		if f := finished[name]; f != n {
			t.Errorf("%s: nothing is in flight, but %d were forwarded and %d have finished", name, n, f)
		}
		if calls != n {
			t.Errorf("%s: the server counted %d calls, the proxy %d", name, calls, n)
		}
	}
	if got := w.proxy.Scripts(); len(got) != 1 || got[0] != "return 1" {
		t.Errorf("scripts: %q", got)
	}
	c.do("SCRIPT FLUSH")
	if got := w.proxy.Scripts(); len(got) != 0 {
		t.Errorf("scripts after a flush: %q", got)
	}
}

// TestUnblockedCounts pins what a server counts for a blocking command that was
// woken: the counters must not fall behind.
func TestUnblockedCounts(t *testing.T) {
	w := newWorld(t)
	c := w.client()
	c.do("XGROUP CREATE s g 0 MKSTREAM")
	c.send("XREADGROUP GROUP g c BLOCK 0 STREAMS s >")
	w.blockedOn(router.Source, "xreadgroup")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.proxy.Hold(ctx); err != nil {
		t.Fatal(err)
	}
	w.proxy.Release(w.gate.Route())
	w.blockedOn(router.Source, "xreadgroup")
	w.do(router.Source, 0, "XADD", "s", "1-1", "f", "v")
	c.next()
	info := fmt.Sprint(w.do(router.Source, 0, "INFO", "commandstats"))
	i := strings.Index(info, "cmdstat_xreadgroup:calls=")
	if i < 0 {
		t.Fatal("no calls")
	}
	var calls int64
	_, _ = fmt.Sscanf(info[i:], "cmdstat_xreadgroup:calls=%d", &calls)
	if got, _ := w.proxy.Silent(); got["xreadgroup"] != calls {
		t.Fatalf("the server counted %d calls, the proxy %d", calls, got["xreadgroup"])
	}
}

// TestCountsOfThoseWhoLeave: a client that leaves while it waits, or that loses its
// connection, hides nobody else's command from who compares the counters.
func TestCountsOfThoseWhoLeave(t *testing.T) {
	for how, change := range map[string]func(*Config){
		"woken": func(*Config) {}, "nobody may be woken": func(c *Config) { c.Unblock = nil },
	} {
		t.Run(how, func(t *testing.T) {
			w := newWorldOn(t, redistest.Start(t), redistest.Start(t), change)
			c := w.client()
			c.do("XGROUP CREATE s g 0 MKSTREAM")
			for range 3 {
				leaves := w.client()
				leaves.send("XREADGROUP GROUP g c BLOCK 0 STREAMS s >")
				w.blockedOn(router.Source, "xreadgroup")
				_ = leaves.conn.Close()
				until(t, "it is gone", func() bool {
					return strings.Contains(fmt.Sprint(w.do(router.Source, 0, "INFO", "clients")), "blocked_clients:0") && w.gate.Inside() == 0
				})
			}
			calls := int64(0)
			info := fmt.Sprint(w.do(router.Source, 0, "INFO", "commandstats"))
			if i := strings.Index(info, "cmdstat_xreadgroup:calls="); i >= 0 {
				_, _ = fmt.Sscanf(info[i:], "cmdstat_xreadgroup:calls=%d", &calls)
			}
			until(t, "the counters hide nothing", func() bool {
				forwarded, finished := w.proxy.Silent()
				n := forwarded["xreadgroup"]
				// Where nobody is woken only the server's version says whether it has counted.
				return n == finished["xreadgroup"] && (n == calls || how != "woken" && n < calls)
			})
		})
	}
}

// TestCountOfOneWhoLeavesAtOnce: it leaves while the proxy still waits to be told under which
// id the server has it.
func TestCountOfOneWhoLeavesAtOnce(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t)
		link, err := redistest.OpenLink(source.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer link.Close()
		w := newWorldOn(t, source, redistest.Start(t), mode, through(link))
		w.do(router.Source, 0, "XGROUP", "CREATE", "s", "g", "0", "MKSTREAM")
		leaves := w.client()
		leaves.want("MULTI", ok)
		leaves.want("EXEC", "*0\r\n")
		link.StallDown(true)
		leaves.send("XREADGROUP GROUP g c BLOCK 0 STREAMS s >")
		w.blockedOn(router.Source, "xreadgroup")
		leaves.close()
		until(t, "its leaving is seen", func() bool {
			for _, s := range w.proxy.snapshotSessions() {
				s.mu.Lock()
				it, _ := s.fifo.peek()
				waits := it != nil && it.spec == clientIDSpec && it.heard != nil
				s.mu.Unlock()
				if waits {
					return true
				}
			}
			return w.proxy.Stats().Clients == 0
		})
		link.StallDown(false)
		until(t, "it is gone", func() bool { return w.proxy.Stats().Clients == 0 })
		if forwarded, finished := w.proxy.Silent(); forwarded["xreadgroup"] != 1 || finished["xreadgroup"] != 1 {
			t.Errorf("the server has counted one call; %d were forwarded, %d finished", forwarded["xreadgroup"], finished["xreadgroup"])
		}
	})
}

func TestManyConnections(t *testing.T) {
	if testing.Short() {
		t.Skip("two thousand connections")
	}
	config := redistest.WithConfig("maxclients", "5000")
	w := newWorldOn(t, redistest.Start(t, config), redistest.Start(t, config))
	const n = 2000
	clients := make([]*raw, n)
	for i := range clients {
		clients[i] = w.client()
		clients[i].send("SELECT 3")
	}
	for _, c := range clients {
		c.expect(ok)
	}
	if a := w.proxy.UpstreamAddrs(router.Source); len(a) == 0 || *upstreams == "pinned" && len(a) != n {
		t.Fatalf("%d upstream addresses", len(a))
	}
	begin := time.Now()
	w.switchTo(router.Target)
	t.Logf("switching %d clients took %v", n, time.Since(begin))
	for i, c := range clients {
		c.send(fmt.Sprintf("SET k%d 1", i))
	}
	for _, c := range clients {
		c.expect(ok)
	}
	if got := fmt.Sprint(w.do(router.Target, 5, "DBSIZE")); got != fmt.Sprint(n) {
		t.Fatalf("%s keys", got)
	}
	if st := w.proxy.Stats(); st.Clients != n || len(w.proxy.UpstreamAddrs(router.Source)) != 0 {
		t.Fatalf("%+v", st)
	}
}

func TestUnixSocketAndStopWhileBlocked(t *testing.T) {
	path := t.TempDir() + "/s"
	w := newWorld(t, func(c *Config) { c.Listen = []Listen{{Network: "unix", Address: path}} })
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	c := &raw{t: t, conn: conn}
	c.want("SET a 1", ok)
	c.send("BLPOP q 0")
	w.blockedOn(router.Source, "blpop")
}

func TestUpstreamRefuses(t *testing.T) {
	w := newWorldOn(t, redistest.Start(t, redistest.WithConfig("maxclients", "3")), redistest.Start(t), func(c *Config) { c.Shared = false })
	a := w.client()
	a.want("PING", "+PONG\r\n")
	b := w.client()
	b.want("PING", "+PONG\r\n")
	var c *raw
	for range 5 {
		c = w.client()
		c.send("PING")
		if got := c.next(); got == "-ERR max number of clients reached\r\n" {
			return
		}
	}
	t.Fatal("the server's greeting was not passed on")
}
