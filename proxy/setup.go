package proxy

import (
	"maps"
	"slices"
	"strconv"

	"github.com/crossfade/crossfade/internal/prefix"
	"github.com/crossfade/crossfade/router"
)

// line is one command of a setup and what is thought of its reply.
type line struct {
	wire    []byte
	what    string // for the error: never a secret
	lenient bool   // an error does not matter
	noAuth  bool   // a NOAUTH answer does not matter: the client has to authenticate
	later   bool   // nor does it that the server is busy: it can be said again
	queued  bool   // any answer is right; an error spoils the transaction, as it should
	barrier bool   // PING: pushes before it are discarded, those after it kept
	replies int    // how many replies (confirmations) it takes; 0 means one
	id      bool   // the answer is the connection's id
	lists   bool   // … or names it, for who looks for the connection in the server's list
	said    *bool  // set once one of several lines is obeyed: then errors of the others do not matter
	after   bool   // said only when all before it is answered
}

// depth says how much of a client's state a connection has been told.
type depth byte

const (
	nothing   depth = iota
	greeted         // who the client is, its database, and what it is called
	listening       // … and its subscriptions
	whole           // … and its tracking and its transaction
)

// setup returns what brings a fresh connection to a side into this state.
func (s *Server) setup(st *state, route router.Route, to depth) []line {
	return s.deepen(st, route, nothing, to)
}

// deepen returns what brings a connection from one depth of this state to another.
func (s *Server) deepen(st *state, route router.Route, from, to depth) []line {
	var out []line
	// In RESP2 a subscriber may say nothing but that it subscribes.
	mute := st.proto == 2 && st.subscribed() > 0
	if from < greeted && to >= greeted {
		user, pass, auth := s.credentials(&st.who, route.Side)
		out = append(out, greetingOf(st.proto, user, pass, auth)...)
		out = append(out, s.asAll(st, route.Side, st.says(route, auth))...)
		out = append(out, s.asksListed(route.Side)...)
	}
	if from < listening && to >= listening && st.subscribed() > 0 {
		var lines []line
		if mute {
			lines = s.tracks(st, route)
		}
		lines = append(lines, st.hears(route)...)
		if mute && len(st.past) > 0 {
			out = append(out, line{wire: words("HELLO", "3"), what: "HELLO 3"})
		}
		out = append(out, s.asAll(st, route.Side, lines)...)
		if mute && len(st.past) > 0 {
			out = append(out, line{wire: words("HELLO", "2"), what: "HELLO 2"})
		}
		out = append(out, line{wire: words("PING"), what: "PING", barrier: true, lenient: true}) // an error is as good
	}
	if from < whole && to >= whole {
		if !mute {
			out = append(out, s.asAll(st, route.Side, s.tracks(st, route))...)
		}
		out = append(out, s.begun(st, route)...)
	}
	return out
}

// asAll returns what has these lines said by every user that the client has been, until
// one of them may, and at last by the one that it is.
func (s *Server) asAll(st *state, side router.Side, lines []line) []line {
	if len(st.past) == 0 || len(lines) == 0 {
		return lines
	}
	said := make([]bool, len(lines))
	for i := range lines {
		lines[i].said = &said[i]
	}
	var out []line
	for i := range st.past {
		login := s.loginOf(&st.past[i], side)
		login.lenient = true
		out = append(out, login)
		for _, ln := range lines {
			ln.lenient = true
			out = append(out, ln)
		}
	}
	return append(append(out, s.loginOf(&st.who, side)), lines...)
}

// greetingOf begins a connection.
func greetingOf(proto int, user, pass string, auth bool) []line {
	switch {
	case proto == 3 && auth:
		return []line{{wire: words("HELLO", "3", "AUTH", orDefault(user), pass), what: "HELLO 3 with AUTH"}}
	case proto == 3:
		return []line{{wire: words("HELLO", "3"), what: "HELLO 3", noAuth: true}}
	case auth && user == "":
		return []line{{wire: words("AUTH", pass), what: "AUTH"}}
	case auth:
		return []line{{wire: words("AUTH", user, pass), what: "AUTH of user " + strconv.Quote(user)}}
	}
	return nil
}

