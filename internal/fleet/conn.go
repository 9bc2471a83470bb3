package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/resp"
)

// conn is one connection on which the cluster speaks as one server. Its own goroutine reads
// the requests and sends them to the nodes; the readers of these bring the replies, which
// go out in the order of the requests; settle sends again what was refused.
type conn struct {
	f    *Fleet
	id   int64
	sock *net.UnixConn
	ctx  context.Context
	stop context.CancelFunc

	// Of the goroutine that serves.
	in      resp.Requests
	slab    slab
	view    *cluster.Map // by which it goes as long as anything is in flight
	dirty   []*node
	me      identity
	txn     *txn
	watch   *watched
	spare   map[string]*node // connections of ours that nobody uses now, by address
	keys    []keyAt
	caching []byte // CLIENT CACHING, which is about the command that is next
	choice  []byte // … of the one that is served
	unsaid  bool   // something may be out that nobody has written
	hubWas  string // where what was published last went
	unsure  bool   // the nodes want AUTH, so they are asked about everything

	readers   sync.WaitGroup
	settling  atomic.Bool // something is to be sent again; written under mu
	subbed    atomic.Bool // there are subscriptions; written under mu
	watchOver atomic.Bool // nobody need look any more whether the client hangs up

	subMu sync.Mutex // what is subscribed changes by one at a time; before wmu and mu

	wmu sync.Mutex // one writes to the client at a time; before mu

	mu        sync.Mutex // guards what follows
	cond      *sync.Cond
	waiting   int
	fifo      []*call // in the order of the requests
	head      int
	flying    int // bytes of them
	held      int // bytes of replies that wait for their turn
	out       []byte
	old       []byte    // the last out, to be used again
	passed    uint64    // calls that have left it
	pushes    []byte    // for the client, once the reply that it is getting has ended
	later     []delayed // … and once all replies have that were under way
	laterSize int       // bytes of these
	gen       uint64    // how often what the nodes are told of the client has changed
	redo      []*call
	nodes     map[string]*node // by address: those that plain commands go to
	all       map[*node]struct{}
	home      string // the master that is asked what any could be
	blocked   *call
	subs      subscriptions
	doomed    bool // closed as soon as out is written
	closed    bool
}

// lastWords is how long a client that has hung up has for what it has asked for before.
const lastWords = 5 * time.Second

func newConn(f *Fleet, sock *net.UnixConn, m *cluster.Map) *conn {
	c := &conn{f: f, id: f.lastID.Add(1), sock: sock, view: m, me: identity{proto: 2}, spare: make(map[string]*node),
		nodes: make(map[string]*node), all: make(map[*node]struct{})}
	c.cond = sync.NewCond(&c.mu)
	c.ctx, c.stop = context.WithCancel(f.ctx)
	return c
}

// begin connects to a master: a cluster of which none can be reached is no server. Nor is one
// reached that takes connections and says nothing.
func (c *conn) begin(ctx context.Context) error {
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	var errs []error
	list := c.f.shuffled(c.view)
	for i, address := range list {
		patience := c.f.opts.DialTimeout
		if i+1 < len(list) { // another one may answer
			patience /= 4
		}
		err := c.beginAt(ctx, address, patience)
		var answered *setupError
		switch {
		case errors.As(err, &answered):
			return err
		case err == nil && stop():
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil || i == mostHomes {
			break
		}
	}
	return errors.Join(append(errs, context.Cause(ctx), errors.New("none of its masters can be reached"))...)
}

func (c *conn) beginAt(ctx context.Context, address string, patience time.Duration) error {
	sock, err := c.f.dial(ctx, address)
	if err != nil {
		return err
	}
	n, err := c.beginNode(address, sock)
	if err != nil {
		return err
	}
	if err := c.hurried(n, patience, func() error { return c.knock(n) }); err != nil {
		n.close()
		return err
	}
	c.f.up(address)
	c.mu.Lock()
	c.home, c.nodes[address] = address, n
	c.mu.Unlock()
	return nil
}

// hurried ends a connection to a node where the first answers on it take longer than patience.
func (c *conn) hurried(n *node, patience time.Duration, ask func() error) error {
	began := time.Now()
	late := time.AfterFunc(patience, func() {
		c.mu.Lock()
		n.fail(fmt.Errorf("node %s: %w", n.address, errSilent))
		c.mu.Unlock()
	})
	err := ask()
	if late.Stop(); errors.Is(err, errSilent) && !c.isClosed() {
		c.f.silent(n.address, began)
		c.f.topo.Doubt(n.address)
	}
	return err
}

// mostHomes is how many more masters are tried where one cannot be reached.
const mostHomes = 4

// knock finds out whether the nodes let a client in who has not authenticated.
func (c *conn) knock(n *node) error {
	replies, err := c.ask(n, words("PING"))
	if err != nil {
		return err
	}
	switch text := resp.ErrorText(replies[0]); {
	case prefixed(text, "NOAUTH"):
		c.unsure = true
	case prefixed(text, "ERR max number of clients"):
		return &setupError{n.address, text}
	default:
		c.unsure = false
	}
	return nil
}

// close ends the connection; what runs for it notices.
func (c *conn) close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	c.cond.Broadcast()
	list := make([]*node, 0, len(c.all))
	for n := range c.all {
		list = append(list, n)
	}
	c.mu.Unlock()
	c.stop()
	_ = c.sock.Close()
	for _, n := range list {
		_ = n.sock.Close()
	}
}

