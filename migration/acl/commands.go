package acl

import (
	"slices"
	"strings"
)

// commands expresses command rules. What the target does not take is left out, and then
// whatever it allows or denies otherwise than the source, of the commands that both know,
// is put right by rules of its own: so a rule with another meaning there, as a category has
// from version to version, gives nobody more or less.
func (e *expressed) commands(words []string, from Catalog, to Server) []string {
	home := from.rights(words)
	var out, dropped []string
	for _, w := range words {
		if _, bad := to.Refused[w]; bad {
			dropped = append(dropped, w)
			continue
		}
		out = append(out, w)
	}
	mends := mend(out, home, from, to)
	there := to.Catalog.rights(append(slices.Clone(out), mends...))
	for _, w := range dropped {
		e.dropped(w, home, there, from, to)
	}
	if len(mends) == 0 {
		return out
	}
	e.note("some rules allow other commands on the target; from %s on they are put right, so that it may run there what it may at home", mends[0])
	return append(out, mends...)
}

// dropped says what is lost with a rule that the target does not take. One that denies is
// not missed, since what it denies is not there or was put right.
func (e *expressed) dropped(w string, home, there rights, from Catalog, to Server) {
	why := to.Refused[w]
	if w[0] == '-' {
		e.note("%s is left out (%s): what it denies is denied otherwise, or is not there", w, why)
		return
	}
	var gone []string
	name := w[1:]
	if category, is := strings.CutPrefix(name, "@"); is {
		for _, n := range from.in[category] {
			if home.may[n] && len(from.subs[n]) == 0 && !to.Catalog.has(n) {
				gone = append(gone, n)
			}
		}
		switch {
		case len(from.in[category]) == 0:
			e.lose(w, "the target has no such category, and the source does not say what is in it")
		case len(gone) > 0:
			e.lose(w, "the target has no such category, nor its commands "+some(gone))
		default:
			e.note("%s is written out, since the target has no such category", w)
		}
		return
	}
	may, first, _ := home.of(name, from)
	mayThere, firstThere, known := there.of(name, to.Catalog)
	parent, _, is := strings.Cut(name, "|")
	switch {
	case !may && len(first) == 0 && !home.other[name]:
		e.note("%s is left out: a later rule takes it back", w)
	case known && mayThere == may && sameSet(first, firstThere):
		e.note("%s is said otherwise there: %s", w, why)
	case to.Catalog.all[name] || is && to.Catalog.all[parent]:
		e.lose(w, "the target does not take it: "+why)
	default:
		e.lose(w, "the target has no command "+strings.ToUpper(strings.ReplaceAll(name, "|", " ")))
	}
}

// has reports whether a command of another server is there, maybe as a part of one.
func (c Catalog) has(name string) bool {
	parent, _, is := strings.Cut(name, "|")
	return c.all[name] || is && c.all[parent] && len(c.subs[parent]) == 0
}

// some names a few.
func some(names []string) string {
	const most = 6
	if len(names) > most {
		return strings.Join(names[:most], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}

// mend returns the rules that have to follow words on the target so that every command
// which both servers know may be run there exactly if it may be at home.
func mend(words []string, home rights, from Catalog, to Server) []string {
	there := to.Catalog.rights(words)
	var out []string
	for _, name := range to.Catalog.runnable() {
		may, first, known := home.of(name, from)
		if !known || may == there.may[name] && (may || sameSet(first, there.first[name])) {
			continue
		}
		if may {
			out = append(out, "+"+name)
			continue
		}
		if there.may[name] || len(there.first[name]) > 0 {
			out = append(out, "-"+name)
		}
		for _, arg := range first {
			if w := "+" + name + "|" + arg; to.Refused[w] == "" {
				out = append(out, w)
			}
		}
	}
	return out
}

// of says whether a command of another server may be run by rights on the server of c: as
// a whole, or with some first arguments only. One may have as subcommands what is a command
// with arguments to the other. known is false for what this server does not have.
func (r rights) of(name string, c Catalog) (may bool, first []string, known bool) {
	parent, arg, is := strings.Cut(name, "|")
	switch {
	case len(c.subs[name]) > 0:
		for _, sub := range c.subs[name] {
			if r.may[sub] {
				_, arg, _ := strings.Cut(sub, "|")
				first = append(first, arg)
			}
		}
		if len(first) == len(c.subs[name]) {
			return true, nil, true
		}
		slices.Sort(first)
		return false, first, true
	case c.all[name]:
		return r.may[name], r.first[name], true
	case is && c.all[parent] && len(c.subs[parent]) == 0:
		return r.may[parent] || slices.Contains(r.first[parent], arg), nil, true
	}
	return false, nil, false
}
