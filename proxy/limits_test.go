package proxy

import (
	"bytes"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

func TestMaxClients(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, func(c *Config) { c.MaxClients = 3 })
		var in []*raw
		for range 3 {
			c := w.client()
			c.want("PING", "+PONG\r\n")
			in = append(in, c)
		}
		in[0].want("MULTI", ok) // a session counts as the guest it was
		for range 3 {
			if got := w.client().ends(); got != "-ERR max number of clients reached\r\n" {
				t.Fatalf("the fourth client was told %q", got)
			}
		}
		in[0].close()
		w.awaitServed()
		in[1].want("PING", "+PONG\r\n")
	})
}

// TestManyAtOnce has more clients connect at the same time than the limit allows:
// each is served or refused, and the count is right afterwards.
func TestManyAtOnce(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		const limit, n = 300, 900
		w := newWorld(t, mode, func(c *Config) { c.MaxClients = limit })
		var wg sync.WaitGroup
		clients := make([]*raw, n)
		replies := make([]string, n)
		for i := range n {
			wg.Go(func() {
				clients[i] = w.client()
				clients[i].tryWrite([]byte("ECHO " + fmt.Sprint(i) + "\r\n"))
				replies[i] = clients[i].next()
			})
		}
		wg.Wait()
		served := 0
		for i, got := range replies {
			switch {
			case got == bulk(fmt.Sprint(i)):
				served++
			case got != "-ERR max number of clients reached\r\n" && got != "EOF": // a reset may overtake the text
				t.Fatalf("client %d was told %q", i, got)
			}
		}
		if served != limit || w.proxy.Stats().Clients != limit {
			t.Errorf("%d clients were served, %d are counted", served, w.proxy.Stats().Clients)
		}
		for _, c := range clients {
			c.close()
		}
		until(t, "all are gone", func() bool { return w.proxy.Stats().Clients == 0 })
	})
}

// TestClientThatNeverReads is cut off when it has taken nothing for long enough; others do
// not notice. How much may wait: see TestCutOffAtTheLimit.
func TestClientThatNeverReads(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, func(c *Config) { c.OutputTimeout = time.Second })
		w.do(router.Source, 0, "SET", "big", bytes.Repeat([]byte("x"), 1<<20))
		deaf, other := w.client(), w.client()
		deaf.write(bytes.Repeat(words("GET", "big"), 200))
		until(t, "the client that does not read is closed", func() bool {
			other.want("PING", "+PONG\r\n")
			return w.proxy.Stats().Clients == 1
		})
	})
}

// TestStrangerThatNeverReads asks without end and takes no answer, before AUTH: the
// answers are the proxy's own, and no server's limit is in the way.
func TestStrangerThatNeverReads(t *testing.T) {
	w := newWorld(t, func(c *Config) {
		c.Users = true
		c.Identities = []Identity{{Client: Login{"web", "w"}}}
		c.OutputTimeout = time.Second
	})
	c := w.client()
	_ = c.conn.(*net.TCPConn).SetReadBuffer(64 << 10)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for b, err := bytes.Repeat([]byte("x\n"), 1<<16), error(nil); err == nil; {
			_, err = c.conn.Write(b)
		}
	}()
	most := int64(0)
	until(t, "the client is closed", func() bool {
		for _, s := range w.proxy.snapshotSessions() {
			most = max(most, s.holds())
		}
		return w.proxy.Stats().Clients == 0
	})
	<-wrote
	if most > 1<<20 {
		t.Errorf("%d bytes were kept for it", most)
	}
}

// TestRefusedThatNeverReads is a client whose database the map does not have.
func TestRefusedThatNeverReads(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.OutputLimit = 4 << 20 })
	c := w.client()
	c.want("SELECT 1", ok)
	w.switchTo(router.Target)
	go func() {
		for b, err := bytes.Repeat([]byte("get x\n"), 1<<14), error(nil); err == nil; {
			_, err = c.conn.Write(b)
		}
	}()
	until(t, "the client is closed", func() bool { return w.proxy.Stats().Clients == 0 })
}

