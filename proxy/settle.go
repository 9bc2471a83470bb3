package proxy

import (
	"bytes"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/internal/prefix"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/tidwall/redcon"
)

// event is something to tell the observer, once no lock is held.
type event struct {
	kind byte
	db   int
	b    int
	keys []string
}

const (
	silent byte = iota
	changed
	flushed
	swapped
	functions
	wrote
	wroteUnknown
)

func (s *Server) tell(events []event) {
	for _, e := range events {
		switch e.kind {
		case silent:
			s.obs.Silent(e.db, e.keys...)
		case changed:
			s.obs.Changed(e.db, e.keys...)
		case flushed:
			s.obs.Flushed(e.db)
		case swapped:
			s.obs.Swapped(e.db, e.b)
		case functions:
			s.obs.Functions()
		case wrote:
			s.tellWrites(e)
		case wroteUnknown:
			s.tellWrites(event{db: e.db})
		}
	}
}

// eventsOf says what a command may have done that no notification tells. With
// failed, the server has answered an error.
func eventsOf(it *item, db int, failed bool) []event {
	var out []event
	if len(it.keys) > 0 {
		kind := silent
		if it.spec.row == 0 {
			kind = changed
		}
		out = append(out, event{kind: kind, db: db, keys: it.keys})
	}
	out = append(out, writesOf(it, db)...)
	if failed {
		return out
	}
	switch it.spec.verb {
	case vFlushAll:
		out = append(out, event{kind: flushed, db: -1})
	case vFlushDB:
		out = append(out, event{kind: flushed, db: db})
	case vSwapDB:
		if len(it.args) == 3 {
			a, okA := resp.Integer(it.args[1])
			b, okB := resp.Integer(it.args[2])
			if okA && okB {
				out = append(out, event{kind: swapped, db: int(a), b: int(b)})
			}
		}
	case vFunction:
		if changesFunctions(it.args) {
			out = append(out, event{kind: functions})
		}
	}
	return out
}

func changesFunctions(args [][]byte) bool {
	return len(args) > 1 && (is(args[1], "load") || is(args[1], "delete") || is(args[1], "flush") || is(args[1], "restore"))
}

// refusals begin the errors of commands that have not run at all, so that the
// server has not counted a call.
var refusals = []string{"NOPERM", "NOAUTH", "EXECABORT", "LOADING", "OOM", "READONLY", "MASTERDOWN", "NOREPLICAS", "MISCONF",
	"BUSY ", "DENIED", "MOVED", "ASK", "CLUSTERDOWN", "ERR wrong number of arguments", "ERR unknown command",
	"ERR unknown subcommand", "ERR Can't execute", "ERR Crossfade", "ERR Replica can't interact"}

func refused(text string) bool {
	for _, p := range refusals {
		if strings.HasPrefix(text, p) {
			return true
		}
	}
	return false
}

// settle records what the answer to a command means and returns what the client
// gets. It runs under the session's lock.
func (r *reader) settle(it *item, reply, out []byte) []byte {
	s := r.s
	st := &s.st
	failed := resp.IsError(reply)
	text := resp.ErrorText(reply)
	switch it.role {
	case ours:
		it.reply = bytes.Clone(reply)
		if isGreeting(text) { // said before anything was asked, and nothing follows it
			s.out.append(reply)
		}
		if it.spec == clientIDSpec && !failed && r.l.isListed(reply) {
			s.upID = r.l.listed.Load()
		}
		s.srv.turns.pass(it.turn)
		if st.multi && string(reply) == "+QUEUED\r\n" {
			st.enqueueOurs(it)
		}
		return nil
	case replaced:
		out = it.text
	case okReplaced:
		if !failed {
			out = it.text
		}
	case execNil:
		return r.settleExecNil(text, out)
	}
	if st.multi && it.queues() {
		switch {
		case !failed:
			st.enqueue(it)
		default:
			st.dirty = true
			s.srv.uncount(it)
		}
		return out
	}
	if st.multi && failed && it.spec.verb != vExec && !sparesTransaction(text) {
		st.dirty = true
	}
	if it.spec.verb == vExec {
		r.settleExec(it, reply, failed, text)
		return out
	}
	if failed && it.block != nil && strings.HasPrefix(text, "UNBLOCKED") && (it.unblocked || s.srv.unblocking()) {
		it.retry = true
		s.srv.turns.join(it.block.turn) // before it leaves the gate, and so before anyone goes on
		s.srv.ran(it)                   // the server has counted this as a call, so it stays counted
		return nil
	}
	if failed && halfObeyed(it) {
		s.doubtful = true
	}
	if failed && refused(text) {
		s.srv.uncount(it)
		return out
	}
	s.srv.ran(it)
	r.events = append(r.events, eventsOf(it, st.db, failed)...)
	if !failed {
		r.learnsID(it, reply)
		r.apply(it)
		if it.role == muteOn || it.role == muteSkip {
			return nil // Redis does not answer these two
		}
	}
	return out
}

