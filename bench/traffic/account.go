package traffic

import (
	"fmt"
	"strings"
	"sync"

	"github.com/crossfade/crossfade/internal/redistest/history"
)

// Account says what became of all that was done.
type Account struct {
	Stats
	Lost, Doubled, Reordered, Stale int // writes, jobs, stream entries
	MessagesLost, MessagesDoubled   int // of pub/sub, a subscriber each
	Messages                        int // that arrived
	Items                           int // that were compared
	Examples                        []string
}

// Clean reports whether nothing is wrong, client errors apart.
func (a Account) Clean() bool {
	return a.Lost+a.Doubled+a.Reordered+a.Stale+a.MessagesLost+a.MessagesDoubled == 0
}

// String has the figures on one line, and examples behind it.
func (a Account) String() string {
	text := fmt.Sprintf("%d operations, %d client errors, %d reconnects; %d lost, %d doubled, %d reordered, %d stale; of %d messages %d lost, %d doubled",
		a.Operations, a.Errors, a.Reconnects, a.Lost, a.Doubled, a.Reordered, a.Stale, a.Messages, a.MessagesLost, a.MessagesDoubled)
	for _, e := range a.Examples {
		text += "\n  " + e
	}
	return text
}

func (a *Account) example(format string, args ...any) {
	if len(a.Examples) < 10 {
		a.Examples = append(a.Examples, fmt.Sprintf(format, args...))
	}
}

// history adds the plain part's report.
func (a *Account) history(r history.Report) {
	a.Lost += r.Count[history.Lost]
	a.Doubled += r.Count[history.Doubled] + r.Count[history.RefusedButApplied]
	a.Reordered += r.Count[history.Reordered]
	a.Stale += r.Count[history.Stale]
	a.Items += r.Items
	for _, v := range r.Violations {
		a.example("%s", v)
	}
}

// ledger has the numbers that one writer has given out, from 0 on, and which of them were
// acknowledged. Of the others nobody knows what became. Safe for concurrent use.
type ledger struct {
	mu    sync.Mutex
	acked []bool
}

// next gives a number out.
func (l *ledger) next() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked = append(l.acked, false)
	return len(l.acked) - 1
}

// ack notes that a number was acknowledged.
func (l *ledger) ack(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[n] = true
}

// counts are of acknowledged numbers and of the others.
func (l *ledger) counts() (acked, unknown int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, yes := range l.acked {
		if yes {
			acked++
		}
	}
	return acked, len(l.acked) - acked
}

// verdict is what is wrong with numbers that have arrived somewhere.
type verdict struct {
	lost, doubled, reordered int
	example                  string
}

// judge compares numbers in the order in which they have arrived with what was given out:
// each acknowledged one must be there once, each other one once at most, and later ones
// later.
func (l *ledger) judge(what string, got []int) (v verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	say := func(format string, args ...any) {
		if v.example == "" {
			v.example = what + ": " + fmt.Sprintf(format, args...)
		}
	}
	seen := make([]bool, len(l.acked))
	last := -1
	for _, n := range got {
		switch {
		case n < 0 || n >= len(l.acked):
			v.doubled++
			say("number %d was never given out", n)
			continue
		case seen[n]:
			v.doubled++
			say("number %d is there twice", n)
			continue
		case n < last:
			v.reordered++
			say("number %d comes after %d", n, last)
		}
		seen[n] = true
		last = max(last, n)
	}
	for n, acked := range l.acked {
		if acked && !seen[n] {
			v.lost++
			say("number %d was acknowledged and is gone", n)
		}
	}
	return v
}

// add takes a verdict about writes over.
func (a *Account) add(v verdict, items int) {
	a.Lost += v.lost
	a.Doubled += v.doubled
	a.Reordered += v.reordered
	a.Items += items
	if v.example != "" {
		a.example("%s", v.example)
	}
}

// counted judges a counter that was raised by acked increments and perhaps by unknown
// ones.
func (a *Account) counted(what string, value, acked, unknown int) {
	switch {
	case value < acked:
		a.Lost += acked - value
		a.example("%s is %d after %d acknowledged increments", what, value, acked)
	case value > acked+unknown:
		a.Doubled += value - acked - unknown
		a.example("%s is %d after %d acknowledged and %d unknown increments", what, value, acked, unknown)
	}
}

// sights collects what sessions see while they work. Safe for concurrent use.
type sights struct {
	mu    sync.Mutex
	stale []string
}

func (s *sights) isStale(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stale = append(s.stale, fmt.Sprintf(format, args...))
}

func (a *Account) sights(s *sights) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.Stale += len(s.stale)
	for _, text := range s.stale {
		a.example("%s", text)
	}
}

// tag is a writer's number as a value, and untag reads it.
func tag(writer, n int) string { return fmt.Sprintf("%d.%d", writer, n) }

func untag(text string) (writer, n int) {
	if _, err := fmt.Sscanf(strings.TrimSpace(text), "%d.%d", &writer, &n); err != nil {
		return -1, -1
	}
	return writer, n
}
