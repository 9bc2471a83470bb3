package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// writer is the set of connections on which copies are written. When the answer
// to a write is lost (time-out, connection cut), that write may still lie in a
// socket buffer and would overwrite a newer copy sent on another connection. So
// after an unknown outcome the whole set is replaced, and nothing is written
// until To says that the old connections are gone.
type writer struct {
	pool *conn.Pool
	gen  int

	mu     sync.Mutex
	wires  map[*conn.Wire]struct{}
	closed bool // nothing is written any more, and no wire dialled
}

var errReplaced = errors.New("the connections for copying are being replaced")

func newWriter(base *conn.Pool, timeout time.Duration, gen int) *writer {
	name := strings.TrimPrefix(base.Name(), conn.NamePrefix)
	return &writer{
		pool: base.Like(base.Endpoint(), fmt.Sprintf("%s:copy:%d", name, gen), timeout), gen: gen,
		wires: make(map[*conn.Wire]struct{}),
	}
}

// dial makes one more connection of the set, to a cluster one to each master. They are the
// caller's to close, and are closed under its hands when the set is replaced.
func (w *writer) dial(ctx context.Context, place router.Place) (*conn.Bundle, error) {
	return w.pool.Bundle(ctx, place, w.keep)
}

func (w *writer) keep(wire *conn.Wire) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errReplaced
	}
	for old := range w.wires { // those that their owners have closed meanwhile
		if old.Closed() {
			delete(w.wires, old)
		}
	}
	w.wires[wire] = struct{}{}
	return nil
}

// isClosed reports whether nothing is written by the set any more.
func (w *writer) isClosed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}

// close ends every connection of the set. What lies in their sockets may still
// arrive.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	for wire := range w.wires {
		wire.Close()
	}
	clear(w.wires)
	w.mu.Unlock()
	_ = w.pool.Close()
}

// writer returns the current set.
func (m *Mirror) writer() *writer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.out
}

// replaceWriter makes old unusable, kills what is left of it on To, and
// installs a new set. It returns at once when somebody else did so already, and
// gives up only when the mirror stops.
func (m *Mirror) replaceWriter(old *writer) {
	m.replacing.Lock()
	defer m.replacing.Unlock()
	if m.writer() != old {
		return
	}
	next := newWriter(m.cfg.To, m.cfg.Timeout, old.gen+1)
	old.close() // first: what is sent on a connection dialled after the killing would escape it
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
		err := m.killWrites(ctx, old)
		cancel()
		if err == nil {
			break
		}
		m.errs.add("target", fmt.Errorf("making sure that lost writes to %s cannot arrive late: %w", m.cfg.To, err))
		if !sleep(m.ctx, wait) {
			break
		}
	}
	m.mu.Lock()
	m.out = next
	m.mu.Unlock()
}

// killWrites closes what is left of a writer's connections on To, on each node of a cluster
// that it has had any to. One that does not answer is left out when it has no slots any more:
// whoever has taken them over does not take what it still runs.
func (m *Mirror) killWrites(ctx context.Context, old *writer) error {
	ours := func(name string) bool { return name == old.pool.Name() }
	t := cluster.Of(m.cfg.To.Endpoint())
	if t == nil {
		return KillNamed(ctx, m.cfg.To.DB(0), ours)
	}
	together, tctx := errgroup.WithContext(ctx)
	for _, address := range old.pool.Dialled() {
		together.Go(func() error {
			killing, cancel := context.WithTimeout(tctx, m.cfg.Timeout/2)
			err := KillNamed(killing, m.cfg.To.Node(address).DB(0), ours)
			cancel()
			if err == nil {
				return nil
			}
			t.Doubt(address)
			if asked := t.Refresh(tctx); asked == nil {
				if n := t.Map().Node(address); n == nil || len(t.Map().Slots(n)) == 0 {
					return nil
				}
			}
			return fmt.Errorf("node %s: %w", address, err)
		})
	}
	return together.Wait()
}

// KillNamed closes every connection on c's server whose CLIENT SETNAME is
// chosen, and returns once the server has let go of them: what they had sent
// and the server had not run is never run (networking.c: CLIENT KILL frees the
// client at once). The connection that asks is spared.
func KillNamed(ctx context.Context, c *redis.Client, chosen func(name string) bool) error {
	cn := c.Conn()
	defer func() { _ = cn.Close() }()
	self, err := cn.ClientID(ctx).Result()
	if err != nil {
		return fmt.Errorf("asking for our client id: %w", err)
	}
	list, err := cn.ClientList(ctx).Result()
	if err != nil {
		return fmt.Errorf("listing clients: %w", err)
	}
	for line := range strings.Lines(list) {
		var id, name string
		for field := range strings.FieldsSeq(line) {
			if v, ok := strings.CutPrefix(field, "id="); ok {
				id = v
			} else if v, ok := strings.CutPrefix(field, "name="); ok {
				name = v
			}
		}
		if id == "" || id == fmt.Sprint(self) || !chosen(name) {
			continue
		}
		if err := cn.ClientKillByFilter(ctx, "ID", id).Err(); err != nil {
			return fmt.Errorf("closing our old connection %s: %w", id, err)
		}
	}
	return nil
}
