package proxy

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/elements"
	"github.com/crossfade/crossfade/router"
)

// What the proxy tells of elements. A few keys are so big that the copy wants to know
// which of their elements clients change. For these, and for commands that name all
// elements that they change, the elements are kept until the reply is there, and put
// into the key's book if it proves that they, and nothing else, have changed and that
// the server has told of it once. While there is no such key this costs a look at a
// pointer.

// ElementObserver is a WriteObserver that also wants to hear of elements. Elements
// returns the books of the keys that it wants to hear of, or nil; it is called often.
type ElementObserver interface {
	Elements() *elements.Keys
}

// An elementForm says where a command that changes elements names them, from the third
// word on, and what reply proves the event.
type elementForm struct {
	first, step int // the words that name them; without step there is one
	flags       bool
	number      int // the word that is added to a score, or 0
	proof       proofForm
}

// proofForm says when a reply proves that the server has told of a change.
type proofForm uint8

const (
	alwaysTold proofForm = iota // all but an error proves it
	countTold                   // a positive number proves it
	scoreTold                   // a score that adding has changed proves it
)

// elementForms are the commands that name the elements of hashes, sets and sorted
// sets that they change. (Server sources: what calls notifyKeyspaceEvent, and when.)
var elementForms = map[string]elementForm{
	"hset":         {first: 2, step: 2},
	"hmset":        {first: 2, step: 2},
	"hsetnx":       {first: 2, proof: countTold},
	"hincrby":      {first: 2},
	"hincrbyfloat": {first: 2},
	"hdel":         {first: 2, step: 1, proof: countTold},
	"sadd":         {first: 2, step: 1, proof: countTold},
	"srem":         {first: 2, step: 1, proof: countTold},
	"zrem":         {first: 2, step: 1, proof: countTold},
	"zincrby":      {first: 3, number: 2, proof: scoreTold},
	// A reply of 0 tells nothing of ZADD, unless with CH or NX, which changes nothing then.
	"zadd":   {first: 1, step: 2, flags: true, proof: countTold},
	"geoadd": {first: 2, step: 3, flags: true, proof: countTold},
}

// elementsOf puts the forms into the command table.
func elementsOf(table map[string]*spec) {
	for name, form := range elementForms {
		table[name].elements = &form
	}
}

// elementCall is a command in flight that may change elements of a key with a book.
type elementCall struct {
	book   *elements.Key
	names  []string
	proof  proofForm
	number float64
}

// names returns the elements that a command names.
func (f elementForm) names(args [][]byte) (names []string, proof proofForm, number float64, ok bool) {
	proof, from := f.proof, f.first
	if f.flags {
		from = 2
	flags:
		for ; from < len(args); from++ {
			switch {
			case is(args[from], "nx"), is(args[from], "xx"), is(args[from], "gt"), is(args[from], "lt"), is(args[from], "ch"):
			case is(args[from], "incr"):
				proof = scoreTold
			default:
				break flags
			}
		}
		if proof == scoreTold {
			if len(args) != from+2 {
				return nil, 0, 0, false
			}
			f.number = from
		}
		from += f.first
	}
	if f.number > 0 {
		if f.number >= len(args) {
			return nil, 0, 0, false
		}
		var err error
		if number, err = strconv.ParseFloat(string(args[f.number]), 64); err != nil {
			return nil, 0, 0, false
		}
	}
	if f.step == 0 {
		args = args[:min(len(args), from+1)]
	}
	for i := from; i < len(args); i += max(1, f.step) {
		names = append(names, string(args[i]))
	}
	return names, proof, number, len(names) > 0
}

// proves reports whether a reply proves that the server has told of a change, once.
// head is its beginning, whole the whole of it or nil.
func (c *elementCall) proves(head [4]byte, whole []byte) bool {
	switch c.proof {
	case alwaysTold:
		return head[0] == ':' || head[0] == '$' || head[0] == ',' || string(head[:3]) == "+OK"
	case countTold:
		return head[0] == ':' && head[1] >= '1' && head[1] <= '9'
	}
	// Adding may have changed nothing: 1 is lost on 1e300. Had it changed nothing, it
	// would change nothing now.
	score, ok := scoreOf(whole)
	return ok && !math.IsNaN(c.number) && score+c.number != score
}

// scoreOf reads a score: a bulk string, or a number of RESP3.
func scoreOf(reply []byte) (float64, bool) {
	text := reply
	if len(text) > 0 && text[0] == '$' {
		_, text, _ = bytes.Cut(text, []byte("\r\n"))
	} else if len(text) > 0 && text[0] == ',' {
		text = text[1:]
	} else {
		return 0, false
	}
	score, err := strconv.ParseFloat(strings.TrimSuffix(string(text), "\r\n"), 64)
	return score, err == nil && !math.IsNaN(score)
}

const (
	elementsMost  = 1 << 12 // commands in flight on one connection whose elements are kept
	elementsBytes = 1 << 20 // … and bytes of their names
)

// elementCalls are those in flight on one connection, oldest first. The zero value is
// ready.
type elementCalls struct {
	list  []elementCall
	bytes int
}

// begin opens the book of the key that a command names, if there is one. False means
// that there is none, or that it cannot be told what the command changes.
func (q *elementCalls) begin(keys *elements.Keys, route router.Route, db int, f *elementForm, args [][]byte) bool {
	if len(args) < 3 || len(q.list) >= elementsMost || q.bytes > elementsBytes {
		return false
	}
	if _, mapped := route.DB(db); !mapped {
		return false
	}
	book := keys.Find(db, args[1])
	if book == nil {
		return false
	}
	names, proof, number, ok := f.names(args)
	if !ok {
		return false
	}
	book.Begin()
	q.list = append(q.list, elementCall{book: book, names: names, proof: proof, number: number})
	for _, n := range names {
		q.bytes += len(n)
	}
	return true
}

// end takes the oldest and writes down what its reply proves.
func (q *elementCalls) end(head [4]byte, whole []byte) {
	c := q.list[0]
	q.list[0] = elementCall{}
	if q.list = q.list[1:]; len(q.list) == 0 {
		q.list = nil
	}
	for _, n := range c.names {
		q.bytes -= len(n)
	}
	c.book.End(c.names, c.proves(head, whole))
}

// shortest is how long a reply may be of which a session keeps all for end.
const shortest = 64

func (q *elementCalls) any() bool { return len(q.list) > 0 }

// drop ends the newest, of which nobody will hear.
func (q *elementCalls) drop() {
	last := len(q.list) - 1
	q.list[last].book.End(nil, false)
	for _, n := range q.list[last].names {
		q.bytes -= len(n)
	}
	q.list = q.list[:last]
}

// lose ends all of them: the connection is lost, and nobody knows what has run.
func (q *elementCalls) lose() {
	for _, c := range q.list {
		c.book.End(nil, false)
	}
	*q = elementCalls{}
}
