package resp

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrReply is wrapped by every error about a malformed reply.
var ErrReply = errors.New("malformed reply")

const (
	maxLength = 1 << 40 // elements or bytes that a header may announce
	maxNeed   = 1 << 60
	maxDepth  = 64 // nested streamed aggregates; Redis sends none

	confirmation = 3 // elements of what SUBSCRIBE is answered
)

// Framer finds where a reply ends, in RESP2 and RESP3, streamed aggregates and
// attributes included. It can stop and go on at any byte and keeps no bytes.
// The zero value stands before an element. Not for concurrent use.
type Framer struct {
	begun  bool
	need   int64   // elements still to come at this level
	stream []level // enclosing levels of streamed aggregates

	skip int64 // bytes of payload and its line end still to come

	typ    byte // of the header line that is being read, 0 between lines
	cr     bool // the last byte of the line was '\r'
	num    int64
	neg    bool
	digits int
	open   bool // '?' instead of a length
	chunks bool // inside a streamed string
	inside bool // an aggregate has begun: what comes is part of it
	pushed bool // the next string is the first word of a push that is
}

// known are the first bytes of header lines.
var known = func() (types [256]bool) {
	for _, c := range []byte("+-:_#,(.$*%~>|=!;") {
		types[c] = true
	}
	return types
}()

type level struct {
	need int64
	attr bool // an attribute: it answers for no element
}

// AtStart reports whether the next byte begins a top-level element.
func (f *Framer) AtStart() bool { return !f.begun }

// Whole returns the length of the element at the start of b where it is a status,
// an error, a number or a string, and all there; 0 where it is anything else, and
// Feed has to look.
func Whole(b []byte) int {
	switch {
	case len(b) == 0:
	case b[0] == '$':
		n, at := quickLength(b, 1)
		if end := at + n + 2; at > 0 && b[at-1] == '\n' && end <= len(b) {
			return end
		}
	case b[0] == '+', b[0] == ':', b[0] == '-':
		if i := bytes.IndexByte(b, '\n'); i > 1 && b[i-1] == '\r' {
			return i + 1
		}
	}
	return 0
}

// Skip reports whether all n bytes that come next are payload of a string, with
// more of it to come, and consumes them.
func (f *Framer) Skip(n int) bool {
	if int64(n) >= f.skip {
		return false
	}
	f.skip -= int64(n)
	return true
}

// Feed consumes b up to the end of the current top-level element, or all of it.
// n is the number of bytes consumed; done says that the element is whole.
func (f *Framer) Feed(b []byte) (n int, done bool, err error) {
	if !f.begun && len(b) > 0 {
		*f = Framer{begun: true, need: 1, stream: f.stream[:0]}
	}
	for n < len(b) {
		switch {
		case f.skip > 0:
			k := min(f.skip, int64(len(b)-n))
			f.skip -= k
			n += int(k)
			if f.skip == 0 && !f.chunks {
				done = f.element()
			}
		case f.typ == 0:
			if !known[b[n]] {
				return n, false, fmt.Errorf("%w: unknown type %q", ErrReply, b[n])
			}
			f.typ, f.cr, f.num, f.neg, f.digits, f.open = b[n], false, 0, false, 0, false
			n++
		default:
			k, end, lineErr := f.line(b[n:])
			n += k
			if lineErr != nil {
				return n, false, lineErr
			}
			if end {
				done, err = f.header()
			}
		}
		if err != nil || done {
			return n, done, err
		}
	}
	return n, false, nil
}

