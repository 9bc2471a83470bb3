// Package elements counts which elements of big keys clients change, against what the server tells of these keys.
// It owns the books of both, and the judgement whether all that has happened to a key is explained by known elements.
// It never does I/O, never holds a value, and never takes what it cannot prove for explained.
package elements

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

const (
	mostElements = 1 << 17  // of one key that are remembered
	mostBytes    = 32 << 20 // of all keys
	perElement   = 96       // bytes that one costs besides its name
)

// Key is the book of one big hash, set or sorted set.
//
// The server tells of each change of it, but not of which element; the proxy knows
// the elements, but not of changes that others make. An event that no proxied command
// explains is an alien: its elements are unknown. How many there have been is not
// known either, but it never falls, and it is bounded from both sides:
//
//	told - explained - under way  ≤  aliens  ≤  told - explained
//
// where told is counted behind a barrier that was asked for after explained was
// counted (so that the event of each command that explains one is among those told).
// While no command is under way the two are equal. That number, at such a moment
// before a copy of the whole is begun, is the base. When told - explained is the base
// again later, no alien has come in between: whatever has happened to the key since
// has happened to elements that are known, and to look at these is enough.
//
// Safe for concurrent use.
type Key struct {
	held *atomic.Int64 // bytes of all keys' elements

	mu        sync.Mutex
	told      int64  // events
	explained int64  // … that are those of answered commands
	begun     uint64 // commands
	open      int64  // … of which the answer is not there
	base      int64
	based     bool
	changed   map[string]int64 // elements, and the newest explanation of each
	bytes     int64
	forgotten bool          // more have changed than are remembered
	still     chan struct{} // closed when nothing is open any more; nil: nobody waits
}

// Begin says that a command that may change elements is about to be sent.
func (k *Key) Begin() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.begun++
	k.open++
}

// End says that a command was answered, or that nobody knows what has become of it.
// With explains, the answer proves that it has caused one event, and changed nothing
// but names; without, any event of it stays an alien.
func (k *Key) End(names []string, explains bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if explains {
		k.explained++
		k.add(names)
	}
	if k.open--; k.open == 0 && k.still != nil {
		close(k.still)
		k.still = nil
	}
}

func (k *Key) add(names []string) {
	if k.forgotten || !k.based {
		return // a copy of the whole is due, which begins with Base
	}
	var more int64
	for _, name := range names {
		if _, known := k.changed[name]; !known {
			more += int64(len(name)) + perElement
		}
		k.changed[name] = k.explained
	}
	k.bytes += more
	if k.held.Add(more) > mostBytes || len(k.changed) > mostElements {
		k.drop()
		k.forgotten = true
	}
}

func (k *Key) drop() {
	k.held.Add(-k.bytes)
	k.bytes, k.changed = 0, make(map[string]int64)
}

// Tell says that the server has told of a change of elements.
func (k *Key) Tell() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.told++
}

// Await returns once no command is under way, or after d.
func (k *Key) Await(ctx context.Context, d time.Duration) {
	k.mu.Lock()
	if k.open == 0 {
		k.mu.Unlock()
		return
	}
	if k.still == nil {
		k.still = make(chan struct{})
	}
	still := k.still
	k.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-still:
	case <-t.C:
	case <-ctx.Done():
	}
}

// Still returns a mark for Base; ok is false while a command is under way.
func (k *Key) Still() (mark uint64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.begun, k.open == 0
}

// Base has the aliens counted from here on, and forgets elements: a copy of the whole
// begins. It is called behind a barrier that was asked for after mark was taken, and
// returns false when a command has begun since, so that nobody can say how many aliens
// there are.
func (k *Key) Base(mark uint64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop()
	k.based, k.forgotten = k.begun == mark, false
	k.base = k.told - k.explained
	return k.based
}

// Debase ends the counting until the next Base.
func (k *Key) Debase() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop()
	k.based = false
}

// Known reports whether all elements that commands have changed since Base are
// remembered.
func (k *Key) Known() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.based && !k.forgotten
}

// Changed returns the elements that have changed and were not settled, and a number
// that stands for this call. ok is false when they are not all known.
func (k *Key) Changed() (names []string, number int64, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.based || k.forgotten {
		return nil, 0, false
	}
	names = make([]string, 0, len(k.changed))
	for name := range k.changed {
		names = append(names, name)
	}
	return names, k.explained, true
}

// Verdict is what the books say.
type Verdict uint8

// The verdicts.
const (
	Open      Verdict = iota // commands are under way: ask again
	Explained                // nothing has changed but elements that are known
	Alien                    // something has, and only a copy of the whole brings it
)

// Judge says what is known of all events up to a barrier that was asked for after the
// call of Changed that number stands for.
func (k *Key) Judge(number int64) Verdict {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case !k.based || k.forgotten:
		return Alien
	case k.told-number == k.base:
		return Explained
	case k.told-number < k.base: // events were lost, and who knows how many
		return Alien
	case k.told-k.explained-k.open > k.base:
		return Alien
	}
	return Open
}

// Number returns how many events are explained, for Lost.
func (k *Key) Number() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.explained
}

// Lost reports whether there is an event that a command has had and nobody was told of,
// and ends the counting if so. It is called behind a barrier that was asked for after
// number was taken.
func (k *Key) Lost(number int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.based || k.told-number >= k.base {
		return false
	}
	k.drop()
	k.based = false
	return true
}

// Settle forgets the elements that the call of Changed returned that number stands
// for, but for those that have changed again.
func (k *Key) Settle(number int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name, newest := range k.changed {
		if newest <= number {
			delete(k.changed, name)
			k.bytes -= int64(len(name)) + perElement
			k.held.Add(-int64(len(name)) - perElement)
		}
	}
}