// halfObeyed reports whether a command that was refused may have been obeyed in
// part: a HELLO that has logged the client in, and then did not like the name.
func halfObeyed(it *item) bool { return it.spec.verb == vHello && len(it.args) > 2 }

// queues reports whether a server inside a transaction queues this command
// rather than running it.
func (it *item) queues() bool {
	switch it.spec.verb {
	case vMulti, vExec, vDiscard, vWatch, vReset, vQuit: // those that processCommand exempts
		return false
	}
	return true
}

// sparesTransaction reports whether an error within a transaction is one that does not spoil
// it: what the commands themselves say in Redis, and not what keeps them from running.
func sparesTransaction(text string) bool {
	return text == "ERR MULTI calls can not be nested" || text == "ERR WATCH inside MULTI is not allowed"
}

// settleExecNil is for an EXEC before which the transaction was spoilt, so that it does not run.
func (r *reader) settleExecNil(text string, out []byte) []byte {
	s := r.s
	if !strings.HasPrefix(text, "EXECABORT") { // there was no transaction
		return out
	}
	dirty := s.st.dirty || text != "EXECABORT Transaction discarded because of previous errors."
	for _, q := range s.st.effects {
		s.srv.uncount(q)
	}
	s.st.endMulti(true)
	switch {
	case dirty:
		return out
	case s.st.proto == 3:
		return []byte("_\r\n")
	}
	return []byte("*-1\r\n")
}

// settleArray is settle for the array that answers EXEC, or what is said instead. It is
// passed on as it is with asIs.
func (r *reader) settleArray(it *item, out []byte, asIs bool) []byte {
	st := &r.s.st
	if isNull(r.coll) {
		it.left, asIs = 1, true
	}
	scans, ours, names := st.scans(), st.ours(), st.echoes(r.l.route)
	r.echo = names != nil && !asIs
	els, raw := repliesIn(r.coll, names)
	known := it.confirms != nil && it.confirms.whole && !asIs
	var of []prefix.Element
	if known && prefixed(r.l.route) {
		of = r.transaction(els)
	}
	out = r.settle(it, r.coll, out)
	if scans != nil && !asIs && r.l.route.Epoch > 0 {
		out = tagCursors(r.l.route.Epoch, out, pick(raw, scans))
	}
	if known {
		out = r.asKnown(it.confirms, out, raw, of, ours == nil)
	}
	if ours != nil && !asIs {
		it.ours = ours
		out = without(pick(raw, ours), len(ours), out)
	}
	it.settled = true
	return out
}

func (r *reader) settleExec(it *item, reply []byte, failed bool, text string) {
	s := r.s
	st := &s.st
	effects := st.effects
	switch {
	case failed && strings.HasPrefix(text, "EXECABORT"), !failed && isNull(reply):
		for _, q := range effects {
			s.srv.uncount(q)
		}
		st.endMulti(true)
		return
	case failed:
		return
	}
	els, raw := repliesIn(reply, st.echoes(r.l.route))
	it.left = 1 + len(raw) - len(els)
	it.passed = len(els) - 1 // the array itself is counted behind this
	queued := st.placed(els)
	r.settleQueued()
	st.endMulti(true)
	for _, p := range queued {
		it.left += p.n - 1
	}
	for _, p := range queued {
		switch {
		case p.q.role == ours:
		case p.at < len(els):
			r.settleQueuedOne(p.q, els[p.at])
		case it.left > 1:
			it.late = append(it.late, p)
		default: // nobody looks at the elements
			r.settleQueuedOne(p.q, nil)
		}
	}
}

