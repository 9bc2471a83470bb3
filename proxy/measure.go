package proxy

import (
	"bytes"
	"math"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/router"
)

// What is measured. A command's time upstream is from when it was passed on until
// its reply was there; its time in total is from when all of it had been read until
// its reply was handed on. Both are read from few clocks: a loop looks at its own
// when a round begins and again before it writes to its upstreams, and a session
// looks once for what it reads or writes at a time. So a duration is right to
// within one round or one read. What a client takes to receive its replies is in
// neither, unless so much waits for it that its upstream is read no further.
//
// Commands count once they are answered, those of a transaction when they are
// queued. What is answered without an upstream has a total only.

// familyNumbers is what a loop keeps of one family.
type familyNumbers struct{ upstream, total Histogram }

// measure is what a loop has measured. It belongs to the loop.
type measure struct {
	families [families]familyNumbers
	errors   [errorKinds]int64
	untimed  int64
	inflight int64
	done     []handedOn // in this round
	slow     int64      // from how many nanoseconds on a command is slow
	slowNow  int        // slow commands of this round
}

// handedOn are commands of one family that came together, were passed on together
// and whose replies came together and were handed on.
type handedOn struct {
	at, sent int64
	n        int64
	family   family
}

// submitted notes that a request of g was added to what waits for t.
func (l *loop) submitted(t *trunk, g *guest, sp *spec, args [][]byte, raw []byte) {
	c := sp.call(g.readAt, len(args), len(raw))
	if l.watching && sp.writes {
		c.keys = t.calls.keys.keep(sp, args, true)
	}
	if l.books != nil && sp.elements != nil && t.side == l.route.Side {
		c.elements = t.calls.elements.begin(l.books, l.route, t.db, sp.elements, args)
	}
	if l.share != 0 && sp.read != nil && t.side == router.Source {
		c.shadow = l.shadows(t, sp, args, raw)
	}
	t.calls.push(c, trunkCalls)
	l.m.inflight++
}

// replied notes that the oldest request of t, which is of g, was answered. reply is
// nil when it did not come in one piece.
func (l *loop) replied(t *trunk, g *guest, reply []byte) {
	c, ok := t.calls.pop()
	l.m.inflight--
	if t.reply.failing {
		l.m.errors[t.reply.kind()]++
	}
	if !ok {
		l.m.untimed++
		l.wrote(t, call{keys: unkept})
		return
	}
	if c.elements {
		t.calls.elements.end(t.begins, reply)
	}
	if c.keys != 0 {
		l.wrote(t, c)
	}
	if c.sent == 0 { // passed on in this very round
		c.sent = l.now
	}
	if c.shadow {
		l.shadowed(t, g, c, reply)
	}
	f := rowFamily[c.row]
	if n := len(l.m.done); n > 0 && l.m.done[n-1].sent == c.sent && l.m.done[n-1].at == c.at && l.m.done[n-1].family == f {
		l.m.done[n-1].n++
	} else {
		l.m.done = append(l.m.done, handedOn{at: c.at, sent: c.sent, n: 1, family: f})
	}
	if l.now-c.at >= l.m.slow {
		l.slowReply(g, c)
	}
}

// passOn takes the time at which the requests of a round are passed on. Its
// replies have been.
func (l *loop) passOn() {
	if len(l.dirty) == 0 && len(l.m.done) == 0 {
		return
	}
	now := int64(time.Since(l.base))
	for _, t := range l.dirty {
		t.calls.pass(now)
	}
	for _, d := range l.m.done {
		f := &l.m.families[d.family]
		f.upstream.observe(l.now-d.sent, d.n)
		f.total.observe(now-d.at, d.n)
	}
	l.m.done = l.m.done[:0]
}

// sharedMeasure is what sessions measure; there are several, so that they are
// seldom in each other's way.
type sharedMeasure struct {
	families [families]struct{ upstream, total sharedHistogram }
	errors   [errorKinds]atomic.Int64
	untimed  atomic.Int64
}

func (s *Server) measureOf(id uint64) *sharedMeasure { return &s.measures[id%uint64(len(s.measures))] }

// clock returns the nanoseconds since the server was made, never 0.
func (s *Server) clock() int64 { return int64(time.Since(s.base)) | 1 }

// answered are commands of a session that were answered in one chunk.
type answered struct {
	at, sent int64
	n        int64
	family   family
	local    bool // without the upstream
}

// tally is what a session's reader has measured in one chunk.
type tally struct {
	now  int64 // when the chunk came; 0 before it was needed
	done []answered
	slow int // slow commands of this chunk
	head replyHead
	m    *sharedMeasure
}

