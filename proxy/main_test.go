package proxy

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/elements"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	flag.Parse()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + max(*loopsOfTests, 2)) // as the command does
	// go-redis tries a node that is gone once a second, up to a second longer than its client lives.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).reaper"),
		goleak.IgnoreAnyFunction("github.com/redis/go-redis/v9/internal/pool.(*ConnPool).tryDial"))
}

// The tests run with shared upstream connections; -upstream pinned gives each
// client its own. Those that try both are left out then.
var upstreams = flag.String("upstream", "shared", "shared or pinned")

// As many as the processors ask for, or as -loops says: what is between loops is to be
// tested on small machines too.
var loopsOfTests = flag.Int("loops", 0, "event loops; 0: by the processors")

// patience bounds every wait of the tests.
const patience = 10 * time.Second

// heard is an observer that writes down what it hears.
type heard struct {
	mu     sync.Mutex
	log    []string
	writes func([]Write) // nil: they are counted only
	wrote  atomic.Int64
	books  atomic.Pointer[elements.Keys]
	reads  []ShadowRead // that were answered differently
}

func (h *heard) Differed(read ShadowRead) {
	h.mu.Lock()
	h.reads = append(h.reads, read)
	h.mu.Unlock()
}

func (h *heard) WantsWrites() bool { return true }

func (h *heard) Elements() *elements.Keys { return h.books.Load() }

func (h *heard) Wrote(writes []Write) {
	h.wrote.Add(int64(len(writes)))
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.writes != nil {
		h.writes(writes)
	}
}

func (h *heard) add(format string, args ...any) {
	h.mu.Lock()
	h.log = append(h.log, fmt.Sprintf(format, args...))
	h.mu.Unlock()
}
func (h *heard) Silent(db int, keys ...string)  { h.add("silent %d %s", db, strings.Join(keys, ",")) }
func (h *heard) Flushed(db int)                 { h.add("flushed %d", db) }
func (h *heard) Changed(db int, keys ...string) { h.add("changed %d %v", db, keys) }
func (h *heard) Swapped(a, b int)               { h.add("swapped %d %d", a, b) }
func (h *heard) Functions()                     { h.add("functions") }
func (h *heard) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.log)
}

// world is a proxy before two real servers.
type world struct {
	t              testing.TB
	source, target *redistest.Server
	gate           *router.Gate
	proxy          *Server
	heard          *heard
	logs           *logged
	dbs            router.DBMap
	epoch          uint64
	stop           context.CancelFunc
	stopped        chan struct{} // closed when Serve has returned
}

type setting func(*Config)

func newWorld(t testing.TB, settings ...setting) *world {
	t.Helper()
	return newWorldOn(t, redistest.Start(t), redistest.Start(t), settings...)
}

func newWorldOn(t testing.TB, source, target *redistest.Server, settings ...setting) *world {
	t.Helper()
	dbs, err := router.NewDBMap(map[int]int{0: 0, 3: 5})
	if err != nil {
		t.Fatal(err)
	}
	return newWorldMapped(t, source, target, router.Route{Map: dbs}, settings...)
}

// newWorldMapped is one whose clients are where route leads.
func newWorldMapped(t testing.TB, source, target *redistest.Server, route router.Route, settings ...setting) *world {
	t.Helper()
	w := &world{t: t, source: source, target: target, heard: &heard{}, logs: &logged{}, dbs: route.Map, epoch: route.Epoch}
	w.gate = router.NewGate(route)
	var err error
	cfg := Config{Listen: []Listen{{Network: "tcp", Address: "127.0.0.1:0"}}, Shared: *upstreams == "shared", Loops: *loopsOfTests, Upstreams: [2]Upstream{{Dial: newDialer(source.Addr())}, {Dial: newDialer(target.Addr())}}}
	cfg.Unblock = func(ctx context.Context, side router.Side, ids []int64) error {
		c := w.server(side).Client(0)
		defer func() { _ = c.Close() }()
		for _, id := range ids {
			if err := c.ClientUnblockWithError(ctx, id).Err(); err != nil {
				return err
			}
		}
		return nil
	}
	cfg.Locate = func(ctx context.Context, side router.Side) (map[string]int64, error) {
		c := w.server(side).Client(0)
		defer func() { _ = c.Close() }()
		list, err := c.ClientList(ctx).Result()
		ids := make(map[string]int64)
		for line := range strings.Lines(list) {
			var id int64
			var addr string
			if _, err := fmt.Sscanf(line, "id=%d addr=%s", &id, &addr); err != nil {
				return nil, err
			}
			ids[addr] = id
		}
		return ids, err
	}
	for _, set := range settings {
		set(&cfg)
	}
	log := slog.NewMultiHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}),
		slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	w.proxy, err = New(cfg, w.gate, w.heard, slog.New(log))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.proxy.Listen(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop, w.stopped = cancel, make(chan struct{})
	served := make(chan error, 1)
	go func() { served <- w.proxy.Serve(ctx); close(w.stopped) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience + 5*time.Second):
			t.Error("Serve did not return")
		}
		if n := w.gate.Inside(); n != 0 {
			t.Errorf("%d commands are left inside the gate", n)
		}
	})
	return w
}

