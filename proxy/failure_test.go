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
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"golang.org/x/sys/unix"
)

// dialing has the proxy dial what addr returns at that moment.
func dialing(addr func() string) setting {
	return func(c *Config) {
		c.Upstreams[0].Dial = func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr())
		}
	}
}

func through(link *redistest.Link) setting { return dialing(link.Addr) }

// ends reads until the connection ends, which must be within patience, and
// returns what came before.
func (r *raw) ends() string {
	r.t.Helper()
	var all strings.Builder
	for {
		el := r.next()
		if rest, cut := strings.CutPrefix(el, "EOF"); cut {
			return all.String() + strings.TrimPrefix(rest, " after ")
		}
		all.WriteString(el)
	}
}

// tryWrite writes where the other end may be gone already.
func (r *raw) tryWrite(b []byte) { _, _ = r.conn.Write(b) }

func restart(t *testing.T, s *redistest.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Restart(ctx); err != nil {
		t.Fatal(err)
	}
}

// awaitServed connects anew until a client is served.
func (w *world) awaitServed() {
	w.t.Helper()
	until(w.t, "clients are served", func() bool {
		c := w.client()
		defer c.close()
		c.tryWrite(words("PING"))
		return c.next() == "+PONG\r\n"
	})
}

func TestServerIsDown(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t)
		w := newWorldOn(t, source, redistest.Start(t), mode)
		source.Kill()
		for _, line := range []string{"GET a", "BLPOP a 0", "MULTI", "SUBSCRIBE c", "HELLO 3"} {
			c := w.client()
			c.tryWrite([]byte(line + "\r\n"))
			if got := c.ends(); got != "" {
				t.Fatalf("%s: the client was told %q", line, got)
			}
		}
		until(t, "all clients are gone", func() bool { return w.proxy.Stats().Clients == 0 })
		restart(t, source)
		w.awaitServed()
	})
}

// TestServerDiesInTraffic stops a server in the middle of commands and kills it.
// Whoever waits for an answer is closed; nothing is sent again.
func TestServerDiesInTraffic(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t, redistest.WithAOF(), redistest.WithConfig("appendfsync", "always"))
		w := newWorldOn(t, source, redistest.Start(t), mode)
		busy, deep, blocked, idle := w.client(), w.client(), w.client(), w.client()
		for _, c := range []*raw{busy, deep, blocked, idle} {
			c.want("PING", "+PONG\r\n")
		}
		blocked.send("BLPOP nothing 0")
		w.blockedOn(router.Source, "blpop")
		if err := source.Stop(); err != nil {
			t.Fatal(err)
		}
		busy.send("INCR counter")
		for range 3000 {
			deep.send("INCR counter")
		}
		until(t, "commands are in flight", func() bool { return w.gate.Inside() >= 3 })
		source.Kill()
		for name, c := range map[string]*raw{"busy": busy, "deep": deep, "blocked": blocked} {
			if got := c.ends(); got != "" {
				t.Errorf("the %s client was told %q", name, got)
			}
		}
		until(t, "the gate is empty", func() bool { return w.gate.Inside() == 0 })
		restart(t, source)
		w.awaitServed()
		if got := w.do(router.Source, 0, "EXISTS", "counter"); fmt.Sprint(got) != "0" {
			t.Error("something was sent again")
		}
		idle.tryWrite(words("PING"))
		if got := idle.next(); w.proxy.cfg.Shared && got != "+PONG\r\n" || !w.proxy.cfg.Shared && got != "EOF" {
			t.Errorf("the idle client got %q", got)
		}
	})
}

// TestServerMoves lets the address lead to another server, as a failover does.
func TestServerMoves(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		first, second := redistest.Start(t), redistest.Start(t)
		var addr atomic.Value
		addr.Store(first.Addr())
		w := newWorldOn(t, first, second, mode, dialing(func() string { return addr.Load().(string) }))
		c := w.client()
		c.want("SET who first", ok)
		w.do(router.Target, 0, "SET", "who", "second")
		addr.Store(second.Addr())
		first.Kill()
		w.awaitServed()
		w.client().want("GET who", bulk("second"))
	})
}

