package proxy

import (
	"bytes"
	"slices"

	"github.com/crossfade/crossfade/internal/resp"
)

// heads makes of an aggregate, which passes in pieces, one of the same length that says
// of each element only whether it is an error. That is all that has to be known of the
// reply to EXEC, which may be as large as all that its commands have read. What was pushed
// into the middle of it is left out. The zero value stands before the aggregate.
type heads struct {
	whole    []int // the places of elements that stay as they are, in order
	elements bool  // the header has come
	at       int   // the place of the next one
	keeps    bool  // the present one stays as it is
	pushing  bool  // a push has begun, which may be none
	push     []byte
	fr       resp.Framer
}

// add takes the next piece and appends to short what it tells.
func (h *heads) add(short, b []byte) []byte {
	if !h.elements {
		n := bytes.IndexByte(b, '\n') + 1
		if n == 0 {
			return append(short, b...)
		}
		h.elements = true
		short, b = append(short, b[:n]...), b[n:]
	}
	for len(b) > 0 {
		if h.fr.AtStart() {
			h.pushing, h.push = b[0] == '>', h.push[:0]
			if !h.pushing {
				short = h.begins(short, b)
			}
		}
		n, done, err := h.fr.Feed(b)
		if err != nil { // who finds the end of the whole has seen it too
			break
		}
		piece := b[:n]
		b = b[n:]
		if h.pushing {
			h.push = append(h.push, piece...)
			if !done || resp.Stray(h.push) {
				continue
			}
			piece = h.push
			short = h.begins(short, piece)
		}
		if h.keeps {
			short = append(short, piece...)
		}
	}
	return short
}

// begins appends what tells of the element that begins b.
func (h *heads) begins(short, b []byte) []byte {
	_, h.keeps = slices.BinarySearch(h.whole, h.at)
	h.at++
	switch {
	case h.keeps:
		return short
	case resp.IsError(b):
		return append(short, "-\r\n"...)
	}
	return append(short, "+\r\n"...)
}
