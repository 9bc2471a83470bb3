package proxy

import (
	"maps"
	"slices"
	"strconv"

	"github.com/crossfade/crossfade/router"
)

const (
	maxQueue      = 10_000   // commands of one MULTI that can be moved to the other side
	maxQueueBytes = 64 << 20 // … and their bytes
)

// tooLong is why a session cannot be moved until its transaction ends.
const tooLong = "its transaction is too long to be moved"

// state is what a server knows about a connection besides its data: what has to
// be said again to the other server for the client not to notice the switch. It
// follows successful replies, in order. Guarded by session.mu.
type state struct {
	ver uint64 // rises with every change that setup would say differently

	proto  int // 2 or 3
	db     int // as the client numbers it
	authed bool
	cred   credential
	name   []byte
	info   map[string][]byte // CLIENT SETINFO attribute → value

	noEvict, noTouch, readonly bool

	tracking [][][]byte // the CLIENT TRACKING ON commands (prefixes add up), nil when off
	caching  []byte     // CLIENT CACHING for the next command, nil when none
	subs     [3]map[string]struct{}

	multi      bool
	dirty      bool // EXEC will answer EXECABORT
	queue      []*item
	queueBytes int
	queued     int     // how many the server has queued, also where queue stopped following
	effects    []*item // those of them that change this state or concern the observer
	writes     []*item // those that may change keys and have no other effect
	watch      bool

	// stuck says why the session cannot be moved to another server; it is closed
	// at a switch. Empty when it can.
	stuck string
}

// credential is how the client authenticated.
type credential struct {
	user, pass string    // user is "" for AUTH password
	who        *Identity // nil: both servers are told the same
}

func newState() state { return state{proto: 2} }

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
	switch {
	case it.hasEffect():
		st.effects = append(st.effects, it)
	case (len(it.wrote) > 0 || it.unknown) && len(st.writes) < maxQueue:
		st.writes = append(st.writes, it)
	}
	if isConfirming(it) {
		st.stuck = "it subscribes inside a transaction"
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
		vFlushAll, vFlushDB, vSwapDB, vFunction, vScript, vReplconf:
		return true
	}
	return len(it.keys) > 0 || it.counted != ""
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

func (st *state) endMulti(unwatched bool) {
	st.multi, st.dirty, st.queue, st.queueBytes, st.queued, st.effects, st.writes = false, false, nil, 0, 0, nil, nil
	if unwatched {
		st.watch = false
	}
	if st.stuck == tooLong {
		st.stuck = ""
	}
	st.ver++
}

// line is one command of a setup and what is thought of its reply.
type line struct {
	wire    []byte
	what    string // for the error: never a secret
	lenient bool   // an error does not matter
	noAuth  bool   // a NOAUTH answer does not matter: the client has to authenticate
	queued  bool   // any answer is right; an error spoils the transaction, as it should
	db      bool   // this is the SELECT
	barrier bool   // PING: pushes before it are discarded, those after it kept
	replies int    // how many replies (confirmations) it takes; 0 means one
}

// setup returns what brings a fresh connection to a side into this state. With
// full it includes what costs the server something or can be heard by others:
// tracking, subscriptions and the transaction.
func (s *Server) setup(st *state, from router.Side, route router.Route, full bool) []line {
	var out []line
	user, pass, auth := s.credentials(st, from, route.Side)
	switch {
	case st.proto == 3 && auth:
		if user == "" {
			user = "default"
		}
		out = append(out, line{wire: words("HELLO", "3", "AUTH", user, pass), what: "HELLO 3 with AUTH"})
	case st.proto == 3:
		out = append(out, line{wire: words("HELLO", "3"), what: "HELLO 3"})
	case auth && user == "":
		out = append(out, line{wire: words("AUTH", pass), what: "AUTH"})
	case auth:
		out = append(out, line{wire: words("AUTH", user, pass), what: "AUTH of user " + strconv.Quote(user)})
	}
	if db, ok := route.DB(st.db); ok && db != 0 {
		n := strconv.Itoa(db)
		out = append(out, line{wire: words("SELECT", n), what: "SELECT " + n, noAuth: !auth, db: true})
	}
	if len(st.name) > 0 {
		out = append(out, line{wire: wireOf([]byte("CLIENT"), []byte("SETNAME"), st.name), what: "CLIENT SETNAME"})
	}
	for _, attr := range slices.Sorted(maps.Keys(st.info)) { // in order, so that like connections are found to be so
		out = append(out, line{wire: wireOf([]byte("CLIENT"), []byte("SETINFO"), []byte(attr), st.info[attr]), what: "CLIENT SETINFO", lenient: true})
	}
	if st.noEvict {
		out = append(out, line{wire: words("CLIENT", "NO-EVICT", "ON"), what: "CLIENT NO-EVICT", lenient: true})
	}
	if st.noTouch {
		out = append(out, line{wire: words("CLIENT", "NO-TOUCH", "ON"), what: "CLIENT NO-TOUCH", lenient: true})
	}
	if st.readonly {
		out = append(out, line{wire: words("READONLY"), what: "READONLY", lenient: true})
	}
	if full {
		out = append(out, s.setupFull(st, route)...)
	}
	return out
}

func (s *Server) setupFull(st *state, route router.Route) []line {
	var out []line
	for _, args := range st.tracking {
		out = append(out, line{wire: wireOf(args...), what: "CLIENT TRACKING"})
	}
	for set, verb := range []string{"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"} {
		if names := st.subs[set]; len(names) > 0 {
			args := [][]byte{[]byte(verb)}
			for _, n := range slices.Sorted(maps.Keys(names)) {
				args = append(args, mapChannel(route, []byte(n)))
			}
			out = append(out, line{wire: wireOf(args...), what: verb, replies: len(names)})
		}
	}
	if st.subscribed() > 0 {
		out = append(out, line{wire: words("PING"), what: "PING", barrier: true})
	}
	if st.multi {
		out = append(out, line{wire: words("MULTI"), what: "MULTI"})
		if st.dirty {
			out = append(out, line{wire: refusedCommand, queued: true})
		}
		for _, it := range st.queue {
			wire, refusal := s.translate(route, it.spec, it.args)
			switch {
			case it.spec.verb == vAuth, it.spec.verb == vHello:
				wire = s.authenticates(route.Side, it, false)
			case refusal != "":
				wire = refusedCommand
			case wire == nil:
				wire = it.raw
			}
			out = append(out, line{wire: wire, queued: true})
		}
	}
	if st.caching != nil {
		out = append(out, line{wire: st.caching, what: "CLIENT CACHING", lenient: true})
	}
	return out
}

// refusedCommand is refused by every server for its missing argument, which
// spoils a transaction.
var refusedCommand = []byte("*1\r\n$6\r\nSELECT\r\n")

// login returns the credentials of the operator's URL.
func (u Upstream) login() Login {
	if u.Password == "" {
		return Login{}
	}
	return Login{User: u.Username, Password: u.Password}
}

func orDefault(user string) string {
	if user == "" {
		return "default"
	}
	return user
}

// credentials says how a connection to a side authenticates for a client that
// comes from another (from == to for a new one).
func (s *Server) credentials(st *state, from, to router.Side) (user, pass string, ok bool) {
	switch {
	case !st.authed:
		here := s.cfg.Upstreams[to].login()
		if s.cfg.Users || from == to || s.cfg.Upstreams[from].login().has() {
			here = Login{}
		}
		return here.User, here.Password, here.has()
	case st.cred.who != nil:
		here := st.cred.who.Sides[to]
		return here.User, here.Password, here.has()
	}
	return st.cred.user, st.cred.pass, true
}
