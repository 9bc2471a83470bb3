package proxy

import "github.com/crossfade/crossfade/internal/resp"

// What sessions tell of their writes, see written.go for guests: each command's keys
// were kept with it, so nothing is gathered.

// writesOf says which keys a command may have changed. Nothing is looked for in its
// reply.
func writesOf(it *item, db int) []event {
	var out []event
	if it.unknown {
		out = append(out, event{kind: wroteUnknown, db: db})
	}
	if len(it.wrote) == 0 {
		return out
	}
	switch args := it.args; {
	case it.spec.verb == vMove && len(args) == 3:
		if n, ok := resp.Integer(args[2]); ok {
			out = append(out, event{kind: wrote, db: int(n), keys: it.wrote})
		}
	case it.spec.verb == vCopy:
		for i := 3; i+1 < len(args); i++ {
			if n, ok := resp.Integer(args[i+1]); ok && is(args[i], "db") {
				db = int(n)
			}
		}
	}
	return append(out, event{kind: wrote, db: db, keys: it.wrote})
}

// tellWrites passes on what a session's commands may have changed.
func (s *Server) tellWrites(e event) {
	if s.writes == nil {
		return
	}
	if len(e.keys) == 0 {
		s.writes.Wrote([]Write{{DB: e.db}})
		return
	}
	list := make([]Write, len(e.keys))
	for i, k := range e.keys {
		list[i] = Write{DB: e.db, Key: []byte(k)}
	}
	s.writes.Wrote(list)
}

// settleQueued reports what the plain commands of a transaction may have changed.
func (r *reader) settleQueued() {
	st := &r.s.st
	for _, q := range st.effects {
		if q.spec.verb == vSelect && len(st.writes) > 0 {
			r.events = append(r.events, event{kind: wroteUnknown, db: st.db})
			return
		}
	}
	for _, q := range st.writes {
		r.events = append(r.events, writesOf(q, st.db)...)
	}
}
