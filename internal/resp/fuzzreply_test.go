package resp

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// replyReader is the reference of the Framer: it reads recursively, each element
// by a function, from the first byte on.
type replyReader struct {
	b      []byte
	at     int
	depth  int  // of streamed aggregates
	inside bool // of an aggregate
}

var errBad = errors.New("malformed")

func (r *replyReader) line() (string, error) {
	i := bytes.Index(r.b[r.at:], []byte("\r\n"))
	if i < 0 {
		return "", errMore
	}
	s := string(r.b[r.at : r.at+i])
	r.at += i + 2
	return s, nil
}

// length reads a length: n below 0 for null, open for '?'. A line that cannot
// become one is malformed as soon as it shows.
func (r *replyReader) length() (n int64, open bool, err error) {
	end, whole := bytes.IndexByte(r.b[r.at:], '\r'), true
	if end < 0 {
		end, whole = len(r.b)-r.at, false
	}
	text := string(r.b[r.at : r.at+end])
	rest := r.b[min(len(r.b), r.at+end+1):]
	digits := strings.TrimPrefix(text, "-")
	for i, c := range digits {
		switch {
		case c == '?' && i == 0 && text == digits:
			if len(digits) > 1 {
				return 0, false, errBad
			}
		case c < '0' || c > '9':
			return 0, false, errBad
		}
	}
	if digits != "?" && digits != "" {
		v, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || v > maxLength {
			return 0, false, errBad
		}
		n = v
	}
	if !whole || len(rest) == 0 {
		return 0, false, errMore
	}
	if rest[0] != '\n' || digits == "" {
		return 0, false, errBad
	}
	r.at += len(text) + 2
	if text != digits {
		return -1, false, nil
	}
	return n, digits == "?", nil
}

func (r *replyReader) payload(n int64) error {
	if int64(len(r.b)-r.at) < n+2 {
		return errMore
	}
	r.at += int(n) + 2
	return nil
}

// element reads one element with the attributes before it. end says that it was
// the end of a streamed aggregate instead.
func (r *replyReader) element(inStream bool) (end bool, err error) {
	for {
		if r.at >= len(r.b) {
			return false, errMore
		}
		typ := r.b[r.at]
		r.at++
		switch typ {
		case '+', '-', ':', '_', '#', ',', '(':
			_, err = r.line()
			return false, err
		case '.':
			if _, err := r.line(); err != nil {
				return false, err
			}
			if !inStream {
				return false, errBad
			}
			return true, nil
		case ';':
			if _, _, err := r.length(); err != nil {
				return false, err
			}
			return false, errBad
		case '$', '=', '!':
			n, open, err := r.length()
			switch {
			case err != nil || n < 0:
				return false, err
			case open:
				return false, r.chunks()
			}
			return false, r.payload(n)
		case '*', '~', '>', '%', '|':
			n, open, err := r.length()
			if err != nil {
				return false, err
			}
			if typ == '%' || typ == '|' {
				n *= 2
			}
			stray := typ == '>' && r.inside && r.depth == 0 && (n != 3 || open || r.saysMessage())
			r.inside = true
			if err := r.members(n, open); err != nil {
				return false, err
			}
			if typ != '|' && !stray {
				return false, nil
			}
		default:
			return false, errBad
		}
	}
}

// saysMessage reports whether the next string is of such a length.
func (r *replyReader) saysMessage() bool {
	if r.at >= len(r.b) || r.b[r.at] != '$' {
		return false
	}
	n, open, err := (&replyReader{b: r.b, at: r.at + 1}).length()
	return err == nil && !open && (n == 7 || n == 8)
}

func (r *replyReader) members(n int64, open bool) error {
	if !open {
		for ; n > 0; n-- {
			if _, err := r.element(false); err != nil {
				return err
			}
		}
		return nil
	}
	if r.depth++; r.depth > maxDepth {
		return errBad
	}
	defer func() { r.depth-- }()
	for {
		if end, err := r.element(true); err != nil || end {
			return err
		}
	}
}

func (r *replyReader) chunks() error {
	for {
		if r.at >= len(r.b) {
			return errMore
		}
		typ := r.b[r.at]
		if typ != ';' {
			// It shows at the end of the line only that there is no chunk.
			if _, err := (&replyReader{b: r.b, at: r.at}).element(true); errors.Is(err, errMore) && !headerWhole(r.b[r.at:]) {
				return errMore
			}
			return errBad
		}
		r.at++
		n, open, err := r.length()
		switch {
		case err != nil:
			return err
		case open || n < 0:
			return errBad
		case n == 0:
			return nil
		}
		if err := r.payload(n); err != nil {
			return err
		}
	}
}

// headerWhole reports whether b begins with a whole line.
func headerWhole(b []byte) bool { return bytes.Contains(b, []byte("\r\n")) }

