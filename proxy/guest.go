package proxy

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/tidwall/redcon"
)

const (
	shareRequest = 64 << 10  // bytes of the largest request on a shared connection
	shareReply   = 256 << 10 // bytes of a reply after which a client is better off alone
	heavyFor     = int64(time.Second)
	deepest      = 1024    // commands of one client in flight
	unknown      = 32      // … while nobody knows how large the replies are
	inFlight     = 1 << 20 // bytes of replies that one client may have coming, as far as that can be guessed
	quietFor     = 100 * time.Millisecond
)

// Why a guest is not read from.
const (
	atGate    uint16 = 1 << iota
	forTrunk         // its upstream is being connected, or has too much to do
	forPin           // what is in flight must be answered before it is pinned
	tooDeep          // it has too much in flight
	hungUpEnd        // it has closed its end, or is to be closed
	setAside         // a fence has refused what it said last
)

// unwatched is the interest in a guest that has hung up while it is not read from.
const unwatched = uint32(1) << 31

// guest is a client whose commands travel on shared upstream connections: it
// holds nothing that a server would know about it but what a trunk has in common.
// It belongs to its loop.
type guest struct {
	id    uint64
	fd    int
	where string // its address, when the socket does not tell that
	st    *state // nil is that of a new connection

	in  *resp.Requests // nil while nothing waits to be parsed
	out backlog        // replies that the socket did not take yet

	trunk    *trunk
	warm     *trunk // ready on the other side, where it does not share
	gen      uint64
	inflight int
	reply    int // bytes that a reply has of late; 0 while there was none

	stop     uint16
	aside    aside
	interest uint32
	gone     bool
	letIn    bool  // as session.letIn
	heavy    int64 // until when it is better off alone
	waitFrom int64
	heldFrom int64 // since when what it has sent is held, not by the server
	readAt   int64 // when it was read from last
}

// window is how many commands g may have in flight: fewer the larger its replies
// are, because other clients' wait behind them, and because the server keeps them
// for a connection that all share and may have a limit for that.
func (g *guest) window() int {
	if g.reply == 0 {
		return unknown
	}
	return max(1, min(deepest, inFlight/g.reply))
}

// shallow reports whether one that had too much in flight may have more again.
func (g *guest) shallow() bool {
	if t := g.trunk; t != nil && t.owner != nil {
		return t.sent.size() <= itemBytes/2
	}
	return g.inflight <= g.window()/2
}

// weigh notes the size of a reply: a larger one counts at once, smaller ones by and by.
func (g *guest) weigh(size int) {
	if size > g.reply {
		g.reply = size
		return
	}
	g.reply = max(1, g.reply+(size-g.reply)/8)
}

// peer names the client for logs.
func (g *guest) peer() string {
	if g.where != "" {
		return g.where
	}
	if name := epoll.Peer(g.fd); name != "" {
		return name
	}
	return fmt.Sprintf("number %d", g.id)
}

func (g *guest) state() state {
	if g.st == nil {
		return newState()
	}
	return *g.st
}

// welcome makes g one of the loop's.
func (l *loop) welcome(g *guest) {
	l.guests[g] = struct{}{}
	g.readAt = l.now
	g.interest = epoll.Read
	if err := l.watch(g.fd, g.interest, watched{g: g}); err != nil {
		l.srv.log.Warn("closing a client", "err", err)
		l.drop(g)
		return
	}
	if l.stopping {
		l.finish(g)
		return
	}
	if g.trunk == nil && !l.srv.cfg.Shared && l.bindOwn(g) == nil && g.gone {
		return
	}
	if g.in != nil || g.out.size > 0 {
		l.push(g)
		l.serve(g)
	}
}

// guestEvent handles what has happened to a client's socket.
func (l *loop) guestEvent(g *guest, what uint32) {
	if what&epoll.Write != 0 {
		l.push(g)
	}
	if g.gone {
		return
	}
	if what&(epoll.Read|epoll.Gone) == 0 {
		return
	}
	switch {
	case g.stop == 0:
		l.receive(g)
	case what&epoll.Gone == 0: // it was stopped since the kernel was asked
		l.mind(g)
	case g.stop&hungUpEnd != 0: // it takes no replies any more
		l.drop(g)
	case g.stop == atGate: // nor does this one, and nothing of what it waits for has been passed on
		l.drop(g)
	default: // the kernel would say so again and again
		l.poll.Remove(g.fd)
		g.interest = unwatched
	}
}

