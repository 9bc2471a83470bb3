// Package model is the protocol of a switch as states and steps, small enough to try every interleaving.
// It owns the rules, what may fail, and what must hold in every state.
// It never does I/O, and shares no code with what it describes.
package model

import (
	"fmt"
	"math/bits"
	"strings"
)

// The servers. Epochs count the switches, so epoch&1 is the applications' server.
const (
	source = 0
	target = 1
)

// The writes of the applications. Each appends its letter to the one list that
// the servers hold, so that a lost, a doubled and a reordered write all show.
const (
	writeA  = iota // client 1, through sidecar 1
	writeB         // client 1, pipelined behind a
	writeC         // client 2, through sidecar 2
	writeX         // past the proxy, always to the source
	nWrites = iota
)

const letters = "abcx"

// list is the writes that a server has run, in order, four bits each.
type list uint32

func (l list) add(w int) list {
	return l | list(w+1)<<((bits.Len32(uint32(l))+3)/4*4)
}

// find returns how often w is in the list, and where first.
func (l list) find(w int) (n, at int) {
	at = -1
	for i := 0; l != 0; i, l = i+1, l>>4 {
		if int(l&15) == w+1 {
			if n++; at < 0 {
				at = i
			}
		}
	}
	return n, at
}

func (l list) String() string {
	if l == 0 {
		return "-"
	}
	var text []byte
	for ; l != 0; l >>= 4 {
		text = append(text, letters[l&15-1])
	}
	return string(text)
}

// entry is what the state file and the control keys of a server hold. The record
// and the journal of one server are one entry here: the newer of them counts.
type entry struct{ token, phase, epoch uint8 }

// The phases of an entry, in the order in which one token writes them.
const (
	none = iota
	prepared
	committing // the journal: the point of no return
	committed
	quiet
)

func (e entry) after(o entry) bool {
	return e.token > o.token || e.token == o.token && e.phase > o.phase
}

func newest(a, b entry) entry {
	if b.after(a) {
		return b
	}
	return a
}

// server is one Redis: its data, our control keys, and what it lets in.
type server struct {
	data   list
	key    entry
	kept   list  // what a failover or a crash leaves of data ...
	kept2  entry // ... and of the control keys
	fence  bool  // refuses the applications' writes
	spare  bool  // its replicas would, as the master
	paused bool  // stalls them; ends by itself at any time
	forgot bool  // restarted, and so lost a fence that stood
}

// feed is one subscription to a server's notifications and what it has marked.
type feed struct {
	up    bool // subscribed
	told  bool // a notification waits in the connection
	dirty bool // the key is marked
	owed  bool // a scan is due
}

// message is a copy of the whole list under way to a server.
type message struct {
	on bool
	to uint8
	v  list
}

// coordinator is a process that may switch. Only file survives its end.
type coordinator struct {
	file   entry
	best   entry // what it has read so far, while it recovers
	pc     pc
	token  uint8
	epoch  uint8
	ahead  feed // on the applications' server: what is copied to the other
	back   feed // on the other: armed for the way back
	copy   message
	conn   bool // may write to the server that is copied to
	unsure bool // a copy's answer was lost: it may still arrive
	moved  bool // the entered server is another process than the drained one
}

// What became of a write.
const (
	waiting  = iota // not sent, or refused for certain and held
	atSource        // under way
	atTarget
	acked
	refused // the client got an error that says that nothing happened
	unknown // the client's connection was closed
)

// State is all that there is at one moment. It is comparable.
type State struct {
	srv            [2]server
	co             [2]coordinator
	late           message        // a copy that nobody waits for any more
	write          [nWrites]uint8 // what became of each
	car            [2]uint8       // the epoch that each sidecar knows
	met            [2][2]bool     // sidecar, server: connected since it came up
	left           Bounds         // what may still happen
	drift          uint8          // a write of a client that has given up waiting
	elsewhere      bool           // client 1 has: its next write goes through sidecar 2
	taken          bool           // coordinator 2 has taken over
	epoch, decided uint8          // of history: switches committed, and journalled
	gone           uint8          // writes that servers lost by themselves, or that nobody promised to keep
	broken         property
}

// Bounds say how much may happen.
type Bounds struct {
	Writes   uint8 // which of the four, as bits
	Cold     bool  // the first copy has not begun
	Switches uint8 // that the operator asks for, there and back in turn
	Aborts   uint8 // by the operator or the budget
	Crashes  uint8 // of coordinators
	Starts   uint8 // of coordinators, beside the first
	Fails    uint8 // of servers
	Replicas bool  // a server that fails has one that takes over; else it restarts from its disk
	Fsync    bool  // which has everything that was acknowledged
	Cuts     uint8 // of notification connections
	Replies  uint8 // answers that are lost
	Gives    uint8 // times that a client gives up waiting, and goes on with another sidecar
}

