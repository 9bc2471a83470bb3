package proxy

import (
	"slices"

	"github.com/crossfade/crossfade/internal/prefix"
)

const (
	maxQueue      = 10_000   // commands of one MULTI that can be moved to the other side
	maxQueueBytes = 64 << 20 // … and their bytes
)

// tooLong is why a session cannot be moved until its transaction ends.
const tooLong = "its transaction is too long to be moved"

// debugging is why a session cannot be, as long as that is so.
const debugging = "it debugs scripts"

// state is what a server knows about a connection besides its data: what has to
// be said again to the other server for the client not to notice the switch. It
// follows successful replies, in order. Guarded by session.mu.
type state struct {
	ver uint64 // rises with every change that setup would say differently

	proto int // 2 or 3
	db    int // as the client numbers it
	who
	past []who // other users that it was before, and as whom it may have said what follows
	name []byte
	info map[string][]byte // CLIENT SETINFO attribute → value

	noEvict, noTouch, readonly bool

	tracking []tracking // the CLIENT TRACKING ON commands (prefixes add up), nil when off
	caching  []byte     // CLIENT CACHING for the next command, nil when none
	named    *named     // what other clients know the connection by; nil: this one has not asked
	subs     [3]map[string]struct{}

	multi      bool
	dirty      bool // EXEC will answer EXECABORT
	queue      []*item
	queueBytes int
	remembered int     // bytes of effects and writes, also where queue stopped following
	queued     int     // how many the server has queued, also where queue stopped following
	effects    []*item // those of them that change this state or concern the observer
	writes     []*item // those that may change keys and have no other effect
	watch      bool
	broken     bool // keys were watched on another server: EXEC must answer nil

	debugs bool // scripts are run step by step

	// stuck says why the session cannot be moved to another server; it is closed
	// at a switch. Empty when it can.
	stuck string
}

// who is a client as a server knows it.
type who struct {
	authed     bool      // otherwise it is nobody, or whom the server takes it for without being told
	user, pass string    // how it authenticated; user is "" for AUTH password
	known      *Identity // nil: both servers are told the same
}

// like reports whether both are the same user, however they have proved it.
func (w who) like(other who) bool { return orDefault(w.user) == orDefault(other.user) }

const mostPast = 4 // users that are remembered of one client, besides the one that it is

// become has the client be another user from now on. What it has said before stays said,
// even what the new user may not say; so who said it is remembered.
func (st *state) become(now who) {
	before := st.who
	st.who = now
	st.past = slices.DeleteFunc(st.past, now.like)
	says := st.db != 0 || st.name != nil || st.noEvict || st.noTouch || st.readonly || st.tracking != nil || st.subscribed() > 0
	if says && !before.like(now) {
		st.past = append(slices.DeleteFunc(st.past, before.like), before)
		st.past = st.past[max(0, len(st.past)-mostPast):]
	}
}

func newState() state { return state{proto: 2} }

// debug has scripts be run step by step from now on, or no more.
func (st *state) debug(on bool) {
	st.debugs = on
	switch {
	case on && st.stuck == "":
		st.stuck = debugging
	case !on && st.stuck == debugging:
		st.stuck = ""
	}
}

func (st *state) subscribed() int { return len(st.subs[0]) + len(st.subs[1]) + len(st.subs[2]) }

func (st *state) subscribe(set byte, name string, on bool) {
	before := len(st.subs[set])
	switch {
	case !on:
		delete(st.subs[set], name)
	case st.subs[set] == nil:
		st.subs[set] = map[string]struct{}{name: {}}
	default:
		st.subs[set][name] = struct{}{}
	}
	if len(st.subs[set]) != before {
		st.ver++
	}
}

// enqueue remembers a command that the server has queued.
func (st *state) enqueue(it *item) {
	it.index = st.queued
	st.queued++
	if st.stuck == tooLong { // it is not said again
		it.raw = nil
		it.shed()
	}
	switch {
	case it.hasEffect():
		st.effects = append(st.effects, it)
		st.remembered += it.weight()
	case (len(it.wrote) > 0 || it.unknown) && len(st.writes) < maxQueue:
		st.writes = append(st.writes, it)
		st.remembered += it.weight()
	}
	if st.stuck != "" {
		return
	}
	st.queueBytes += len(it.raw)
	if len(st.queue) >= maxQueue || st.queueBytes > maxQueueBytes {
		st.stuck = tooLong
		st.queue = nil
		return
	}
	st.queue = append(st.queue, it)
	st.ver++
}

// hasEffect reports whether a queued command matters beyond its reply.
func (it *item) hasEffect() bool {
	switch it.spec.verb {
	case vSelect, vAuth, vHello, vClient, vSubscribe, vUnsubscribe, vReadonly, vReadwrite,
		vFlushAll, vFlushDB, vSwapDB, vFunction, vScript, vReplconf, vScan:
		return true
	}
	return len(it.keys) > 0 || it.counted != "" || it.spec.form.Reply != prefix.Nothing
}

// queuedIn returns 1 + the database that the transaction has gone to, 0 where it has not.
func (st *state) queuedIn() (in int) {
	for _, q := range st.effects {
		if n, ok := selected(q.spec, q.args); ok {
			in = n + 1
		}
	}
	return in
}

// needsElements reports whether the elements of the reply to EXEC matter.
func (st *state) needsElements() bool {
	for _, it := range st.effects {
		if len(it.keys) == 0 {
			return true
		}
	}
	return false
}

// subscribes reports whether the transaction does.
func (st *state) subscribes() bool {
	return slices.ContainsFunc(st.effects, func(q *item) bool { return q.spec.verb == vSubscribe })
}

// scans returns the places of the queued commands whose cursors are one server's.
func (st *state) scans() []int {
	return st.repliesTo(func(q *item) bool { return q.spec.verb == vScan })
}

// askID returns which of the replies to EXEC tell the client its connection's id.
func (st *state) askID() []int {
	return st.repliesTo(func(q *item) bool { return q.sub == clientID })
}

func (st *state) endMulti(unwatched bool) {
	st.multi, st.dirty, st.queue, st.queueBytes, st.queued, st.effects, st.writes = false, false, nil, 0, 0, nil, nil
	st.remembered = 0
	if unwatched {
		st.watch, st.broken = false, false
	}
	if st.stuck == tooLong {
		st.stuck = ""
	}
	st.ver++
}
