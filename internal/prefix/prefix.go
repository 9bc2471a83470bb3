// Package prefix says commands in the names that keys have behind a prefix, and tells replies in those without.
// It owns which words of a command name keys or patterns of them, and which strings of a reply do.
// It never does I/O, knows no connection, and never guesses: what cannot be said so it refuses.
package prefix

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/router"
)

// A Form says how a command is said behind a prefix, and what its reply names.
type Form struct {
	Request Request
	Reply   Reply
}

// Request says which words of a command name keys.
type Request uint8

// How a command is said.
const (
	Keys    Request = iota // its keys do, and nothing else
	Pattern                // KEYS: its pattern
	Scan                   // SCAN: what is behind MATCH, which it gets where it has none
	Sort                   // SORT: its keys, and what is behind BY and GET
	Debug                  // DEBUG: the key of those subcommands that have one
	Itself                 // none do: what is a key to the server is one of another server, or only asked about
	Never                  // MIGRATE: it cannot be said
)

// forms are the commands that have more to them than keys.
var forms = map[string]Form{
	"keys":       {Pattern, Names},
	"scan":       {Scan, Scanned},
	"randomkey":  {Itself, Name},
	"sort":       {Request: Sort},
	"sort_ro":    {Request: Sort},
	"debug":      {Request: Debug},
	"command":    {Request: Itself},
	"cluster":    {Request: Itself},
	"migrate":    {Request: Never},
	"move":       {Reply: Moved},
	"blpop":      {Reply: Popped},
	"brpop":      {Reply: Popped},
	"blmpop":     {Reply: Popped},
	"lmpop":      {Reply: Popped},
	"bzpopmin":   {Reply: Popped},
	"bzpopmax":   {Reply: Popped},
	"bzmpop":     {Reply: Popped},
	"zmpop":      {Reply: Popped},
	"xread":      {Reply: Streams},
	"xreadgroup": {Reply: Streams},
	"xclaim":     {Reply: Complaint},
	"xautoclaim": {Reply: Complaint},
	"xpending":   {Reply: Complaint},
	"xinfo":      {Reply: Complaint},
	"xgroup":     {Reply: Complaint},
	"xack":       {Reply: Complaint},
	"xackdel":    {Reply: Complaint},
}

// FormOf returns the form of a command by its name in small letters.
func FormOf(name string) Form { return forms[name] }

// Rewriter says commands. It keeps room for its work, so that it allocates nothing; the
// zero value is ready. Not for concurrent use.
type Rewriter struct {
	keys  []keyspec.Key
	edits []edit
}

// edit is a word that is written with something before it.
type edit struct {
	at     int
	before string
}

// Append appends a command, whose name is the first of args, with the prefix before
// what names keys. refusal is the text of an error where that cannot be said; then
// nothing was appended. c says where the keys are; nil is for a command that has none.
func (r *Rewriter) Append(dst []byte, how Request, c *keyspec.Command, args [][]byte, with string) (out []byte, refusal string) {
	r.edits = r.edits[:0]
	switch how {
	case Itself:
	case Pattern:
		if len(args) == 2 {
			r.edits = append(r.edits, edit{at: 1, before: escaped(with)})
		}
	case Scan:
		return r.scan(dst, args, with), ""
	case Debug:
		if len(args) == 3 && is(args[1], "populate") { // its keys are called so unless it says otherwise
			dst = r.words(header(dst, '*', 4), args)
			return bulk(dst, with, []byte("key")), ""
		}
		r.debug(args, with)
	case Never:
		return dst, "ERR Crossfade: " + strings.ToUpper(string(args[0])) + " would give its keys their prefix on the other server too; it is refused since the switch"
	default:
		if c == nil {
			break
		}
		r.keys = c.Keys(r.keys[:0], args)
		for _, k := range r.keys {
			if k.Use&keyspec.NotKey == 0 {
				r.edits = append(r.edits, edit{at: k.At, before: with})
			}
		}
		if how == Sort {
			r.sort(args, with)
		}
	}
	out = r.write(dst, args)
	if cap(r.keys) > mostKept {
		r.keys, r.edits = nil, nil
	}
	return out, ""
}

// mostKept is for how many keys of a command room is kept.
const mostKept = 1 << 12

// Words appends a command with prefixes before the words at some places, in rising
// order: keys that nobody but the server could tell, or of two databases.
func Words(dst []byte, args [][]byte, at []int, with ...string) []byte {
	var r Rewriter
	for i, place := range at {
		r.edits = append(r.edits, edit{at: place, before: with[min(i, len(with)-1)]})
	}
	return r.write(dst, args)
}

