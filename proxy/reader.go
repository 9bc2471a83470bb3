package proxy

import (
	"bytes"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/crossfade/crossfade/internal/prefix"
	"github.com/crossfade/crossfade/internal/resp"
)

// reader takes what one upstream says, finds the replies in it, matches them with
// what is in flight and passes them to the client. It is used by the link's own
// goroutine only.
type reader struct {
	s *session
	l *link

	fr    resp.Framer
	mode  byte
	it    *item // whom the element answers; nil for a plain command or nobody
	owner owner
	drop  bool   // the client does not get it
	coll  []byte // collected bytes
	size  int    // bytes of the current element

	// gathered under the session's lock, acted on after it
	tally     tally
	begins    [4]byte // the current reply
	short     []byte  // … all of it, while it is short and somebody may want it
	strip     prefix.Stripper
	stripping bool   // the current reply names keys that have a prefix
	stripped  []byte // what has come of it last, without that
	inside    inside
	looking   bool                    // the client is to be told otherwise what was pushed into the current reply
	hears     *[3]map[string]struct{} // … which has these subscriptions then; nil: those that it has
	heads     heads
	echo      bool // in RESP2: messages that an EXEC has had its client send to itself may come
	written   written
	events    []event
	leaves    int
	wake      bool
	raw       bool // from here on the bytes are a stream
}

// owner says what the current element is.
type owner byte

const (
	nobody owner = iota
	plainCommand
	ofItem
	push      // unasked
	maybePush // RESP2: known after its first word
)

// bulkRead is how much is read at a time while more than readSize is there.
const bulkRead = 128 << 10

// bulkBuffers are shared by all readers: few of them meet large replies at a time.
var bulkBuffers = sync.Pool{New: func() any { return new([bulkRead]byte) }}

// loop reads until the connection ends. The session is told by upstreamEnded. None of that
// is deferred: a panic, with the session's lock held, is to end the process and not to wait.
func (r *reader) loop() {
	r.read()
	r.l.between = r.fr.AtStart() && !r.raw
	r.s.upstreamEnded(r.l)
	close(r.l.done)
}

func (r *reader) read() {
	if rest := r.l.rest; len(rest) > 0 {
		r.l.rest = nil
		if !r.chunk(rest) {
			return
		}
	}
	small := make([]byte, readSize)
	buf := small
	for {
		n, err := r.l.conn.Read(buf)
		if n > 0 && !r.chunk(buf[:n]) {
			return
		}
		switch {
		case n == len(buf) && n == readSize:
			buf = bulkBuffers.Get().(*[bulkRead]byte)[:]
		case n < readSize && len(buf) == bulkRead:
			bulkBuffers.Put((*[bulkRead]byte)(buf))
			buf = small
		}
		if err != nil {
			r.l.idle = n == 0 && errors.Is(err, os.ErrDeadlineExceeded)
			return
		}
	}
}

// chunk handles bytes as they came. False means that the connection is of no
// further use.
func (r *reader) chunk(b []byte) bool {
	s := r.s
	s.mu.Lock()
	if s.srv.cfg.UpstreamTimeout > 0 {
		s.heard = time.Now()
	}
	if r.mode == modePass && r.owner != nobody && !r.drop && !r.raw && !r.stripping && !r.looking && r.fr.Skip(len(b)) {
		r.size += len(b)
		s.mu.Unlock()
		s.out.pass(b)
		return true
	}
	err := r.feed(b)
	s.mid, s.collected = !r.fr.AtStart(), cap(r.coll)
	events, leaves, wake := r.events, r.leaves, r.wake
	r.events, r.leaves, r.wake = nil, 0, false
	tooMuch := s.st.remembered > s.srv.cfg.QueryLimit
	s.mu.Unlock()
	if tooMuch { // a server keeps nothing of a transaction that is spoilt; we have to
		s.log().Warn("closing a client: its transaction is longer than proxy.query_limit")
		s.close()
	}

	// The outcome is known, so the gate need not wait for the client to read it.
	s.srv.tell(events)
	for range leaves {
		s.srv.gate.Leave()
	}
	if s.srv.writes != nil {
		r.written.handOver(s.srv.writes)
	}
	r.measured()
	s.out.flush()
	if wake {
		s.poke()
	}
	if err != nil {
		s.log().Warn("closing a client: the upstream's reply cannot be read", "side", r.l.route.Side.String(), "err", err)
	}
	return err == nil
}

