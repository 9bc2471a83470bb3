package fleet

import (
	"github.com/crossfade/crossfade/internal/cluster"
)

// call is one request on its way: a client's whole command, a part of one, or one of ours.
// All but what is set when it is made is guarded by its connection's mu.
type call struct {
	raw      []byte
	slot     int                // -1: it has no key
	at       string             // the node that it is for, whatever its slot; "" for any that fits
	reads    bool               // it changes nothing, so it does no harm to send it twice
	scripted bool               // an error may be a script's own words
	fan      *fan               // whose part it is
	txn      *txn               // which it is the EXEC of
	scans    bool               // it is a page of a key's elements
	pages    []int              // … or an EXEC of some, which are these of its commands
	lone     bool               // its reply is only for who waits for it
	silent   bool               // … and its end is nothing to wake anybody for
	then     func(reply []byte) // is called with each reply, and mu held
	before   []byte             // CLIENT CACHING, which is said before it
	confirms string             // its replies are confirmations of this kind; "" for all others
	left     int                // … of which so many are still to come

	size int    // of raw, as it was first
	node *node  // to which it was sent last; nil before
	seq  uint64 // … as its which call

	to        *cluster.Redirect // where it is to be sent again; nil: where its slot is
	refusal   []byte            // why
	overtaken bool              // what came behind it was done, while it was not
	collect   bool              // its reply is looked at as a whole
	begun     bool              // a part of its reply is out
	headed    bool              // … or its header was taken off
	done      bool
	lost      error // nobody knows whether it was done
	written   bool  // … as it was at least sent
	buf       []byte
}

// slab hands out calls and room for their bytes, many in one allocation.
type slab struct {
	calls []call
	bytes []byte
}

const (
	slabCalls = 64
	slabBytes = 32 << 10
)

func (s *slab) call() *call {
	if len(s.calls) == 0 {
		s.calls = make([]call, slabCalls)
	}
	cl := &s.calls[0]
	s.calls = s.calls[1:]
	return cl
}

func (s *slab) keep(b []byte) []byte {
	if len(b) > cap(s.bytes)-len(s.bytes) {
		if len(b) > slabBytes/4 {
			return append([]byte(nil), b...)
		}
		s.bytes = make([]byte, 0, slabBytes)
	}
	from := len(s.bytes)
	s.bytes = append(s.bytes, b...)
	return s.bytes[from:len(s.bytes):len(s.bytes)]
}
