package mirror

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/internal/elements"
	"github.com/crossfade/crossfade/sync/value"
)

const (
	bigKeySize = 512 << 10 // bytes from which a key is copied in chunks, unless configured
	bigWorkers = 3         // whole copies at a time, per database, of which one is never a scan's
	bigKnown   = 1 << 14   // big keys whose past copy is remembered, per database
	bigMost    = 1 << 12   // … in hand, past which a scan waits
)

// bigKeys copies the big keys of one lane, in chunks and beside the others, so
// that no small key waits for a big one. The keys are in hand in the dirty set
// for as long as they are with it. Additions go before whole copies, and a
// whole copy that is not the first is put off by what it costs: see bigShare.
type bigKeys struct {
	l       *lane
	compare *value.Comparer
	n       atomic.Int32 // len(known), for those who note events
	slow    atomic.Int32 // how many of them are paced

	mu      sync.Mutex
	known   map[string]*bigKey
	hand    int       // of them that are in hand
	added   []*bigKey // waiting to be extended
	whole   []*bigKey // waiting to be copied as a whole
	changed chan struct{}
}

// bigKey is one of them. copy is the worker's that has taken it; the rest is
// guarded by bigKeys.mu.
type bigKey struct {
	of   *bigKeys
	key  string
	copy *value.Big
	book *elements.Key // of which elements change

	with    bool                    // in hand in the dirty set, and here
	owed    bool                    // to a scan, which is not through before this is copied
	paced   bool                    // a scan brought it, and no client has changed it since: it goes as fast as that may
	billed  int64                   // bytes of copy's account that the throttle knows of, while it is paced
	spur    context.CancelCauseFunc // ends the waiting for that; nil: it does not wait
	working bool
	failed  bool // when it was copied last
	asWhole bool // it waits for a whole copy, or is being copied so
	changes value.Changes
	count   uint64
	absent  bool          // From had no such key when it was copied last
	seek    time.Time     // until then nobody looks whether it has gone
	rest    time.Time     // no addition before, but in a hurry
	notTill time.Time     // a whole copy, but in a hurry
	spent   time.Duration // on the whole copy under way, over its interruptions
	ended   time.Time     // of the last whole copy
	cost    time.Duration // of the last whole copy
	since   time.Time     // when it was first taken for a whole copy
	open    time.Time     // since when commands under way have kept it from being settled; zero: they have not
	known   time.Time     // since when
	counted int64         // bytes of copy's account that the lane's counter has
}

func newBigKeys(l *lane) *bigKeys {
	return &bigKeys{
		l: l, known: make(map[string]*bigKey), changed: make(chan struct{}),
		compare: &value.Comparer{Strict: true, Big: 1, Pace: paceBig}, // in chunks, whatever has become of the size
	}
}

// waits reports whether k waits for a copy of the whole.
func (k *bigKey) waits() bool { return k.with && k.asWhole && !k.working }

func (s *bigKeys) wake() { // with mu held
	close(s.changed)
	s.changed = make(chan struct{})
}

// copyBig takes over keys that are in hand, and gives them back when they are
// copied. Those that a scan found, or that came during one, are part of it.
func (l *lane) copyBig(keys []string, scanned bool) {
	s := l.big
	during := l.scanning()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		k := s.known[key]
		if k == nil {
			s.makeRoom()
			k = &bigKey{of: s, key: key, known: time.Now(), book: l.m.elements.Put(l.db, key)}
			k.copy = value.NewBig(key, k.through)
			k.copy.Manner = l.typed.Manner
			s.known[key] = k
			s.n.Store(int32(len(s.known)))
		}
		k.with = true
		s.hand++
		k.owed = k.owed || (scanned || during) && (k.ended.IsZero() || k.changes&value.Remade != 0)
		s.setPaced(k, (scanned || k.paced) && k.owed) // one whose copy failed stays what it was
		if k.paced && l.dirty.Again(key) {
			s.setPaced(k, false)
		}
		if k.absent {
			k.changes |= value.Gone // and may be so still
		}
		if k.copy.Placed() {
			k.asWhole = false
			s.added = append(s.added, k)
		} else {
			s.queueWhole(k)
		}
	}
	s.wake()
}

// makeRoom forgets a key that nobody copies. It is copied as a whole next time.
func (s *bigKeys) makeRoom() { // with mu held
	if len(s.known) < bigKnown {
		return
	}
	for key, k := range s.known {
		if !k.with {
			s.forget(key)
			return
		}
	}
}

func (s *bigKeys) forget(key string) { // with mu held
	if k := s.known[key]; k != nil {
		s.setPaced(k, false)
	}
	delete(s.known, key)
	s.n.Store(int32(len(s.known)))
	s.l.m.elements.Drop(s.l.db, key)
}

// note says what events tell of keys, big or not.
func (s *bigKeys) note(keys []string, changes []value.Changes) {
	if s.n.Load() == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, key := range keys {
		if k := s.known[key]; k != nil {
			k.changes |= changes[i] &^ value.Again
			k.count++
			if changes[i]&value.Gone != 0 && k.waits() {
				s.wake()
			}
			if changes[i] == value.Element {
				k.book.Tell()
			}
		}
	}
}

// doubt says that anything may have happened to any key, on either side.
func (s *bigKeys) doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.known {
		k.changes |= value.Remade
		k.count++
	}
}

// knows reports whether key was big when it was copied last, so that what To has
// may be big, however small it has become on From.
func (s *bigKeys) knows(key string) bool {
	if s.n.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.known[key] != nil
}