// line consumes b up to the end of the header line.
func (f *Framer) line(b []byte) (n int, end bool, err error) {
	switch f.typ {
	case '+', '-', ':', '_', '#', ',', '(', '.':
		for {
			i := bytes.IndexByte(b[n:], '\n')
			if i < 0 {
				if len(b) > 0 {
					f.cr = b[len(b)-1] == '\r'
				}
				return len(b), false, nil
			}
			cr := f.cr
			if n+i > 0 {
				cr = b[n+i-1] == '\r'
			}
			n += i + 1
			f.cr = false
			if cr {
				return n, true, nil
			}
		}
	}
	for n < len(b) {
		c := b[n]
		n++
		switch {
		case f.cr && c == '\n' && (f.digits > 0 || f.open):
			return n, true, nil
		case f.cr:
			return n, false, fmt.Errorf("%w: length of %q does not end its line", ErrReply, f.typ)
		case c == '\r':
			f.cr = true
		case c == '-' && f.digits == 0 && !f.neg && !f.open:
			f.neg = true
		case c == '?' && f.digits == 0 && !f.neg && !f.open:
			f.open = true
		case c >= '0' && c <= '9' && !f.open:
			f.num = f.num*10 + int64(c-'0')
			f.digits++
			if f.num > maxLength {
				return n, false, fmt.Errorf("%w: length of %q is out of range", ErrReply, f.typ)
			}
		default:
			return n, false, fmt.Errorf("%w: length of %q holds %q", ErrReply, f.typ, c)
		}
	}
	return n, false, nil
}

// header acts on a whole header line. done as in Feed.
func (f *Framer) header() (done bool, err error) {
	typ := f.typ
	f.typ = 0
	if f.pushed {
		f.pushed = false
		if typ == '$' && !f.neg && (f.num == int64(len("message")) || f.num == int64(len("smessage"))) {
			f.need++
		}
	}
	if f.chunks && typ != ';' {
		return false, fmt.Errorf("%w: %q inside a streamed string", ErrReply, typ)
	}
	switch typ {
	case '.':
		if f.need != 0 || len(f.stream) == 0 {
			return false, fmt.Errorf("%w: an end without a streamed aggregate", ErrReply)
		}
		up := f.stream[len(f.stream)-1]
		f.stream = f.stream[:len(f.stream)-1]
		f.need = up.need
		if up.attr {
			return false, nil
		}
		return f.element(), nil
	case '$', '=', '!':
		if f.open {
			f.chunks = true
			return false, nil
		}
		if f.neg {
			return f.element(), nil
		}
		f.skip = f.num + 2
		return false, nil
	case ';':
		if !f.chunks || f.neg || f.open {
			return false, fmt.Errorf("%w: a chunk outside of a streamed string", ErrReply)
		}
		if f.num == 0 {
			f.chunks = false
			return f.element(), nil
		}
		f.skip = f.num + 2
		return false, nil
	case '*', '~', '>', '%', '|':
		return f.aggregate(typ)
	}
	return f.element(), nil
}

func (f *Framer) aggregate(typ byte) (bool, error) {
	attr := typ == '|' || typ == '>' && f.stray()
	f.inside = true
	if f.open {
		if len(f.stream) >= maxDepth {
			return false, fmt.Errorf("%w: streamed aggregates nested too deep", ErrReply)
		}
		f.stream = append(f.stream, level{need: f.need, attr: attr})
		f.need = 0
		return false, nil
	}
	n := f.num
	if f.neg {
		n = 0
	}
	if typ == '%' || typ == '|' {
		n *= 2
	}
	if f.need > maxNeed {
		return false, fmt.Errorf("%w: too many elements", ErrReply)
	}
	if attr {
		f.need += n
		return false, nil
	}
	if len(f.stream) > 0 && f.need == 0 {
		f.need = 1
	}
	f.need += n
	return f.element(), nil
}

// stray reports whether the push whose header has come answers for no element of the
// reply that it is in the middle of. Redis before 7.2 puts there what a command of a
// script or a transaction has the client itself be told: messages and invalidations.
// What SUBSCRIBE and its like say is counted by EXEC, and has three elements; so has a
// message without a pattern, which its first word tells.
func (f *Framer) stray() bool {
	if !f.inside || len(f.stream) > 0 {
		return false
	}
	f.pushed = f.num == confirmation && !f.neg
	return !f.pushed
}

// element counts one element as complete and reports whether it was the last.
func (f *Framer) element() bool {
	if len(f.stream) > 0 {
		if f.need > 0 {
			f.need--
		}
		return false
	}
	f.need--
	if f.need > 0 {
		return false
	}
	f.begun = false
	return true
}
