// Package dirty holds the keys whose copy may be stale.
// It owns the order in which keys are copied: a key is in one hand at a time.
// It never does I/O and imports no other package of this project.
package dirty

import (
	"context"
	"sync"
	"time"
)

// Set is the coalescing set of dirty keys of one database. A key is queued, in
// hand (somebody copies it), or both: a key marked while in hand is taken again
// after Done, never at the same time. So copies of one key never overtake each
// other. The design follows client-go's workqueue. All methods are safe for
// concurrent use.
type Set struct {
	limit int

	mu       sync.Mutex
	keys     store
	queue    ring // numbers of the queued keys, the oldest first
	overflow bool
	changed  chan struct{} // closed and replaced whenever a waiter may go on

	oldest, aged uint32 // Age's last answer, and when that was
}

type keyState uint8

const (
	queued keyState = iota + 1
	held            // in hand, clean since it was taken
	stale           // in hand and marked since: queued again at Done
)

// nameBytes is how long names may be at the limit, on average: it bounds memory.
const nameBytes = 256

// New returns an empty set that queues at most limit keys (0: no bound), and fewer of long
// names, but for those that come back from a hand.
func New(limit int) *Set {
	return &Set{limit: limit, keys: newStore(), changed: make(chan struct{})}
}

// Mark says that key's copy may be stale. Past the limit the key is not kept:
// Overflowed then reports true until Forget or ClearOverflow, and the database
// must be scanned again. It never blocks.
func (s *Set) Mark(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark(key)
}

// MarkAll is Mark for several keys under one lock.
func (s *Set) MarkAll(keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		s.mark(k)
	}
}

func (s *Set) mark(key string) {
	id, hash, known := s.keys.find(key)
	if known {
		if e := s.keys.at(id); e.state == held {
			e.state, e.again = stale, s.keys.clock()
		}
		return
	}
	if s.full(key) { // those in hand are bounded by who has them
		if !s.overflow {
			s.overflow = true
			s.wake()
		}
		return
	}
	s.queue.push(s.keys.add(key, hash, queued))
	if s.queue.n == 1 {
		s.wake()
	}
}

// full reports whether key, which is not there, is not to be queued. One is in any case: of
// none nothing would be copied but by scans.
func (s *Set) full(key string) bool {
	most := int64(s.limit) * nameBytes
	return s.limit > 0 && (s.queue.n >= s.limit || s.queue.n > 0 && s.keys.bytes+int64(len(key)) > most)
}

// Claim takes keys that nobody has marked and nobody holds into hand, and
// returns them: a scan copies those at once, and leaves the others to whoever
// takes them. Those in hand count as marked: what is being written of them may
// have been read before whatever the scan makes up for. The result reuses keys' memory.
func (s *Set) Claim(keys []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := keys[:0]
	for _, k := range keys {
		id, hash, known := s.keys.find(k)
		if known {
			if e := s.keys.at(id); e.state == held {
				e.state, e.again = stale, s.keys.clock()
			}
			continue
		}
		s.keys.take(s.keys.add(k, hash, held))
		mine = append(mine, k)
	}
	return mine
}

// MarkHeld is Mark for all keys in hand. It is for when changes were missed that no scan need
// come upon: what is being written of a key may have been read before it went, and be on no
// server yet where a scan could find it.
func (s *Set) MarkHeld() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range s.keys.hands {
		if e := s.keys.at(id); e.state == held {
			e.state, e.again = stale, s.keys.clock()
		}
	}
}

