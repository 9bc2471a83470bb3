package proxy

import (
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/crossfade/crossfade/internal/elements"
	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/internal/prefix"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

const (
	replySpace = 256 << 10       // bytes read from an upstream at a time
	closingFor = 5 * time.Second // how long a client that is being closed may take for its last replies
)

// loop is one event loop: the clients whose commands travel on shared upstream
// connections, and those connections. Everything in it belongs to its goroutine,
// which has a thread of its own, so that nothing but the kernel's scheduler stands
// between a busy copy and a client. Others talk to it by post.
type loop struct {
	srv     *Server
	poll    *epoll.Poller
	events  []epoll.Event
	at      []watched // by descriptor
	guests  map[*guest]struct{}
	trunks  map[string]*trunk
	retired map[*trunk]struct{} // have been in trunks
	route   router.Route
	gen     uint64 // rises whenever guests must find their trunk anew

	dirty   []*trunk         // have something to write
	resumed []*guest         // may go on
	gated   []*guest         // wait for the gate
	parked  []*guest         // wait until it is known whether a fence has refused them
	closing map[*guest]int64 // until when they may take their last replies
	spare   []*resp.Requests
	replies []byte

	rewriter prefix.Rewriter
	spill    int      // bytes that wait for guests
	paused   []*trunk // are not read, because of a slow guest
	hurry    bool     // the gate shuts: nobody waits for a slow guest

	base     time.Time
	now      int64 // nanoseconds since base, at the begin of the round
	commands int64 // of this round
	in, out  int64 // bytes of this round
	m        measure

	watching bool // what clients write is to be handed over
	written  written
	books    *elements.Keys // of the keys whose elements are; nil when there are none
	share    uint64         // of the reads that the other server is asked too, as in shadows
	staged   []*trunk       // that have such reads of this round

	waiting  bool // a goroutine waits for the gate
	stopping bool

	mu     sync.Mutex
	posted []func()
	ended  bool
}

// watched is what a descriptor belongs to: one of the two.
type watched struct {
	g *guest
	t *trunk
}

func newLoop(srv *Server) (*loop, error) {
	poll, err := epoll.New()
	if err != nil {
		return nil, err
	}
	return &loop{srv: srv, poll: poll, guests: make(map[*guest]struct{}), trunks: make(map[string]*trunk), retired: make(map[*trunk]struct{}),
		closing: make(map[*guest]int64), replies: make([]byte, replySpace), base: srv.base, route: srv.gate.Route(),
		m: measure{slow: srv.slow.least}}, nil
}

// post has f run by the loop. False means that the loop has ended and f will not run.
func (l *loop) post(f func()) bool {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return false
	}
	l.posted = append(l.posted, f)
	if len(l.posted) == 1 {
		l.poll.Wake() // with the lock: once the loop has ended, the descriptor may be another's
	}
	l.mu.Unlock()
	return true
}

// call has f run by the loop and waits for it. It does nothing when the loop has ended.
func (l *loop) call(f func()) {
	done := make(chan struct{})
	if l.post(func() { f(); close(done) }) {
		<-done
	}
}

// run serves until the loop is stopped and the last client is gone.
func (l *loop) run() {
	runtime.LockOSThread() // and never back: the thread, which is not as others are, ends with the loop
	prompt()
	for !l.stopping || len(l.guests) > 0 {
		l.round()
	}
	l.mu.Lock()
	l.ended = true
	late := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, f := range late {
		f()
	}
	for g := range l.guests {
		l.drop(g)
	}
	for _, t := range l.trunks {
		l.lose(t, errStopping)
	}
	for t := range l.retired {
		l.lose(t, errStopping)
	}
	l.poll.Close()
}

func (l *loop) round() {
	timeout := time.Duration(-1)
	if len(l.closing) > 0 || len(l.paused) > 0 {
		timeout = 100 * time.Millisecond
	}
	if len(l.resumed) > 0 { // the last flushes have let somebody go on
		timeout = 0
	}
	var err error
	if l.events, err = l.poll.Wait(l.events[:0], timeout); err != nil {
		l.srv.log.Error("waiting for clients", "err", err)
		return
	}
	l.now = int64(time.Since(l.base))
	l.watching = l.srv.wantsWrites()
	l.books = l.srv.books(l.route.Side)
	l.share = l.srv.shadows.share.Load()
	for _, ev := range l.events {
		switch w := l.at[ev.FD]; {
		case w.t != nil:
			l.trunkEvent(w.t, ev.What)
		case w.g != nil:
			l.guestEvent(w.g, ev.What)
		}
	}
	l.mu.Lock()
	posted := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, f := range posted {
		f()
	}
	l.recheck()
	for i := 0; i < len(l.resumed); i++ {
		l.resume(l.resumed[i])
	}
	l.resumed = l.resumed[:0]
	l.passOn()
	for i := 0; i < len(l.dirty); i++ {
		t := l.dirty[i]
		t.dirty = false
		l.flush(t)
	}
	l.dirty = l.dirty[:0]
	for g, until := range l.closing {
		if l.now > until {
			l.drop(g)
		}
	}
	l.account()
}

