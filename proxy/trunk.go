package proxy

import (
	"errors"
	"fmt"
	"slices"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

const (
	trunkHigh    = 1 << 20  // bytes that may wait to be written before submitters wait
	trunkEntries = 64 << 10 // entries in flight before they do
	flushAt      = 64 << 10
	mostReads    = 8 // of one upstream in one round; the kernel says again that there is more
)

// trunk is one upstream connection that all guests share who have the side, the
// user, the database and the protocol in common, or that one guest has for
// itself. It belongs to its loop. Only whole requests are ever written to it. It is
// always read, but for the case that pause.go is about.
type trunk struct {
	l     *loop
	key   string
	side  router.Side
	db    int    // its clients'
	with  string // what stands before their keys on the server
	link  *link  // for the server's books; its descriptor is fd
	fd    int
	ready bool
	dead  bool

	retired bool   // takes no more commands; closed once all are answered
	paused  bool   // is not read
	deaf    bool   // is not watched, because it would say again and again that it is gone
	taken   uint64 // what the guest in front had taken when it was looked at last
	slow    int    // what waited for the guest in front when it was looked at last
	slowAt  int64  // when it has become less

	pausedAt int64 // when it was paused first
	rushed   bool  // others have waited behind a slow guest for long enough

	proved  int64 // when the server was last seen to let unauthenticated clients in
	proving bool
	barred  bool // … or not to

	failed int64 // when it could not be connected; 0 when it was not tried or works
	err    error
	alone  bool // the server wants AUTH first: nothing can be shared

	owner *guest // whose own it is; nil when it is shared

	lines     []line // its setup
	heard     int64  // when it last said something
	wanted    int64  // when it last had a client, looked at now and then
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

	calls  calls     // what fifo holds, for the numbers
	reply  replyHead // of the current reply
	begins [4]byte   // … its first bytes

	part   []byte       // of it, when it comes in several pieces and its shape is wanted
	sent   *sent        // what is in flight, where a fence may refuse it; nil elsewhere
	held   []byte       // the beginning of an error, until all of it has come
	staged *shadowBatch // reads of this round that the other server is asked too
	lane   *lane        // … by whom
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
func (l *loop) submit(t *trunk, sp *spec, args [][]byte, raw []byte) {
	t.fifo[len(t.fifo)-1].n++
	if l.srv.cfg.Refused != nil {
		if t.sent == nil {
			t.sent = new(sent)
		}
		t.sent.push(raw)
	}
	if t.with == "" {
		t.out = append(t.out, raw...)
	} else { // none of those that are shared is refused
		t.out, _ = l.rewriter.Append(t.out, sp.form.Request, sp.command, args, t.with)
	}
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
	for reads := 0; reads < mostReads && !t.dead && !t.paused; reads++ {
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
	from, pos, start := 0, 0, 0
	for pos < len(b) {
		if t.fr.AtStart() {
			t.size, start = 0, pos
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
			t.begins = headOf(b[pos:])
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
		if t.calls.shadows.any() && (!done || n < t.size) {
			t.keepPart(b[pos : pos+n])
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
		var whole []byte
		if n == t.size {
			whole = b[pos-n : pos]
		}
		l.replied(t, g, whole)
		aside := false
		if t.sent != nil {
			if aside = l.refusal(t, g, b[start:pos]); aside {
				if from < start {
					l.deliver(g, b[from:start])
				}
				from = pos
			}
			if t.dead { // its client has gone, as was noticed when it was to get something
				return nil
			}
		}
		e.n--
		if e.n > 0 {
			if !aside {
				l.answeredOne(g)
			}
			continue
		}
		*e = entry{}
		t.head++
		if t.head == len(t.fifo) {
			t.fifo, t.head = t.fifo[:0], 0
		}
		// The outcome is known, so the gate need not wait for the client to read it.
		l.srv.gate.Leave()
		if from < pos && (t.head == len(t.fifo) || t.fifo[t.head].g != g || pos == len(b)) {
			l.deliver(g, b[from:pos])
			from = pos
		}
		if !aside {
			l.answered(g, 1)
		}
		if t.sent != nil {
			l.parks(g)
		}
	}
	if t.sent != nil && t.reply.failing && !t.fr.AtStart() && !t.stray {
		t.held = append(t.held, b[start:pos]...)
		pos = start
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
	if g.stop&tooDeep != 0 && g.shallow() {
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
	if n := t.calls.len(); n > 0 {
		l.m.inflight -= int64(n)
		l.wrote(t, call{keys: unkept}) // nobody knows which of them the server has run
	}
	t.calls.elements.lose()
	t.calls = calls{}
	for _, e := range entries {
		l.srv.gate.Leave()
		e.g.inflight -= e.n
		e.g.giveUp()
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