// settleQueuedOne records what a command has done that was queued, by its reply.
func (r *reader) settleQueuedOne(q *item, el []byte) {
	s := r.s
	bad := resp.IsError(el)
	s.srv.ran(q)
	r.events = append(r.events, eventsOf(q, s.st.db, bad)...)
	switch {
	case bad:
		s.doubtful = s.doubtful || halfObeyed(q)
	case isConfirming(q):
		s.st.applySubscriptions(q)
	default:
		r.learnsID(q, el)
		r.apply(q)
	}
}

// settleLate is settleQueuedOne for the one whose reply has come behind the array.
func (r *reader) settleLate(it *item) {
	p := it.late[0]
	it.late = it.late[1:]
	r.settleQueuedOne(p.q, r.coll)
	if resp.IsError(r.coll) { // once, for all of its channels
		it.left -= p.n - 1
		for i := range it.late {
			it.late[i].at -= p.n - 1
		}
	}
}

// learnsID follows that the client is told its connection's id.
func (r *reader) learnsID(it *item, reply []byte) {
	if it.sub != clientID {
		return
	}
	if id, known := idIn(reply); known {
		r.s.st.named = r.s.srv.names.tell(r.s.st.named, r.l.side, id)
	}
}

// applySubscriptions is for those inside a transaction, whose confirmations are
// not looked at.
func (st *state) applySubscriptions(q *item) {
	if q.spec.verb == vUnsubscribe && len(q.args) == 1 {
		clear(st.subs[q.spec.set])
	}
	for _, a := range q.args[1:] {
		st.subscribe(q.spec.set, string(a), q.spec.verb == vSubscribe)
	}
}

// apply follows a command that the server has answered without an error.
func (r *reader) apply(it *item) {
	s := r.s
	st := &s.st
	args := it.args
	st.ver++
	switch it.spec.verb {
	case vAuth:
		if len(args) == 2 {
			s.authenticated("", string(args[1]), r.l)
		} else if len(args) == 3 {
			s.authenticated(string(args[1]), string(args[2]), r.l)
		}
	case vHello:
		r.applyHello(args)
	case vSelect:
		if n, ok := resp.Integer(args[len(args)-1]); ok {
			st.db = int(n)
		}
	case vClient:
		r.applyClient(it)
	case vReplconf:
		s.kept = true
	case vReadonly, vReadwrite:
		st.readonly = it.spec.verb == vReadonly
	case vMulti:
		st.multi = true
	case vDiscard:
		for _, q := range st.effects {
			s.srv.uncount(q)
		}
		st.endMulti(true)
	case vWatch:
		st.watch = true
	case vUnwatch:
		st.watch, st.broken = false, false
	case vReset:
		for _, q := range st.effects {
			s.srv.uncount(q)
		}
		// What library it is stays said, and in some versions what it asked not to happen.
		s.kept = s.kept || st.noEvict || st.noTouch
		s.track(nil)
		ver, info, named, debugs := st.ver, st.info, st.named, st.debugs
		*st = newState()
		st.ver, st.info, st.named = ver+1, info, named
		st.debug(debugs) // no server takes that back
		s.mute, s.skip, s.skipNext, s.letIn = false, false, false, false
	case vRaw:
		r.raw, s.raw = true, true
	case vScript:
		switch {
		case len(args) > 1 && is(args[1], "flush"):
			s.srv.scripts.forget()
		case len(args) == 3 && is(args[1], "debug"):
			on := !is(args[2], "no")
			st.debug(on)
			s.kept = s.kept || on
			r.wake = r.wake || on // a client may be waited for that is gone
		}
	default:
		st.ver--
	}
}

func (r *reader) applyHello(args [][]byte) {
	st := &r.s.st
	if len(args) < 2 {
		return
	}
	if v, ok := resp.Integer(args[1]); ok && (v == 2 || v == 3) {
		st.proto = int(v)
	}
	for i := 2; i < len(args); i++ {
		switch {
		case is(args[i], "auth") && i+2 < len(args):
			r.s.authenticated(string(args[i+1]), string(args[i+2]), r.l)
			i += 2
		case is(args[i], "setname") && i+1 < len(args):
			st.name = args[i+1]
			i++
		}
	}
}

// The subcommands of CLIENT that matter.
const (
	clientOther byte = iota
	clientSetName
	clientSetInfo
	clientNoEvict
	clientNoTouch
	clientReply
	clientTracking
	clientCaching
	clientID // which answers the connection's id
)

