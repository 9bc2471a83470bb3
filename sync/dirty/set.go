// Package dirty holds the keys whose copy may be stale.
// It owns the order in which keys are copied: a key is in one hand at a time.
// It never does I/O and imports no other package of this project.
package dirty

import (
	"context"
	"sync"
)

// Set is the coalescing set of dirty keys of one database. A key is queued, in
// hand (somebody copies it), or both: a key marked while in hand is taken again
// after Done, never at the same time. So copies of one key never overtake each
// other. The design follows client-go's workqueue. All methods are safe for
// concurrent use.
type Set struct {
	limit int

	mu       sync.Mutex
	state    map[string]keyState
	queue    []string // FIFO; queue[head:] is live
	head     int
	inHand   int
	overflow bool
	changed  chan struct{} // closed and replaced whenever a waiter may go on
}

type keyState uint8

const (
	queued keyState = iota + 1
	held            // in hand, clean since it was taken
	stale           // in hand and marked since: queued again at Done
)

// New returns an empty set that holds at most limit keys (0: no bound).
func New(limit int) *Set {
	return &Set{limit: limit, state: make(map[string]keyState), changed: make(chan struct{})}
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
	switch s.state[key] {
	case queued, stale:
		return
	case held:
		s.state[key] = stale
		return
	}
	if s.limit > 0 && len(s.state) >= s.limit {
		if !s.overflow {
			s.overflow = true
			s.wake()
		}
		return
	}
	s.state[key] = queued
	wasEmpty := s.head == len(s.queue)
	s.queue = append(s.queue, key)
	if wasEmpty {
		s.wake()
	}
}

// Claim takes keys that nobody has marked and nobody holds into hand, and
// returns them: a scan copies those at once, and leaves the others to whoever
// holds or takes them. The result reuses keys' memory.
func (s *Set) Claim(keys []string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := keys[:0]
	for _, k := range keys {
		if _, known := s.state[k]; known {
			continue
		}
		s.state[k] = held
		s.inHand++
		mine = append(mine, k)
	}
	return mine
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

func (s *Set) take(limit int) []string {
	n := min(limit, len(s.queue)-s.head)
	if n <= 0 {
		return nil
	}
	keys := make([]string, n)
	copy(keys, s.queue[s.head:s.head+n])
	clear(s.queue[s.head : s.head+n]) // let go of the strings
	s.head += n
	if s.head == len(s.queue) {
		s.queue, s.head = s.queue[:0], 0
		if cap(s.queue) > 1<<16 {
			s.queue = nil
		}
	} else if s.head > 1<<12 && s.head > len(s.queue)/2 {
		s.queue = append(s.queue[:0], s.queue[s.head:]...)
		s.head = 0
	}
	for _, k := range keys {
		s.state[k] = held
	}
	s.inHand += n
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
		s.inHand--
		if again || s.state[k] == stale {
			s.state[k] = queued
			s.queue = append(s.queue, k)
		} else {
			delete(s.state, k)
		}
	}
	s.wake()
}

// Forget drops every queued key and the overflow mark; keys in hand stay in
// hand. It is for positions before which nothing matters.
func (s *Set) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, st := range s.state {
		switch st {
		case queued:
			delete(s.state, k)
		case stale:
			s.state[k] = held
		}
	}
	s.queue, s.head, s.overflow = nil, 0, false
	s.wake()
}

// Clean says which keys are neither queued nor in hand.
func (s *Set) Clean(keys []string) []bool {
	out := make([]bool, len(keys))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, k := range keys {
		_, known := s.state[k]
		out[i] = !known
	}
	return out
}

// Len returns how many keys are queued or in hand.
func (s *Set) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.state)
}

// InHand returns how many keys somebody is copying.
func (s *Set) InHand() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inHand
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
		clean, changed := len(s.state) == 0, s.changed
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
