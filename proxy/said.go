package proxy

import (
	"bytes"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/prefix"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
	"github.com/tidwall/redcon"
)

// Behind a prefix. A client's database may be a part of one of the target's: the keys that
// begin with its prefix. Everything in here speaks of them as the client does, without it;
// they get it when a command is written to the target, and lose it when a reply comes from
// there, and nowhere else.

// prefixed reports whether some keys have other names where a route leads.
func prefixed(route router.Route) bool { return route.Rewrites() && route.Map.Prefixed() }

// prefixOf returns what stands before the keys of a client's database where a route leads.
func prefixOf(route router.Route, db int) string {
	place, _ := route.Place(db)
	return place.Prefix
}

// formsOf puts the forms into the command table, and what else is to be known of a command
// behind a prefix.
func formsOf(table map[string]*spec) {
	for name, s := range table {
		s.form = prefix.FormOf(name)
		s.unclear = s.command == nil || !s.command.Exact()
		switch name {
		case "flushdb", "dbsize", "randomkey":
			s.whole = true
		}
	}
}

// keysUnclear reports whether only the server knows which words of a command are keys.
func (sp *spec) keysUnclear(args [][]byte) bool {
	if sp.form.Request != prefix.Keys {
		return false
	}
	return sp.unclear || !sp.command.Has(args)
}

// apart reports whether a command behind a prefix needs a connection of its client's own:
// its reply names keys, or it takes more than one command to do it.
func (sp *spec) apart(args [][]byte) bool {
	return sp.form.Reply != prefix.Nothing || sp.isWhole(args) || sp.keysUnclear(args) || sp.publishes(args)
}

// publishes reports whether a command says what servers say of keys.
func (sp *spec) publishes(args [][]byte) bool {
	return sp.name == "publish" && len(args) == 3 && keyspace.Match(args[1])
}

// isWhole reports whether a command is one about a database as a whole, and one that the
// server would obey.
func (sp *spec) isWhole(args [][]byte) bool {
	return sp.whole && (sp.verb == vFlushDB || len(args) == 1)
}

const untold = "ERR Crossfade: the server does not tell which words of this command are keys; since the switch keys have a prefix there, and it is refused"

// said appends to dst how a command of a client's database reads on a route, with its
// prefix: nil for as it is, or the text of an error when it must not run there.
func (s *Server) said(dst []byte, w *prefix.Rewriter, route router.Route, db int, sp *spec, args [][]byte) (wire []byte, refusal string) {
	if !prefixed(route) {
		return s.translate(route, sp, args)
	}
	with := prefixOf(route, db)
	switch {
	case sp.verb == vSwapDB:
		return nil, "ERR Crossfade: SWAPDB is refused since the switch: some databases are parts of one, told apart by their keys' prefixes"
	case sp.verb == vFlushAll, with != "" && sp.isWhole(args):
		return nil, "ERR Crossfade: " + strings.ToUpper(sp.name) + " cannot be part of a transaction since the switch: the database is a part of one, told from others by its keys' prefix"
	case sp.verb == vMove && len(args) == 3:
		return s.saidMove(dst, route, db, sp, args)
	case sp.verb == vCopy && len(args) >= 3:
		return s.saidCopy(dst, route, with, sp, args)
	case with != "" && sp.keysUnclear(args):
		return nil, untold
	case sp.publishes(args):
		channel, message := noticeOn(route, args[1], args[2])
		return wireOf(args[0], channel, message), ""
	}
	out, refusal := s.translated(route, sp, args)
	if refusal != "" {
		return nil, refusal
	}
	changed := out != nil
	if out == nil {
		out = args
	}
	switch {
	case sp.verb == vClient:
		return wireOf(broadcast(route.Map, out)...), ""
	case with == "" && !changed:
		return nil, ""
	case with == "":
		return wireOf(out...), ""
	}
	if wire, refusal = w.Append(dst, sp.form.Request, sp.command, out, with); refusal != "" {
		return nil, refusal
	}
	return wire, ""
}

// copyAndDelete is MOVE between databases of which each has another prefix. COPY says
// nothing of the key that was there.
const copyAndDelete = "if redis.call('COPY',KEYS[1],KEYS[2],'DB',ARGV[1])==0 then return 0 end redis.call('DEL',KEYS[1]) return 1"