func newDialer(addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", addr) }
}

func (w *world) server(side router.Side) *redistest.Server {
	if side == router.Target {
		return w.target
	}
	return w.source
}

// hold shuts the gate; during runs while it is shut; then all go to side.
func (w *world) switchTo(side router.Side, during ...func()) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.proxy.Prepare(ctx, side); err != nil {
		w.t.Fatalf("Prepare: %v", err)
	}
	if err := w.proxy.Settle(ctx); err != nil {
		w.t.Fatalf("Settle: %v", err)
	}
	if err := w.proxy.Hold(ctx); err != nil {
		w.t.Fatalf("Hold: %v", err)
	}
	w.epoch++
	route := router.Route{Side: side, Epoch: w.epoch, Map: w.dbs}
	if err := w.proxy.Align(ctx, route); err != nil {
		w.t.Fatalf("Align: %v", err)
	}
	for _, f := range during {
		f()
	}
	w.proxy.Release(route)
}

// do runs a command on a server itself.
func (w *world) do(side router.Side, db int, args ...any) any {
	w.t.Helper()
	c := w.server(side).Client(db)
	defer func() { _ = c.Close() }()
	v, err := c.Do(context.Background(), args...).Result()
	if err != nil {
		return err.Error()
	}
	return v
}

// until waits for a condition.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// raw is a client that sees bytes.
type raw struct {
	t    testing.TB
	conn net.Conn
	rest []byte
}

func dialRaw(t testing.TB, addr string) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &raw{t: t, conn: conn}
}

func (w *world) client() *raw { w.t.Helper(); return dialRaw(w.t, w.proxy.Addr().String()) }

func (r *raw) send(lines ...string) {
	r.t.Helper()
	var b []byte
	for _, l := range lines {
		args, ok := resp.SplitArgs([]byte(l))
		if !ok {
			r.t.Fatalf("bad line %q", l)
		}
		b = append(b, wireOf(args...)...)
	}
	r.write(b)
}

func (r *raw) write(b []byte) {
	r.t.Helper()
	if _, err := r.conn.Write(b); err != nil {
		r.t.Fatalf("writing: %v", err)
	}
}

// next returns one whole reply as its bytes, "EOF" when the connection ended.
func (r *raw) next() string {
	r.t.Helper()
	var f resp.Framer
	at := 0
	for {
		n, done, err := f.Feed(r.rest[at:])
		if err != nil {
			r.t.Fatalf("%v in %q", err, r.rest)
		}
		at += n
		if done {
			el := string(r.rest[:at])
			r.rest = r.rest[at:]
			return el
		}
		buf := make([]byte, 64<<10)
		_ = r.conn.SetReadDeadline(time.Now().Add(patience))
		k, err := r.conn.Read(buf)
		r.rest = append(r.rest, buf[:k]...)
		if errors.Is(err, io.EOF) || err != nil && strings.Contains(err.Error(), "reset") {
			if k == 0 {
				if len(r.rest) > 0 {
					return "EOF after " + string(r.rest)
				}
				return "EOF"
			}
			continue
		}
		if err != nil {
			r.t.Fatalf("reading: %v (have %q)", err, r.rest)
		}
	}
}

// do sends one line and returns its reply.
func (r *raw) do(line string) string {
	r.t.Helper()
	r.send(line)
	return r.next()
}

func (r *raw) want(line, reply string) {
	r.t.Helper()
	if got := r.do(line); got != reply {
		r.t.Fatalf("%s: got %q, want %q", line, got, reply)
	}
}

func (r *raw) expect(reply string) {
	r.t.Helper()
	if got := r.next(); got != reply {
		r.t.Fatalf("got %q, want %q", got, reply)
	}
}

// quiet checks that nothing is on its way: a PING is answered next.
func (r *raw) quiet(pong string) {
	r.t.Helper()
	if got := r.do("PING"); got != pong {
		r.t.Fatalf("instead of %q came %q", pong, got)
	}
}

func (r *raw) close() { _ = r.conn.Close() }

// transcript reads until the connection is silent behind a last marker.
func (r *raw) transcript(marker string) string {
	r.t.Helper()
	var b bytes.Buffer
	b.Write(r.rest)
	r.rest = nil
	buf := make([]byte, 64<<10)
	for !strings.Contains(b.String(), marker) {
		_ = r.conn.SetReadDeadline(time.Now().Add(patience))
		n, err := r.conn.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			b.WriteString("<end>")
			break
		}
	}
	return b.String()
}