func TestServerIsLoading(t *testing.T) {
	if older(programVersion(), 7, 0) {
		t.Skip("this server cannot be made to load slowly enough")
	}
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t, redistest.WithAOF(), redistest.WithConfig("key-load-delay", "2000"),
			redistest.WithConfig("loading-process-events-interval-bytes", "1024"), withDebug)
		w := newWorldOn(t, source, redistest.Start(t), mode)
		w.do(router.Source, 0, "DEBUG", "POPULATE", "1000")
		w.do(router.Source, 0, "CONFIG", "SET", "auto-aof-rewrite-percentage", "0")
		w.do(router.Source, 0, "BGREWRITEAOF")
		until(t, "the data are on the disk", func() bool {
			info := fmt.Sprint(w.do(router.Source, 0, "INFO", "persistence"))
			return strings.Contains(info, "aof_rewrite_in_progress:0") && strings.Contains(info, "aof_rewrite_scheduled:0")
		})
		source.Kill()
		ready := make(chan error, 1)
		go func() { ready <- source.Restart(context.Background()) }()
		seen := map[string]int{}
		for len(ready) == 0 {
			for _, line := range []string{"GET key:1", "MULTI", "BLPOP a 1"} {
				c := w.client()
				c.tryWrite([]byte(line + "\r\n"))
				reply := c.next()
				c.close()
				if strings.HasPrefix(reply, "-LOADING ") {
					seen[line]++
				} else if strings.HasPrefix(reply, "-") {
					t.Fatalf("%s: %q", line, reply)
				}
			}
		}
		if err := <-ready; err != nil {
			t.Fatal(err)
		}
		if len(seen) == 0 {
			t.Skip("the server has loaded too fast")
		}
		t.Log(seen)
		w.awaitServed()
	})
}

func TestServerIsFull(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t, redistest.WithConfig("maxclients", "4"))
		w := newWorldOn(t, source, redistest.Start(t), mode)
		var taken []*raw
		for range 4 {
			c := dialRaw(t, source.Addr())
			c.want("PING", "+PONG\r\n")
			taken = append(taken, c)
		}
		for _, line := range []string{"GET a", "BLPOP a 0", "HELLO 3"} {
			c := w.client()
			if w.proxy.cfg.Shared { // otherwise it is told before it has asked
				c.send(line)
			}
			if got := c.ends(); got != "-ERR max number of clients reached\r\n" {
				t.Fatalf("%s: the client was told %q", line, got)
			}
		}
		for _, c := range taken {
			c.close()
		}
		w.awaitServed()
	})
}

// TestHalfOpenUpstream has the connections to the server swallow everything. A
// client that connects again gets through, as without a proxy; the one that waits
// goes on waiting, until the time that was set.
func TestHalfOpenUpstream(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t)
		link := redistest.NewLink(t, source.Addr())
		w := newWorldOn(t, source, redistest.Start(t), mode, through(link))
		waits, idle := w.client(), w.client()
		waits.want("GET a", "$-1\r\n")
		idle.want("GET a", "$-1\r\n")
		link.Swallow(func() bool { return true })
		waits.send("INCR a")
		until(t, "the command is in flight", func() bool { return w.gate.Inside() == 1 })
		again := w.client()
		until(t, "a client that connects again is served", func() bool {
			again.close()
			again = w.client()
			again.send("GET a")
			_ = again.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			n, _ := again.conn.Read(make([]byte, 5))
			return n == 5
		})
		if w.proxy.cfg.Shared {
			idle.want("GET a", "$-1\r\n")
		}
		waits.send("INCR a") // goes where the first went, to keep the order
		again.want("GET a", "$-1\r\n")
		link.Cut()
		if got := waits.ends(); got != "" {
			t.Fatalf("the client was told %q", got)
		}
		w.awaitServed()
		w.client().want("GET a", "$-1\r\n")
	})
}

func TestUpstreamTimeout(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t)
		link := redistest.NewLink(t, source.Addr())
		w := newWorldOn(t, source, redistest.Start(t), mode, through(link), func(c *Config) { c.UpstreamTimeout = 500 * time.Millisecond })
		shared, pinned, blocks, waits, hears, idle := w.client(), w.client(), w.client(), w.client(), w.client(), w.client()
		pinned.want("MULTI", ok)
		idle.want("GET a", "$-1\r\n")
		hears.want("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
		blocks.send("BLPOP none 0")
		w.blockedOn(router.Source, "blpop")
		waits.want("BLPOP none 1.2", "*-1\r\n") // longer than the limit
		link.Swallow(func() bool { return true })
		shared.send("GET a")
		pinned.send("GET a")
		if got := pinned.next(); got != "EOF" {
			t.Errorf("the client in a transaction got %q", got)
		}
		if got := shared.next(); w.proxy.cfg.Shared && got != "EOF" || got != "EOF" && got != "$-1\r\n" {
			t.Errorf("the client got %q", got)
		}
		blocks2 := w.client()
		blocks2.want("BLPOP none 0.7", "*-1\r\n")
		w.awaitServed()
	})
}