// saidMove says MOVE: in one database of the target it is a RENAMENX.
func (s *Server) saidMove(dst []byte, route router.Route, db int, sp *spec, args [][]byte) (wire []byte, refusal string) {
	from := prefixOf(route, db)
	out, refusal := s.translated(route, sp, args)
	if refusal != "" {
		return nil, refusal
	}
	here, _ := route.Place(db)
	n, ok := resp.Integer(args[2])
	there, mapped := route.Place(int(n))
	// Not all servers have COPY, nor may all users say EVAL: then that is the answer.
	switch {
	case !ok || !mapped || there.Prefix == from:
		return prefix.Words(dst, out, []int{1}, from), ""
	case there.DB == here.DB:
		return prefix.Words(dst, [][]byte{[]byte("RENAMENX"), args[1], args[1]}, []int{1, 2}, from, there.Prefix), ""
	}
	eval := [][]byte{[]byte("EVAL"), []byte(copyAndDelete), []byte("2"), args[1], args[1], strconv.AppendInt(nil, int64(there.DB), 10)}
	return prefix.Words(dst, eval, []int{3, 4}, from, there.Prefix), ""
}

// saidCopy says COPY, whose two keys may have two prefixes.
func (s *Server) saidCopy(dst []byte, route router.Route, from string, sp *spec, args [][]byte) (wire []byte, refusal string) {
	out, refusal := s.translated(route, sp, args)
	if refusal != "" {
		return nil, refusal
	}
	if out == nil {
		out = args
	}
	to := from
	if at := databasesOf(args); at != nil {
		if n, ok := resp.Integer(args[at[len(at)-1]]); ok {
			if place, ok := route.Place(int(n)); ok {
				to = place.Prefix
			}
		}
	}
	return prefix.Words(dst, out, []int{1, 2}, from, to), ""
}

// broadcast has a CLIENT TRACKING … BCAST hear of the keys of all databases that it would
// hear of: to servers a key's name is all, whatever its database. Where some database has
// no prefix it hears of all keys; those of nobody's are left out when they are told.
func broadcast(m router.DBMap, args [][]byte) [][]byte {
	if len(args) < 4 || !is(args[1], "tracking") || !is(args[2], "on") {
		return args
	}
	out, wanted, all := args[:3:3], [][]byte(nil), false
	for i := 3; i < len(args); i++ {
		switch {
		case is(args[i], "prefix") && i+1 < len(args):
			i++
			wanted = append(wanted, args[i])
		case is(args[i], "redirect") && i+1 < len(args):
			out = append(out, args[i], args[i+1])
			i++
		default:
			all = all || is(args[i], "bcast")
			out = append(out, args[i])
		}
	}
	if !all {
		return args
	}
	if wanted == nil {
		wanted = [][]byte{nil}
	}
	prefixes := make(map[string]bool)
	for _, db := range m.Sources() {
		place, _ := m.Place(db)
		if place.Prefix == "" {
			return out
		}
		prefixes[place.Prefix] = true
	}
	// Those of two databases of the target may begin alike, of which a server wants the
	// shorter one alone.
	said := slices.Sorted(maps.Keys(prefixes))
	covered := func(prefix string, name []byte) bool {
		for _, other := range said {
			for _, p := range wanted {
				if other != prefix && strings.HasPrefix(string(name), other+string(p)) {
					return true
				}
			}
		}
		return false
	}
	for _, prefix := range said {
		for _, p := range wanted {
			if name := append([]byte(prefix), p...); !covered(prefix, name) {
				out = append(out, []byte("PREFIX"), name)
			}
		}
	}
	return out
}

// parsed returns the words of a command as it was written.
func parsed(raw []byte) [][]byte {
	var args [][]byte
	for _, el := range resp.Elements(raw) {
		text, _, ok := resp.Text(el)
		if !ok {
			return nil
		}
		args = append(args, text)
	}
	return args
}

// nextDB returns the database that the next command is in, as the client numbers it.
func (s *session) nextDB() int {
	if s.multi && s.queuedIn > 0 {
		return s.queuedIn - 1
	}
	return s.database()
}

// say returns a command as it reads where the session is, and the prefix.
func (s *session) say(sp *spec, args [][]byte) (wire []byte, with string) {
	if !s.prefixed {
		return wireOf(args...), ""
	}
	db := s.nextDB()
	wire, _ = s.srv.said(nil, &s.rewriter, s.route, db, sp, args)
	if wire == nil {
		wire = wireOf(args...)
	}
	return wire, prefixOf(s.route, db)
}

