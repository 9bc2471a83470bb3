package proxy

import (
	"bytes"
	"maps"
	"slices"

	"github.com/crossfade/crossfade/internal/prefix"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
	"github.com/tidwall/redcon"
)

// Where channels have other names, what a transaction subscribes its client to is confirmed by
// those. The client is to be told its own: in the array that answers EXEC and behind it.
// They are also what a client hears that has silenced that array.

// confirms are the confirmations of a transaction that are still to come; nil: none is looked at.
type confirms struct {
	then *state   // what the client is subscribed to when the next one is said
	left []placed // whose they are: the first one's at is the place of the next
	// whole is that the array is looked at when all of it has come: in RESP2, where nothing else
	// tells which reply is which, and where some of them name keys behind a prefix.
	whole bool
}

// confirms returns those of the transaction, before any of them has come.
func (st *state) confirms(prefixed bool) *confirms {
	if !st.isConfirmed() {
		return nil
	}
	left := slices.DeleteFunc(st.placed(nil), func(p placed) bool { return !isConfirming(p.q) })
	return &confirms{then: st.subscriptions(), left: left, whole: st.proto == 2 || prefixed}
}

// isConfirmed reports whether some replies to EXEC will be confirmations.
func (st *state) isConfirmed() bool { return slices.ContainsFunc(st.effects, isConfirming) }

// at reports whether the next one is the reply at this place.
func (c *confirms) at(place int) bool {
	if c == nil {
		return false
	}
	for len(c.left) > 0 && c.left[0].at < place {
		c.fail()
	}
	return len(c.left) > 0 && c.left[0].at == place
}

// fail follows that one error was said instead of all that its command would have been
// answered.
func (c *confirms) fail() {
	fewer := c.left[0].n - 1
	c.left = c.left[1:]
	for i := range c.left {
		c.left[i].at -= fewer
	}
}

// confirmed returns the next confirmation as the client is to have it. It runs under the
// session's lock.
func (r *reader) confirmed(c *confirms, el []byte) []byte {
	_, _, rest, _ := resp.Header(el)
	kind, _, _ := resp.Text(rest)
	for len(c.left) > 0 && c.left[0].q.spec.name != string(kind) {
		c.fail()
	}
	if len(c.left) == 0 {
		return el
	}
	p := &c.left[0]
	q := p.q
	p.at, p.n = p.at+1, p.n-1
	if p.n == 0 {
		c.left = c.left[1:]
	}
	if !prefixed(r.l.route) {
		return r.s.clientView(r.l, el)
	}
	if q.spec.verb == vUnsubscribe && len(q.args) == 1 { // as it was said there
		if c.then.alike(r.l.route, q.spec.set) {
			q.args, _ = c.then.leaving(r.l.route, q.spec.set, q.args)
		} else {
			el = c.then.clientNamed(r.l.route, q.spec.set, el)
		}
	}
	return c.then.confirmedAs(q, el)
}

// clientNamed returns a confirmation that the server has chosen the name of with the client's.
func (st *state) clientNamed(route router.Route, set byte, el []byte) []byte {
	_, _, rest, _ := resp.Header(el)
	_, rest, _ = resp.Text(rest)
	there, last, ok := resp.Text(rest)
	for name := range st.subs[set] {
		if ok && bytes.Equal(channelOn(route, set, []byte(name)), there) {
			return slices.Concat(el[:len(el)-len(rest)], redcon.AppendBulkString(nil, name), last)
		}
	}
	return el
}

// alike reports whether some of the client's subscriptions are the same where a route leads.
func (st *state) alike(route router.Route, set byte) bool {
	there := make(map[string]struct{})
	for name := range st.subs[set] {
		there[string(channelOn(route, set, []byte(name)))] = struct{}{}
	}
	return len(there) < len(st.subs[set])
}

// leavingLater is leaving for a transaction, of which nobody knows yet what will be obeyed: who
// leaves all says so, unless some are alike.
func (st *state) leavingLater(route router.Route, set byte, args [][]byte) (named, there [][]byte) {
	if len(args) == 1 && !st.alike(route, set) {
		return args, args
	}
	return st.leaving(route, set, args)
}

// confirmedInside is confirmed for one that was pushed into the reply, which passes in pieces.
func (r *reader) confirmedInside(push []byte) []byte {
	if len(push) == 0 || r.it == nil || r.it.confirms == nil || r.it.confirms.whole {
		return push
	}
	return r.unsilenced(r.confirmed(r.it.confirms, push))
}

// unsilenced passes on what is pushed, where the reply that it was found in is silenced.
func (r *reader) unsilenced(push []byte) []byte {
	if r.drop {
		r.s.out.append(push)
	}
	return push
}

// asKnown returns the array that answers EXEC as the client is to have it. all says which
// replies are in it, as repliesIn does, and of which of them name keys. Messages that are
// not for the client are left out if they may.
func (r *reader) asKnown(c *confirms, array []byte, all []int, of []prefix.Element, mayShrink bool) []byte {
	els, pushed := resp.Split(array)
	for i, at := range all {
		if pushed != nil {
			r.unsilenced(pushed[i])
		}
		switch {
		case at < 0:
			if el := r.unsilenced(r.told(els[i])); el != nil || mayShrink {
				els[i] = el
			}
		case c.at(at) && !resp.IsError(els[i]):
			els[i] = r.unsilenced(r.confirmed(c, els[i]))
		case at < len(of) && of[at].Form != prefix.Nothing:
			var strip prefix.Stripper
			strip.Begin(of[at].With, of[at].Form)
			els[i] = strip.Feed(nil, els[i])
		}
	}
	return joined(len(els), els, pushed)
}

// subscriptions returns a state that has the client's and nothing else, to follow what becomes
// of them.
func (st *state) subscriptions() *state {
	then := new(state)
	for set := range st.subs {
		then.subs[set] = maps.Clone(st.subs[set])
	}
	return then
}

// leaving returns the words of an UNSUBSCRIBE, with what it names where it names nothing, and
// how it is said where a route leads: what is known there by the same name as another one that
// the client keeps stays subscribed.
func (st *state) leaving(route router.Route, set byte, args [][]byte) (named, there [][]byte) {
	left := make(map[string]int)
	for _, name := range slices.Sorted(maps.Keys(st.subs[set])) {
		left[string(channelOn(route, set, []byte(name)))]++
		if len(args) == 1 {
			named = append(named, []byte(name))
		}
	}
	named = slices.Concat(args, named)
	there = [][]byte{args[0]}
	gone := make(map[string]bool)
	for _, name := range named[1:] {
		to := channelOn(route, set, name)
		_, its := st.subs[set][string(name)]
		if its && !gone[string(name)] {
			gone[string(name)] = true
			if left[string(to)]--; left[string(to)] > 0 {
				to = []byte(nowhere)
			}
		} else if left[string(to)] > 0 {
			to = []byte(nowhere)
		}
		there = append(there, to)
	}
	return named, there
}
