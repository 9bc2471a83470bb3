package verify

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/crossfade/crossfade/sync/value"
)

// suspect is a key that did not look equal. It is in one judge's hand at a time.
type suspect struct {
	key  string
	diff value.Diff // at the newest look
	due  time.Time  // of the next look

	since   time.Time       // of the first look
	looked  time.Time       // when the newest look began
	looks   int             // after the first
	arrived int             // of them, those at which what the truth had before had arrived
	still   int             // looks in a row at which it had, and the truth was as at the look before
	changes int             // looks at which the truth was another than at the look before
	stuck   bool            // the follower was the same at every look
	apart   int             // looks at which all had arrived, and one side had no such key, or one of another type
	why     string          // it cannot be decided about; "": changes did not arrive
	watched int             // times that it was watched closely
	states  map[uint64]bool // prints of the truth that were seen then

	truth, other uint64 // prints at the newest look, 0 where not known

	counted  bool // as differing
	example  int  // its place in the report, -1 for none
	repaired int  // times
}

// anew begins the looks again: after a repair, or for a truth that stands still now.
func (s *suspect) anew() {
	s.since, s.looks, s.arrived, s.still, s.changes, s.stuck = time.Now(), 0, 0, 0, 0, true
	s.apart, s.why = 0, ""
}

// suspects are the keys that wait for their next look, in the order in which they
// are due. Their number is bounded: who finds more waits. Safe for concurrent use.
type suspects struct {
	slots chan struct{}

	mu      sync.Mutex
	known   map[string]bool // waiting or in hand
	queue   []*suspect
	closed  bool // nothing is added from outside any more
	dropped bool // nobody is interested any more
	changed chan struct{}
}

func newSuspects(most int) *suspects {
	return &suspects{slots: make(chan struct{}, most), known: make(map[string]bool), changed: make(chan struct{})}
}

func (s *suspects) wake() { // with mu held
	close(s.changed)
	s.changed = make(chan struct{})
}

// add takes a new one, unless its key is among them.
func (s *suspects) add(ctx context.Context, x *suspect, wait time.Duration) error {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[x.key] {
		<-s.slots
		return nil
	}
	s.known[x.key] = true
	s.push(x, wait)
	return nil
}

// try is add that never waits.
func (s *suspects) try(x *suspect) Taken {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.known[x.key]:
		return Known
	case s.closed:
		return Full
	}
	select {
	case s.slots <- struct{}{}:
	default:
		return Full
	}
	s.known[x.key] = true
	s.push(x, 0)
	return Queued
}

// again gives back one that is in hand, to be looked at later.
func (s *suspects) again(x *suspect, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.push(x, wait)
}

func (s *suspects) push(x *suspect, wait time.Duration) {
	x.due = time.Now().Add(wait)
	s.queue = append(s.queue, x)
	if len(s.queue) == 1 {
		s.wake()
	}
}

// over gives back one that is in hand and has been judged.
func (s *suspects) over(x *suspect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, x.key)
	<-s.slots
	if s.closed && len(s.known) == 0 {
		s.wake()
	}
}

// take waits for suspects that are due and takes up to n of them in hand; none when
// there will be none any more.
func (s *suspects) take(ctx context.Context, n int) ([]*suspect, error) {
	for {
		s.mu.Lock()
		changed := s.changed
		if s.dropped || s.closed && len(s.known) == 0 {
			s.mu.Unlock()
			return nil, nil
		}
		now, due := time.Now(), 0
		for due < len(s.queue) && due < n && !s.queue[due].due.After(now) {
			due++
		}
		if due > 0 {
			batch := slices.Clone(s.queue[:due])
			clear(s.queue[:due])
			if s.queue = s.queue[due:]; len(s.queue) == 0 {
				s.queue = nil
			}
			s.mu.Unlock()
			return batch, nil
		}
		next := time.Hour
		if len(s.queue) > 0 {
			next = s.queue[0].due.Sub(now)
		}
		s.mu.Unlock()
		t := time.NewTimer(next)
		select {
		case <-t.C:
		case <-changed:
			t.Stop()
		case <-ctx.Done():
			t.Stop()
			return nil, context.Cause(ctx)
		}
	}
}

// close says that no new ones come; drop, that those that wait are of no interest.
func (s *suspects) close(drop bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.dropped = true, drop
	s.wake()
}

func (s *suspects) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.known)
}
