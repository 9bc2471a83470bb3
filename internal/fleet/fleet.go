// Package fleet makes a Redis Cluster look like one standalone server: its connections take a client's requests in and give the replies back in order.
// It owns the connections to the nodes, the sending again of what a node refused, and what a standalone server would know of a connection.
// It never sends a command twice whose outcome is unknown, and never answers OK to what it has not done.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/internal/slot"
)

// Options of a Fleet. Zero values mean: 5 s to dial a node, 5 s of patience, 1000 scripts.
type Options struct {
	DialTimeout time.Duration
	// Patience is for how long a command may be kept that no node can do for the moment,
	// over all attempts. What is sent on the same connection waits behind it. Where a node
	// is out of order for longer, its keys' commands are refused at once.
	Patience time.Duration
	Scripts  int // bodies kept, for nodes that do not have them; of 64 MiB at most
}

// Fleet is a cluster as one server. Its methods are safe for concurrent use.
type Fleet struct {
	topo    *cluster.Topology
	opts    Options
	log     *slog.Logger
	scripts *scripts
	learned learned
	brought sync.Map // "ADDRESS DIGEST" of scripts that nodes were given, until the map changes

	unstable [slot.Count]atomic.Int64 // when a slot was last found to be on its way: nanoseconds since base
	base     time.Time
	lastID   atomic.Int64

	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex // guards what follows
	conns   map[int64]*conn
	outages map[string]outage // of nodes that could do nothing lately
	asked   map[string]bool   // those of them that a goroutine asks until they say something
	hub     string            // the address of the master that all classic pub/sub goes through
	closed  bool
}

// New makes a fleet of a cluster. The topology stays the caller's, who runs it, and closes it
// after the fleet.
func New(topo *cluster.Topology, opts Options, log *slog.Logger) (*Fleet, error) {
	if opts.DialTimeout <= 0 {
		opts.DialTimeout = 5 * time.Second
	}
	if opts.Patience <= 0 {
		opts.Patience = 5 * time.Second
	}
	if opts.Scripts <= 0 {
		opts.Scripts = 1000
	}
	kept, err := newScripts(opts.Scripts)
	if err != nil {
		return nil, fmt.Errorf("making one server of the cluster %s: %w", topo, err)
	}
	f := &Fleet{topo: topo, opts: opts, log: log, scripts: kept, base: time.Now(), conns: make(map[int64]*conn), outages: make(map[string]outage), asked: make(map[string]bool)}
	f.ctx, f.stop = context.WithCancel(context.Background())
	f.wg.Go(f.watch)
	return f, nil
}

var errClosed = errors.New("the fleet is closed")

// Dial returns a connection on which the cluster speaks as one server. It fails where no
// master can be reached; the error names the cluster. The caller owns the connection, which
// is a plain socket.
func (f *Fleet) Dial(ctx context.Context) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("connecting to the cluster %s: %w", f.topo, err)
	}
	m, err := f.topo.Load(ctx)
	if err != nil {
		return fail(err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fail(os.NewSyscallError("socketpair", err))
	}
	outer, err := epoll.Give(pair[0])
	if err != nil {
		epoll.Close(pair[1])
		return fail(err)
	}
	inner, err := epoll.Give(pair[1])
	if err != nil {
		_ = outer.Close()
		return fail(err)
	}
	c := newConn(f, inner.(*net.UnixConn), m)
	if err := c.begin(ctx); err != nil {
		_ = outer.Close()
		c.close()
		c.readers.Wait()
		return fail(err)
	}
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		_ = outer.Close()
		c.close()
		c.readers.Wait()
		return fail(errClosed)
	}
	f.conns[c.id] = c
	f.wg.Add(1)
	f.mu.Unlock()
	go func() {
		defer f.wg.Done()
		c.serve()
		f.mu.Lock()
		delete(f.conns, c.id)
		f.mu.Unlock()
	}()
	return outer, nil
}

// Close ends all connections, and returns when nothing of the fleet runs any more.
func (f *Fleet) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.stop()
	for _, c := range f.all() {
		c.close()
	}
	f.wg.Wait()
}

func (f *Fleet) all() []*conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]*conn, 0, len(f.conns))
	for _, c := range f.conns {
		list = append(list, c)
	}
	return list
}

func (f *Fleet) byID(id int64) *conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns[id]
}