// Head appends the beginning of a command of which only the first words, args, have
// come, and says how many bytes of the command these are. ok is false where they do not
// suffice to tell its keys. words is how many the whole command has.
func (r *Rewriter) Head(dst []byte, c *keyspec.Command, args [][]byte, words int, with string) (out []byte, size int, ok bool) {
	r.edits = r.edits[:0]
	if c == nil {
		return dst, 0, false
	}
	if r.keys, ok = c.Head(r.keys[:0], args); !ok {
		return dst, 0, false
	}
	for _, k := range r.keys {
		if k.Use&keyspec.NotKey == 0 {
			r.edits = append(r.edits, edit{at: k.At, before: with})
		}
	}
	out = header(dst, '*', words)
	size = headerSize(words)
	for _, a := range args {
		size += headerSize(len(a)) + len(a) + 2
	}
	return r.words(out, args), size, true
}

func (r *Rewriter) write(dst []byte, args [][]byte) []byte {
	return r.words(header(dst, '*', len(args)), args)
}

// words appends args, as they are or edited.
func (r *Rewriter) words(dst []byte, args [][]byte) []byte {
	byPlace := func(a, b edit) int { return a.at - b.at }
	if !slices.IsSortedFunc(r.edits, byPlace) {
		slices.SortFunc(r.edits, byPlace)
	}
	edits := r.edits
	for i, a := range args {
		if len(edits) == 0 || edits[0].at != i {
			dst = bulk(dst, "", a)
			continue
		}
		dst = bulk(dst, edits[0].before, a)
		for len(edits) > 0 && edits[0].at == i { // one that is named twice over gets it once
			edits = edits[1:]
		}
	}
	return dst
}

// scan gives a SCAN its pattern. Of several, the last one holds.
func (r *Rewriter) scan(dst []byte, args [][]byte, with string) []byte {
	matches := false
	for i := 2; i+1 < len(args); i += 2 {
		if is(args[i], "match") {
			r.edits = append(r.edits, edit{at: i + 1, before: escaped(with)})
			matches = true
		}
	}
	if matches || len(args) < 2 || len(args)%2 != 0 { // an option without a value: the server is to say so
		return r.write(dst, args)
	}
	dst = r.words(header(dst, '*', len(args)+2), args)
	dst = bulk(dst, "", []byte("MATCH"))
	return bulk(dst, escaped(with), []byte("*"))
}

// sort gives the patterns of SORT their prefix. One without a star names no key: to BY
// that means not to sort, and to GET nothing, or the element itself.
func (r *Rewriter) sort(args [][]byte, with string) {
	for i := 2; i+1 < len(args); i++ {
		switch {
		case is(args[i], "by"), is(args[i], "get"):
			if i++; bytes.IndexByte(args[i], '*') >= 0 {
				r.edits = append(r.edits, edit{at: i, before: with})
			}
		case is(args[i], "limit"):
			i += 2
		case is(args[i], "store"):
			i++
		}
	}
}

// debug gives the keys of DEBUG's subcommands their prefix, of which servers say nothing.
func (r *Rewriter) debug(args [][]byte, with string) {
	if len(args) < 3 {
		return
	}
	for _, name := range []string{"object", "sdslen", "ziplist", "listpack", "quicklist", "htstats-key"} {
		if is(args[1], name) {
			r.edits = append(r.edits, edit{at: 2, before: with})
			return
		}
	}
	switch {
	case is(args[1], "digest-value"):
		for i := 2; i < len(args); i++ {
			r.edits = append(r.edits, edit{at: i, before: with})
		}
	case is(args[1], "populate") && len(args) > 3:
		r.edits = append(r.edits, edit{at: 3, before: with})
	}
}

// escaped is a prefix as a pattern has it.
func escaped(with string) string { return router.Place{Prefix: with}.Pattern("") }

// is compares a word of a command as servers do.
func is(arg []byte, word string) bool {
	return len(arg) == len(word) && strings.EqualFold(string(arg), word)
}

func header(dst []byte, typ byte, n int) []byte {
	dst = append(dst, typ)
	dst = strconv.AppendInt(dst, int64(n), 10)
	return append(dst, '\r', '\n')
}

// headerSize is how many bytes header appends.
func headerSize(n int) int {
	size := 4
	for ; n > 9; n /= 10 {
		size++
	}
	return size
}

func bulk(dst []byte, before string, text []byte) []byte {
	dst = header(dst, '$', len(before)+len(text))
	dst = append(dst, before...)
	dst = append(dst, text...)
	return append(dst, '\r', '\n')
}