// String says the bounds in words.
func (b Bounds) String() string {
	var parts []string
	add := func(n uint8, one, many string) {
		switch {
		case n == 1:
			parts = append(parts, "1 "+one)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %s", n, many))
		}
	}
	add(uint8(bits.OnesCount8(b.Writes)), "write", "writes")
	add(b.Switches, "switch", "switches")
	add(b.Aborts, "time given up", "times given up")
	add(b.Starts, "more start of a coordinator", "more starts of a coordinator")
	add(b.Crashes, "crash of one", "crashes of one")
	add(b.Fails, "failure of a server", "failures of servers")
	add(b.Cuts, "connection cut", "connections cut")
	add(b.Replies, "answer lost", "answers lost")
	add(b.Gives, "client gone elsewhere", "clients gone elsewhere")
	return strings.Join(parts, ", ")
}

// property is what must hold in every state.
type property uint8

const (
	holds property = iota
	lostWrite
	doubled
	reordered
	wrongSide
	bothOpen
	strayCopy
)

var properties = [...]string{
	lostWrite: "an acknowledged write that its server had kept is lost",
	doubled:   "a write was run twice",
	reordered: "two writes of one client changed places",
	wrongSide: "a client of the proxy wrote to the server that is not the applications'",
	bothOpen:  "both servers let applications write",
	strayCopy: "a copy of ours landed on the applications' server",
}

func (p property) String() string { return properties[p] }

// Model is the protocol, with some of its rules removed.
type Model struct {
	bounds  Bounds
	removed map[Rule]bool
	order   [nSteps]pc // what follows each step
}

// New returns a model without some of the rules.
func New(b Bounds, removed ...Rule) *Model {
	m := &Model{bounds: b, removed: make(map[Rule]bool)}
	for _, r := range removed {
		m.removed[r] = true
	}
	m.arrange()
	return m
}

func (m *Model) has(r Rule) bool { return !m.removed[r] }

// start is the first state: one coordinator runs, and follows the source.
func (m *Model) start() State {
	s := State{left: m.bounds}
	for w := range s.write {
		if m.bounds.Writes>>w&1 == 0 {
			s.write[w] = refused
		}
	}
	first := entry{token: 1, phase: quiet}
	for x := range s.srv {
		s.srv[x].key, s.srv[x].kept2 = first, first
		s.met[0][x], s.met[1][x] = true, true
	}
	s.co[0] = coordinator{pc: idle, file: first, token: 1, conn: true, ahead: feed{up: true, dirty: true}}
	if m.bounds.Cold {
		s.co[0].conn, s.co[0].ahead = false, feed{owed: true}
	}
	return m.judge(s)
}

// settled reports whether everything has come to its end: every write is
// decided, no switch is under way, the applications' server is open.
func (s *State) settled() bool {
	for _, w := range s.write {
		if w < acked {
			return false
		}
	}
	alive := false
	for _, c := range s.co {
		alive = alive || c.pc == idle
		if c.pc != idle && c.pc != down {
			return false
		}
	}
	return alive && !s.srv[s.epoch&1].fence
}

// judge looks for what must not be, and gives equal states one form.
func (m *Model) judge(s State) State {
	for x := range s.srv {
		v := &s.srv[x]
		if s.left.Fails == 0 || s.left.Fsync {
			v.kept, v.kept2 = 0, entry{} // nobody will ask
		}
	}
	if !s.late.on {
		s.late = message{}
	}
	if s.left.Gives == 0 && !s.elsewhere {
		s.taken = false // nobody will ask
	}
	for car := range s.car {
		if s.idle(car) { // what it knows does not matter any more
			s.car[car], s.met[car] = 0, [2]bool{true, true}
		}
	}
	if s.broken == holds {
		s.broken = s.look()
	}
	return s
}

// idle reports whether every write that goes through a sidecar is decided.
func (s *State) idle(car int) bool {
	for w, what := range s.write {
		if w != writeX && s.of(w) == car && what < acked {
			return false
		}
	}
	return car != 0 || s.drift == noDrift
}

func (s *State) look() property {
	home := &s.srv[s.epoch&1]
	for w, what := range s.write {
		n, _ := home.data.find(w)
		if n > 1 {
			return doubled
		}
		if what == acked && n == 0 && s.gone>>w&1 == 0 {
			return lostWrite
		}
	}
	_, a := home.data.find(writeA)
	_, b := home.data.find(writeB)
	if a >= 0 && b >= 0 && b < a {
		return reordered
	}
	other := &s.srv[1-s.epoch&1]
	if s.epoch > 0 && !other.fence && !other.forgot {
		return bothOpen
	}
	return holds
}
