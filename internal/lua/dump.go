package lua

import (
	"encoding/binary"
	"errors"
)

// What FUNCTION DUMP says is a piece of an RDB file: for each library a byte and a string,
// which may be compressed, then the version and a checksum.

const (
	library = 245 // RDB_OPCODE_FUNCTION2 in rdb.h
	footer  = 10  // bytes
	// dumpMost is how many bytes of text are looked into, all libraries together.
	dumpMost = 64 << 20
)

// ErrShort means that no server takes it for a dump.
var ErrShort = errors.New("reading a dump of functions: it is too short for one")

var (
	errDump  = errors.New("reading a dump of functions: it is not one that is known")
	errLarge = errors.New("reading a dump of functions: it is too large")
)

// Libraries returns the texts of the libraries in what FUNCTION DUMP says. Whether the
// checksum is right is the server's to say.
func Libraries(dump []byte) (texts [][]byte, err error) {
	if len(dump) < footer {
		return nil, ErrShort
	}
	rest, most := dump[:len(dump)-footer], dumpMost
	for len(rest) > 0 {
		if rest[0] != library {
			return nil, errDump
		}
		var text []byte
		if text, rest, err = text1(rest[1:], most); err != nil {
			return nil, err
		}
		most -= len(text)
		texts = append(texts, text)
	}
	return texts, nil
}

// text1 reads a string of most bytes at most.
func text1(b []byte, most int) (text, rest []byte, err error) {
	if len(b) > 0 && b[0] == 0xc3 { // compressed: both lengths, then the bytes
		packed, b, ok := number(b[1:])
		if !ok {
			return nil, nil, errDump
		}
		size, b, ok := number(b)
		if !ok || packed > uint64(len(b)) {
			return nil, nil, errDump
		}
		if size > uint64(most) {
			return nil, nil, errLarge
		}
		if text, ok = unpacked(b[:packed], int(size)); !ok {
			return nil, nil, errDump
		}
		return text, b[packed:], nil
	}
	size, b, ok := number(b)
	if !ok || size > uint64(len(b)) {
		return nil, nil, errDump
	}
	if size > uint64(most) {
		return nil, nil, errLarge
	}
	return b[:size], b[size:], nil
}

// number reads a length: 6, 14, 32 or 64 bits.
func number(b []byte) (n uint64, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	switch first := b[0]; {
	case first>>6 == 0:
		return uint64(first), b[1:], true
	case first>>6 == 1 && len(b) >= 2:
		return uint64(first&0x3f)<<8 | uint64(b[1]), b[2:], true
	case first == 0x80 && len(b) >= 5:
		return uint64(binary.BigEndian.Uint32(b[1:])), b[5:], true
	case first == 0x81 && len(b) >= 9:
		return binary.BigEndian.Uint64(b[1:]), b[9:], true
	}
	return 0, nil, false
}

// unpacked undoes LZF: runs of bytes, and pieces of what came before.
func unpacked(b []byte, size int) ([]byte, bool) {
	out := make([]byte, 0, min(size, 128*len(b)))
	for len(b) > 0 {
		first := int(b[0])
		b = b[1:]
		if first < 32 {
			n := first + 1
			if n > len(b) || len(out)+n > size {
				return nil, false
			}
			out, b = append(out, b[:n]...), b[n:]
			continue
		}
		n := first >> 5
		if n == 7 {
			if len(b) == 0 {
				return nil, false
			}
			n, b = n+int(b[0]), b[1:]
		}
		n += 2
		if len(b) == 0 {
			return nil, false
		}
		from := len(out) - (first&0x1f)<<8 - int(b[0]) - 1
		b = b[1:]
		if from < 0 || len(out)+n > size {
			return nil, false
		}
		for i := range n { // the piece may reach into what it adds
			out = append(out, out[from+i])
		}
	}
	return out, len(out) == size
}
