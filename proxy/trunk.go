package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

const (
	trunkHigh    = 1 << 20  // bytes that may wait to be written before submitters wait
	trunkEntries = 64 << 10 // entries in flight before they do
	flushAt      = 64 << 10
	proofLasts   = time.Second // how long it is believed that the server wants no password
)

// trunk is one upstream connection that all guests share who have the side, the
// user, the database and the protocol in common, or that one guest has for
// itself. It belongs to its loop. Only whole requests are ever written to it. It is
// always read, but for the case that pause.go is about.
type trunk struct {
	l     *loop
	key   string
	side  router.Side
	link  *link // for the server's books; its descriptor is fd
	fd    int
	ready bool
	dead  bool

	retired bool   // takes no more commands; closed once all are answered
	paused  bool   // is not read
	deaf    bool   // is not watched, because it would say again and again that it is gone
	taken   uint64 // what the guest in front had taken when it was looked at last
	slow    int    // what waited for the guest in front when it was looked at last
	slowAt  int64  // when it has become less

	proved  int64 // when the server was last seen to let unauthenticated clients in
	proving bool
	barred  bool // … or not to

	failed int64 // when it could not be connected; 0 when it was not tried or works
	err    error
	alone  bool // the server wants AUTH first: nothing can be shared

	owner *guest // whose own it is; nil when it is shared

	lines     []line // its setup
	heard     int64  // when it last said something
	replacing bool

	out      []byte
	dirty    bool
	interest uint32
	waiters  []*guest

	fifo  []entry
	head  int
	fr    resp.Framer
	size  int  // bytes of the current reply
	stray bool // the current element answers nobody

	calls calls     // what fifo holds, for the numbers
	reply replyHead // of the current reply
}

// entry is a run of commands of one guest, inside the gate with one ticket.
type entry struct {
	g  *guest
	n  int
	at int64
}

func (t *trunk) full() bool { return len(t.out) > trunkHigh || len(t.fifo)-t.head > trunkEntries }

// wait lets g wait until the trunk is ready or has less to do.
func (t *trunk) wait(g *guest) {
	g.stop |= forTrunk
	t.waiters = append(t.waiters, g)
}

// begin opens an entry. The caller has a ticket of the gate, which goes with it.
func (t *trunk) begin(g *guest, now int64) {
	if t.head > 1024 && t.head > len(t.fifo)/2 {
		n := copy(t.fifo, t.fifo[t.head:])
		clear(t.fifo[n:])
		t.fifo, t.head = t.fifo[:n], 0
	}
	t.fifo = append(t.fifo, entry{g: g, at: now})
}

// submit adds one whole request to the entry that was begun last.
func (l *loop) submit(t *trunk, raw []byte) {
	t.fifo[len(t.fifo)-1].n++
	t.out = append(t.out, raw...)
	if !t.dirty {
		t.dirty = true
		l.dirty = append(l.dirty, t)
	}
	if len(t.out) >= flushAt && t.interest&epoll.Write == 0 {
		l.flush(t)
	}
}

// flush writes what waits.
func (l *loop) flush(t *trunk) {
	if t.dead || len(t.out) == 0 {
		return
	}
	n, err := epoll.Send(t.fd, t.out)
	if err != nil {
		// What the server has said before it hung up is still to be read.
		n = len(t.out)
	}
	if n == len(t.out) {
		t.out = t.out[:0]
		if cap(t.out) > 4*flushAt {
			t.out = nil
		}
	} else {
		t.out = append(t.out[:0], t.out[n:]...)
	}
	if l.attend(t) {
		l.relieve(t)
	}
}

// attend asks the kernel for what t needs. False means that t is lost.
func (l *loop) attend(t *trunk) bool {
	var want uint32
	if !t.paused {
		want = epoll.Read
	}
	if len(t.out) > 0 {
		want |= epoll.Write
	}
	if want == t.interest && !t.deaf {
		return true
	}
	control := l.poll.Change
	switch {
	case t.deaf && t.paused:
		return true
	case t.deaf:
		control = l.poll.Add
	}
	t.deaf, t.interest = false, want
	if err := control(t.fd, want); err != nil {
		l.lose(t, err)
		return false
	}
	return true
}

// relieve lets those go on that waited for the trunk to have less to do.
func (l *loop) relieve(t *trunk) {
	if len(t.waiters) == 0 || !t.ready || len(t.out) > trunkHigh/2 || len(t.fifo)-t.head > trunkEntries/2 {
		return
	}
	waiters := t.waiters
	t.waiters = nil
	for _, g := range waiters {
		l.goOn(g, forTrunk)
	}
}

