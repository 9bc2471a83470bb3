package proxy

import (
	"bytes"
	"time"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/tidwall/redcon"
)

var (
	clientIDSpec = &spec{name: "client", verb: plain}
	ownSpec      = &spec{verb: plain}
)

const noAuth = "NOAUTH Authentication required."

// barred says why a command cannot go where the session is: the text of an
// error, "" when it can.
func (s *session) barred(sp *spec) string {
	if s.link.unselected || s.srv.cfg.Users && !s.isAuthed() {
		if !sp.forAnybody() {
			return noAuth
		}
	}
	if s.link.busy != nil && !sp.forAnybody() && !sp.endsScripts() {
		return s.link.busy.answer
	}
	if s.noDB && sp.touchesData() {
		s.mu.Lock()
		db := s.st.db
		s.mu.Unlock()
		return unmapped(db)
	}
	return ""
}

// dispatch forwards one command. The session holds a ticket of the gate.
func (s *session) dispatch(cmd redcon.Command) error {
	sp := s.srv.rowOf(cmd.Args[0])
	s.cur, s.curSpec, s.curArgs, s.curRaw = sp.call(s.readAt, len(cmd.Args), len(cmd.Raw)), sp, cmd.Args, cmd.Raw
	if s.srv.cfg.Refused != nil {
		switch sp.verb {
		case vAuth, vHello, vBlock, vFlushAll: // the client may be read before they are sent
			s.curRaw = bytes.Clone(cmd.Raw)
		}
	}
	if s.home != nil && (!sp.share || len(cmd.Raw) > shareRequest) {
		s.pinnedAt = time.Now()
	}
	if text := s.barred(sp); text != "" {
		return s.refuse(text)
	}
	if sp.mayTie(cmd.Args[0]) {
		s.keep()
	}
	if s.prefixed {
		return s.behind(sp, cmd)
	}
	if (sp.verb == plain || sp.verb == vNoData) && !s.multi {
		return s.pushPlain(cmd.Raw)
	}
	wire, refusal := s.srv.translate(s.route, sp, cmd.Args)
	if sp.verb == vFlushAll && refusal != "" && !s.multi {
		return s.flushAll(cmd)
	}
	if refusal != "" {
		return s.refuse(refusal)
	}
	it := &item{spec: sp, mode: modeLine, gate: true, epoch: s.route.Epoch}
	if wire == nil {
		wire = cmd.Raw
	}
	if s.multi && it.queues() {
		return s.queue(it, cmd, wire)
	}
	return s.special(it, cmd, wire)
}

// queue forwards a command inside a transaction.
func (s *session) queue(it *item, cmd redcon.Command, wire []byte) error {
	it.raw = append([]byte(nil), cmd.Raw...)
	if it.spec.verb != plain {
		it.args = cloneArgs(cmd.Args)
	}
	s.describe(it)
	s.describeWrites(it, cmd.Args)
	if it.spec.verb == vAuth || it.spec.verb == vHello {
		wire = s.translateAuth(it)
	}
	it.mayBlock = it.spec.verb == vBlock && it.spec.block.index(it.args) > 0
	s.hearing = s.hearing || it.spec.verb == vSubscribe
	if it.sub == clientReply {
		wire = s.replyMode(it, wire)
	}
	if it.mayBlock && it.spec.waits() && s.home != nil && s.srv.cfg.Shared {
		return s.queueWait(it, it.raw)
	}
	if it.spec.verb == vSelect && s.prefixed || it.spec.verb == vUnwatch && s.isBroken() {
		return s.queueAwait(it, wire)
	}
	if it.spec.verb != vRaw {
		return s.push(it, wire)
	}
	return s.pushAwait(it, wire)
}

// queueAwait waits for the answer to a SELECT or UNWATCH inside a transaction: it may be
// refused, or the MULTI may have been, and then it was obeyed at once.
func (s *session) queueAwait(it *item, wire []byte) error {
	if err := s.pushAwait(it, wire); err != nil {
		return err
	}
	s.mu.Lock()
	s.multi, s.queuedIn = s.st.multi, s.st.queuedIn()
	s.mu.Unlock()
	return nil
}

// isBroken reports whether keys were watched on another server. What may end that is
// answered before anything is sent behind it, as long as it is so.
func (s *session) isBroken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.broken
}