// feed runs under the session's lock: memory only.
func (r *reader) feed(b []byte) error {
	for len(b) > 0 {
		if r.raw {
			r.s.out.append(b)
			return nil
		}
		if r.fr.AtStart() {
			r.size = 0
			r.tally.head.begin(b[0])
			r.begins = headOf(b)
			r.short = r.short[:0]
			r.begin(b[0])
			if r.raw {
				continue
			}
		}
		piece := b
		if r.mode == modeLine {
			if i := bytes.IndexByte(b, '\n'); i >= 0 {
				piece = b[:i+1]
			}
		}
		n, done, err := r.fr.Feed(piece)
		if err != nil {
			return err
		}
		if r.size += n; done && r.size > shareReply {
			r.s.heavy = true
		}
		if r.tally.head.failing {
			r.tally.head.add(b[:n])
		}
		if r.owner == plainCommand && r.size <= shortest && r.s.fifo.calls.elements.any() {
			r.short = append(r.short, b[:n]...)
		}
		r.take(r.without(b[:n]), done)
		if len(r.coll) > r.s.srv.cfg.OutputLimit {
			r.s.srv.overflowed.Add(1)
			return errTooLong
		}
		b = b[n:]
		if done {
			r.finish()
		}
	}
	return nil
}

// begin finds out whose element starts with c.
func (r *reader) begin(c byte) {
	r.coll, r.it, r.drop, r.stripping, r.looking = nil, nil, false, false, false
	switch {
	case c == '>':
		r.owner, r.mode = push, modeWhole
	case c == '*' && r.s.st.proto == 2 && (r.s.st.subscribed() > 0 || r.echo):
		r.owner, r.mode = maybePush, modeWhole
	default:
		r.assign(c)
	}
}

// assign gives the element, which starts with c, to the oldest command in flight.
func (r *reader) assign(c byte) {
	s := r.s
	it, busy := s.fifo.peek()
	switch {
	case !busy:
		r.owner, r.mode = nobody, modePass
		return
	case it == nil:
		r.owner, r.mode, r.drop = plainCommand, modePass, s.mute || s.skip
		if s.mayBeRefused(c) {
			r.mode = modeWhole
		}
		r.looksInside(nil, c)
		return
	}
	r.owner, r.it, r.mode = ofItem, it, it.mode
	r.strips(it)
	if it.spec.verb == vRaw && it.spec.name != "monitor" && c != '-' {
		r.becomeRaw(it)
		return
	}
	silenced := (s.mute || s.skip) && (it.role != muteOff || s.st.multi || c == '-')
	if it.spec.verb == vReset && c != '-' {
		silenced = s.skip // it has ended CLIENT REPLY OFF before it answers
	}
	confirms := isConfirming(it) && !s.st.multi || it.settled && it.confirms.at(it.passed)
	if confirms && c != '-' {
		silenced = false // confirmations are pushes, in RESP2 too: CLIENT REPLY does not silence them
	}
	r.drop = it.role == ours || silenced || it.isOurs()
	r.looksInside(it, c)
	if it.spec.verb == vExec && s.st.multi && s.st.needsElements() {
		r.mode = modeWhole
		if c == '*' && len(r.coll) == 0 && !s.st.hasOurs() && !s.st.mayEcho() && (it.confirms == nil || !it.confirms.whole) && (r.l.route.Epoch == 0 || s.st.scans() == nil) {
			r.mode, r.heads = modeHeads, heads{whole: s.st.askID()}
		}
	}
	if it.left == 0 {
		it.left = r.replies(it)
	}
	if it.role != ours && s.mayBeRefused(c) || confirms {
		r.mode = modeWhole
	}
}

// assignLate is assign for an element of which something was collected already.
func (r *reader) assignLate() {
	r.assign(r.coll[0])
	if r.stripping || r.looking {
		r.coll = bytes.Clone(r.without(r.coll))
	}
}

// replies says how many replies a command gets: the confirmations of its
// channels, one for all else.
func (r *reader) replies(it *item) int {
	st := &r.s.st
	switch {
	case it.role == execNil, st.multi && it.spec.verb != vExec:
		return 1
	case it.spec.verb == vExec && st.multi && !st.dirty:
		n := 1
		for _, p := range st.placed(nil) {
			n += p.n - 1
		}
		return n
	}
	return confirmations(st, it)
}

