package resp

import "bytes"

// Header reads the header line of an aggregate: its type and how many elements
// follow (a map counts keys and values). ok is false when the line is not whole
// or b is no aggregate. A null aggregate has n == -1.
func Header(b []byte) (typ byte, n int, rest []byte, ok bool) {
	if len(b) == 0 || !bytes.ContainsRune([]byte("*%~>|"), rune(b[0])) {
		return 0, 0, nil, false
	}
	i := bytes.Index(b, []byte("\r\n"))
	if i < 0 {
		return 0, 0, nil, false
	}
	v, good := Integer(b[1:i])
	if !good || v > maxLength {
		return 0, 0, nil, false
	}
	n = int(v)
	if n > 0 && (b[0] == '%' || b[0] == '|') {
		n *= 2
	}
	return b[0], n, b[i+2:], true
}

// Text reads one string element ($, = without its prefix kept, +, - or a number)
// and returns its payload. ok is false when it is not whole, null or no string.
func Text(b []byte) (text, rest []byte, ok bool) {
	i := bytes.Index(b, []byte("\r\n"))
	if i < 1 {
		return nil, nil, false
	}
	switch b[0] {
	case '+', '-', ':', '(', ',', '#':
		return b[1:i], b[i+2:], true
	case '$', '=', '!':
		n, good := Integer(b[1:i])
		if !good || n < 0 || int64(len(b)-i-2) < n+2 {
			return nil, nil, false
		}
		start := i + 2
		return b[start : start+int(n)], b[start+int(n)+2:], true
	}
	return nil, nil, false
}

// Elements splits a whole aggregate into its elements, undecoded. It returns nil
// for anything else.
func Elements(b []byte) [][]byte {
	els, _ := Split(b)
	return els
}

// Split is Elements with what was pushed before each of them, and is none. pushed is nil
// where nothing was.
func Split(b []byte) (els, pushed [][]byte) {
	_, n, rest, ok := Header(b)
	if !ok || n < 0 {
		return nil, nil
	}
	for i := range n {
		f := Framer{begun: true, need: 1, inside: true}
		end, done, err := f.Feed(rest)
		if err != nil || !done {
			return nil, nil
		}
		from := 0
		for rest[from] == '>' {
			n, _, _ := new(Framer).Feed(rest[from:end])
			if from+n == end {
				break
			}
			from += n
		}
		if from > 0 && pushed == nil {
			pushed = make([][]byte, n)
		}
		if from > 0 {
			pushed[i] = rest[:from:from]
		}
		els = append(els, rest[from:end:end])
		rest = rest[end:]
	}
	return els, pushed
}

// Stray reports whether a whole push, in the middle of a reply, answers for no element of it.
func Stray(push []byte) bool {
	f := Framer{begun: true, need: 1, inside: true}
	_, done, err := f.Feed(push)
	return !done && err == nil
}

// IsError reports whether an element is an error, simple or blob.
func IsError(b []byte) bool { return len(b) > 0 && (b[0] == '-' || b[0] == '!') }

// ErrorText returns the text of an error element, "" when it is none.
func ErrorText(b []byte) string {
	if !IsError(b) {
		return ""
	}
	text, _, _ := Text(b)
	return string(text)
}