// trunkEvent handles what has happened to an upstream's socket.
func (l *loop) trunkEvent(t *trunk, what uint32) {
	if what&epoll.Write != 0 {
		l.flush(t)
	}
	if t.paused && what&epoll.Gone != 0 && !t.dead {
		t.deaf = true
		l.poll.Remove(t.fd)
	}
	for !t.dead && !t.paused {
		n, again, err := epoll.Receive(t.fd, l.replies)
		if again {
			break
		}
		t.heard = l.now
		if n == 0 {
			l.lose(t, errors.Join(errUpstreamGone, err))
			return
		}
		if err := l.answer(t, l.replies[:n]); err != nil {
			l.srv.log.Warn("closing clients: the upstream's reply cannot be read", "side", t.side.String(), "err", err)
			l.lose(t, err)
			return
		}
		if n < len(l.replies) {
			break
		}
	}
	if !t.dead {
		l.relieve(t)
	}
}

// answer finds the replies in what the upstream said and hands each to whom it
// belongs, in one piece where several follow each other.
func (l *loop) answer(t *trunk, b []byte) error {
	from, pos := 0, 0
	for pos < len(b) {
		if t.fr.AtStart() {
			t.size = 0
			t.stray = b[pos] == '>' // said unasked; a shared connection has asked for nothing of the kind
			switch {
			case t.stray && from < pos:
				l.deliver(t.fifo[t.head].g, b[from:pos])
			case !t.stray && t.head == len(t.fifo) && t.owner != nil && b[pos] == '-':
				l.deliver(t.owner, b[pos:]) // a server that has no room for it says so, and hangs up
				return nil
			case !t.stray && t.head == len(t.fifo):
				return fmt.Errorf("%w: nobody has asked for it", resp.ErrReply)
			}
			t.reply.begin(b[pos])
		}
		n, done := 0, true
		if t.fr.AtStart() {
			n = resp.Whole(b[pos:])
		}
		if n == 0 {
			var err error
			if n, done, err = t.fr.Feed(b[pos:]); err != nil {
				return err
			}
		}
		t.size += n
		if t.reply.failing {
			t.reply.add(b[pos : pos+n])
		}
		pos += n
		if t.stray {
			from = pos
			continue
		}
		e := &t.fifo[t.head]
		if !done {
			break
		}
		if t.size > shareReply {
			e.g.heavy = l.now + heavyFor
		}
		g := e.g
		g.weigh(t.size)
		l.replied(t, g)
		e.n--
		if e.n > 0 {
			l.answeredOne(g)
			continue
		}
		*e = entry{}
		t.head++
		if t.head == len(t.fifo) {
			t.fifo, t.head = t.fifo[:0], 0
		}
		// The outcome is known, so the gate need not wait for the client to read it.
		l.srv.gate.Leave()
		if t.head == len(t.fifo) || t.fifo[t.head].g != g || pos == len(b) {
			l.deliver(g, b[from:pos])
			from = pos
		}
		l.answered(g, 1)
	}
	if from < pos && !t.stray {
		l.deliver(t.fifo[t.head].g, b[from:pos])
	}
	if l.spill > 0 || t.retired {
		l.ease(t)
	}
	return nil
}

// answeredOne is answered for one that certainly is not the last.
func (l *loop) answeredOne(g *guest) {
	g.inflight--
	if g.stop&tooDeep != 0 && g.inflight <= g.window()/2 {
		l.goOn(g, tooDeep)
	}
}

// lose ends a trunk. The outcome of what is in flight is unknown, so its clients
// are closed, as they would have been with a connection of their own.
func (l *loop) lose(t *trunk, err error) {
	if t.dead {
		return
	}
	t.dead = true
	if t.paused {
		l.paused = slices.DeleteFunc(l.paused, func(p *trunk) bool { return p == t })
	}
	if l.trunks[t.key] == t {
		delete(l.trunks, t.key)
	}
	delete(l.retired, t)
	if g := t.owner; g != nil && g.trunk == t {
		g.trunk = nil
		if t.ready && !g.gone {
			l.finish(g)
		}
	}
	if t.ready {
		l.unwatch(t.fd)
		epoll.Close(t.fd)
		l.srv.dropLink(t.link)
	}
	entries := t.fifo[t.head:]
	t.fifo, t.head, t.out = nil, 0, nil
	l.m.inflight -= int64(t.calls.len())
	t.calls = calls{}
	for _, e := range entries {
		l.srv.gate.Leave()
		e.g.inflight -= e.n
		if !e.g.gone {
			l.finish(e.g)
		}
	}
	waiters := t.waiters
	t.waiters = nil
	for _, g := range waiters {
		l.goOn(g, forTrunk)
	}
	if len(entries) > 0 {
		l.srv.log.Debug("closing clients of a shared connection", "side", t.side.String(), "commands", len(entries), "err", err)
	}
}