func FuzzFramer(f *testing.F) {
	for _, s := range wellFormed {
		f.Add([]byte(s), []byte{0})
	}
	for _, s := range []string{strings.Repeat("*1\r\n", 100) + ":1\r\n", strings.Repeat("*?\r\n", 64) + strings.Repeat(".\r\n", 64), strings.Repeat("*?\r\n", 65),
		"*1099511627776\r\n", "$1099511627777\r\n", "$?\r\n+x\r\n", "$?\r\n;?\r\n", ";0\r\n", ".\r\n", "*2\r\n:1\r\n.\r\n", "*?\r\n*2\r\n:1\r\n.\r\n", "%?\r\n|?\r\n.\r\n.\r\n", "\x000", "0", "$-0\r\n$-7\r\n*-2\r\n",
		"$400\r\n" + strings.Repeat("v", 400) + "\r\n:1\r\n", "*2\r\n=300\r\n" + strings.Repeat("\n", 300) + "\r\n+a\nb\r\n", "$?\r\n;250\r\n" + strings.Repeat("v", 250) + "\r\n;0\r\n",
		"$01\r\nv\r\n$0000001\r\nv\r\n$1\r\nvxx+\r\n-\n\r\n", "+a\nb\r\n-x\n\r\n:1\n\r\n"} {
		f.Add([]byte(s), []byte{1, 200})
	}
	f.Fuzz(func(t *testing.T, b, cuts []byte) {
		var want []int
		var wantErr error
		for r := (replyReader{b: b}); ; want = append(want, r.at) {
			r.inside = false
			if _, wantErr = r.element(false); wantErr != nil {
				break
			}
		}
		for how, next := range framings {
			got, err := framed(t, b, pieces(b, cuts), next)
			if fmt.Sprint(got) != fmt.Sprint(want) || (err != nil) != errors.Is(wantErr, errBad) {
				t.Fatalf("%q in pieces of %v, %s: replies end at %v, %v; the reference has %v, %v", b, cuts, how, got, err, want, wantErr)
			}
			if err != nil && !errors.Is(err, ErrReply) {
				t.Fatalf("%q: %v", b, err)
			}
		}
		from := 0
		for _, end := range append(want, -1) { // the last one is not there, or malformed
			if n := Whole(b[from:]); n != 0 && n != end-from {
				t.Fatalf("%q: the reply at %d is whole with %d bytes; the reference has ends at %v", b, from, n, want)
			}
			from = end
		}
		peek(t, b, want)
	})
}

// framings are the ways in which the proxy's readers go through what a server says.
var framings = map[string]func(fr *Framer, piece []byte) (n int, done bool, err error){
	"fed": (*Framer).Feed,
	"skipped where that will do": func(fr *Framer, piece []byte) (int, bool, error) {
		if fr.Skip(len(piece)) {
			return len(piece), false, nil
		}
		return fr.Feed(piece)
	},
	"taken whole where that will do": func(fr *Framer, piece []byte) (int, bool, error) {
		if fr.AtStart() {
			if n := Whole(piece); n > 0 {
				return n, true, nil
			}
		}
		return fr.Feed(piece)
	},
}

// framed returns where the replies in b end, which comes in pieces.
func framed(t *testing.T, b []byte, pieces [][]byte, next func(fr *Framer, piece []byte) (int, bool, error)) (ends []int, err error) {
	var fr Framer
	at := 0
	for _, piece := range pieces {
		for len(piece) > 0 {
			n, done, err := next(&fr, piece)
			if err != nil {
				return ends, err
			}
			if n == 0 {
				t.Fatalf("%q: stuck at %d", b, at)
			}
			at += n
			piece = piece[n:]
			if done {
				ends = append(ends, at)
			}
			if done != fr.AtStart() {
				t.Fatalf("%q at %d: done %v, at the start %v", b, at, done, fr.AtStart())
			}
		}
	}
	return ends, nil
}

// peek has whole replies looked into: nothing panics, and the elements of an
// aggregate make up its bytes.
func peek(t *testing.T, b []byte, ends []int) {
	from := 0
	for _, end := range ends {
		el := b[from:end]
		from = end
		_ = ErrorText(el)
		_, _, _ = Text(el)
		_, n, rest, ok := Header(el)
		if !ok || n < 0 {
			continue
		}
		if len(el) > 4096 || bytes.ContainsAny(el, "|") {
			continue // an attribute is an element of its own to Header, and its owner follows
		}
		els, pushed := Split(el)
		var all []byte
		for i := range els {
			if pushed != nil {
				all = append(all, pushed[i]...)
			}
			all = append(all, els[i]...)
		}
		if len(els) != n || !bytes.Equal(all, rest) {
			t.Fatalf("%q has the elements %q, behind %q", el, els, pushed)
		}
	}
	_, _, _ = Text(b)
	_, _, _, _ = Header(b)
}
