package proxy

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// A sidecar that has not heard of a switch sends commands to a server that refuses them:
// that one was fenced. They have certainly not run, so they may be said again, on the other
// side when the switch is over. Until that is known they are set aside, and all of their
// client's that follow; see Config.Refused. Where the server has run one that came behind a
// refused one, there is no fence, or none any more, and the order of both would be lost: then
// the client gets what the server has said.

// fenceRefuses reports whether an error, '-' and all, is one that a fence answers to a
// command, and that means that nothing of it has run. A script may have run in part when it
// meets one, and whatever it likes it may answer; so may a module.
func fenceRefuses(sp *spec, word, reply []byte) bool {
	if sp.verb == vExec && bytes.HasPrefix(reply, []byte("-EXECABORT Transaction discarded because of: NOPERM ")) {
		return true // as a whole
	}
	if !bytes.HasPrefix(reply, []byte("-NOPERM ")) || bytes.Contains(reply, []byte("in script")) || bytes.Contains(reply, []byte("executing the script")) {
		return false
	}
	switch {
	case sp.verb == vEval, sp.verb == vEvalSHA, sp.verb == vFcall, sp.row == 0:
		return bytes.Contains(reply, []byte("has no permissions to run the '"+strings.ToLower(string(word))+"'"))
	}
	return true
}

// runsFenced reports whether a fence lets a command through, which changes nothing on the
// server, and whether it changes something about the connection that it came on.
func runsFenced(args [][]byte) (runs, tells bool) {
	switch {
	case is(args[0], "ping"), is(args[0], "get") && len(args) == 2 && strings.HasPrefix(string(args[1]), router.OurKeys):
		return true, false
	case is(args[0], "hello"), is(args[0], "auth"), is(args[0], "select"), is(args[0], "client") && len(args) > 1 && is(args[1], "setname"):
		return true, true
	}
	return false, false
}

// sent are commands in flight as their clients have written them, oldest first.
type sent struct {
	buf   []byte
	ends  []int // in buf
	begin int   // of the oldest
	head  int   // … its place in ends
}

func (s *sent) push(raw []byte) {
	s.buf = append(s.buf, raw...)
	s.ends = append(s.ends, len(s.buf))
}

// size is how many bytes are kept; s may be nil.
func (s *sent) size() int {
	if s == nil {
		return 0
	}
	return len(s.buf) - s.begin
}

// pop returns the oldest, good until the next push.
func (s *sent) pop() []byte {
	end := s.ends[s.head]
	raw := s.buf[s.begin:end]
	s.begin, s.head = end, s.head+1
	switch {
	case s.head == len(s.ends):
		s.buf, s.ends, s.begin, s.head = s.buf[:0], s.ends[:0], 0, 0
		if cap(s.buf) > 4*flushAt {
			*s = sent{}
		}
	case s.begin > flushAt && s.begin > len(s.buf)/2:
		kept := append([]byte(nil), s.buf[s.begin:]...)
		ends := append([]int(nil), s.ends[s.head:]...)
		for i := range ends {
			ends[i] -= s.begin
		}
		s.buf, s.ends, s.begin, s.head = kept, ends, 0, 0
	}
	return raw
}

// aside are a client's commands that were refused by a fence, in order.
type aside struct {
	raw     []byte
	n       int
	replies []byte // what the server has said to them
	told    bool   // it has obeyed some of them, and nobody has followed that
	// again is how many of those in flight were said again because no fence was found: what
	// they are answered now is the answer.
	again int
}

// takes decides about the reply to a command, which was said as raw: true is that the
// command is set aside, and the client gets nothing. before is what it gets first, because
// what was set aside cannot be said again.
func (a *aside) takes(raw, reply []byte) (taken bool, before given) {
	second, failed := a.again > 0, len(reply) > 0 && reply[0] == '-'
	if second {
		a.again--
	}
	if !failed && a.n == 0 {
		return false, given{}
	}
	args := parsed(raw)
	refused := failed && fenceRefuses(lookup(args[0]), args[0], reply)
	runs, tells := runsFenced(args)
	if refused && !second || a.n > 0 && (refused || runs) {
		a.add(raw, reply)
		a.told = a.told || tells && !failed
		return true, given{}
	}
	before = given{n: a.n, replies: a.replies, told: a.told}
	*a = aside{again: a.again}
	return false, before
}

// given is what becomes of commands that cannot be said again.
type given struct {
	n       int
	replies []byte
	told    bool // as in aside
}

// add sets a command aside, and what it is answered if it cannot be said again.
func (a *aside) add(raw, reply []byte) {
	a.raw = append(a.raw, raw...)
	a.replies = append(a.replies, reply...)
	a.n++
}

// before returns requests that begin with what was set aside, and what is still to be parsed
// of in, which may be nil.
func (a *aside) before(in *resp.Requests, into *resp.Requests) {
	var rest []byte
	if in != nil {
		rest = in.Rest()
	}
	into.Reserve(len(a.raw) + len(rest) + 1)
	for _, b := range [][]byte{a.raw, rest} {
		for len(b) > 0 {
			n := copy(into.Space(), b)
			into.Advance(n)
			b = b[n:]
		}
	}
	*a = aside{again: a.again}
}

// Retry says again what was set aside, where it was said before: no fence is there, so what
// the server answers now is the clients' to know.
func (s *Server) Retry() {
	for _, l := range s.eventLoops() {
		l.post(func() { l.sayAgain(true) })
	}
	s.retrySessions(true)
}

// refusal looks at the reply to the oldest command of g on t, or at the last piece of it.
// True is that g does not get it.
func (l *loop) refusal(t *trunk, g *guest, piece []byte) bool {
	reply := piece
	if len(t.held) > 0 {
		reply = append(t.held, piece...)
	}
	taken, before := g.aside.takes(t.sent.pop(), reply)
	if before.n > 0 {
		l.deliver(g, before.replies)
		g.inflight -= before.n
		l.goOn(g, setAside)
	}
	if taken { // it counts as one in flight until it is said again
		g.stop |= setAside
	} else if len(t.held) > 0 { // nothing of this chunk stands before it
		l.deliver(g, t.held)
	}
	t.held = nil
	return taken
}

// parks notes a guest of which all that is in flight was set aside.
func (l *loop) parks(g *guest) {
	if g.gone || g.aside.n == 0 || g.inflight > g.aside.n {
		return
	}
	l.parked = append(l.parked, g)
	g.isHeld(l.now)
	l.mind(g)
	l.srv.cfg.Refused()
}

// sayAgain has the guests go on with what was set aside. With final, what the server
// answers is the answer.
func (l *loop) sayAgain(final bool) {
	waited := l.parked
	l.parked = nil
	for _, g := range waited {
		if g.gone || g.aside.n == 0 {
			continue
		}
		if polledAt(g.fd, unix.POLLRDHUP) { // see late.go: it may have written something newer since
			l.drop(g)
			continue
		}
		g.inflight -= g.aside.n
		if final {
			g.aside.again = g.aside.n
		}
		in := &resp.Requests{Bulk: l.srv.cfg.MaxBulk}
		g.aside.before(g.in, in)
		if g.in != nil {
			l.giveRequests(g.in)
		}
		g.in = in
		g.stop &^= hungUpEnd // its end is seen again
		delete(l.closing, g)
		l.goOn(g, setAside)
	}
}

// giveUp forgets what was set aside of a guest whose trunk is lost: it is closed, and behind
// it nothing can be said in order any more.
func (g *guest) giveUp() {
	g.inflight -= g.aside.n
	g.aside = aside{}
}