func confirmations(st *state, it *item) int {
	if it.spec.verb != vSubscribe && it.spec.verb != vUnsubscribe {
		return 1
	}
	if n := len(it.args) - 1; n > 0 || it.spec.verb == vSubscribe {
		return max(1, n)
	}
	return max(1, len(st.subs[it.spec.set]))
}

// take handles a piece of the current element.
func (r *reader) take(b []byte, done bool) {
	if r.mode == modePass {
		if !r.drop {
			r.s.out.append(b)
		}
		return
	}
	if r.mode == modeHeads {
		if !r.drop {
			r.s.out.append(b)
		}
		r.coll = r.heads.add(r.coll, b)
		return
	}
	r.coll = append(r.coll, b...)
	if done {
		return
	}
	switch {
	case r.owner == push, r.owner == maybePush:
		r.peekPush()
	case r.mode == modeLine && len(r.coll) > 0 && r.coll[len(r.coll)-1] == '\n':
		r.stream()
	case r.mode == modeScan:
		r.peekCursor()
	}
}

// stream passes what was collected, and the rest of the element unseen. Its
// first line stays in coll.
func (r *reader) stream() {
	if !r.drop {
		r.s.out.append(r.coll)
	}
	if i := bytes.IndexByte(r.coll, '\n'); i >= 0 {
		r.coll = r.coll[:i+1]
	}
	r.mode = modePass
}

func (r *reader) peekCursor() {
	head, used, need := tagCursor(r.it.epoch, r.coll)
	if need {
		return
	}
	if head != nil && !r.drop {
		r.s.out.append(head)
		r.s.out.append(r.coll[used:])
		r.coll = nil
	} else if !r.drop {
		r.s.out.append(r.coll)
	}
	r.coll = nil
	r.mode = modePass
}

// peekPush looks at the first word of what may be a push.
func (r *reader) peekPush() {
	_, n, rest, ok := resp.Header(r.coll)
	if !ok {
		return
	}
	kind, rest, ok := resp.Text(rest)
	if !ok && n > 0 && len(r.coll) < 80 {
		return
	}
	if r.owner == maybePush && !isDelivery(kind) {
		r.assignLate()
		if r.mode == modePass || r.mode == modeLine {
			r.stream()
		}
		return
	}
	switch {
	case r.owner == push && isConfirmation(kind):
	case string(kind) == "invalidate" && prefixed(r.l.route):
	case isDelivery(kind) && r.s.mapsChannels(r.l) && !saysNoDatabase(kind, rest):
	default:
		r.owner = push
		r.stream()
	}
}

// finish handles the end of an element.
func (r *reader) finish() {
	s := r.s
	if r.owner == maybePush {
		_, _, rest, _ := resp.Header(r.coll)
		kind, _, _ := resp.Text(rest)
		if isDelivery(kind) {
			r.owner = push
		} else {
			r.assignLate()
			if r.mode == modePass || r.mode == modeLine {
				r.stream()
			}
		}
	}
	switch r.owner {
	case push:
		r.finishPush()
	case nobody:
	case plainCommand:
		c, known := s.fifo.pop()
		if s.fifo.sent != nil && r.refusedPlain() {
			r.wrote(c, known)
			r.took(c, known, nil)
			r.leaves++
			break
		}
		if s.st.multi && s.st.stuck == "" {
			s.st.stuck = "its transaction was not followed"
		}
		s.letIn = s.letIn || !r.tally.head.failing
		r.wrote(c, known)
		r.took(c, known, nil)
		r.leaves++
		s.advance()
	case ofItem:
		s.letIn = s.letIn || !r.tally.head.failing && !r.it.spec.forAnybody()
		r.finishItem()
	}
	if r.echo && r.owner != push && (r.it == nil || r.it.spec.verb != vExec) {
		r.echo = false
	}
	r.coll, r.it, r.owner = nil, nil, nobody
	r.locals()
}

// wrote notes what a plain command has written, now that it is answered.
func (r *reader) wrote(c call, known bool) {
	f := &r.s.fifo
	if c.elements {
		begins, whole := r.begins, r.short
		if len(whole) != r.size {
			whole = nil
		}
		if r.s.st.multi { // it was queued, and nobody follows what becomes of it
			begins, whole = [4]byte{}, nil
		}
		f.calls.elements.end(begins, whole)
	}
	switch {
	case (!known || r.s.st.multi) && r.s.srv.wantsWrites():
		_ = f.calls.keys.take(c.keys &^ unkept)
		r.written.answered(r.s.st.db, call{keys: unkept}, nil, r.begins)
	case c.keys == unkept:
		r.written.answered(r.s.st.db, c, nil, r.begins)
	case c.keys > 0:
		r.written.answered(r.s.st.db, c, f.calls.keys.take(c.keys), r.begins)
	}
}

