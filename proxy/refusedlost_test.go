package proxy

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

const noPerm = "-NOPERM this user has no permissions to run the 'set' command\r\n"

// linked is a world whose clients may be refused, and whose way to the source can be cut.
func linked(t *testing.T, mode setting) (w *world, link *redistest.Link, refusals *atomic.Int64) {
	t.Helper()
	source := redistest.Start(t)
	link = redistest.NewLink(t, source.Addr())
	refusals = new(atomic.Int64)
	w = newWorldOn(t, source, redistest.Start(t), mode, through(link), func(c *Config) {
		c.Refused = func() { refusals.Add(1) }
	})
	return w, link, refusals
}

// TestReleaseBesideAnUnanswered: where a switch is made though a command is not answered, as it
// may be in a fleet, its client is closed: what the other server says next would be taken for
// the answer. Nothing of it is left that the next hold would wait for.
func TestReleaseBesideAnUnanswered(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w, link, _ := linked(t, mode)
		queues, plain, stays := w.client(), w.client(), w.client()
		queues.want("MULTI", ok)
		plain.want("PING", "+PONG\r\n")
		stays.want("PING", "+PONG\r\n")
		link.StallDown(true)
		queues.send("INCR n")
		plain.send("GET a")
		until(t, "they are under way", func() bool { return w.gate.Inside() == 2 })
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if w.proxy.Hold(ctx) == nil {
			t.Fatal("nobody waited for an answer")
		}
		w.epoch++
		w.proxy.Release(router.Route{Side: router.Target, Epoch: w.epoch, Map: w.dbs})
		for _, c := range []*raw{queues, plain} {
			c.tryWrite(words("GET", "b"))
			if got := c.ends(); got != "" {
				t.Errorf("an answer to another command: %q", got)
			}
		}
		stays.want("SET k v", ok)
		if got := w.do(router.Target, 0, "GET", "k"); got != "v" {
			t.Errorf("the others are not where they belong: %v", got)
		}
		until(t, "nothing is inside", func() bool { return w.gate.Inside() == 0 })
		link.StallDown(false)
		w.switchTo(router.Source)
	})
}

// TestLostBehindARefusal: a connection is lost with a command in flight behind one that was
// refused. Its outcome is unknown, so the client is closed, and nothing is said again.
func TestLostBehindARefusal(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w, link, _ := linked(t, mode)
		c := w.client()
		c.want("WATCH k", ok)
		w.do(router.Source, 0, "ACL", "SETUSER", "default", "-incr")
		link.StallDown(true)
		c.send("INCR n", "BLPOP l 0")
		w.blockedOn(router.Source, "blpop")
		link.StallDown(false)
		until(t, "one is set aside", func() bool {
			return slices.ContainsFunc(w.proxy.snapshotSessions(), (*session).hasAside)
		})
		w.do(router.Source, 0, "ACL", "SETUSER", "default", "+incr")
		link.Cut()
		w.proxy.Retry()
		if got := c.ends(); got != "" {
			t.Errorf("something was answered: %q", got)
		}
		if got := w.do(router.Source, 0, "EXISTS", "n"); got != int64(0) {
			t.Error("it was said again")
		}
	})
}

// TestRefusedSessionLosesItsServer is the same at the seam: what is set aside goes with what is
// lost, and stays where nothing is.
func TestRefusedSessionLosesItsServer(t *testing.T) {
	for name, inFlight := range map[string]int{"one in flight": 1, "none in flight": 0} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Refused = func() {} })
			s := &session{srv: w.proxy}
			s.aside.add(words("SET", "k", "v"), nil)
			for range inFlight {
				if _, entered := w.gate.TryEnter(); !entered {
					t.Fatal("the gate is shut")
				}
				s.fifo.pushPlain(call{})
			}
			s.mu.Lock()
			_, leaves := s.loseAll()
			s.mu.Unlock()
			for range leaves {
				w.gate.Leave()
			}
			if got := s.hasAside(); got != (inFlight == 0) {
				t.Errorf("something is said again: %v", got)
			}
			if w.gate.Inside() != 0 {
				t.Errorf("%d are inside", w.gate.Inside())
			}
		})
	}
}