func clientSub(args [][]byte) byte {
	if asksID(args) {
		return clientID
	}
	if len(args) < 3 {
		return clientOther
	}
	for sub, name := range []string{"", "setname", "setinfo", "no-evict", "no-touch", "reply", "tracking", "caching"} {
		if is(args[1], name) {
			return byte(sub)
		}
	}
	return clientOther
}

func (r *reader) applyClient(it *item) {
	s := r.s
	st := &s.st
	args := it.args
	switch it.sub {
	case clientSetName:
		st.name = args[2]
	case clientSetInfo:
		if len(args) == 4 {
			if st.info == nil {
				st.info = make(map[string][]byte)
			}
			st.info[strings.ToLower(string(args[2]))] = args[3]
		}
	case clientNoEvict:
		st.noEvict = is(args[2], "on")
	case clientNoTouch:
		st.noTouch = is(args[2], "on")
	case clientTracking:
		if is(args[2], "on") {
			// Prefixes add up; what was said before in the same words adds nothing.
			now := slices.DeleteFunc(slices.Clone(st.tracking), func(said tracking) bool { return slices.EqualFunc(said.args, args, bytes.Equal) })
			t := tracking{args: args}
			if at := redirectAt(args); at != 0 {
				t.to = s.srv.names.of(args[at])
			}
			s.track(append(now, t))
		} else {
			s.track(nil)
		}
	case clientCaching:
		st.caching = wireOf(args...)
		s.justCached = true
	case clientReply:
		switch it.role {
		case muteOn:
			s.mute = true
		case muteOff:
			s.mute = false
		case muteSkip:
			s.skipNext = !s.mute
		}
	default:
		st.ver--
		s.kept = s.kept || tiesDown(args)
	}
}

// tiesDown reports whether a subcommand of CLIENT binds the client to its
// connection: it has learnt the id, by which another will unblock, kill or
// redirect to it, or it has set what the proxy does not know.
func tiesDown(args [][]byte) bool {
	for _, name := range []string{"getname", "getredir", "help", "kill", "list", "pause", "reply", "setname", "trackinginfo", "unblock", "unpause"} {
		if len(args) > 1 && is(args[1], name) {
			return false
		}
	}
	return true
}

// confirmed follows one confirmation of a subscription.
func (s *session) confirmed(l *link, el []byte) {
	_, _, rest, _ := resp.Header(el)
	kind, rest, _ := resp.Text(rest)
	name, _, ok := resp.Text(rest)
	if !ok {
		return
	}
	client := name
	if s.mapsChannels(l) {
		if c, ok := unmapChannel(l.route, name); ok {
			client = c
		}
	}
	set := channels
	k := string(kind)
	switch {
	case strings.HasPrefix(k, "ps"), strings.HasPrefix(k, "pun"):
		set = patterns
	case strings.HasPrefix(k, "ss"), strings.HasPrefix(k, "sun"):
		set = shards
	}
	s.st.subscribe(set, string(client), !strings.Contains(k, "uns"))
}

// clientView maps the keyspace channels of a confirmation or message back to the
// client's database numbers. A message of a database that the client cannot
// know is dropped: nil.
func (s *session) clientView(l *link, el []byte) []byte {
	switch {
	case prefixed(l.route):
		return s.asHeard(l.route, el)
	case !s.mapsChannels(l):
		return el
	}
	typ, n, rest, ok := resp.Header(el)
	if !ok || n < 2 {
		return el
	}
	kind, rest, ok := resp.Text(rest)
	if !ok || !isDelivery(kind) && !isConfirmation(kind) { // a push that names no channel
		return el
	}
	names := 1
	if string(kind) == "pmessage" {
		names = 2
	}
	out := append([]byte{typ}, redcon.AppendArray(nil, n)[1:]...)
	out = redcon.AppendBulk(out, kind)
	for i := range names {
		name, after, ok := resp.Text(rest)
		if !ok {
			return el // a null channel: nothing was subscribed
		}
		client, known := unmapChannel(l.route, name)
		switch {
		case !known && i == names-1 && isDelivery(kind):
			return nil
		case !known:
			client = name
		}
		out = redcon.AppendBulk(out, client)
		rest = after
	}
	return append(out, rest...)
}

// authenticated records who the client is now.
func (s *session) authenticated(user, pass string, l *link) {
	s.st.become(who{authed: true, user: user, pass: pass, known: s.srv.identify(l.side, user, pass)})
}
