package pipe

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// The kinds of encoding in which the order of what they hold says nothing: hash tables,
// whose order is another one on each server (rdb.h).
const (
	kindSet  = 2
	kindHash = 4
)

// sameElements reports whether two payloads without their footers are of sets or hashes
// that surely hold the same, in whatever order. What cannot be read is not the same.
func sameElements(a, b []byte) bool {
	if len(a) != len(b) || len(a) < 2 || a[0] != b[0] {
		return false
	}
	of := 1
	switch a[0] {
	case kindSet:
	case kindHash:
		of = 2 // field and value
	default:
		return false
	}
	x, y := elements(a[1:], of), elements(b[1:], of)
	if x == nil || len(x) != len(y) {
		return false
	}
	slices.SortFunc(x, bytes.Compare)
	slices.SortFunc(y, bytes.Compare)
	return slices.EqualFunc(x, y, bytes.Equal)
}

// elements cuts what follows a number into so many times of strings, each encoded as it
// is. It returns nil where that does not come out even.
func elements(p []byte, of int) [][]byte {
	n, _, p, ok := length(p)
	if !ok || n == 0 || n > uint64(len(p)) {
		return nil
	}
	out := make([][]byte, 0, n)
	for range n {
		begin := p
		for range of {
			if p, ok = skipString(p); !ok {
				return nil
			}
		}
		out = append(out, begin[:len(begin)-len(p)])
	}
	if len(p) > 0 {
		return nil
	}
	return out
}

// length reads a length, or the number of a special encoding, and returns what follows
// (rdb.c, rdbLoadLenByRef).
func length(p []byte) (n uint64, special bool, rest []byte, ok bool) {
	if len(p) == 0 {
		return 0, false, nil, false
	}
	first := p[0]
	switch {
	case first>>6 == 0:
		return uint64(first & 0x3f), false, p[1:], true
	case first>>6 == 1 && len(p) >= 2:
		return uint64(first&0x3f)<<8 | uint64(p[1]), false, p[2:], true
	case first == 0x80 && len(p) >= 5:
		return uint64(binary.BigEndian.Uint32(p[1:])), false, p[5:], true
	case first == 0x81 && len(p) >= 9:
		return binary.BigEndian.Uint64(p[1:]), false, p[9:], true
	case first>>6 == 3:
		return uint64(first & 0x3f), true, p[1:], true
	}
	return 0, false, nil, false
}

// The special encodings of a string: a number of one, two or four bytes, or compressed.
const (
	int8Encoding  = 0
	int16Encoding = 1
	int32Encoding = 2
	lzfEncoding   = 3
)

// skipString returns what follows a string.
func skipString(p []byte) (rest []byte, ok bool) {
	n, special, p, ok := length(p)
	if !ok {
		return nil, false
	}
	if special {
		switch n {
		case int8Encoding:
			n = 1
		case int16Encoding:
			n = 2
		case int32Encoding:
			n = 4
		case lzfEncoding:
			if n, special, p, ok = length(p); !ok || special {
				return nil, false
			}
			if _, special, p, ok = length(p); !ok || special {
				return nil, false
			}
		default:
			return nil, false
		}
	}
	if n > uint64(len(p)) {
		return nil, false
	}
	return p[n:], true
}