// TestSlowCommandsAreNotCut keeps the server busy for longer than a shared
// connection may be silent: everybody waits, nobody is closed.
func TestSlowCommandsAreNotCut(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t, withDebug)
		w := newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) { c.UpstreamTimeout = time.Minute })
		waits, sleeps := w.client(), w.client()
		waits.want("INCR a", ":1\r\n")
		sleeps.want("PING", "+PONG\r\n")
		sleeps.send("DEBUG SLEEP 3")
		until(t, "the server sleeps", func() bool { return w.gate.Inside() == 1 })
		waits.send("INCR a", "INCR a")
		waits.expect(":2\r\n")
		waits.expect(":3\r\n")
		sleeps.expect(ok)
		c := w.client()
		c.want("GET a", bulk("3"))
		// A pause stops writes only: the server answers others meanwhile.
		w.do(router.Source, 0, "CLIENT", "PAUSE", "3000", "WRITE")
		waits.send("INCR a")
		until(t, "the write is paused", func() bool { return w.gate.Inside() == 1 })
		waits.expect(":4\r\n")
		waits.want("GET a", bulk("4"))
	})
}

func TestSocketsAreKeptAlive(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		c, p := w.client(), w.client()
		c.want("PING", "+PONG\r\n")
		p.want("MULTI", ok)
		alive := func(fd int) bool {
			on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE)
			return err == nil && on != 0
		}
		for _, l := range w.proxy.eventLoops() {
			l.call(func() {
				for fd, of := range l.at {
					if (of.g != nil || of.t != nil) && !alive(fd) {
						t.Errorf("descriptor %d: no keepalive (%+v)", fd, of)
					}
				}
			})
		}
		for _, s := range w.proxy.snapshotSessions() {
			for _, conn := range []net.Conn{s.conn, s.link.conn} {
				raw, err := conn.(*net.TCPConn).SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				_ = raw.Control(func(fd uintptr) {
					if !alive(int(fd)) {
						t.Error("no keepalive")
					}
				})
			}
		}
	})
}

// TestDialsAreDamped hammers a server that is down.
func TestDialsAreDamped(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t)
		var dials atomic.Int64
		var up atomic.Bool
		w := newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) {
			c.Upstreams[0].Dial = func(ctx context.Context) (net.Conn, error) {
				dials.Add(1)
				if !up.Load() {
					return nil, syscall.ECONNREFUSED
				}
				return new(net.Dialer).DialContext(ctx, "tcp", source.Addr())
			}
		})
		var wg sync.WaitGroup
		var clients atomic.Int64
		begin := time.Now()
		for range 50 {
			wg.Go(func() {
				for clients.Add(1) <= 2000 {
					c := dialRaw(t, w.proxy.Addr().String())
					c.tryWrite([]byte("MULTI\r\n"))
					if got := c.ends(); got != "" {
						t.Errorf("a client was told %q", got)
					}
					c.close()
				}
			})
		}
		wg.Wait()
		most := int64(time.Since(begin)/redialWait) + 60 // the first ones may dial at the same time
		if n := dials.Load(); n > most {
			t.Errorf("%d dials for %d clients in %v", n, clients.Load(), time.Since(begin))
		}
		up.Store(true)
		w.awaitServed()
	})
}

// TestVanishedWhileBlocked has clients hang up in every way while they block: an
// element that is pushed later is nobody's.
func TestVanishedWhileBlocked(t *testing.T) {
	ways := map[string]func(c *raw){
		"closed": func(c *raw) { c.close() },
		"reset": func(c *raw) {
			_ = c.conn.(*net.TCPConn).SetLinger(0)
			c.close()
		},
		"half closed":          func(c *raw) { _ = c.conn.(*net.TCPConn).CloseWrite() },
		"closed with more":     func(c *raw) { c.send("BLPOP q 0", "SET more 1"); c.close() },
		"closed in a command":  func(c *raw) { c.write([]byte("*3\r\n$3\r\nSET\r\n$4\r\nmore\r\n$1000000\r\nxxxx")); c.close() },
		"half closed and more": func(c *raw) { c.send("INCR more"); _ = c.conn.(*net.TCPConn).CloseWrite() },
	}
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		for name, vanish := range ways {
			for _, line := range []string{"BLPOP q 0", "BLMOVE q r LEFT LEFT 0", "BRPOP other q 30"} {
				c := w.client()
				c.send("PING", line)
				c.expect("+PONG\r\n")
				w.blockedOn(router.Source, strings.ToLower(strings.Fields(line)[0]))
				vanish(c)
				until(t, name+": nobody blocks", func() bool {
					return strings.Contains(fmt.Sprint(w.do(router.Source, 0, "INFO", "clients")), "blocked_clients:0")
				})
				w.do(router.Source, 0, "RPUSH", "q", "x")
				if got := fmt.Sprint(w.do(router.Source, 0, "LLEN", "q")); got != "1" {
					t.Errorf("%s in %s: the element was taken", name, line)
				}
				if got := fmt.Sprint(w.do(router.Source, 0, "EXISTS", "more", "r")); got != "0" {
					t.Errorf("%s in %s: what came behind it was run", name, line)
				}
				w.do(router.Source, 0, "FLUSHALL")
			}
		}
	})
}