// serve takes requests until either side is gone.
func (c *conn) serve() {
	for c.requests() {
		c.flushNodes()
		if c.unsaid {
			c.flush()
		}
		k, err := c.sock.Read(c.in.Space())
		if err != nil || k == 0 {
			break
		}
		c.in.Advance(k)
	}
	if !c.isClosed() { // what it has asked for before it hung up is done
		late := time.AfterFunc(lastWords, c.close)
		c.drain()
		late.Stop()
	}
	c.flush()
	c.close()
	c.readers.Wait()
}

// requests serves all whole requests that came. False ends the connection.
func (c *conn) requests() bool {
	for {
		req, ok, err := c.in.Next()
		var bad resp.ProtocolError
		switch {
		case errors.As(err, &bad):
			if c.drain() {
				c.reply(bad.Reply())
				c.flush()
			}
			return false
		case err != nil:
			return false
		case !ok:
			return c.catchUp() && !c.isClosed()
		}
		raw := req.Raw
		if req.Inline {
			raw = wireOf(req.Args...)
		}
		if !c.command(req.Args, raw) {
			return false
		}
	}
}

func (c *conn) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed || c.doomed
}

// wait is for a change of what mu guards, which it gives up meanwhile.
func (c *conn) wait() {
	c.waiting++
	c.cond.Wait()
	c.waiting--
}

func (c *conn) awaken() {
	if c.waiting > 0 {
		c.cond.Broadcast()
	}
}

// flushNodes writes what was gathered for the nodes.
func (c *conn) flushNodes() {
	for i, n := range c.dirty {
		n.flush()
		c.dirty[i] = nil
	}
	c.dirty = c.dirty[:0]
}

// drain waits until all that was asked for is answered. False: the connection has ended, as
// it does where the client hangs up and its last words take too long.
func (c *conn) drain() bool {
	c.flushNodes()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.busy() {
		return !c.closed && !c.doomed
	}
	long := false
	late := time.AfterFunc(lastWords, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		long = true
		c.awaken()
	})
	defer late.Stop()
	for c.busy() && !long {
		c.wait()
	}
	if c.busy() { // nobody reads what the client says meanwhile
		c.mu.Unlock()
		gone := c.hangsUp()
		c.mu.Lock()
		for c.busy() {
			c.wait()
		}
		c.mu.Unlock()
		gone.stop()
		c.mu.Lock()
	}
	return !c.closed && !c.doomed
}

// busy reports whether something is to be waited for. mu is held.
func (c *conn) busy() bool {
	return (c.head < len(c.fifo) || c.settling.Load()) && !c.closed && !c.doomed
}

// look has the connection go by the present map. Commands of one key must not overtake each
// other, so nothing may be in flight when the map changes. False: the connection has ended.
func (c *conn) look() bool {
	now := c.f.topo.Map()
	if now == c.view && !c.settling.Load() {
		return true
	}
	if !c.drain() {
		return false
	}
	c.view = now
	return true
}

// room waits where too much is in flight.
func (c *conn) room() bool {
	c.mu.Lock()
	full := len(c.fifo)-c.head > callsInLine || c.flying > bytesInLine
	c.mu.Unlock()
	return !full || c.drain()
}

// first reports whether it is the turn of cl. mu is held, as with all that follows.
func (c *conn) first(cl *call) bool { return c.head < len(c.fifo) && c.fifo[c.head] == cl }

// enlist puts a call in the order of the replies.
func (c *conn) enlist(cl *call) {
	if c.head > 256 && c.head > len(c.fifo)/2 {
		k := copy(c.fifo, c.fifo[c.head:])
		clear(c.fifo[k:])
		c.fifo, c.head = c.fifo[:k], 0
	}
	c.fifo = append(c.fifo, cl)
	cl.size = len(cl.raw)
	c.flying += cl.size
}

// drop forgets what has come of a reply.
func (c *conn) drop(cl *call) {
	c.held -= len(cl.buf)
	cl.buf = nil
}

// finish is the end of a node's reply to cl.
func (c *conn) finish(cl *call) {
	if !cl.lone {
		if len(cl.buf) > 0 && cl.buf[0] == '-' && (cl.fan == nil || cl.fan.stream == nil) && c.again(cl) {
			return
		}
		if len(c.redo) > 0 {
			c.overtake(cl)
		}
	}
	c.complete(cl)
}