// bearing returns what brings a connection to where a guest's commands may be
// shared: protocol, user and database. ok is false when the database is not in
// the map.
func (s *Server) bearing(st *state, route router.Route) (lines []line, key string, ok bool) {
	if _, mapped := route.DB(st.db); !mapped {
		return nil, "", false
	}
	core := state{proto: st.proto, db: st.db, authed: st.authed, cred: st.cred}
	lines = s.setup(&core, router.Source, route, false)
	return lines, bearingKey(route.Side, lines), true
}

func bearingKey(side router.Side, lines []line) string {
	var key strings.Builder
	key.WriteString(side.String())
	for _, ln := range lines {
		key.Write(ln.wire)
	}
	return key.String()
}

// bind finds the trunk for a guest, nil when it has to wait, is pinned or was closed.
func (l *loop) bind(g *guest) *trunk {
	if !l.srv.cfg.Shared {
		return l.bindOwn(g)
	}
	st := g.state()
	lines, key, ok := l.srv.bearing(&st, l.route)
	if !ok || l.srv.wantsAuth(&st) {
		l.pin(g)
		return nil
	}
	t := l.trunks[key]
	if t != nil && t.failed != 0 && l.now-t.failed > int64(redialWait) {
		l.lose(t, t.err)
		t = nil
	}
	switch {
	case t == nil:
		t = &trunk{l: l, key: key, side: l.route.Side, lines: lines}
		l.trunks[key] = t
		l.dial(t, l.route, lines)
		t.wait(g)
		return nil
	case t.alone:
		l.pin(g)
		return nil
	case t.failed != 0:
		l.refuse(g, t.err)
		return nil
	case !t.ready:
		t.wait(g)
		return nil
	case g.trunk == nil && !st.authed && (t.proving || l.now-t.proved > int64(proofLasts)):
		t.wait(g)
		l.prove(t, lines)
		return nil
	case g.trunk == nil && !st.authed && t.barred:
		l.pin(g)
		return nil
	}
	g.trunk, g.gen = t, l.gen
	return t
}

// prove finds out whether the server would still let a new client in that has not
// authenticated: the shared connection may be older than the server's password.
func (l *loop) prove(t *trunk, lines []line) {
	if t.proving {
		return
	}
	t.proving = true
	route := l.route
	l.srv.serving.Go(func() {
		k, fd, err := l.srv.dialTrunk(l.srv.stopping, l.srv.dialDamped, route, lines)
		if err == nil {
			l.srv.discard(k, fd)
		}
		l.post(func() {
			t.proving, t.proved, t.barred = false, l.now, errors.Is(err, errAlone)
			l.relieve(t)
		})
	})
}

// bindOwn connects a guest that does not share.
func (l *loop) bindOwn(g *guest) *trunk {
	if t := g.trunk; t != nil && !t.dead {
		switch {
		case t.failed == 0 && t.ready:
			g.gen = l.gen
			return t
		case t.failed == 0:
			t.wait(g)
			return nil
		}
	}
	st := g.state()
	if _, mapped := l.route.DB(st.db); !mapped || l.srv.wantsAuth(&st) {
		l.pin(g)
		return nil
	}
	g.trunk = &trunk{l: l, side: l.route.Side, owner: g}
	l.dial(g.trunk, l.route, l.srv.setup(&st, router.Source, l.route, true))
	g.trunk.wait(g)
	return nil
}

// attach makes a connection that a session has used a guest's own again. Where that
// cannot be, welcome, which must follow, gets it another one.
func (l *loop) attach(g *guest, k *link, fd int) {
	t := &trunk{l: l, side: k.side, owner: g}
	g.trunk = t
	if k.side != l.route.Side || k.route.Epoch != l.route.Epoch {
		t.owner, g.trunk = nil, nil // the traffic was moved meanwhile
		t.dead = true
	}
	l.connected(t, k, fd, nil)
	if !t.ready {
		g.trunk = nil
	}
	g.gen = l.gen
}

// detach takes a guest's own connection out of the loop, for a session. Nothing
// is in flight. It returns nil when there is none that could be used.
func (l *loop) detach(g *guest) *link {
	t := g.trunk
	if t == nil || t.owner != g || !t.ready || t.dead || t.side != l.route.Side || !t.fr.AtStart() {
		return nil
	}
	g.trunk, t.owner, t.dead = nil, nil, true
	l.unwatch(t.fd)
	conn, err := epoll.Give(t.fd)
	if err != nil {
		l.srv.dropLink(t.link)
		return nil
	}
	keepAlive(conn) // making a connection of it has set Go's own
	k := t.link
	k.conn, k.route, k.full = conn, l.route, true
	return k
}