// loginOf has a connection be another user's. Servers from Redis 7.2 to 8.0, and Valkey 8, give
// no answer to who is refused while an earlier one has yet to be written.
func (s *Server) loginOf(w *who, side router.Side) line {
	user, pass, auth := s.credentials(w, side)
	if !auth {
		user, pass = "", "-" // any password will do, where none is wanted
	}
	user = orDefault(user)
	return line{wire: words("AUTH", user, pass), what: "AUTH of user " + strconv.Quote(user), after: true}
}

// says returns what a server is told of a client whom it knows. Who has yet to
// authenticate, without auth, may be refused it.
func (st *state) says(route router.Route, auth bool) []line {
	var out []line
	add := func(what string, lenient bool, wire []byte) {
		out = append(out, line{wire: wire, what: what, lenient: lenient, noAuth: !auth, later: true})
	}
	if db, ok := route.DB(st.db); ok && db != 0 {
		n := strconv.Itoa(db)
		add("SELECT "+n, false, words("SELECT", n))
	}
	if len(st.name) > 0 { // by HELLO, perhaps, which takes no right
		add("CLIENT SETNAME", true, wireOf([]byte("CLIENT"), []byte("SETNAME"), st.name))
	}
	for _, attr := range slices.Sorted(maps.Keys(st.info)) { // in order, so that like connections are found to be so
		add("CLIENT SETINFO", true, wireOf([]byte("CLIENT"), []byte("SETINFO"), []byte(attr), st.info[attr]))
	}
	if st.noEvict {
		add("CLIENT NO-EVICT", true, words("CLIENT", "NO-EVICT", "ON"))
	}
	if st.noTouch {
		add("CLIENT NO-TOUCH", true, words("CLIENT", "NO-TOUCH", "ON"))
	}
	if st.readonly {
		add("READONLY", true, words("READONLY"))
	}
	return out
}

// hears returns what a client has subscribed to; each name by itself where not all of
// them may be the same user's.
func (st *state) hears(route router.Route) []line {
	var out []line
	for set, verb := range []string{"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"} {
		args := [][]byte{[]byte(verb)}
		for _, n := range slices.Sorted(maps.Keys(st.subs[set])) {
			args = append(args, channelOn(route, byte(set), []byte(n)))
			if len(st.past) > 0 {
				out = append(out, line{wire: wireOf(args...), what: verb, replies: 1})
				args = args[:1]
			}
		}
		if n := len(args) - 1; n > 0 {
			out = append(out, line{wire: wireOf(args...), what: verb, replies: n})
		}
	}
	return out
}

// begun returns what the client is in the middle of.
func (s *Server) begun(st *state, route router.Route) []line {
	var out []line
	if st.caching != nil { // it is about the next command, or all of a transaction: there it would be queued
		out = append(out, line{wire: st.caching, what: "CLIENT CACHING", lenient: true})
	}
	if st.multi {
		out = append(out, line{wire: words("MULTI"), what: "MULTI"})
		if st.dirty {
			out = append(out, line{wire: refusedCommand, queued: true})
		}
		db, then := st.db, st.subscriptions()
		for _, it := range st.queue {
			args := it.args
			if args == nil && prefixed(route) {
				args = parsed(it.raw)
			}
			wire, refusal := s.said(nil, new(prefix.Rewriter), route, db, it.spec, args)
			if n, ok := selected(it.spec, args); ok {
				db = n
			}
			switch {
			case it.spec.verb == vAuth, it.spec.verb == vHello:
				wire = s.authenticates(route.Side, it, false)
			case it.spec.verb == vUnsubscribe && prefixed(route):
				_, there := then.leavingLater(route, it.spec.set, args)
				wire = wireOf(there...)
			case refusal != "":
				wire = refusedCommand
			case wire == nil:
				wire = it.raw
			}
			out = append(out, line{wire: wire, queued: true})
			if isConfirming(it) {
				then.applySubscriptions(it)
			}
		}
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

// credentials says how a connection to a side authenticates for a client. Who has not
// said who it is gets what is the operator's only at the target, and only where it needs
// none to be let in by the source: never what the source keeps others out with.
func (s *Server) credentials(w *who, side router.Side) (user, pass string, ok bool) {
	var here Login
	switch {
	case w.authed && w.known == nil:
		return w.user, w.pass, true
	case w.authed:
		here = w.known.Sides[side]
	case side == router.Target && !s.cfg.Users && !s.cfg.Upstreams[router.Source].login().has():
		here = s.cfg.Upstreams[router.Target].login()
	}
	return here.User, here.Password, here.has()
}
