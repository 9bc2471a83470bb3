package prefix

import (
	"bytes"

	"github.com/crossfade/crossfade/internal/resp"
)

// Reply says which strings of a reply name keys.
type Reply uint8

// What is named.
const (
	Nothing   Reply = iota
	Name            // itself
	Names           // each of its elements
	Scanned         // each of those of its second element
	Popped          // its first element
	Streams         // the first of each of its elements; of a map, what leads to the values
	Complaint       // an error, which may name a key
	Moved           // nothing, but an error for a key that is not there is a 0: it was said as RENAMENX

	list     // elements that each are of a form of their own: the reply to EXEC
	whatever // all of an element that is passed
)

// Stripper takes the prefix off the keys that a reply names, while the reply passes: it
// can stop and go on at any byte, in either protocol, and holds no more of it than a line
// and a prefix. The zero value passes all. Not for concurrent use.
type Stripper struct {
	with  string
	form  Reply
	of    []Element // of a list
	level []level

	state state
	node  Reply  // what the element that is being read is
	held  []byte // of it, not passed yet
	head  int    // how much of that is its first line
	size  int64  // of the string that is being read
	fr    resp.Framer
}

// level is an aggregate whose elements are being read.
type level struct {
	form Reply
	typ  byte
	left int64
	at   int64
}

type state uint8

const (
	start   state = iota // before an element
	line                 // in its first line
	begin                // in the beginning of a string, as long as the prefix is
	passing              // in what is passed as it is
)

// longestLine bounds the errors that are looked into.
const longestLine = 4096

// Begin makes it ready for the next reply.
func (s *Stripper) Begin(with string, form Reply) {
	*s = Stripper{with: with, form: form, level: s.level[:0], held: s.held[:0]}
}

// Element is one of a list of replies: what it names, and behind which prefix.
type Element struct {
	Form Reply
	With string
}

// BeginList makes it ready for an array of replies. Those that of does not reach to name
// nothing.
func (s *Stripper) BeginList(of []Element) {
	s.Begin("", list)
	s.of = of
}

// Feed appends to dst what b becomes. After the last byte of the reply nothing is held.
// What is malformed passes as it is. What was pushed into the middle of a reply, and is no
// element of it, must not be in b.
func (s *Stripper) Feed(dst, b []byte) []byte {
	for len(b) > 0 {
		switch s.state {
		case start:
			s.node = s.next()
			if s.node == Nothing || s.node == whatever || !looksInto(s.node, b[0]) {
				s.state, s.fr = passing, resp.Framer{}
				continue
			}
			s.state = line
		case line:
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				s.held = append(s.held, b...)
				if len(s.held) > longestLine {
					dst = s.release(dst)
				}
				return dst
			}
			s.held = append(s.held, b[:i+1]...)
			b = b[i+1:]
			dst = s.lineEnds(dst)
		case begin:
			n := min(len(b), s.head+len(s.with)-len(s.held))
			s.held = append(s.held, b[:n]...)
			b = b[n:]
			if len(s.held) == s.head+len(s.with) {
				dst = s.begins(dst)
			}
		case passing:
			n, done, err := s.fr.Feed(b)
			if err != nil {
				return append(dst, b...)
			}
			dst = append(dst, b[:n]...)
			b = b[n:]
			if done {
				s.ended()
			}
		}
	}
	return dst
}

// looksInto reports whether an element of a form is looked into when it is of a type.
func looksInto(form Reply, typ byte) bool {
	switch form {
	case Name:
		return typ == '$'
	case Complaint, Moved:
		return typ == '-'
	case Names, Scanned, Popped, list:
		return typ == '*' || typ == '~' || typ == '>'
	case Streams:
		return typ == '*' || typ == '%' || typ == '-'
	}
	return false
}

// next says of what form the element is that begins now.
func (s *Stripper) next() Reply {
	if len(s.level) == 0 {
		return s.form
	}
	up := &s.level[len(s.level)-1]
	at := up.at
	up.at++
	switch up.form {
	case Names:
		return Name
	case Scanned:
		if at == 1 {
			return Names
		}
	case Popped:
		if at == 0 {
			return Name
		}
	case Streams:
		switch {
		case up.typ != '%':
			return Popped
		case at%2 == 0:
			return Name
		}
	case list:
		if at < int64(len(s.of)) {
			s.with = s.of[at].With
			return s.of[at].Form
		}
	}
	return whatever
}

// lineEnds acts on the first line of an element, which is held.
func (s *Stripper) lineEnds(dst []byte) []byte {
	typ := s.held[0]
	if typ == '-' {
		dst = s.complaint(dst)
		s.held = s.held[:0]
		s.ended()
		return dst
	}
	n, ok := resp.Integer(bytes.TrimSuffix(s.held[1:], []byte("\r\n"))) // with another line end it is none
	switch {
	case !ok || n < 0:
		return s.release(dst)
	case typ == '$':
		s.size, s.head = n, len(s.held)
		if n < int64(len(s.with)) || len(s.with) == 0 {
			return s.release(dst)
		}
		s.state = begin
		return dst
	}
	if typ == '%' {
		n *= 2
	}
	dst = append(dst, s.held...)
	s.held = s.held[:0]
	if n == 0 {
		s.ended()
		return dst
	}
	s.level = append(s.level, level{form: s.node, typ: typ, left: n})
	s.state = start
	return dst
}

// begins acts on the beginning of a string, which is held behind its line.
func (s *Stripper) begins(dst []byte) []byte {
	left := s.size - int64(len(s.with))
	if string(s.held[s.head:]) == s.with {
		dst = header(dst, '$', int(left))
	} else {
		dst = append(dst, s.held...)
	}
	s.held = s.held[:0]
	s.passString(left)
	return dst
}

// passString has the rest of a string pass, and its line end.
func (s *Stripper) passString(left int64) {
	s.state, s.fr = passing, resp.Framer{}
	var line [24]byte
	_, _, _ = s.fr.Feed(header(line[:0], '$', int(left)))
}

// release passes what is held, and the rest of the element unseen.
func (s *Stripper) release(dst []byte) []byte {
	s.state, s.fr = passing, resp.Framer{}
	_, done, _ := s.fr.Feed(s.held)
	dst = append(dst, s.held...)
	s.held = s.held[:0]
	if done {
		s.ended()
	}
	return dst
}

// ended goes up as far as that was the last element.
func (s *Stripper) ended() {
	s.state = start
	for n := len(s.level); n > 0; n = len(s.level) {
		up := &s.level[n-1]
		if up.left--; up.left > 0 {
			return
		}
		s.level = s.level[:n-1]
	}
}

var (
	noSuchKey  = []byte("-ERR no such key\r\n")
	beforeKeys = [][]byte{[]byte("-NOGROUP No such key '"), []byte(" for key name '")}
)

// complaint appends the error that is held.
func (s *Stripper) complaint(dst []byte) []byte {
	switch {
	case s.node == Moved && bytes.Equal(s.held, noSuchKey):
		return append(dst, ":0\r\n"...)
	case s.node == Moved || !bytes.HasPrefix(s.held, []byte("-NOGROUP ")):
		return append(dst, s.held...)
	}
	for _, before := range beforeKeys {
		at := bytes.LastIndex(s.held, before)
		if at < 0 {
			continue
		}
		at += len(before)
		if rest := s.held[at:]; bytes.HasPrefix(rest, []byte(s.with)) {
			dst = append(dst, s.held[:at]...)
			return append(dst, rest[len(s.with):]...)
		}
	}
	return append(dst, s.held...)
}