// receive reads once and forwards what is whole.
func (l *loop) receive(g *guest) {
	in := g.in
	if in == nil {
		in = l.takeRequests()
	}
	n, again, err := epoll.Receive(g.fd, in.Space())
	if again {
		if g.in == nil {
			l.giveRequests(in)
		}
		return
	}
	if n == 0 {
		if g.in == nil {
			l.giveRequests(in)
		}
		if err != nil { // reset: it takes no replies
			l.drop(g)
			return
		}
		l.finish(g)
		return
	}
	in.Advance(n)
	l.in += int64(n)
	g.in, g.readAt = in, l.now
	l.serve(g)
}

// serve forwards the whole commands that have come, until something stops it.
func (l *loop) serve(g *guest) {
	var open *trunk // whose last entry is this call's
	for g.stop == 0 && !g.gone {
		req, ok, err := g.in.Next()
		if err != nil {
			l.pin(g) // a session answers it, in its turn
			break
		}
		if !ok {
			if g.in.Over() && !l.admits(g) {
				break
			}
			if _, big := g.in.Big(shareRequest); big || g.in.Buffered() > shareRequest {
				l.pin(g)
			}
			break
		}
		sp := lookup(req.Args[0])
		if !sp.share || len(req.Raw) > shareRequest || l.now < g.heavy {
			g.in.Unread()
			l.pin(g)
			break
		}
		t := g.trunk
		if t != nil && t.retired && g.inflight > 0 {
			g.in.Unread()
			l.pin(g) // what it has in flight must be answered first
			break
		}
		if t == nil || g.gen != l.gen || t.dead || t.retired {
			g.in.Unread()
			if l.bind(g) == nil {
				break
			}
			open = nil
			continue
		}
		if t.with != "" && sp.apart(req.Args) {
			g.in.Unread()
			l.pin(g)
			break
		}
		if t.owner == nil && g.inflight >= g.window() || t.owner != nil && t.sent.size() > itemBytes {
			g.in.Unread()
			g.stop |= tooDeep
			break
		}
		if t.full() {
			g.in.Unread()
			t.wait(g)
			break
		}
		if open != t {
			route, ok := l.srv.gate.TryEnter()
			if !ok {
				g.in.Unread()
				l.waitAtGate(g)
				break
			}
			if route.Epoch != l.route.Epoch || route.Side != l.route.Side {
				l.srv.gate.Leave()
				g.in.Unread()
				l.reroute(route)
				continue
			}
			t.begin(g, l.now)
			open = t
		}
		raw := req.Raw
		if req.Inline {
			raw = wireOf(req.Args...)
		}
		g.inflight++
		l.commands++
		l.submitted(t, g, sp, req.Args, raw)
		l.submit(t, sp, req.Args, raw)
	}
	if g.heldFrom != 0 && g.stop == 0 {
		if g.waitFrom != 0 {
			l.srv.stalled(time.Duration(l.now - g.waitFrom))
		}
		g.waitFrom, g.heldFrom = 0, 0
	}
	if g.in != nil && g.in.Buffered() == 0 {
		l.giveRequests(g.in)
		g.in = nil
	}
	l.mind(g)
}

func (l *loop) waitAtGate(g *guest) {
	g.stop |= atGate
	if g.waitFrom == 0 {
		g.waitFrom = l.now
	}
	g.isHeld(l.now)
	l.gated = append(l.gated, g)
	l.awaitGate()
}

// goOn ends one reason for a guest to wait. It is served at the end of the round.
func (l *loop) goOn(g *guest, why uint16) {
	if g.gone || g.stop&why == 0 {
		return
	}
	g.stop &^= why
	l.resumed = append(l.resumed, g)
}

func (l *loop) resume(g *guest) {
	if g.gone {
		return
	}
	if g.stop == 0 && l.waitedInVain(g) {
		l.drop(g)
		return
	}
	switch {
	case g.stop&hungUpEnd == 0 && g.stop&forPin != 0 && g.inflight == 0:
		l.pin(g)
	case g.stop == 0 && g.in != nil:
		l.serve(g)
	default:
		if g.in == nil { // nothing that it has sent is held
			g.heldFrom = 0
		}
		l.mind(g)
	}
}

// mind asks the kernel for what g needs.
func (l *loop) mind(g *guest) {
	if g.gone {
		return
	}
	var want uint32
	if g.stop == 0 {
		want = epoll.Read
	}
	if g.out.size > 0 {
		want |= epoll.Write
	}
	if want == g.interest || g.interest == unwatched && want&epoll.Read == 0 {
		return
	}
	control := l.poll.Change
	if g.interest == unwatched {
		control = l.poll.Add
	}
	g.interest = want
	if err := control(g.fd, want); err != nil {
		l.srv.log.Warn("closing a client", "err", err)
		l.drop(g)
	}
}

