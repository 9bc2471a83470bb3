package pipe

import (
	"strconv"
	"sync/atomic"
)

// shortString is from how many bytes on a string is dumped: there compression begins
// to spare the link more than DUMP costs the server.
const shortString = 512

// lastOfShort is the index of the last byte that is asked for: a string that has it is
// not short.
var lastOfShort = strconv.Itoa(shortString - 1)

// typeString is the first byte of a string's payload (rdb.h, RDB_TYPE_STRING).
const typeString = 0

// kinds remembers which names have been those of short strings, by the shape of a
// name: user:17:name and user:18:name have one. It is a guess that costs a question
// more where it is wrong, never more. For concurrent use; the zero value knows nothing.
type kinds struct {
	slots [8192]atomic.Uint64 // what is known in the lowest bits, the rest of the shape's hash above
}

const (
	kindMask  = 3
	kindShort = 1 // of all that were seen
	kindOther = 2 // of one at least
)

// short reports whether key is thought to be a short string.
func (k *kinds) short(key string) bool {
	h := shape(key)
	return k.slots[h%uint64(len(k.slots))].Load() == h&^kindMask|kindShort
}

// learn notes what key was.
func (k *kinds) learn(key string, short bool) {
	h := shape(key)
	slot := &k.slots[h%uint64(len(k.slots))]
	known := slot.Load()
	switch {
	case !short && known != h&^kindMask|kindOther:
		slot.Store(h&^kindMask | kindOther)
	case !short:
	case known&^kindMask != h&^kindMask:
		slot.Store(h&^kindMask | kindShort)
	}
}

// shape is the FNV-1a hash of a name in which each word with a digit in it is the
// same word.
func shape(key string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset)
	start, digits := h, false
	for i := 0; i < len(key); i++ {
		c := key[i]
		switch {
		case c >= '0' && c <= '9':
			digits = true
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= 0x80:
			h = (h ^ uint64(c)) * prime
		default:
			if digits {
				h = (start ^ '0') * prime
			}
			h = (h ^ uint64(c)) * prime
			start, digits = h, false
		}
	}
	if digits {
		h = (start ^ '0') * prime
	}
	return h
}