// took notes that a command was answered. It runs under the session's lock.
func (r *reader) took(c call, known bool, it *item) {
	s := r.s
	if r.tally.m == nil {
		r.tally.m = s.srv.measureOf(s.id)
	}
	local := it != nil && it.local
	switch {
	case local:
		s.srv.failedLocally(r.tally.m, it.text)
	case r.tally.head.failing:
		r.tally.m.errors[r.tally.head.kind()].Add(1)
		r.tally.head.failing = false
	}
	if !known {
		r.tally.m.untimed.Add(1)
		return
	}
	if r.tally.now == 0 {
		r.tally.now = s.srv.clock()
	}
	f := rowFamily[c.row]
	if it != nil && it.block != nil {
		f = fBlocking
	}
	if c.sent == 0 {
		c.sent = r.tally.now
	}
	a := answered{at: c.at, sent: c.sent, n: 1, family: f, local: local}
	if last := len(r.tally.done) - 1; last >= 0 && r.tally.done[last].same(a) {
		r.tally.done[last].n++
	} else {
		r.tally.done = append(r.tally.done, a)
	}
	if f != fBlocking && r.tally.now-c.at >= s.srv.slow.least {
		if r.tally.slow++; r.tally.slow <= slowAtOnce {
			s.slowReply(c, r.tally.now)
		}
	}
}

func (a answered) same(b answered) bool {
	return a.at == b.at && a.sent == b.sent && a.family == b.family && a.local == b.local
}

// measured adds what a chunk has brought to the server's numbers.
func (r *reader) measured() {
	t := &r.tally
	if t.slow > slowAtOnce {
		r.s.srv.slow.skip(t.slow - slowAtOnce)
	}
	t.slow = 0
	if len(t.done) > 0 {
		end := r.s.srv.clock()
		for _, a := range t.done {
			f := &t.m.families[a.family]
			if !a.local {
				f.upstream.observe(t.now-a.sent, a.n)
			}
			f.total.observe(end-a.at, a.n)
		}
		if t.done = t.done[:0]; cap(t.done) > 64 {
			t.done = nil
		}
	}
	t.now = 0
}

// answeredLocally notes that a session's command was answered at once, without
// the upstream.
func (s *session) answeredLocally(reply []byte) {
	m := s.srv.measureOf(s.id)
	s.srv.failedLocally(m, reply)
	if s.cur.at != 0 {
		m.families[rowFamily[s.cur.row]].total.observe(s.srv.clock()-s.cur.at, 1)
	}
}

func (s *Server) failedLocally(m *sharedMeasure, reply []byte) {
	var head replyHead
	if head.begin(reply[0]); head.failing {
		head.add(reply)
		m.errors[head.kind()].Add(1)
	}
}

// errorNames are the kinds of errors that are told apart, by the first word of
// the reply. There are no others: a script can make an error of anything, of a
// value too.
var errorNames = [...]string{"other", "ERR", "WRONGTYPE", "WRONGPASS", "NOAUTH", "NOPERM", "NOPROTO", "OOM", "READONLY", "MISCONF",
	"LOADING", "BUSY", "BUSYKEY", "BUSYGROUP", "NOGROUP", "NOSCRIPT", "NOTBUSY", "UNKILLABLE", "UNBLOCKED", "EXECABORT",
	"MASTERDOWN", "NOREPLICAS", "NOMASTERLINK", "IOERR", "MOVED", "ASK", "TRYAGAIN", "CROSSSLOT", "CLUSTERDOWN", "DENIED",
	"INPROG", "NOGOODSLAVE", "SYNTAX", "STALE", "REDIRECT"}

const errorKinds = len(errorNames)

var errorIndex = func() map[string]uint8 {
	m := make(map[string]uint8, errorKinds)
	for i, name := range errorNames {
		m[name] = uint8(i)
	}
	return m
}()

// replyHead holds the beginning of a reply that is an error, however it is cut.
type replyHead struct {
	failing bool
	n       uint8
	text    [32]byte
}

// begin looks at a reply's first byte.
func (h *replyHead) begin(c byte) { h.failing, h.n = c == '-' || c == '!', 0 }

// add takes more of the reply, its first byte included.
func (h *replyHead) add(b []byte) { h.n += uint8(copy(h.text[h.n:], b)) }

// kind returns the index of the error's name.
func (h *replyHead) kind() uint8 {
	text := h.text[:h.n]
	if len(text) > 0 && text[0] == '!' { // its length is a line of its own
		_, text, _ = bytes.Cut(text, []byte("\r\n"))
	} else if len(text) > 0 {
		text = text[1:]
	}
	if i := bytes.IndexAny(text, " \r\n"); i >= 0 {
		text = text[:i]
	}
	return errorIndex[string(text)]
}

// rowFamily is the family of each row of the table.
var rowFamily = func() (f [512]family) {
	for i, s := range rows {
		f[i] = s.family
	}
	return f
}()

// never is a threshold that nothing reaches.
const never = math.MaxInt64