// Take waits for queued keys and takes up to limit of them into hand, oldest
// first. Each must be given back with Done or Retry. The error is the context's
// cause.
func (s *Set) Take(ctx context.Context, limit int) ([]string, error) {
	for {
		if ctx.Err() != nil { // also when keys are there: whoever stops would take and retry for ever
			return nil, context.Cause(ctx)
		}
		s.mu.Lock()
		if keys := s.take(limit); len(keys) > 0 {
			s.mu.Unlock()
			return keys, nil
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// TakeNow is Take without the waiting: nil when nothing is queued.
func (s *Set) TakeNow(limit int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(limit)
}

func (s *Set) take(limit int) []string {
	n := min(limit, s.queue.n)
	if n <= 0 {
		return nil
	}
	keys := make([]string, n)
	for i := range keys {
		id := s.queue.pop()
		keys[i] = string(s.keys.key(id))
		s.keys.take(id)
	}
	return keys
}

// Done gives back keys whose copy is finished. Those marked meanwhile are
// queued again.
func (s *Set) Done(keys []string) { s.giveBack(keys, false) }

// Retry gives back keys whose copy failed: all are queued again, at the end.
func (s *Set) Retry(keys []string) { s.giveBack(keys, true) }

func (s *Set) giveBack(keys []string, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range keys {
		id, _, known := s.keys.find(k)
		if !known {
			panic("dirty: a key was given back that was not in hand")
		}
		s.keys.release(id)
		switch e := s.keys.at(id); {
		case again: // its age is that of the change that was not copied
			e.state = queued
			s.queue.push(id)
		case e.state == stale:
			e.state, e.since = queued, e.again
			s.queue.push(id)
		default:
			s.keys.remove(id)
		}
	}
	s.wake()
}

// Forget drops every queued key and the overflow mark; keys in hand stay in
// hand. It is for positions before which nothing matters.
func (s *Set) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queue.n > 0 {
		s.keys.remove(s.queue.pop())
	}
	for _, id := range s.keys.hands {
		s.keys.at(id).state = held
	}
	s.overflow = false
	s.wake()
}

// Clean says which keys are neither queued nor in hand.
func (s *Set) Clean(keys []string) []bool {
	out := make([]bool, len(keys))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, k := range keys {
		_, _, known := s.keys.find(k)
		out[i] = !known
	}
	return out
}

// Again reports whether key is in hand and was marked since it was taken.
func (s *Set) Again(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, _, known := s.keys.find(key)
	return known && s.keys.at(id).state == stale
}

// Len returns how many keys are queued or in hand.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys.n
}

// Queued returns how many keys wait for a hand.
func (s *Set) Queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue.n
}

// InHand returns how many keys somebody is copying.
func (s *Set) InHand() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.keys.hands)
}

// Age returns how long ago the oldest of the changes was marked that are not yet
// copied, to the millisecond, and 0 when there is none. Keys that were claimed by a
// scan count from then. With very many keys the answer may be a second old, and is
// then too high rather than too low.
func (s *Set) Age() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys.n == 0 {
		return 0
	}
	now := s.keys.clock()
	const soon = 1000
	if s.keys.n < many || now-s.aged > soon { // who has waited for a retry stands at the end: all are asked
		s.oldest, s.aged = s.since(now, nil), now
	}
	return time.Duration(now-s.oldest) * time.Millisecond
}

// many is from how many keys on not all of them are asked each time.
const many = 100_000

// AgeBut is Age without some keys that are in hand. With very many keys they count too.
func (s *Set) AgeBut(except map[string]bool) time.Duration {
	if len(except) > 0 {
		s.mu.Lock()
		if s.keys.n < many {
			defer s.mu.Unlock()
			now := s.keys.clock()
			return time.Duration(now-s.since(now, except)) * time.Millisecond
		}
		s.mu.Unlock()
	}
	return s.Age()
}

// since returns when the oldest change was marked, of keys in hand but for some; now when
// there is none.
func (s *Set) since(now uint32, except map[string]bool) uint32 { // with mu held
	age := uint32(0) // and not the least since: the clock begins anew after 49 days
	for i := range s.queue.n {
		age = max(age, now-s.keys.at(s.queue.nth(i)).since)
	}
	for _, id := range s.keys.hands {
		if len(except) == 0 || !except[string(s.keys.key(id))] {
			age = max(age, now-s.keys.at(id).since)
		}
	}
	return now - age
}

// Overflowed reports whether a mark was dropped since the last ClearOverflow.
func (s *Set) Overflowed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.overflow
}

// ClearOverflow must be called before the scan that makes up for dropped marks
// begins, so that a mark dropped during that scan is not overlooked.
func (s *Set) ClearOverflow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.overflow = false
}

// WaitClean waits until no key is queued or in hand.
func (s *Set) WaitClean(ctx context.Context) error {
	for {
		s.mu.Lock()
		clean, changed := s.keys.n == 0, s.changed
		s.mu.Unlock()
		if clean {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Changed returns a channel that is closed at the next change that a waiter may
// be interested in: keys queued in an empty set, keys given back, overflow.
func (s *Set) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// wake is called with mu held.
func (s *Set) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// ring is a queue of numbers.
type ring struct {
	b       []uint32 // a power of two long, or empty
	head, n int
}

func (r *ring) push(id uint32) {
	if r.n == len(r.b) {
		r.resize(max(64, 2*len(r.b)))
	}
	r.b[(r.head+r.n)&(len(r.b)-1)] = id
	r.n++
}

func (r *ring) nth(i int) uint32 { return r.b[(r.head+i)&(len(r.b)-1)] }

func (r *ring) pop() uint32 {
	id := r.b[r.head]
	r.head = (r.head + 1) & (len(r.b) - 1)
	if r.n--; r.n == 0 && len(r.b) > 1<<16 {
		*r = ring{}
	}
	return id
}

func (r *ring) resize(n int) {
	b := make([]uint32, n)
	for i := range r.n {
		b[i] = r.b[(r.head+i)&(len(r.b)-1)]
	}
	r.b, r.head = b, 0
}