// deliver writes bytes of replies to the client; what its socket does not take waits.
func (l *loop) deliver(g *guest, b []byte) {
	if g.gone {
		return
	}
	if g.out.size == 0 {
		n, err := epoll.Send(g.fd, b)
		l.out += int64(n)
		if err != nil {
			l.drop(g)
			return
		}
		if b = b[n:]; len(b) == 0 {
			return
		}
	}
	g.out.add(b)
	l.spill += len(b)
	switch {
	case g.out.size > l.srv.cfg.OutputLimit:
		l.srv.log.Warn("closing a client that does not read its replies", "client", g.peer(), "bytes", g.out.size, "more_than", l.srv.cfg.OutputLimit)
		l.srv.overflowed.Add(1)
		l.drop(g)
		return
	case g.out.size > outboxHigh && g.stop&hungUpEnd == 0 && (g.trunk == nil || g.trunk.owner == nil):
		// With a connection of its own, the server's buffers and limits are its own too.
		g.heavy = l.now + heavyFor
		g.stop |= forPin
		if g.inflight == 0 {
			l.resumed = append(l.resumed, g)
		}
	}
	l.mind(g)
}

// push writes what waits for the client.
func (l *loop) push(g *guest) {
	n, err := g.out.drain(func(b []byte) (int, error) { return epoll.Send(g.fd, b) })
	l.out += int64(n)
	l.spill -= n
	if err != nil {
		l.drop(g)
		return
	}
	if g.out.size == 0 && g.stop&hungUpEnd != 0 && g.inflight == 0 {
		l.drop(g)
		return
	}
	l.mind(g)
}

// answered notes that n commands of g were answered.
func (l *loop) answered(g *guest, n int) {
	g.inflight -= n
	if g.gone || g.stop == 0 {
		return
	}
	if g.stop&tooDeep != 0 && g.shallow() {
		l.goOn(g, tooDeep)
	}
	if g.inflight > 0 {
		return
	}
	switch {
	case g.stop&hungUpEnd != 0:
		if g.out.size == 0 {
			l.drop(g)
		}
	case g.stop&forPin != 0:
		l.resumed = append(l.resumed, g)
	}
}

// finish closes a client after its last replies.
func (l *loop) finish(g *guest) {
	if g.inflight == 0 && g.out.size == 0 {
		l.drop(g)
		return
	}
	g.stop |= hungUpEnd
	if _, known := l.closing[g]; !known {
		patience := int64(lingerFor)
		switch {
		case g.inflight == 0:
			patience = int64(closingFor)
		case l.stopping:
			patience = int64(l.srv.cfg.ShutdownTimeout)
		}
		l.closing[g] = l.now + patience
	}
	l.mind(g)
}

// drop closes a client at once. What it has in flight is answered to nobody.
func (l *loop) drop(g *guest) {
	if g.gone {
		return
	}
	g.gone = true
	l.unwatch(g.fd)
	epoll.Close(g.fd)
	l.forget(g)
	l.srv.clientGone()
}

// forget ends what the loop has of a client; its connection is the caller's.
func (l *loop) forget(g *guest) {
	delete(l.guests, g)
	delete(l.closing, g)
	l.spill -= g.out.size
	g.out = backlog{}
	if g.trunk != nil && g.trunk.owner == g {
		l.release(g.trunk)
	}
	l.release(g.warm)
	g.trunk, g.warm = nil, nil
}

// refuse tells a client why it cannot be served, and closes it, unless the server is
// busy and will take it later.
func (l *loop) refuse(g *guest, err error) {
	if l.refusedAsBusy(g, err) {
		return
	}
	l.srv.cannotConnect(err)
	var refused *setupError
	if errors.As(err, &refused) && refused.greeting() {
		l.deliver(g, redcon.AppendError(nil, refused.answer))
	} else if text := clientError(err); text != nil {
		l.deliver(g, text)
	}
	if !g.gone {
		l.finish(g)
	}
}

// refusedAsBusy answers a command as a server does that runs a long script, where the
// server would not even take the guest's database for that reason. The guest goes on
// with its next command. Nothing of it is in flight.
func (l *loop) refusedAsBusy(g *guest, err error) bool {
	var refused *setupError
	if g.in == nil || !errors.As(err, &refused) || !strings.HasPrefix(refused.answer, "BUSY ") {
		return false
	}
	if _, ok, err := g.in.Next(); !ok || err != nil {
		return false
	}
	l.deliver(g, redcon.AppendError(nil, refused.answer))
	g.stop &^= forTrunk
	l.resumed = append(l.resumed, g)
	return true
}
