package proxy

import (
	"bytes"
	"slices"
	"strconv"
	"sync"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// mostTold is by how many of its ids a connection is known, the last ones.
const mostTold = 8

// nobodysID is one that no server gives.
const nobodysID = 1<<63 - 1

// names are the ids by which clients know each other's connections: what CLIENT ID and
// CLIENT INFO have answered them. On the other server a connection has another one, so
// what names it there is translated. The zero value is ready. Safe for concurrent use; it
// calls nobody.
type names struct {
	mu   sync.Mutex
	told map[int64]*named // who was last told that this is its id
}

// named is a session whose client knows its id.
type named struct {
	told    []int64
	at      [2]int64 // by router.Side: of the connection there, or that is ready there; 0: none
	hears   int      // how many clients have it told what they remember and has changed
	isEnded bool
}

// tell notes that the client of x, which may be nil, was told an id.
func (n *names) tell(x *named, side router.Side, id int64) *named {
	n.mu.Lock()
	defer n.mu.Unlock()
	if x == nil {
		x = new(named)
	}
	if n.told == nil {
		n.told = make(map[int64]*named)
	}
	x.at[side] = id
	if !slices.Contains(x.told, id) {
		if len(x.told) == mostTold {
			n.drop(x, x.told[0])
			x.told = slices.Delete(x.told, 0, 1)
		}
		x.told = append(x.told, id)
	}
	n.told[id] = x
	return x
}

func (n *names) drop(x *named, id int64) {
	if n.told[id] == x {
		delete(n.told, id)
	}
}

// arrive notes which id the connection of x on a side has.
func (n *names) arrive(x *named, side router.Side, id int64) {
	n.mu.Lock()
	x.at[side] = id
	n.mu.Unlock()
}

// end forgets x.
func (n *names) end(x *named) {
	if x == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	x.isEnded = true
	for _, id := range x.told {
		n.drop(x, id)
	}
}

// of returns who is meant by an id, nil where nobody was told that.
func (n *names) of(arg []byte) *named {
	id, ok := resp.Integer(arg)
	if !ok {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.told[id]
}

// at returns the id of x on a side, 0 where it has none, and whether its client is gone.
func (n *names) at(x *named, side router.Side) (id int64, gone bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return x.at[side], x.isEnded
}

// redirect has one client more, and another one less, have their messages sent there.
func (n *names) redirect(from, to *named) {
	if from == to {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if from != nil {
		from.hears--
	}
	if to != nil {
		to.hears++
	}
}

// hears reports whether somebody has its messages sent to x.
func (n *names) hears(x *named) bool {
	if x == nil {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return x.hears > 0
}

// namesAt finds the argument of a CLIENT command that is a connection's id, 0 where
// there is none.
func namesAt(args [][]byte) int {
	switch {
	case len(args) < 3:
	case is(args[1], "unblock"):
		return 2
	case is(args[1], "kill"):
		for i := 2; i+1 < len(args); i += 2 {
			if is(args[i], "id") {
				return i + 1
			}
		}
	case is(args[1], "tracking"):
		return redirectAt(args)
	}
	return 0
}

// redirectAt finds the id in a CLIENT TRACKING … REDIRECT id, 0 where there is none.
func redirectAt(args [][]byte) int {
	for i := 3; i+1 < len(args); i++ {
		switch {
		case is(args[i], "redirect"):
			return i + 1
		case is(args[i], "prefix"):
			i++
		}
	}
	return 0
}

// nameOn says a CLIENT command with the id that its argument has on a side; nil is as it
// is.
func (n *names) nameOn(side router.Side, args [][]byte) [][]byte {
	at := namesAt(args)
	if at == 0 {
		return nil
	}
	x := n.of(args[at])
	if x == nil {
		return nil
	}
	id, _ := n.at(x, side)
	there := strconv.AppendInt(nil, id, 10)
	if id == 0 || bytes.Equal(there, args[at]) {
		return nil
	}
	return slices.Concat(args[:at], [][]byte{there}, args[at+1:])
}

// asksID reports whether a CLIENT command is answered with the connection's own id.
func asksID(args [][]byte) bool {
	return len(args) == 2 && (is(args[1], "id") || is(args[1], "info"))
}

// idIn reads it from the answer.
func idIn(reply []byte) (int64, bool) {
	text, _, ok := resp.Text(reply)
	if !ok {
		return 0, false
	}
	text = bytes.TrimPrefix(text, []byte("txt:"))
	if line, found := bytes.CutPrefix(text, []byte("id=")); found {
		text, _, _ = bytes.Cut(line, []byte(" "))
	}
	return resp.Integer(text)
}

// tracking is a CLIENT TRACKING ON that stands.
type tracking struct {
	args [][]byte
	to   *named // whom it redirects to; nil: nobody, or somebody whom the proxy does not know
}

// redirects reports whether it does, to whomever.
func (t *tracking) redirects() bool { return redirectAt(t.args) != 0 }

// hearer is who is told what the client remembers and has changed; nil: itself, or
// somebody whom the proxy does not know.
func (st *state) hearer() *named {
	if n := len(st.tracking); n > 0 {
		return st.tracking[n-1].to
	}
	return nil
}

// track replaces what is tracked, by the session's lock.
func (s *session) track(now []tracking) {
	before := s.st.hearer()
	s.st.tracking = now
	s.srv.names.redirect(before, s.st.hearer())
}

// tracks returns what a server is told of it. Whose messages went to a client that is
// gone has heard nothing since.
func (s *Server) tracks(st *state, route router.Route) []line {
	var out []line
	for _, t := range st.tracking {
		args := t.args
		if at := redirectAt(args); at != 0 && t.to != nil {
			id, gone := s.names.at(t.to, route.Side)
			if gone {
				continue
			}
			if id == 0 { // rather an error than somebody else
				id = nobodysID
			}
			args = slices.Concat(args[:at], [][]byte{strconv.AppendInt(nil, id, 10)}, args[at+1:])
		}
		if prefixed(route) {
			args = broadcast(route.Map, args)
		}
		out = append(out, line{wire: wireOf(args...), what: "CLIENT TRACKING"})
	}
	return out
}

// invalidation is what a client is told when everything that it may remember, or another
// one whose messages it hears, may have changed; nil where it is told nothing. It runs
// under the session's lock.
func (s *session) invalidation() []byte {
	st := &s.st
	n := len(st.tracking)
	tracks := n > 0 && !st.tracking[n-1].redirects()
	switch heard := s.srv.names.hears(st.named); {
	case st.proto == 3 && (tracks || heard):
		return []byte(">2\r\n$10\r\ninvalidate\r\n_\r\n")
	case st.proto == 2 && heard && st.subscribed() > 0:
		return []byte("*3\r\n$7\r\nmessage\r\n$20\r\n__redis__:invalidate\r\n$-1\r\n")
	}
	return nil
}
