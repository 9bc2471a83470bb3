package proxy

import (
	"slices"
	"time"
	"unsafe"
)

// How a reply is looked at while it passes.
const (
	modePass  byte = iota // not at all
	modeLine              // its first line, which is all of a status or an error
	modeWhole             // collected: small, or needed as a whole
	modeScan              // its cursor
	modeHeads             // what its elements begin with
)

// item is a command in flight that is more than plain.
type item struct {
	spec *spec
	args [][]byte // as the client wrote them, copied; nil where not needed
	raw  []byte   // as the client wrote it, when it may have to be said again
	mode byte
	role role

	gate  bool // it is inside the gate
	local bool // nothing was sent: text is the answer, in its turn
	text  []byte
	left  int // replies still to come; 0 until the first one comes
	kept  int // as size returned it

	with      string // what was put before its keys
	confirmed int    // how many of its channels
	sub       byte   // of CLIENT: which subcommand
	keys      []string
	wrote     []string // keys that may change with a notification
	unknown   bool     // … and others that nobody can name
	counted   string   // the silent counter that was raised for it
	epoch     uint64
	sent      time.Time
	block     *blocked
	unblocked bool  // by us
	call      call  // for the numbers; the zero value is not in them
	mayBlock  bool  // thought to be queued in a transaction; blocks where it was not
	turn      *turn // whose place in line ends with the answer

	settled  bool      // its effects are recorded
	index    int       // its place in the transaction
	ours     []int     // of EXEC: which of its replies answer commands of ours
	passed   int       // … and how many have been looked at
	late     []placed  // … what was queued whose replies come behind the array
	confirms *confirms // … and which replies are confirmations, where those are looked at

	wake  bool // the session waits for it
	done  bool
	retry bool   // nothing happened: it must be sent again
	again []byte // as the client wrote it, where a fence may refuse it
	lost  bool   // the outcome is unknown
	reply []byte
	heard chan struct{} // closed when done, where somebody else than the session waits
}

// shed gives up what nobody looks at once the command is on its way.
func (it *item) shed() {
	switch it.spec.verb {
	case vEval, vEvalSHA, vFcall, vSilent, vScan, vFlushAll, vFlushDB:
		if it.raw == nil { // it is in no transaction, which might be said again
			it.args = nil
		}
	}
}

// size returns about how many bytes are kept for it while it is in flight.
func (it *item) size() int {
	if it.kept == 0 {
		it.kept = it.weight()
	}
	return it.kept
}

// weight is what size was, by what is there now.
func (it *item) weight() int {
	n := int(unsafe.Sizeof(*it)) + len(it.raw) + len(it.text) + len(it.again)
	for _, a := range it.args {
		n += len(a) + int(unsafe.Sizeof(a))
	}
	for _, keys := range [][]string{it.keys, it.wrote} {
		for _, k := range keys {
			n += len(k) + int(unsafe.Sizeof(k))
		}
	}
	return n
}

// finish marks the item as answered, or its outcome as unknown.
func (it *item) finish() {
	it.done = true
	if it.heard != nil {
		close(it.heard)
	}
}

// role says who asked and what becomes of the reply.
type role byte

const (
	ofClient   role = iota
	replaced        // the client gets text instead of whatever the server says
	okReplaced      // … unless the server says an error
	ours            // swallowed; kept in reply
	execNil         // DISCARD in place of an EXEC whose WATCH did not survive a switch
	muteOn          // CLIENT REPLY OFF, sent as ON
	muteSkip        // CLIENT REPLY SKIP, sent as ON
	muteOff         // CLIENT REPLY ON
)

// blocked is how to send a blocking command again.
type blocked struct {
	at       int
	forever  bool
	deadline time.Time
	turn     *turn // nil where the order does not matter
}

// slot is a run of plain commands, or one item.
type slot struct {
	n int
	x *item
}

// fifo holds what is in flight on one upstream, oldest first. Runs of plain
// commands take one slot, so a deep pipeline costs nothing.
type fifo struct {
	slots []slot
	head  int
	bytes int    // that are kept of items
	n     int    // commands in all slots
	calls calls  // the plain ones, for the numbers
	sent  *sent  // … as their client wrote them, where a fence may refuse them; nil elsewhere
	raw   []byte // the one that was popped last, good until the next push
}

func (f *fifo) empty() bool { return f.head == len(f.slots) }

// kept is how many bytes are kept of what is in flight.
func (f *fifo) kept() int { return f.bytes + f.sent.size() }

// inside reports whether a command is in it that is inside the gate.
func (f *fifo) inside() bool {
	return slices.ContainsFunc(f.slots[f.head:], func(s slot) bool { return s.x == nil || s.x.gate })
}

// plain reports whether nothing but plain commands is in it.
func (f *fifo) plain() bool {
	return !slices.ContainsFunc(f.slots[f.head:], func(s slot) bool { return s.x != nil })
}

// tellsID returns what is closed once a CLIENT ID of ours in flight is answered, nil where
// none is.
func (f *fifo) tellsID() <-chan struct{} {
	for _, s := range f.slots[f.head:] {
		if s.x == nil || s.x.spec != clientIDSpec {
			continue
		}
		if s.x.heard == nil {
			s.x.heard = make(chan struct{})
		}
		return s.x.heard
	}
	return nil
}

func (f *fifo) pushPlain(c call) {
	f.n++
	f.calls.push(c, sessionCalls)
	if n := len(f.slots); n > f.head && f.slots[n-1].x == nil {
		f.slots[n-1].n++
		return
	}
	f.slots = append(f.slots, slot{n: 1})
}

func (f *fifo) push(x *item) {
	f.bytes += x.size()
	f.n++
	f.slots = append(f.slots, slot{n: 1, x: x})
}

// peek returns the oldest: nil, true is a plain command.
func (f *fifo) peek() (*item, bool) {
	if f.empty() {
		return nil, false
	}
	return f.slots[f.head].x, true
}

// pop takes the oldest out and returns what numbers need of it; known is false
// for a plain command that was not remembered.
func (f *fifo) pop() (c call, known bool) {
	s := &f.slots[f.head]
	s.n--
	f.n--
	if s.x != nil {
		c, known = s.x.call, true
		f.bytes -= s.x.size()
	} else {
		c, known = f.calls.pop()
		if f.sent != nil {
			f.raw = f.sent.pop()
		}
	}
	if s.n > 0 {
		return c, known
	}
	*s = slot{}
	f.head++
	if f.head == len(f.slots) {
		f.slots, f.head = f.slots[:0], 0
		if cap(f.slots) > 1024 {
			f.slots = nil
		}
		if len(f.calls.ring) > 1024 {
			f.calls = calls{keys: f.calls.keys, elements: f.calls.elements}
		}
	} else if f.head > 1024 && f.head > len(f.slots)/2 {
		f.slots = append([]slot(nil), f.slots[f.head:]...)
		f.head = 0
	}
	return c, known
}
