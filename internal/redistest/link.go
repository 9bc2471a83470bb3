package redistest

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Link is a TCP relay in front of one server that behaves like a bad network:
// it delays, stalls, swallows, cuts and refuses. Bytes keep their order. All
// methods may be called at any time from any goroutine.
type Link struct {
	upstream atomic.Pointer[string]
	listener net.Listener
	up, down lane // towards the server, towards the client
	refuse   atomic.Bool
	accepted atomic.Int64
	wg       sync.WaitGroup // the accept loop and the connections

	mu     sync.Mutex // guards what follows; never held over I/O
	conns  map[*linkConn]struct{}
	closed bool
}

// OpenLink opens a link in front of the server at upstream on a free loopback
// port. The caller ends it with Close.
func OpenLink(upstream string) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("open a link to %s: %w", upstream, err)
	}
	l := &Link{listener: listener, conns: make(map[*linkConn]struct{})}
	l.upstream.Store(&upstream)
	l.down.budget.Store(noBudget)
	l.up.budget.Store(noBudget)
	l.wg.Go(l.accept)
	return l, nil
}

// Addr returns the address clients connect to.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// SetUpstream has new connections lead to another server, as after a failover. Those
// of before stay: see Cut.
func (l *Link) SetUpstream(addr string) { l.upstream.Store(&addr) }

// SetDelay adds d to the way of every byte read from now on, in each
// direction: a round trip takes 2·d longer.
func (l *Link) SetDelay(d time.Duration) { l.SetDelayUp(d); l.SetDelayDown(d) }

// SetDelayUp delays what clients send.
func (l *Link) SetDelayUp(d time.Duration) { l.up.delay.Store(int64(d)) }

// SetDelayDown delays what the server sends.
func (l *Link) SetDelayDown(d time.Duration) { l.down.delay.Store(int64(d)) }

// Stall stops the flow of bytes in both directions, or lets it go on. The
// connections stay, and new ones are taken.
func (l *Link) Stall(on bool) { l.StallUp(on); l.StallDown(on) }

// StallUp stalls what clients send.
func (l *Link) StallUp(on bool) { l.up.stall(on) }

// StallDown stalls what the server sends.
func (l *Link) StallDown(on bool) { l.down.stall(on) }

// Refuse makes the link close every new connection at once, or stop doing so.
func (l *Link) Refuse(on bool) { l.refuse.Store(on) }

// CutAfter cuts all connections, once, as soon as n more bytes in sum have
// gone down to the clients: exactly n arrive, so a reply may be torn in two.
// A negative n takes the limit away.
func (l *Link) CutAfter(n int64) {
	if n < 0 {
		n = noBudget
	}
	l.down.budget.Store(n)
}

// CutAfterUp is CutAfter for the bytes that go up to the server: a command may
// be torn in two.
func (l *Link) CutAfterUp(n int64) {
	if n < 0 {
		n = noBudget
	}
	l.up.budget.Store(n)
}

// Conns returns how many connections are relayed at the moment.
func (l *Link) Conns() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.conns)
}

// Accepted returns how many connections clients have opened so far, refused
// ones included.
func (l *Link) Accepted() int64 { return l.accepted.Load() }

// BytesUp counts what has been passed on to the server.
func (l *Link) BytesUp() int64 { return l.up.passed.Load() }

// BytesDown counts what has been passed on to the clients.
func (l *Link) BytesDown() int64 { return l.down.passed.Load() }

// Cut closes all connections of the moment and returns when they are closed.
// Bytes still on their way are lost. The server's side is closed first: once
// a client sees the cut, nothing that it sent before arrives any more.
func (l *Link) Cut() {
	conns := l.live()
	for _, c := range conns {
		c.end()
	}
	for _, c := range conns {
		<-c.gone
	}
}

// CutSome is Cut for each connection of the moment that pick says true of.
func (l *Link) CutSome(pick func() bool) {
	var cut []*linkConn
	for _, c := range l.live() {
		if pick() {
			c.end()
			cut = append(cut, c)
		}
	}
	for _, c := range cut {
		<-c.gone
	}
}

// Swallow makes each connection of the moment that pick says true of half-open,
// for good: both ends think that it stands, but whatever either sends is lost,
// its end too. Only Cut ends it.
func (l *Link) Swallow(pick func() bool) {
	for _, c := range l.live() {
		if pick() {
			c.swallow.Store(true)
		}
	}
}

func (l *Link) live() []*linkConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	conns := make([]*linkConn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	return conns
}

// Close cuts all connections, stops listening and returns when every goroutine
// of the link has ended. It may be called more than once.
func (l *Link) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	_ = l.listener.Close()
	l.Cut()
	l.wg.Wait()
}

func (l *Link) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return // closed; anything else shows as refused connections
		}
		l.accepted.Add(1)
		if l.refuse.Load() {
			_ = client.Close()
			continue
		}
		c := newLinkConn(l, client.(*net.TCPConn))
		if !l.add(c) {
			_ = client.Close()
			continue
		}
		l.wg.Go(func() {
			c.run()
			l.remove(c)
			close(c.gone)
		})
	}
}

// add registers a connection unless the link is closed.
func (l *Link) add(c *linkConn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.conns[c] = struct{}{}
	}
	return !l.closed
}

func (l *Link) remove(c *linkConn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// noBudget stands for "no limit of bytes".
const noBudget = int64(1) << 62

// lane is what one direction of all connections has in common.
type lane struct {
	delay  atomic.Int64 // nanoseconds
	budget atomic.Int64 // bytes until the cut
	passed atomic.Int64

	mu      sync.Mutex
	stalled chan struct{} // closed when the stall ends; nil when there is none
}

func (l *lane) stall(on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case on && l.stalled == nil:
		l.stalled = make(chan struct{})
	case !on && l.stalled != nil:
		close(l.stalled)
		l.stalled = nil
	}
}

// blocked returns a channel that is closed when the stall of the moment ends,
// or nil when there is none.
func (l *lane) blocked() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stalled
}

// take returns how many of n bytes may still pass before the cut, and whether
// the cut is due after them.
func (l *lane) take(n int) (int, bool) {
	for {
		left := l.budget.Load()
		if left >= noBudget {
			return n, false
		}
		if left > int64(n) {
			if l.budget.CompareAndSwap(left, left-int64(n)) {
				return n, false
			}
			continue
		}
		if l.budget.CompareAndSwap(left, noBudget) {
			return int(left), true
		}
	}
}