// TestGoneWhileRefused: a client with a connection of its own is found to be gone at the moment
// in which it is to get what came before a refusal, or with it.
func TestGoneWhileRefused(t *testing.T) {
	for name, pieces := range map[string][]string{
		"an answer before it":      {ok + noPerm},
		"an error in pieces":       {"-ERR so", "me\r\n"},
		"two, and what is no more": {noPerm, ok, ok},
	} {
		t.Run(name, func(t *testing.T) {
			w, link, _ := linked(t, func(c *Config) { c.Shared, c.Loops = false, 1 })
			other, c := w.client(), w.client()
			other.want("PING", "+PONG\r\n")
			c.want("PING", "+PONG\r\n")
			link.StallDown(true)
			c.send("SET a 1", "SET b 1", "SET c 1", "SET d 1")
			l := w.proxy.eventLoops()[0]
			var g *guest
			until(t, "they are under way", func() bool {
				l.call(func() {
					for one := range l.guests {
						if one.inflight == 4 {
							g = one
						}
					}
				})
				return g != nil
			})
			l.call(func() {
				if err := unix.Shutdown(g.fd, unix.SHUT_RDWR); err != nil {
					t.Error(err)
				}
				trunk := g.trunk
				for _, piece := range pieces {
					if trunk.dead {
						break
					}
					if err := l.answer(trunk, []byte(piece)); err != nil {
						t.Errorf("%q: %v", piece, err)
					}
				}
				if !trunk.dead {
					t.Error("nobody has noticed that it is gone")
				}
			})
			if n := w.gate.Inside(); n != 0 {
				t.Errorf("%d are inside", n)
			}
			link.StallDown(false)
			other.want("PING", "+PONG\r\n")
			w.switchTo(router.Target)
			other.want("PING", "+PONG\r\n")
		})
	}
}

// TestFlushesOfUnknownOutcome: one whose answer is lost counts as not run.
func TestFlushesOfUnknownOutcome(t *testing.T) {
	one, err := router.NewDBMap(map[int]int{0: 0})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*world){"two databases": func(*world) {}, "one": func(w *world) { w.dbs = one }} {
		t.Run(name, func(t *testing.T) {
			source, target := redistest.Start(t), redistest.Start(t)
			link := redistest.NewLink(t, target.Addr())
			w := newWorldOn(t, source, target, func(c *Config) { c.Upstreams[router.Target].Dial = newDialer(link.Addr()) })
			change(w)
			w.switchTo(router.Target)
			c := w.client()
			c.want("SELECT 0", ok)
			link.StallDown(true)
			c.send("FLUSHALL")
			until(t, "it is under way", func() bool {
				forwarded, finished := w.proxy.Silent()
				return forwarded["flushdb"] > finished["flushdb"]
			})
			link.Cut()
			link.StallDown(false)
			c.ends()
			until(t, "it is counted as not run", func() bool {
				forwarded, finished := w.proxy.Silent()
				return forwarded["flushdb"] == 0 && finished["flushdb"] == 0
			})
		})
	}
}

// TestKeptForARefusal: what a fence might refuse is kept within bounds, also of a client that
// sends all before it reads anything.
func TestKeptForARefusal(t *testing.T) {
	eachMode(t, func(t *testing.T, mode setting) {
		w, _, _ := linked(t, mode)
		c := w.client()
		const size = 64 << 10
		text := strings.Repeat("x", size)
		const n = (2*itemBytes + readAhead) / size
		kept := func() (most int) {
			for _, s := range w.proxy.snapshotSessions() {
				s.mu.Lock()
				most = max(most, s.fifo.kept())
				s.mu.Unlock()
			}
			for _, l := range w.proxy.eventLoops() {
				l.call(func() {
					for g := range l.guests {
						if g.trunk != nil && g.trunk.owner == g {
							most = max(most, g.trunk.sent.size())
						}
					}
				})
			}
			return most
		}
		most, end := 0, make(chan struct{})
		var watcher sync.WaitGroup
		stop := sync.OnceFunc(func() { close(end); watcher.Wait() })
		defer stop() // also where the test ends early: before the proxy does
		watcher.Go(func() {
			look := time.NewTicker(time.Millisecond)
			defer look.Stop()
			for {
				select {
				case <-end:
					return
				case <-look.C:
					most = max(most, kept())
				}
			}
		})
		_ = c.conn.SetWriteDeadline(time.Now().Add(longest))
		for range n {
			c.write(words("ECHO", text))
		}
		want := bulk(text)
		for i := range n {
			if got := c.next(); got != want {
				t.Fatalf("reply %d is %.40q", i, got)
			}
		}
		stop()
		if most > itemBytes+4*size+flushAt {
			t.Errorf("%d bytes were kept", most)
		}
		c.want("PING", "+PONG\r\n")
	})
}