// behind forwards a command where some keys have prefixes.
func (s *session) behind(sp *spec, cmd redcon.Command) error {
	db := s.nextDB()
	with := prefixOf(s.route, db)
	if !s.multi || sp.verb == vUnsubscribe {
		if f := s.wholly(sp, cmd.Args, with); f != nil {
			cmd.Raw, cmd.Args = bytes.Clone(cmd.Raw), cloneArgs(cmd.Args) // the client is read meanwhile
			s.curArgs, s.curRaw = cmd.Args, cmd.Raw
			return f(sp, cmd)
		}
	}
	wire, refusal := s.srv.said(s.scratch[:0], &s.rewriter, s.route, db, sp, cmd.Args)
	if refusal != "" {
		return s.refuse(refusal)
	}
	if wire == nil {
		wire = cmd.Raw
	} else if s.scratch = wire[:0]; cap(wire) > 4*batchSize {
		s.scratch = nil
	}
	if sp.verb == vMove && bytes.HasPrefix(wire, []byte("*6\r\n$4\r\nEVAL\r\n")) {
		s.srv.counters["scripts"].forwarded.Add(1)
	}
	if with != "" && s.home != nil && sp.apart(cmd.Args) {
		s.pinnedAt = time.Now()
	}
	isPlain := sp.verb == plain || sp.verb == vNoData
	if isPlain && !s.multi && (with == "" || sp.form.Reply == prefix.Nothing) {
		return s.pushPlain(wire)
	}
	it := &item{spec: sp, mode: modeLine, gate: true, epoch: s.route.Epoch, with: with}
	switch {
	case s.multi && it.queues():
		return s.queue(it, cmd, wire)
	case isPlain:
		s.describeWrites(it, cmd.Args)
		return s.push(it, wire)
	}
	return s.special(it, cmd, wire)
}

// selected returns the database of a SELECT.
func selected(sp *spec, args [][]byte) (db int, ok bool) {
	if sp.verb != vSelect || len(args) != 2 {
		return 0, false
	}
	n, ok := resp.Integer(args[1])
	return int(n), ok && n >= 0 && n < 1<<30
}

// strips readies the reader for a reply in which keys are named.
func (r *reader) strips(it *item) {
	switch {
	case it.spec.verb == vExec && r.s.st.multi && prefixed(r.l.route):
		if r.s.st.isConfirmed() {
			return // nobody knows yet which is which, see asKnown
		}
		of := r.transaction(nil)
		if r.stripping = of != nil; r.stripping {
			r.strip.BeginList(of)
		}
	case len(it.late) > 0 && it.late[0].at == it.passed:
		if form := it.late[0].q.spec.form.Reply; form != prefix.Nothing && prefixed(r.l.route) {
			r.stripping = true
			r.strip.Begin(prefixOf(r.l.route, r.s.st.db), form)
		}
	case it.with != "" && it.spec.form.Reply != prefix.Nothing:
		r.stripping = true
		r.strip.Begin(it.with, it.spec.form.Reply)
	}
}

// transaction says which of the replies in that to EXEC name keys. els are those that are known.
func (r *reader) transaction(els [][]byte) (of []prefix.Element) {
	st := &r.s.st
	db := st.db
	for _, p := range st.placed(els) {
		if n, ok := selected(p.q.spec, p.q.args); ok {
			db = n
		}
		if form := p.q.spec.form.Reply; form != prefix.Nothing && p.at >= len(of) {
			for len(of) < p.at {
				of = append(of, prefix.Element{})
			}
			of = append(of, prefix.Element{Form: form, With: prefixOf(r.l.route, db)})
		}
	}
	return of
}

// without takes the prefix off what has come of the current reply, and has what was pushed
// into it be as the client is to have it.
func (r *reader) without(b []byte) []byte {
	switch {
	case r.looking:
		r.stripped = r.stripped[:0]
		for len(b) > 0 {
			n, piece, push := r.inside.next(b)
			b = b[n:]
			if r.inside.pushing && push == nil {
				piece = r.confirmedInside(piece)
			}
			switch {
			case push != nil && r.it != nil && r.it.confirms != nil && r.it.confirms.whole:
				r.stripped = append(r.stripped, r.told(push)...) // in its turn, see asKnown
			case push != nil:
				r.stripped = append(r.stripped, r.unsilenced(r.told(push))...)
			case r.stripping:
				r.stripped = r.strip.Feed(r.stripped, piece)
			default:
				r.stripped = append(r.stripped, piece...)
			}
		}
	case r.stripping:
		r.stripped = r.strip.Feed(r.stripped[:0], b)
	default:
		return b
	}
	return r.stripped
}

// anyKeys reports whether a command names keys at all.
func anyKeys(c *keyspec.Command) bool {
	if c == nil {
		return false
	}
	if len(c.Specs) > 0 {
		return true
	}
	for i := range c.Subs {
		if anyKeys(&c.Subs[i]) {
			return true
		}
	}
	return false
}