// advance does what follows every command of the client. It runs under the lock.
func (s *session) advance() {
	s.skip, s.skipNext = s.skipNext, false
	if s.st.caching != nil && !s.st.multi && !s.justCached {
		s.st.caching = nil
		s.st.ver++
	}
	s.justCached = false
}

func (r *reader) finishPush() {
	s := r.s
	if r.mode == modePass {
		return
	}
	_, _, rest, _ := resp.Header(r.coll)
	kind, _, _ := resp.Text(rest)
	if isConfirmation(kind) {
		if it, _ := s.fifo.peek(); it != nil && (isConfirming(it) || it.settled) {
			r.assign(r.coll[0])
			r.drop = it.role == ours
			r.finishItem()
			return
		}
	}
	s.out.append(s.clientView(r.l, r.coll))
}

// finishItem handles one reply of an item; the last one completes it.
func (r *reader) finishItem() {
	s, it := r.s, r.it
	if it.again != nil && r.refusedItem() {
		return
	}
	out := r.coll
	passed := r.mode == modePass || r.mode == modeHeads
	if r.mode == modeScan {
		if head, used, need := tagCursor(it.epoch, r.coll); head != nil && !need {
			out = append(head, r.coll[used:]...)
		}
	}
	failed := resp.IsError(r.coll)
	if it.spec.verb == vClient && !failed && prefixed(r.l.route) && asksTracked(it.args) {
		out = trackedAs(r.l.route.Map, r.coll)
	}
	if isConfirming(it) && !failed && !s.st.multi {
		if prefixed(r.l.route) {
			out = s.st.confirmedAs(it, r.coll)
		} else {
			s.confirmed(r.l, r.coll)
			out = s.clientView(r.l, r.coll)
		}
	}
	if it.settled && !failed && it.confirms.at(it.passed) {
		out = r.confirmed(it.confirms, r.coll)
	}
	if failed && !it.settled {
		it.left = 1
	}
	switch {
	case it.spec.verb == vExec && !it.settled:
		out = r.settleArray(it, out, passed || failed)
	case len(it.late) > 0 && it.late[0].at == it.passed:
		r.settleLate(it)
	}
	it.left--
	it.passed++
	if it.left == 0 && !it.settled {
		out = r.settle(it, r.coll, out)
	}
	if !r.drop && !passed {
		s.out.append(out)
	}
	if it.left > 0 {
		return
	}
	if c, _ := s.fifo.pop(); c.at != 0 && !it.retry {
		r.took(c, true, it)
	}
	if it.gate {
		r.leaves++
	}
	if it.role != ours && !it.retry {
		s.advance()
	}
	it.finish()
	r.wake = r.wake || it.wake
}

func isNull(b []byte) bool {
	return bytes.HasPrefix(b, []byte("*-1")) || bytes.HasPrefix(b, []byte("_")) || bytes.HasPrefix(b, []byte("$-1"))
}

// becomeRaw ends the framing: what follows is a stream, outside of the gate.
func (r *reader) becomeRaw(it *item) {
	s := r.s
	r.raw, s.raw = true, true
	c, _ := s.fifo.pop()
	r.took(c, true, it)
	if it.gate {
		r.leaves++
	}
	it.finish()
	r.wake = true
}

func isConfirming(it *item) bool {
	return it.spec.verb == vSubscribe || it.spec.verb == vUnsubscribe
}

// locals answers what needs no server and is next in turn.
func (r *reader) locals() {
	s := r.s
	for {
		it, busy := s.fifo.peek()
		if !busy {
			if s.waitsEmpty {
				r.wake = true
			}
			return
		}
		if it == nil || !it.local {
			return
		}
		again := it.again != nil && s.aside.n > 0
		switch {
		case again:
			s.setsAsideLocal(it.again, it.text)
		case !s.mute && !s.skip:
			s.out.append(it.text)
		}
		if c, _ := s.fifo.pop(); len(it.text) > 0 {
			r.took(c, true, it)
		}
		if it.gate {
			r.leaves++
		}
		it.finish()
		if !again {
			s.advance()
		}
	}
}
