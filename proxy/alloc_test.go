package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/router"
)

// raceEnabled says that the race detector is on, which allocates.
var raceEnabled bool

// mostAllocs is how many allocations a whole run may cost, however many requests it
// has: the goroutines of its clients, and what the proxy does by the clock. What is
// once for each of some hundreds of requests is already too much.
const mostAllocs = 100

// attempts is how often a run is made at most: the runtime allocates now and then for
// itself (after a collection, on a busy machine), a request does always.
const attempts = 4

// steady is what clients on shared connections ask without end.
type steady struct {
	name  string
	greet []string    // lines that a client says once
	asks  [][2]string // requests and their replies; the first one is what the others need
}

// steadies is the traffic that must not allocate.
func steadies() []steady {
	value, long := strings.Repeat("x", 64), strings.Repeat("y", 4<<10)
	ask := func(reply string, args ...string) [2]string { return [2]string{string(words(args...)), reply} }
	null := "$-1\r\n"
	return []steady{
		{"GET and SET", nil, [][2]string{ask(ok, "SET", "key", value), ask(bulk(value), "GET", "key")}},
		{"RESP3", []string{"HELLO 3"}, [][2]string{ask(ok, "SET", "key3", value), ask(bulk(value), "GET", "key3"), ask("_\r\n", "GET", "none")}},
		{"database 3", []string{"SELECT 3"}, [][2]string{ask(ok, "SET", "key", long), ask(bulk(long), "GET", "key"), ask(null, "GET", "none")}},
		{"MGET", nil, [][2]string{ask(ok, "SET", "one", "1"), ask("*3\r\n"+bulk("1")+null+bulk("1"), "MGET", "one", "none", "one")}},
	}
}

// asker is a client that allocates nothing once it is made: it sends the same
// bytes again and again, and knows how many come back.
type asker struct {
	conn    net.Conn
	batch   []byte
	replies []byte // what answers a batch
	got     []byte
}

// newAsker asks depth requests at a time, beginning with the one that first says.
func newAsker(t testing.TB, addr string, s steady, depth, first int) *asker {
	t.Helper()
	r := dialRaw(t, addr)
	for _, line := range s.greet {
		if got := r.do(line); got[0] == '-' {
			t.Fatalf("%s: %q", line, got)
		}
	}
	a := &asker{conn: r.conn}
	for i := range depth {
		ask := s.asks[(first+i)%len(s.asks)]
		a.batch = append(a.batch, ask[0]...)
		a.replies = append(a.replies, ask[1]...)
	}
	a.got = make([]byte, len(a.replies))
	return a
}

// ask sends the batch n times, waiting for the replies of each.
func (a *asker) ask(n int) error {
	if err := a.conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	for range n {
		if _, err := a.conn.Write(a.batch); err != nil {
			return err
		}
		if _, err := io.ReadFull(a.conn, a.got); err != nil {
			return err
		}
		if !bytes.Equal(a.got, a.replies) {
			return fmt.Errorf("got %.60q, not %.60q", a.got, a.replies)
		}
	}
	return nil
}

// askers are ready to go: who has a connection of its own for what it said first shares
// again, and a few rounds of each have grown all buffers.
func askers(t testing.TB, w *world, s steady, clients, depth int) []*asker {
	t.Helper()
	// Alone, the first one writes the key before any other reads it.
	first := newAsker(t, w.proxy.Addr().String(), s, 1, 0)
	if err := first.ask(1); err != nil {
		t.Fatal(err)
	}
	_ = first.conn.Close()
	list := make([]*asker, clients)
	for i := range list {
		list[i] = newAsker(t, w.proxy.Addr().String(), s, depth, i)
	}
	until(t, "all share connections", func() bool {
		together(t, list, 10)
		n := w.proxy.Numbers()
		return n.Shared == clients && n.Pinned == 0
	})
	together(t, list, 100)
	return list
}

// together has all ask at once, each n batches.
func together(t testing.TB, list []*asker, n int) {
	t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, len(list))
	for i, a := range list {
		wg.Go(func() { errs[i] = a.ask(n) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// allocs counts what the whole process allocates in f.
func allocs(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.Mallocs - before.Mallocs
}

// fewest runs f until it allocates no more than mostAllocs, attempts times at most, and
// returns the fewest allocations of a run.
func fewest(f func()) uint64 {
	least := allocs(f)
	for n := 1; n < attempts && least > mostAllocs; n++ {
		least = min(least, allocs(f))
	}
	return least
}

// onSharedPath runs f for all traffic that must not allocate, with pipelines and without.
func onSharedPath[T testing.TB](run func(string, func(T)) bool, f func(t T, s steady, depth int)) {
	for _, s := range steadies() {
		for _, depth := range []int{1, 16} {
			run(fmt.Sprintf("%s/pipeline=%d", s.name, depth), func(t T) { f(t, s, depth) })
		}
	}
}

// askingClients are how many clients share connections here.
const askingClients = 8

// TestSharedPathDoesNotAllocate counts the allocations of the process, proxy and
// clients, while several clients ask on shared connections.
func TestSharedPathDoesNotAllocate(t *testing.T) {
	if raceEnabled || !epoll.Supported {
		t.Skip("the race detector allocates, and without epoll nothing is shared")
	}
	onSharedPath(t.Run, func(t *testing.T, s steady, depth int) {
		w := newWorld(t, func(c *Config) { c.Shared = true })
		batches := 2400 / depth
		requests := batches * askingClients * depth
		list := askers(t, w, s, askingClients, depth)
		n := fewest(func() {
			begun := w.proxy.Stats().Commands
			together(t, list, batches)
			if got := w.proxy.Stats().Commands - begun; got != int64(requests) {
				t.Fatalf("%d requests went through the proxy, not %d", got, requests)
			}
		})
		t.Logf("%d allocations in %d requests", n, requests)
		if now := w.proxy.Numbers(); now.Shared != askingClients || now.Connections[router.Source].Shared >= askingClients {
			t.Fatalf("%d of %d clients shared %d connections to the server", now.Shared, askingClients, now.Connections[router.Source].Shared)
		}
		if n > mostAllocs {
			t.Errorf("%d allocations in %d requests; there should be none but the run's own, %d at most", n, requests, mostAllocs)
		}
	})
}

// BenchmarkShared is the shared path, an operation being a request of one of several
// clients. It fails above no allocation a request; the first run is the one measured.
func BenchmarkShared(b *testing.B) {
	if raceEnabled || !epoll.Supported {
		b.Skip("the race detector allocates, and without epoll nothing is shared")
	}
	onSharedPath(b.Run, func(b *testing.B, s steady, depth int) {
		w := newWorld(b, func(c *Config) { c.Shared = true })
		list := askers(b, w, s, askingClients, depth)
		batches := b.N/askingClients/depth + 1
		b.ReportAllocs()
		b.ResetTimer()
		n := fewest(func() {
			together(b, list, batches)
			b.StopTimer()
		})
		if requests := batches * askingClients * depth; n > mostAllocs {
			b.Errorf("%d allocations in %d requests; there should be none but the run's own, %d at most", n, requests, mostAllocs)
		}
	})
}