// describe fills in what the observer and the state need to know.
func (s *session) describe(it *item) {
	if it.spec.silent {
		it.keys = it.spec.keysIn(it.args, anyUse)
	}
	switch it.spec.verb {
	case vClient:
		if it.sub = clientSub(it.args); it.sub == clientID || s.prefixed && asksTracked(it.args) {
			it.mode = modeWhole
		}
	case vEval:
		if len(it.args) > 1 {
			s.srv.scripts.remember(it.args[1])
		}
	case vScript:
		if len(it.args) == 3 && is(it.args[1], "load") {
			s.srv.scripts.remember(it.args[2])
		}
	case vSubscribe, vUnsubscribe:
		it.mode = modeWhole // inside a transaction too, for MULTI may have been refused
	}
}

// describeWrites fills in which keys a command may change.
func (s *session) describeWrites(it *item, args [][]byte) {
	switch {
	case !s.srv.wantsWrites():
	case it.spec.writes:
		it.wrote = it.spec.keysIn(args, keyspec.Writes)
	case it.spec.mayWrite():
		it.unknown = true
	}
}

// special forwards a command that is not plain, outside of a transaction.
func (s *session) special(it *item, cmd redcon.Command, wire []byte) error {
	sp := it.spec
	switch sp.verb {
	case vBlock:
		if at := sp.block.index(cmd.Args); at > 0 {
			if d, forever, ok := sp.block.timeout(cmd.Args[at]); ok {
				return s.blocking(sp, cloneArgs(cmd.Args), at, d, forever)
			}
		}
		if !sp.silent && it.with == "" {
			return s.pushPlain(wire)
		}
	case vScan:
		if s.route.Epoch == 0 || len(cmd.Args) <= sp.cursor {
			if it.with == "" {
				return s.pushPlain(wire)
			}
			return s.push(it, wire)
		}
		it.mode = modeScan
		return s.push(it, wire)
	}
	it.args = cloneArgs(cmd.Args)
	s.describe(it)
	s.describeWrites(it, it.args)
	switch sp.verb {
	case vMulti:
		if !s.multi {
			s.multi, s.queuedIn = len(it.args) == 1, 0
		}
	case vExec:
		wasMulti := s.multi
		s.multi = false
		if wasMulti && s.isBroken() { // it is spoilt, which takes no right that EXEC does not
			if err := s.push(&item{spec: ownSpec, mode: modeLine, role: ours}, refusedCommand); err != nil {
				return err
			}
			it.role, s.queuedIn = execNil, 0
			return s.pushAwait(it, wire)
		}
		// Which database follows is known when it is answered, and so is how many replies
		// it has: in RESP2 nothing tells a message to the client itself from one of them.
		if s.hearing || s.queuedIn > 0 && s.prefixed {
			s.hearing, s.queuedIn = false, 0
			return s.pushAwait(it, wire)
		}
	case vDiscard:
		if s.multi && len(it.args) == 1 {
			s.multi, s.queuedIn = false, 0
		}
		if s.isBroken() { // it may be refused, as may MULTI have been
			return s.pushAwait(it, wire)
		}
	case vUnwatch:
		if s.isBroken() {
			return s.pushAwait(it, wire)
		}
	case vQuit:
		s.quit = true
	case vAuth, vHello:
		return s.authenticate(it)
	case vClient:
		if it.sub == clientReply {
			wire = s.replyMode(it, wire)
		}
	case vReset:
		return s.reset(it, wire)
	case vRaw:
		return s.pushAwait(it, wire)
	case vSelect:
		if s.noDB || s.prefixed {
			return s.selectAgain(it, wire)
		}
	case vReplconf:
		if acknowledges(it.args) {
			return nil
		}
	}
	return s.push(it, wire)
}

// acknowledges reports whether a REPLCONF is one that no server answers, and that
// means nothing to it from who is no replica. On the connection of a replica nothing
// is looked at any more.
func acknowledges(args [][]byte) bool {
	for i := 1; len(args)%2 == 1 && i < len(args); i += 2 { // or else it is a syntax error
		if is(args[i], "ack") || is(args[i], "getack") {
			return true
		}
	}
	return false
}

// keep has the client keep its connection from now on.
func (s *session) keep() {
	s.mu.Lock()
	s.kept = true
	s.mu.Unlock()
}

// replyMode keeps the server answering, so that it is known what has run, and
// leaves the silence to the session.
func (s *session) replyMode(it *item, wire []byte) []byte {
	if len(it.args) != 3 {
		it.sub = clientOther
		return wire
	}
	switch {
	case is(it.args[2], "on"):
		it.role = muteOff
	case is(it.args[2], "off"):
		it.role = muteOn
	case is(it.args[2], "skip"):
		it.role = muteSkip
	default:
		it.sub = clientOther
		return wire
	}
	return words("CLIENT", "REPLY", "ON")
}