// TestSubscriberThatNeverReads is closed by the server, by its own limit for
// subscribers, which a proxy that read on for it would take away.
func TestSubscriberThatNeverReads(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		source := redistest.Start(t, redistest.WithConfig("client-output-buffer-limit", "pubsub", "2mb", "1mb", "60"))
		w := newWorldOn(t, source, redistest.Start(t), mode)
		deaf, hears, other := w.client(), w.client(), w.client()
		for _, c := range []*raw{deaf, hears} {
			c.want("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
		}
		// Valkey since 9 keeps what is larger once for all subscribers, and counts it for none.
		text := strings.Repeat("x", 12<<10)
		until(t, "the server closes the subscriber", func() bool {
			n := other.do("PUBLISH c " + text)
			if got := hears.next(); len(got) < len(text) {
				t.Fatalf("the other subscriber got %q", got)
			}
			return n == ":1\r\n"
		})
		if got := deaf.ends(); !strings.Contains(got, text) {
			t.Errorf("the subscriber got %d bytes before the end", len(got))
		}
		hears.close()
		other.want("PING", "+PONG\r\n")
	})
}

func TestQueryLimit(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, func(c *Config) { c.QueryLimit = 2 << 20 })
		value := bytes.Repeat([]byte("x"), 10<<20)
		c := w.client()
		c.write(wireOf([]byte("SET"), []byte("a"), value)) // passed on piece by piece
		c.expect(ok)
		c.want("MULTI", ok) // in a transaction a command is kept until it is whole
		c.tryWrite(wireOf([]byte("SET"), []byte("b"), value))
		if got := c.ends(); got != "" {
			t.Fatalf("the client was told %q", got)
		}
		many := w.client()
		many.tryWrite(append([]byte("*1000000\r\n$4\r\nEVAL\r\n"), bytes.Repeat([]byte("$4\r\nkkkk\r\n"), 999_999)...))
		if got := many.ends(); got != "" {
			t.Fatalf("the client was told %q", got)
		}
		if got := fmt.Sprint(w.do(router.Source, 0, "EXISTS", "a", "b")); got != "1" {
			t.Errorf("%s keys", got)
		}
	})
}

// TestMaxBulk follows a server whose proto-max-bulk-len was raised, and has a limit of
// its own where it was not.
func TestMaxBulk(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		const size = 600 << 20
		source := redistest.Start(t, redistest.WithConfig("proto-max-bulk-len", fmt.Sprint(size)))
		w := newWorldOn(t, source, redistest.Start(t), mode, func(c *Config) { c.MaxBulk = size })
		c, other := w.client(), w.client()
		c.write([]byte(fmt.Sprintf("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$%d\r\n", size)))
		until(t, "the server waits for the rest", func() bool {
			c.write(make([]byte, 4<<10))
			other.want("PING", "+PONG\r\n")
			return regexp.MustCompile(`qbuf-free=6[0-9]{8} `).MatchString(fmt.Sprint(w.do(router.Source, 0, "CLIENT", "LIST")))
		})
		other.tryWrite([]byte(fmt.Sprintf("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$%d\r\n", size+1)))
		other.expect("-ERR Protocol error: invalid bulk length\r\n")
	})
}

// TestMaxMemory has clients hold memory in each way there is; those that hold
// most are closed, and only those.
// A server queues nothing of a transaction that is spoilt, and says QUEUED for as long as it
// is asked; what we remember of it has an end.
func TestSpoiltTransactionHasAnEnd(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, func(c *Config) { c.QueryLimit = 1 << 20 })
		small, hog := w.client(), w.client()
		hog.want("MULTI", ok)
		hog.send("NOSUCH")
		hog.tryWrite(bytes.Repeat(words("EVAL", "return '"+strings.Repeat("x", 10<<10)+"'", "0"), 300))
		until(t, "the client is closed", func() bool {
			small.want("PING", "+PONG\r\n")
			return w.proxy.Stats().Clients == 1
		})
	})
}