// TestVanishedBehindMuch is the same for a client that has sent more behind the command that
// blocks than is read before that is answered.
func TestVanishedBehindMuch(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		c := w.client()
		c.send("PING", "BLPOP q 0")
		c.expect("+PONG\r\n")
		w.blockedOn(router.Source, "blpop")
		c.write(bytes.Repeat(words("ECHO", strings.Repeat("x", 1<<20)), readAhead>>20+1))
		c.close()
		until(t, "nobody blocks", func() bool {
			return strings.Contains(fmt.Sprint(w.do(router.Source, 0, "INFO", "clients")), "blocked_clients:0")
		})
	})
}

// TestServerIsBusy has clients in another database whose shared connection has to be
// made while the server runs a script: they are told so, and not closed.
func TestServerIsBusy(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared = true })
	w.do(router.Source, 0, "CONFIG", "SET", "lua-time-limit", "1")
	c, runs, stops := w.client(), w.client(), w.client()
	c.want("SELECT 3", ok)
	w.shares()
	runs.send(`EVAL "while true do end" 0`)
	const busy = "-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n"
	until(t, "the server is busy", func() bool { return stops.do("GET a") == busy })
	c.send("SET a 1", "GET a", "GET a")
	for range 3 {
		c.expect(busy)
	}
	c.want("INCR n", busy)
	stops.want("SCRIPT KILL", ok)
	if got := runs.next(); !strings.HasPrefix(got, "-ERR Error running script") && !strings.HasPrefix(got, "-ERR Script killed") {
		t.Errorf("the script ended with %q", got)
	}
	until(t, "the client is served", func() bool { return c.do("INCR n") == ":1\r\n" })
}

// TestBusyServerIsToldToStop has clients whose connections have to be made while the
// server runs a script, for which it takes no SELECT, end that script.
func TestBusyServerIsToldToStop(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Shared = true })
	w.do(router.Source, 0, "CONFIG", "SET", "lua-time-limit", "1")
	waits, stops, runs, looks := w.client(), w.client(), w.client(), w.client()
	for _, c := range []*raw{waits, stops} {
		c.want("SELECT 3", ok)
		c.want("CLIENT SETNAME me", ok)
	}
	w.shares()
	w.proxy.pool.distrust(router.Source)
	runs.send(`EVAL "while true do end" 0`)
	busy := ""
	until(t, "the server is busy", func() bool {
		busy = looks.do("GET a")
		return strings.HasPrefix(busy, "-BUSY ")
	})
	waits.want("EVAL \"return redis.call('incr', 'n')\" 0", busy)
	waits.want("CLIENT GETNAME", busy)
	stops.want("SCRIPT KILL", ok)
	runs.next()
	until(t, "the client is served", func() bool { return waits.do("EVAL \"return redis.call('incr', 'n')\" 0") == ":1\r\n" })
	waits.want("CLIENT GETNAME", bulk("me"))
	stops.want("EVAL \"return redis.call('get', 'n')\" 0", bulk("1"))
	if got := w.do(router.Source, 3, "GET", "n"); got != "1" {
		t.Errorf("written elsewhere: %v", got)
	}
}

// TestSlowClientIsNoSilentServer has a client take longer for its value than the
// server may, to send it and to receive it.
func TestSlowClientIsNoSilentServer(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		const limit = 700 * time.Millisecond
		w := newWorld(t, mode, func(c *Config) { c.UpstreamTimeout = limit })
		tick := time.NewTicker(limit / 2)
		defer tick.Stop()
		c := w.client()
		wire := wireOf([]byte("SET"), []byte("slow"), bytes.Repeat([]byte("x"), 20<<20))
		for piece := range slices.Chunk(wire, len(wire)/6) {
			c.write(piece)
			<-tick.C
		}
		c.expect(ok)
		c.want("CLIENT GETNAME", "$-1\r\n") // it has a connection of its own
		c.send("GET slow")
		for range 6 {
			<-tick.C
		}
		if got := c.next(); len(got) < 20<<20 {
			t.Errorf("the client got %.40q", got)
		}
		c.want("PING", "+PONG\r\n")
	})
}