// wrote notes what the oldest command of t has written, now that it is answered.
func (l *loop) wrote(t *trunk, c call) {
	var kept []byte
	if c.keys != unkept {
		kept = t.calls.keys.take(c.keys)
	}
	if !l.watching {
		return
	}
	l.written.answered(t.db, c, kept, t.begins)
	if len(l.written.list) >= mostWritten {
		l.written.handOver(l.srv.writes)
	}
}

// account adds the round's figures to the server's.
func (l *loop) account() {
	if l.watching {
		l.written.handOver(l.srv.writes)
	}
	if len(l.staged) > 0 {
		l.handShadows()
	}
	if l.m.slowNow > slowAtOnce {
		l.srv.slow.skip(l.m.slowNow - slowAtOnce)
	}
	l.m.slowNow = 0
	if l.commands != 0 {
		l.srv.commands.Add(l.commands)
		l.commands = 0
	}
	if l.in != 0 {
		l.srv.received.Add(l.in)
		l.in = 0
	}
	if l.out != 0 {
		l.srv.sent.Add(l.out)
		l.out = 0
	}
}

// watch registers a descriptor of the loop.
func (l *loop) watch(fd int, what uint32, w watched) error {
	for len(l.at) <= fd {
		l.at = append(l.at, watched{})
	}
	l.at[fd] = w
	if err := l.poll.Add(fd, what); err != nil {
		l.at[fd] = watched{}
		return err
	}
	return nil
}

// unwatch is the end of watch.
func (l *loop) unwatch(fd int) {
	l.poll.Remove(fd)
	l.at[fd] = watched{}
}

// stop lets what is in flight finish and takes nothing new.
func (l *loop) stop() {
	l.post(func() {
		l.stopping = true
		for g := range l.guests {
			l.finish(g)
		}
	})
}

// kill closes all clients.
func (l *loop) kill() {
	l.post(func() {
		l.stopping = true
		for g := range l.guests {
			l.drop(g)
		}
	})
}

// awaitGate lets the guests that wait at the gate go on once it is open.
func (l *loop) awaitGate() {
	if l.waiting {
		return
	}
	l.waiting = true
	l.srv.serving.Go(func() {
		_, err := l.srv.gate.Enter(l.srv.stopping)
		if err == nil {
			l.srv.gate.Leave()
		}
		l.post(func() {
			l.waiting = false
			l.enter()
		})
	})
}

// enter lets the guests go on that wait at the gate, in the order in which they came.
func (l *loop) enter() {
	waited := l.gated
	l.gated = nil
	for _, g := range waited {
		if l.waitedInVain(g) {
			l.drop(g)
			continue
		}
		l.goOn(g, atGate)
	}
	l.sayAgain(false)
}

// reroute says where commands go from the next opening of the gate on. Nothing
// is in flight, unless a switch was given up: then it is the side of before.
func (l *loop) reroute(route router.Route) {
	l.route = route
	l.gen++
	l.hurry = false
	for _, t := range l.trunks {
		if t.side != route.Side {
			l.lose(t, errUpstreamGone)
		}
	}
	for t := range l.retired {
		if t.side != route.Side {
			l.lose(t, errRetired)
		}
	}
	if l.srv.cfg.Shared {
		return
	}
	for g := range l.guests {
		l.rerouteOwn(g, route)
	}
}

// rerouteOwn gives a guest that does not share its connection to where commands go now.
func (l *loop) rerouteOwn(g *guest, route router.Route) {
	t, warm := g.trunk, g.warm
	g.warm = nil
	if warm != nil && (warm.side != route.Side || warm.dead) || t != nil && t.side == route.Side {
		l.release(warm)
		warm = nil
	}
	if t == nil || t.side == route.Side {
		return
	}
	l.release(t)
	if g.trunk = warm; warm == nil && g.stop&hungUpEnd == 0 {
		l.bindOwn(g)
	}
}

// release closes a connection that nobody needs any more, and no client with it.
func (l *loop) release(t *trunk) {
	if t != nil {
		if g := t.owner; g != nil && g.trunk == t {
			g.trunk = nil
		}
		t.owner = nil
		l.lose(t, errUpstreamGone)
	}
}

// invite takes a client's connection over. It fails, and leaves conn alone, where
// the connection is no plain socket.
func (l *loop) invite(id uint64, conn net.Conn, where string) error {
	fd, err := epoll.Take(conn)
	if err != nil {
		return err
	}
	g := &guest{id: id, fd: fd, where: where}
	if !l.post(func() { l.welcome(g) }) {
		epoll.Close(fd)
		l.srv.clientGone()
	}
	return nil
}

func (l *loop) takeRequests() *resp.Requests {
	if n := len(l.spare); n > 0 {
		in := l.spare[n-1]
		l.spare = l.spare[:n-1]
		return in
	}
	return &resp.Requests{Bulk: l.srv.cfg.MaxBulk}
}

func (l *loop) giveRequests(in *resp.Requests) {
	if len(l.spare) < 64 {
		l.spare = append(l.spare, in)
	}
}