// Unblock ends what blocks on these connections, as CLIENT UNBLOCK id ERROR does on one
// server, under the topology's user. The ids are those that CLIENT ID answers there. Those
// on which nothing blocks are left alone.
func (f *Fleet) Unblock(ctx context.Context, ids []int64) error {
	var errs []error
	byNode := make(map[string][]int64)
	for _, id := range ids {
		if c := f.byID(id); c != nil {
			if address, at := c.blockedAt(); at != 0 {
				byNode[address] = append(byNode[address], at)
			}
		}
	}
	for address, at := range byNode {
		if err := f.unblockAt(ctx, address, at); err != nil {
			errs = append(errs, fmt.Errorf("unblocking clients of the node %s: %w", address, err))
		}
	}
	return errors.Join(errs...)
}

// dial connects to a node. An outage that lasts is remembered.
func (f *Fleet) dial(ctx context.Context, address string) (net.Conn, error) {
	began := time.Now()
	sock, err := endpoint.Dial(ctx, f.topo.At(address), f.opts.DialTimeout)
	if err == nil {
		return sock, nil
	}
	if ctx.Err() == nil {
		switch {
		case tookTooLong(err):
			f.silent(address, began)
		case errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
			f.refuses(address)
		default: // perhaps for want of something here
			f.down(address)
		}
		f.topo.Doubt(address)
	}
	return nil, err
}

const (
	unstableFor  = 5 * time.Second // after which a slot that was on its way counts as settled
	demotedGrace = time.Second     // for what is in flight at a node that is no master any more
)

func (f *Fleet) unsettle(s int) {
	if s >= 0 && s < slot.Count {
		f.unstable[s].Store(int64(time.Since(f.base)) + 1)
	}
}

func (f *Fleet) isUnstable(s int) bool {
	at := f.unstable[s].Load()
	return at != 0 && time.Since(f.base)-time.Duration(at) < unstableFor
}

// watch cuts connections to nodes that are no masters any more, or have failed, and do not
// answer: what is in flight there would wait for ever. It looks now and then even where the
// map stays as it is, as what a failed node is asked later gets no answer either.
func (f *Fleet) watch() {
	news, last := f.topo.Changed(), f.topo.Map()
	for {
		changed := false
		select {
		case <-f.ctx.Done():
			return
		case <-news:
			changed, news = true, f.topo.Changed()
		case <-time.After(demotedGrace):
		}
		if changed {
			select {
			case <-f.ctx.Done():
				return
			case <-time.After(demotedGrace):
			}
			f.brought.Clear()
		}
		m := f.topo.Map()
		moved := changed && len(last.Moved(m)) > 0
		last = m
		for _, c := range f.all() {
			c.cutDemoted(m, changed)
			c.cutStray(f.hubAddress())
			if changed {
				c.heed(moved)
			}
		}
	}
}

// hubAddress is the master that all classic pub/sub goes through, "" where none is known. It is
// one for all connections, and so who publishes is told of all who listen. It stays the hub
// for as long as it is a master that can be connected to: who listens there need not change.
func (f *Fleet) hubAddress() string {
	m := f.topo.Map() // not a connection's, which may be an old one
	f.mu.Lock()
	defer f.mu.Unlock()
	serves := func(n *cluster.Node) bool { return n != nil && n.Master == "" && !n.Failed && !f.isAway(n.Address) }
	if serves(m.Node(f.hub)) {
		return f.hub
	}
	next := m.Owner(0) // one that is found by who begins anew
	for _, n := range m.Masters() {
		if !serves(next) {
			next = n
		}
	}
	if next != nil && (serves(next) || m.Node(f.hub) == nil) {
		f.hub = next.Address
	}
	return f.hub
}

// masters are the addresses of all masters, those without slots too: a slot that is on its
// way to one has keys there.
func masters(m *cluster.Map) []string {
	var list []string
	for _, n := range m.Masters() {
		list = append(list, n.Address)
	}
	for _, n := range m.Empty() {
		list = append(list, n.Address)
	}
	return list
}

// anyMaster is the address of one of the masters that have slots, "" where there is none.
func anyMaster(m *cluster.Map) string {
	list := m.Masters()
	if len(list) == 0 {
		return ""
	}
	return list[rand.IntN(len(list))].Address
}