func TestMaxMemory(t *testing.T) {
	ways := map[string]func(w *world, c *raw){
		"half a command": func(_ *world, c *raw) {
			c.want("MULTI", ok)
			c.tryWrite(wireOf([]byte("SET"), []byte("a"), bytes.Repeat([]byte("x"), 40<<20))[:39<<20])
		},
		"a long transaction": func(_ *world, c *raw) {
			c.want("MULTI", ok)
			c.tryWrite(bytes.Repeat(wireOf([]byte("SET"), []byte("a"), bytes.Repeat([]byte("x"), 1<<20)), 30))
		},
		"replies not read": func(w *world, c *raw) {
			w.do(router.Source, 0, "SET", "big", bytes.Repeat([]byte("x"), 1<<20))
			c.tryWrite(bytes.Repeat(words("GET", "big"), 60))
		},
	}
	eachMode(t, func(t *testing.T, mode setting) {
		for name, grow := range ways {
			w := newWorld(t, mode, func(c *Config) { c.MaxMemory = 1 << 20 })
			small, begun := w.client(), w.client()
			begun.want("MULTI", ok)
			begun.send("SET small 1")
			begun.expect("+QUEUED\r\n")
			hog := w.client()
			grow(w, hog)
			until(t, name+": the client that holds most is closed", func() bool {
				small.want("PING", "+PONG\r\n")
				return w.proxy.Stats().Clients == 2
			})
			begun.want("EXEC", "*1\r\n+OK\r\n")
		}
	})
}

// scansInMulti is a client with a transaction whose reply of 128 MiB is kept until it is whole,
// because of a cursor in it, as behind a switch.
func scansInMulti(t *testing.T, source *redistest.Server, settings ...setting) (*world, *raw) {
	t.Helper()
	w := newWorldMapped(t, source, redistest.Start(t), router.Route{Epoch: 1, Map: router.Identity(1)}, settings...)
	w.do(router.Source, 0, "SET", "big", bytes.Repeat([]byte("x"), 32<<20))
	c := w.client()
	c.want("MULTI", ok)
	c.want("SCAN 0", "+QUEUED\r\n")
	for range 4 {
		c.want("GET big", "+QUEUED\r\n")
	}
	return w, c
}

// netOutput is how many bytes the source has said to anybody.
func (w *world) netOutput() (n int) {
	stats := fmt.Sprint(w.do(router.Source, 0, "INFO", "stats"))
	_, _ = fmt.Sscanf(regexp.MustCompile(`total_net_output_bytes:[0-9]+`).FindString(stats), "total_net_output_bytes:%d", &n)
	return n
}

// TestReplyThatIsLookedAtHasAnEnd: a reply that the proxy keeps until it is whole is not kept
// past what may wait for the client then.
func TestReplyThatIsLookedAtHasAnEnd(t *testing.T) {
	w, c := scansInMulti(t, redistest.Start(t), func(c *Config) { c.OutputLimit = 1 << 20 })
	c.send("EXEC")
	if got := c.ends(); got != "" {
		t.Errorf("the client was told %.60q", got)
	}
	if n := w.netOutput(); n == 0 || n > 32<<20 {
		t.Errorf("the server has said %d bytes before it was closed", n)
	}
}