// owes reports whether a scan waits for a key. What is neither queued nor in hand is
// not owed any more, whoever has settled it: copied by others, found equal, set aside
// as impossible, forgotten because nothing before it matters.
func (s *bigKeys) owes() bool {
	if s.n.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	owes := false
	for _, k := range s.known {
		if k.owed && !k.with && s.l.dirty.Clean([]string{k.key})[0] {
			k.owed = false
		}
		owes = owes || k.owed
	}
	return owes
}

// putOff returns the keys in hand that were copied before and now have their share of the
// time: they wait for nothing else.
func (s *bigKeys) putOff() (keys map[string]bool) {
	if s.n.Load() == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.known {
		if k.with && !k.owed && !k.failed && !k.ended.IsZero() {
			if keys == nil {
				keys = make(map[string]bool)
			}
			keys[k.key] = true
		}
	}
	return keys
}

// room waits, for a scan, until not too many big keys are in hand: of each something is
// remembered.
func (s *bigKeys) room(ctx context.Context) error {
	for {
		s.l.mu.Lock()
		changed := s.l.changed
		s.l.mu.Unlock()
		s.mu.Lock()
		hand := s.hand
		s.mu.Unlock()
		if hand < bigMost {
			return nil
		}
		select {
		case <-changed: // see finish
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// paid says that keys were copied or removed by others: one that was big is small now,
// or gone, or outside of the filter. No scan waits for it any more.
func (s *bigKeys) paid(keys []string) {
	if s.n.Load() == 0 {
		return
	}
	told := false
	s.mu.Lock()
	for _, key := range keys {
		if k := s.known[key]; k != nil && !k.with {
			told = told || k.owed
			k.owed = false
			k.changes |= value.Remade // what is known of To's value is not so any more
			k.count++
		}
	}
	s.mu.Unlock()
	if told {
		s.l.tell()
	}
}

// scanning reports whether a scan is asked for and not through.
func (l *lane) scanning() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done != l.wanted
}

// bigSize is from how many bytes on the source a key is not copied in one piece:
// about what a server dumps or restores in a millisecond or two.
func (l *lane) bigSize() int64 {
	if n := l.m.cfg.BigKey; n > 0 {
		return n
	}
	return bigKeySize
}

// tell wakes who waits for the lane to be complete.
func (l *lane) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notify()
}

// Begin, Known, Seen, Settle and Elements make a bigKey the value.Watch of itself.

// Elements returns the book of its elements. Tracking tells too little to keep one.
func (k *bigKey) Elements() *elements.Key {
	if k.of.l.m.isTracking() {
		return nil
	}
	return k.book
}

// Begin forgets what came until now.
func (k *bigKey) Begin() {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	k.changes = 0
}

// Known returns what came since Begin.
func (k *bigKey) Known() (value.Changes, uint64) {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	return k.changes, k.count
}

// Seen returns what came since Begin, with all that From ran before the call.
func (k *bigKey) Seen(ctx context.Context) (value.Changes, uint64, error) {
	if err := k.of.l.m.barrier(ctx); err != nil {
		return 0, 0, err
	}
	changes, n := k.Known()
	return changes, n, nil
}

// Settle forgets what came until now, unless that is more than n changes.
func (k *bigKey) Settle(n uint64) {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	if k.count == n {
		k.changes = 0
	}
}

// BigKey is a big key that is being copied, or waits for it.
type BigKey struct {
	Database int // of the source
	Key      string
	Type     string        // "" until it was asked for
	Bytes    int64         // written, with what was written of earlier copies
	Size     int64         // in From's memory, or a guess where that does not say
	Percent  float64       // of the copy under way
	Wait     time.Duration // until its turn, for one that was copied not long ago
	Cost     time.Duration // what its whole copy takes, when it is to be copied so: what the last took, or a guess at what is left of the first
	First    bool          // that is the first
}

// firstRate is how many bytes of a source's memory a second a whole copy is taken to
// manage, until there was one: what hashes come to, the slowest, on one machine.
const firstRate = 16 << 20

// firstCost guesses what is left of a key's first whole copy: by its size, and by its
// own pace if that is slower. since is zero while it waits for its turn.
func firstCost(a value.Account, since, now time.Time) time.Duration {
	left := 1 - a.Percent/100
	cost := time.Duration(float64(a.Size) / firstRate * left * float64(time.Second))
	if !since.IsZero() && a.Percent >= 1 {
		cost = max(cost, time.Duration(float64(now.Sub(since))*left/(1-left)))
	}
	return cost
}

// bigListed is how many big keys a Progress lists, per database: those first that
// take longest.
const bigListed = 20

// list returns the keys at hand, and how many bytes were written for them that
// the lane's counter does not have yet.
func (s *bigKeys) list() (list []BigKey, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for _, k := range s.known {
		if !k.with {
			continue
		}
		a := k.copy.Account()
		bytes += a.Bytes - k.counted
		b := BigKey{Database: s.l.db, Key: k.key, Type: a.Kind, Bytes: a.Bytes, Size: a.Size, Percent: a.Percent}
		if !k.working {
			b.Wait = max(0, s.l.m.bigs.may(k, now))
		}
		if k.asWhole {
			b.Cost, b.First = k.cost, k.ended.IsZero()
		}
		if b.Cost == 0 && b.First {
			b.Cost = firstCost(a, k.since, now)
		}
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b BigKey) int { return cmp.Or(cmp.Compare(b.Cost, a.Cost), strings.Compare(a.Key, b.Key)) })
	return list[:min(len(list), bigListed)], bytes
}