// pushAwait pushes an item and waits for its answer.
func (s *session) pushAwait(it *item, wire []byte) error {
	it.wake = true
	if err := s.push(it, wire); err != nil {
		return err
	}
	return s.await(it)
}

// selectAgain goes to another database where it matters to what follows which one that is:
// it leaves one that is not in the map, or its keys have another prefix.
func (s *session) selectAgain(it *item, wire []byte) error {
	if err := s.pushAwait(it, wire); err != nil {
		return err
	}
	s.mu.Lock()
	_, mapped := s.route.DB(s.st.db)
	s.mu.Unlock()
	// A SELECT that was refused leaves the client where it was.
	s.noDB = !mapped
	return nil
}

// push puts an item in flight. The ticket goes with it.
func (s *session) push(it *item, wire []byte) error {
	s.srv.count(it)
	it.shed()
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		s.srv.uncount(it)
		return errUpstreamGone
	}
	it.sent = time.Now()
	if it.role != ours {
		it.call = s.cur
		it.call.sent = int64(it.sent.Sub(s.srv.base))
		s.keepRaw(it)
	}
	s.fifo.push(it)
	s.pushed = true
	s.mu.Unlock()
	if it.gate {
		s.ticket = false
	}
	return s.send(wire)
}

// makeRoom waits where too much is kept of commands in flight. No command that was
// read may be in hand, for its bytes are where the next ones are read to.
func (s *session) makeRoom() error {
	if !s.pushed { // nothing of which more is kept came since it was looked last
		return nil
	}
	s.pushed = false
	s.mu.Lock()
	full := s.fifo.kept() > itemBytes
	s.mu.Unlock()
	if full {
		return s.awaitEmpty()
	}
	return nil
}

func (s *session) pushPlain(raw []byte) error {
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return errUpstreamGone
	}
	if s.srv.cfg.UpstreamTimeout > 0 && s.fifo.empty() {
		s.heard = time.Now()
	}
	c := s.cur
	if s.srv.wantsWrites() {
		switch {
		case s.curSpec.writes:
			c.keys = s.fifo.calls.keys.keep(s.curSpec, s.curArgs, raw != nil)
		case s.curSpec.mayWrite():
			c.keys = unkept
		}
	}
	// A SELECT in flight would leave open which database this is of.
	if f := s.curSpec.elements; f != nil && raw != nil && s.fifo.plain() {
		if books := s.srv.books(s.route.Side); books != nil {
			c.elements = s.fifo.calls.elements.begin(books, s.route, s.st.db, f, s.curArgs)
		}
	}
	s.fifo.pushPlain(c)
	if s.srv.cfg.Refused != nil {
		if s.fifo.sent == nil {
			s.fifo.sent = new(sent)
		}
		s.fifo.sent.push(s.curRaw)
		s.pushed = true
	}
	s.mu.Unlock()
	s.ticket = false
	return s.send(raw)
}

// local answers a command without the server, in its turn. That never comes once the
// upstream is lost: its answer would be taken for that of a command that was lost with it,
// or would wait for a reader that has ended, inside the gate.
func (s *session) local(reply []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.aside.n > 0 && s.fifo.empty() { // what came before it is said again
		s.setsAsideLocal(s.curRaw, reply)
		return
	}
	if s.down {
		return
	}
	if s.fifo.empty() && !s.mid {
		if !s.mute && !s.skip {
			s.out.append(reply)
		}
		s.answeredLocally(reply)
		s.skip, s.skipNext = s.skipNext, false
		return
	}
	it := &item{spec: ownSpec, local: true, text: reply, gate: s.ticket, call: s.cur}
	s.keepRaw(it)
	s.fifo.push(it)
	s.pushed = true
	s.ticket = false
}

// refuse answers an error; inside a transaction it spoils that.
func (s *session) refuse(text string) error {
	reply := []byte("-" + text + "\r\n")
	if s.multi {
		return s.push(&item{spec: ownSpec, mode: modeLine, role: replaced, text: reply, gate: true}, refusedCommand)
	}
	s.local(reply)
	return nil
}

// ask says commands of ours to the server and returns its answers, all of them
// errors or not. The session's ticket is kept.
func (s *session) ask(wires ...[]byte) ([][]byte, error) {
	items := make([]*item, 0, len(wires))
	for _, w := range wires {
		it := &item{spec: ownSpec, mode: modeWhole, role: ours, wake: true}
		if err := s.push(it, w); err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	replies := make([][]byte, 0, len(items))
	for _, it := range items {
		if err := s.await(it); err != nil {
			return nil, err
		}
		if it.lost {
			return nil, errUpstreamGone
		}
		replies = append(replies, it.reply)
	}
	return replies, nil
}