// TestReplyThatIsLookedAtIsCounted: what is kept of a reply until it is whole is held for the
// client as all else is.
func TestReplyThatIsLookedAtIsCounted(t *testing.T) {
	source := redistest.Start(t)
	link, err := redistest.OpenLink(source.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	w, c := scansInMulti(t, source, through(link), func(c *Config) { c.MaxMemory = 4 << 20 })
	c.send("EXEC")
	until(t, "a part of the reply has come", func() bool { return w.netOutput() > 24<<20 })
	link.StallDown(true)
	until(t, "the client is closed", func() bool { return w.proxy.Stats().Clients == 0 })
}

// TestStopInOrder stops the proxy in the middle of everything: each command that
// was forwarded is answered, none that was answered is missing, nobody waits for
// what may never come, and nobody new is served.
func TestStopInOrder(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode)
		names := []string{"one", "some", "deep", "tx"}
		clients := map[string]*raw{}
		for _, name := range names {
			clients[name] = w.client()
			clients[name].want("PING", "+PONG\r\n")
		}
		idle, blocked, hears, begun := w.client(), w.client(), w.client(), w.client()
		idle.want("PING", "+PONG\r\n")
		begun.want("MULTI", ok)
		hears.want("SUBSCRIBE c", "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
		blocked.send("BLPOP nothing 0")
		w.blockedOn(router.Source, "blpop")
		clients["tx"].want("MULTI", ok)
		clients["tx"].want("INCR tx", "+QUEUED\r\n")
		if err := w.source.Stop(); err != nil {
			t.Fatal(err)
		}
		clients["one"].send("INCR one")
		clients["some"].write(bytes.Repeat(words("INCR", "some"), 100))
		clients["deep"].write(bytes.Repeat(words("INCR", "deep"), 5000))
		clients["tx"].send("EXEC")
		until(t, "all is in flight", func() bool { return w.gate.Inside() >= 5 })
		w.stop()
		for name, c := range map[string]*raw{"idle": idle, "blocked": blocked, "subscribed": hears, "in a transaction": begun} {
			if got := c.ends(); got != "" {
				t.Errorf("the client that is %s was told %q", name, got)
			}
		}
		if c, err := net.Dial("tcp", w.proxy.Addr().String()); err == nil {
			_ = c.Close()
			t.Error("a new client is accepted")
		}
		if err := w.source.Cont(); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			n := 0
			for line := range strings.Lines(strings.TrimPrefix(clients[name].ends(), "*1\r\n")) {
				if n++; line != fmt.Sprintf(":%d\r\n", n) {
					t.Errorf("%s: reply %d is %q", name, n, line)
					break
				}
			}
			if got := fmt.Sprint(w.do(router.Source, 0, "INCR", name)); got != fmt.Sprint(n+1) {
				t.Errorf("%s: %d commands were answered, %s is next", name, n, got)
			}
		}
		<-w.stopped
	})
}

func TestStopHasADeadline(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, func(c *Config) { c.ShutdownTimeout = 300 * time.Millisecond })
		plain, begun := w.client(), w.client()
		plain.want("PING", "+PONG\r\n")
		begun.want("MULTI", ok)
		if err := w.source.Stop(); err != nil {
			t.Fatal(err)
		}
		plain.send("INCR a")
		begun.send("INCR a")
		until(t, "both are in flight", func() bool { return w.gate.Inside() >= 2 })
		w.stop()
		select {
		case <-w.stopped:
		case <-time.After(patience):
			t.Fatal("the proxy waits for a server that does not answer")
		}
		for _, c := range []*raw{plain, begun} {
			if got := c.ends(); got != "" {
				t.Errorf("the client was told %q", got)
			}
		}
		if err := w.source.Cont(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSlowButSteadyReader takes little at a time, but never nothing for as long as
// the limit.
func TestSlowButSteadyReader(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w := newWorld(t, mode, func(c *Config) { c.OutputTimeout = 2 * time.Second })
		w.do(router.Source, 0, "SET", "big", bytes.Repeat([]byte("x"), 30<<20))
		c, other := w.client(), w.client()
		_ = c.conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		c.send("GET big")
		piece := make([]byte, 64<<10)
		begin, total := time.Now(), 0
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for time.Since(begin) < 6*time.Second { // three times the limit
			<-tick.C
			_ = c.conn.SetReadDeadline(time.Now().Add(patience))
			n, err := c.conn.Read(piece)
			if total += n; err != nil {
				t.Fatalf("closed after %v and %d bytes: %v", time.Since(begin), total, err)
			}
		}
		other.want("PING", "+PONG\r\n")
	})
}