// dial connects a trunk; its waiters go on when that has ended.
func (l *loop) dial(t *trunk, route router.Route, lines []line) {
	l.srv.serving.Go(func() {
		k, fd, err := l.srv.dialTrunk(l.srv.stopping, l.srv.dialDamped, route, lines)
		if !l.post(func() { l.connected(t, k, fd, err) }) && err == nil {
			l.srv.discard(k, fd)
		}
	})
}

// errAlone says that a server wants each client to authenticate.
var errAlone = errors.New("the server wants AUTH")

// dialTrunk returns a connection that is set up, as a descriptor that is the
// caller's, as is the place of k in the server's books.
func (s *Server) dialTrunk(ctx context.Context, dial dialer, route router.Route, lines []line) (k *link, fd int, err error) {
	if k, err = dial(ctx, route); err != nil {
		return nil, -1, err
	}
	if s.cfg.Shared {
		lines = append(slices.Clone(lines), line{wire: words("PING"), what: "PING", db: true, noAuth: true, lenient: true})
	}
	if err = k.run(ctx, lines); err == nil && k.unselected {
		err = errAlone
	}
	if err != nil {
		k.close()
		return nil, -1, err
	}
	if fd, err = s.descriptor(k.conn); err != nil {
		k.close()
		return nil, -1, err
	}
	return k, fd, nil
}

// discard closes a connection that dialTrunk has made and nobody wants.
func (s *Server) discard(k *link, fd int) {
	epoll.Close(fd)
	s.dropLink(k)
}

// connected takes over a connection that was dialled, or the news that it could not be.
func (l *loop) connected(t *trunk, k *link, fd int, err error) {
	if t.dead || l.ended {
		if err == nil {
			l.srv.discard(k, fd)
		}
		return
	}
	switch {
	case errors.Is(err, errAlone):
		t.alone, t.failed = true, l.now
	case err != nil:
		t.err, t.failed = err, l.now
	default:
		t.link, t.fd, t.ready, t.interest, t.proved = k, fd, true, epoll.Read, l.now
		if err := l.watch(fd, t.interest, watched{t: t}); err != nil {
			t.ready = false
			l.srv.discard(k, fd)
			t.err, t.failed = err, l.now
		}
	}
	waiters := t.waiters
	t.waiters = nil
	for _, g := range waiters {
		switch {
		case t.owner == nil || t.ready:
			l.goOn(g, forTrunk)
		case t.alone:
			l.pin(g)
		case !g.gone:
			l.refuse(g, t.err)
		}
	}
}

// prepare connects to a side what the guests of this moment will need there.
func (l *loop) prepare(ctx context.Context, route router.Route) error {
	if !l.srv.cfg.Shared {
		return l.prepareOwn(ctx, route)
	}
	wanted := make(map[string][]line)
	l.call(func() {
		for g := range l.guests {
			st := g.state()
			lines, key, ok := l.srv.bearing(&st, route)
			if ok && l.trunks[key] == nil && g.trunk != nil {
				wanted[key] = lines
			}
		}
	})
	var errs []error
	for key, lines := range wanted {
		k, fd, err := l.srv.dialTrunk(ctx, l.srv.dial, route, lines)
		switch {
		case errors.Is(err, errAlone):
			continue
		case err != nil:
			errs = append(errs, err)
			continue
		}
		put := func() {
			if l.trunks[key] != nil {
				l.srv.discard(k, fd)
				return
			}
			t := &trunk{l: l, key: key, side: route.Side, lines: lines}
			l.trunks[key] = t
			l.connected(t, k, fd, nil)
		}
		if !l.post(put) {
			l.srv.discard(k, fd)
		}
	}
	return errors.Join(errs...)
}

// prepareOwn connects every guest that does not share to a side.
func (l *loop) prepareOwn(ctx context.Context, route router.Route) error {
	type want struct {
		g     *guest
		lines []line
	}
	var wanted []want
	l.call(func() {
		for g := range l.guests {
			st := g.state()
			if _, mapped := route.DB(st.db); mapped && g.trunk != nil && g.trunk.side != route.Side {
				wanted = append(wanted, want{g, l.srv.setup(&st, g.trunk.side, route, true)})
			}
		}
	})
	return bounded(wanted, func(w want) error {
		k, fd, err := l.srv.dialTrunk(ctx, l.srv.dial, route, w.lines)
		if err != nil && !errors.Is(err, errAlone) {
			return fmt.Errorf("client %d: %w", w.g.id, err)
		}
		if err != nil {
			return nil
		}
		put := func() {
			if w.g.gone {
				l.srv.discard(k, fd)
				return
			}
			if w.g.warm != nil {
				l.lose(w.g.warm, errUpstreamGone)
			}
			w.g.warm = &trunk{l: l, side: route.Side, owner: w.g}
			l.connected(w.g.warm, k, fd, nil)
		}
		if !l.post(put) {
			l.srv.discard(k, fd)
		}
		return nil
	})
}
