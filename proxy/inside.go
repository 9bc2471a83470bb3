package proxy

import (
	"bytes"

	"github.com/crossfade/crossfade/internal/resp"
)

// Redis before 7.2 puts into the middle of a reply what the command, or a transaction's, has
// the client itself be told: messages, events of keys, invalidations. Where keys or
// databases have other names, these are to be as the client knows them, as all that it is
// told; and they are no elements of the reply.

// inside finds what was pushed into the middle of one reply, at any depth. It can stop and
// go on at any byte and holds one push at most. The zero value stands before the reply.
type inside struct {
	begun   bool
	line    bool        // in the first line of an aggregate
	fr      resp.Framer // of a push, or of an element that has no elements
	pushing bool
	push    []byte // what has come of it
}

// next takes n bytes of b. They end a push, and push is the whole of it, or piece is what
// the reply goes on with; neither while a push is not whole. Both are good until the next call.
func (in *inside) next(b []byte) (n int, piece, push []byte) {
	if in.fr.AtStart() && !in.line {
		switch b[0] {
		case '*', '%', '~', '|', '.':
			in.line, in.pushing = true, false
		default:
			in.pushing, in.push = b[0] == '>' && in.begun, in.push[:0]
		}
		in.begun = true
	}
	if in.line {
		if n = bytes.IndexByte(b, '\n') + 1; n == 0 {
			return len(b), b, nil
		}
		in.line = false
		return n, b[:n], nil
	}
	n, done, err := in.fr.Feed(b)
	if err != nil { // who finds the end of the whole has seen it too
		return len(b), b, nil
	}
	if !in.pushing {
		return n, b[:n], nil
	}
	in.push = append(in.push, b[:n]...)
	switch {
	case !done:
		return n, nil, nil
	case resp.Stray(in.push):
		return n, nil, in.push
	}
	return n, in.push, nil
}

// looksInside finds out whether the client is to be told otherwise what was pushed into the
// reply that starts with c, or is to be told of that reply nothing else.
func (r *reader) looksInside(it *item, c byte) {
	st := &r.s.st
	exec := it != nil && it.spec.verb == vExec && st.multi
	otherwise := prefixed(r.l.route) || r.s.mapsChannels(r.l) || exec && r.drop
	if c != '*' && c != '~' && c != '%' || !otherwise {
		return
	}
	if exec || st.proto == 3 && (r.stripping || st.subscribed() > 0 || st.tracking != nil) {
		r.looking, r.inside, r.hears = true, inside{}, nil
	}
	if exec {
		r.hears, it.confirms = st.hearsInExec(), st.confirms(prefixed(r.l.route))
	}
}

// hearsInExec returns the client's subscriptions with those that its transaction makes; nil
// where it makes none.
func (st *state) hearsInExec() *[3]map[string]struct{} {
	if !st.subscribes() {
		return nil
	}
	then := st.subscriptions()
	for _, q := range st.effects {
		if q.spec.verb == vSubscribe {
			then.applySubscriptions(q)
		}
	}
	return &then.subs
}

// told returns what was pushed into the current reply as the client is to have it; nil is
// nothing.
func (r *reader) told(push []byte) []byte {
	if st := &r.s.st; r.hears != nil {
		settled := st.subs
		st.subs = *r.hears
		defer func() { st.subs = settled }()
	}
	return r.s.clientView(r.l, push)
}
