package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/router"
)

// raceEnabled says that the race detector is on, which allocates.
var raceEnabled bool

// mostAllocs is how many allocations a request may cost on shared connections:
// none of its own. What is left is for the runtime's (a timer, a grown stack).
const mostAllocs = 0.01

// asker is a client that allocates nothing once it is made: it sends the same
// bytes again and again, and knows how many come back.
type asker struct {
	conn     net.Conn
	batch    []byte
	replies  []byte // what answers a batch
	got      []byte
	requests int // in a batch
}

func newAsker(t testing.TB, addr string, depth int, pairs ...[2]string) *asker {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	a := &asker{conn: conn, requests: depth}
	for i := range depth {
		p := pairs[i%len(pairs)]
		a.batch = append(a.batch, p[0]...)
		a.replies = append(a.replies, p[1]...)
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

// askers are ready to go; a few rounds of each have grown all buffers.
func askers(t testing.TB, w *world, clients, depth int) []*asker {
	t.Helper()
	value := bytes.Repeat([]byte("x"), 64)
	get := [2]string{string(wireOf([]byte("GET"), []byte("key"))), fmt.Sprintf("$64\r\n%s\r\n", value)}
	set := [2]string{string(wireOf([]byte("SET"), []byte("key"), value)), "+OK\r\n"}
	list := make([]*asker, clients)
	for i := range list {
		list[i] = newAsker(t, w.proxy.Addr().String(), depth, set, get)
		if i%2 == 1 {
			list[i] = newAsker(t, w.proxy.Addr().String(), depth, get, set)
		}
	}
	// Alone, the first one writes the key before any other reads it.
	if err := newAsker(t, w.proxy.Addr().String(), 1, set).ask(1); err != nil {
		t.Fatal(err)
	}
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

// TestSharedPathDoesNotAllocate counts the allocations of the process, proxy and
// clients, while several clients ask on shared connections.
func TestSharedPathDoesNotAllocate(t *testing.T) {
	if raceEnabled || !epoll.Supported {
		t.Skip("the race detector allocates, and without epoll nothing is shared")
	}
	for _, depth := range []int{1, 16} {
		t.Run(fmt.Sprintf("pipeline %d", depth), func(t *testing.T) {
			w := newWorld(t, func(c *Config) { c.Shared = true })
			const clients = 8
			batches := 4800 / depth
			requests := batches * clients * depth
			list := askers(t, w, clients, depth)
			begun := w.proxy.Stats().Commands
			n := allocs(func() { together(t, list, batches) })
			// The goroutines of together are not the proxy's.
			const ours = 4 * clients
			each := float64(max(0, int64(n)-ours)) / float64(requests)
			t.Logf("%d allocations in %d requests", n, requests)
			if got := w.proxy.Stats().Commands - begun; got != int64(requests) {
				t.Fatalf("%d requests went through the proxy, not %d", got, requests)
			}
			if got := len(w.proxy.UpstreamAddrs(router.Source)); got >= clients {
				t.Fatalf("%d clients had %d connections to the server: nothing was shared", clients, got)
			}
			if each >= mostAllocs {
				t.Errorf("%.3f allocations a request; there should be none", each)
			}
		})
	}
}

// BenchmarkShared is the shared path, an operation being a request of one of
// several clients. It fails above no allocation a request.
func BenchmarkShared(b *testing.B) {
	for _, depth := range []int{1, 16} {
		b.Run(fmt.Sprintf("pipeline=%d", depth), func(b *testing.B) {
			w := newWorld(b, func(c *Config) { c.Shared = true })
			const clients = 8
			list := askers(b, w, clients, depth)
			batches := b.N/clients/depth + 1
			b.ReportAllocs()
			b.ResetTimer()
			n := allocs(func() { together(b, list, batches) })
			b.StopTimer()
			requests := batches * clients * depth
			b.ReportMetric(float64(n)/float64(requests), "mallocs/request")
			if requests >= 10_000 && float64(n)/float64(requests) >= mostAllocs {
				b.Errorf("%d allocations in %d requests; there should be none", n, requests)
			}
		})
	}
}