// complete ends a call: its reply is in buf, or out already, or it is lost.
func (c *conn) complete(cl *call) {
	cl.done = true
	if cl.then != nil && cl.lost == nil {
		cl.then(cl.buf)
	}
	switch {
	case cl.lone:
		c.held -= len(cl.buf)
		if !cl.silent {
			c.awaken()
		}
		return
	case cl.fan != nil:
		if cl.fan.add(c, cl); cl.fan.left > 0 {
			return
		}
		whole := cl.fan.call
		whole.buf = cl.fan.merged(c)
		whole.lost, whole.done = cl.fan.lost, true
		c.held += len(whole.buf)
	}
	c.advance()
}

// advance lets out what has its turn.
func (c *conn) advance() {
	for c.head < len(c.fifo) {
		h := c.fifo[c.head]
		if h.done && h.lost != nil {
			// Nobody knows whether it was done, so the client is to find out, as it would
			// have to with one server that is gone.
			c.doomed = true
			c.f.log.Debug("closing a connection: the outcome of a command is unknown", "err", h.lost)
			break
		}
		if len(h.buf) > 0 && (h.done || !h.collect) {
			c.out = append(c.out, h.buf...)
			c.drop(h)
			h.begun = true
		}
		if !h.done {
			break
		}
		c.fifo[c.head] = nil
		c.head++
		c.passed++
		c.flying -= h.size
		if len(c.pushes) > 0 {
			c.out = append(c.out, c.pushes...)
			c.pushes = nil
		}
		if len(c.later) > 0 {
			c.pushDue()
		}
	}
	if c.head == len(c.fifo) {
		c.fifo, c.head = c.fifo[:0], 0
	}
	c.awaken()
}

// push says something to the client that it has not asked for: between two replies.
func (c *conn) push(el []byte) {
	if c.head < len(c.fifo) && c.fifo[c.head].begun {
		c.pushes = append(c.pushes, el...)
		return
	}
	c.out = append(c.out, el...)
}

// reply answers a command for which nothing is in flight.
func (c *conn) reply(b []byte) {
	c.mu.Lock()
	c.out = append(c.out, b...)
	full := len(c.out) > outAtOnce
	c.mu.Unlock()
	if c.unsaid = !full; full {
		c.flush()
	}
}

// flush writes to the client what is out.
func (c *conn) flush() {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.mu.Lock()
	b := c.out
	c.out, c.old = c.old, nil
	doomed := c.doomed
	c.mu.Unlock()
	if len(b) > 0 {
		if _, err := c.sock.Write(b); err != nil {
			doomed = true
		}
	}
	if cap(b) <= 2*outAtOnce {
		c.mu.Lock()
		c.old = b[:0]
		c.mu.Unlock()
	}
	if doomed {
		c.close()
	}
}

// ask has a node do commands of ours, and waits for its answers, errors or not.
func (c *conn) ask(n *node, raws ...[]byte) ([][]byte, error) {
	replies, err := c.askEach([]*node{n}, raws...)
	if err != nil {
		return nil, err
	}
	return replies[0], nil
}

// askEach is ask at several nodes at once. The replies of a node that is lost meanwhile are
// nil, and the error is the first of those.
func (c *conn) askEach(nodes []*node, raws ...[]byte) (replies [][][]byte, err error) {
	calls := make([][]*call, len(nodes))
	for i, n := range nodes {
		c.mu.Lock()
		for _, raw := range raws {
			if n.dead {
				calls[i] = nil
				break
			}
			cl := &call{raw: raw, slot: -1, lone: true}
			n.append(cl)
			calls[i] = append(calls[i], cl)
		}
		c.mu.Unlock()
		n.flush()
	}
	replies = make([][][]byte, len(nodes))
	for i := range nodes {
		if calls[i] == nil {
			err = cmp.Or(err, errNodeGone)
		}
		for _, cl := range calls[i] {
			if lost := c.await(cl); lost != nil {
				replies[i], err = nil, cmp.Or(err, lost)
				break
			}
			replies[i] = append(replies[i], cl.buf)
		}
	}
	return replies, err
}

// await waits for a call of ours.
func (c *conn) await(cl *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !cl.done && !c.closed {
		c.wait()
	}
	switch {
	case !cl.done:
		return errClosed
	case cl.lost != nil:
		return cl.lost
	}
	return nil
}

// cutDemoted ends connections to nodes that are no masters any more, or that the cluster has
// found to be dead, where something has been in flight for long, and those that messages come
// from: a replica that repeats what its master does says so too.
func (c *conn) cutDemoted(m *cluster.Map, changed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.all {
		at := m.Node(n.address)
		if at != nil && at.Master == "" && !at.Failed {
			continue
		}
		late := n.head < len(n.sent) && time.Since(n.since) >= demotedGrace
		if late && at != nil && at.Failed {
			c.f.silent(n.address, n.since) // so what comes later need not find out as slowly
		}
		if n.messages && changed || late {
			n.fail(errCut) // what that lets out is written by the node's reader, when it ends
		}
	}
}
