package verify

import (
	"context"
	"fmt"
	"time"

	"github.com/crossfade/crossfade/sync/value"
)

// watchTime is for how long a key is watched closely: longer than changes take to
// arrive.
const (
	watchTime  = 1500 * time.Millisecond
	watchPause = 10 * time.Millisecond // between bursts, after the first ones
)

// What becomes of a suspect at a look.
type verdict int

const (
	again     verdict = iota // it is looked at once more
	equal                    // it is equal
	followed                 // it is written all the time, and the follower had a state that the truth had just before
	moving                   // both sides change all the time, and were never seen alike
	differing                // it differs for sure
	undecided                // nobody can say: the type cannot be compared, or what was written had no time to arrive
)

const (
	stillNeeded = 2 // looks in a row with the truth unchanged: with the one before, three
	stuckNeeded = 3 // changes of the truth that did not move the follower
	patience    = 5 // times Rounds, for keys whose changes have not arrived yet
	repairsMost = 3
	watchedMost = 3    // times that one key is watched closely
	watchedKeys = 1000 // that were watched to no end; and as many that the follower seems not to follow
	statesMost  = 4096 // of one key that are remembered
	bursts      = 40   // at least, and over watchTime
	burstReads  = 16
	burstBytes  = 256 << 10
)

// judge looks at suspects again until there are none any more.
func (w *walk) judge(ctx context.Context) error {
	for {
		batch, err := w.suspects.take(ctx, w.cfg.Batch)
		if err != nil || len(batch) == 0 {
			return err
		}
		if err := w.look(ctx, batch); err != nil {
			return err
		}
		w.progress(0)
	}
}

// look compares a batch again and says what becomes of each key.
func (w *walk) look(ctx context.Context, batch []*suspect) error {
	var small, big []*suspect
	now := time.Now()
	for _, s := range batch {
		s.looked = now
		if s.diff.Big {
			big = append(big, s)
		} else {
			small = append(small, s)
		}
	}
	var mend []*suspect
	judged := func(s *suspect, v verdict) {
		if w.sentence(s, v) {
			mend = append(mend, s)
		}
	}
	if len(small) > 0 {
		names := make([]string, len(small))
		for i, s := range small {
			names[i] = s.key
		}
		arrived, err := w.arrived(ctx, names)
		if err != nil {
			return err
		}
		diffs, err := w.pair(ctx, names)
		if err != nil {
			return err
		}
		for i, s := range small {
			w.counted(diffs[i])
			v := w.weigh(s, diffs[i], arrived[i])
			if v == moving {
				if v, err = w.closely(ctx, s); err != nil {
					return err
				}
			}
			judged(s, v)
		}
	}
	for _, s := range big {
		v, err := w.lookStill(ctx, s)
		if err != nil {
			return err
		}
		judged(s, v)
	}
	return w.mend(ctx, mend)
}

func (w *walk) counted(d value.Diff) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.report.Again++
	w.report.Bytes += d.Bytes
}

// arrived asks which keys' changes have surely arrived at the follower.
func (w *walk) arrived(ctx context.Context, keys []string) ([]bool, error) {
	out := make([]bool, len(keys))
	if w.cfg.Settled == nil {
		for i := range out {
			out[i] = true // Settle has passed since the look before
		}
		return out, nil
	}
	have, err := w.cfg.Settled(ctx, w.db, keys)
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	if err == nil {
		copy(out, have)
	}
	return out, nil
}

// weigh compares a look with those before.
//
// A difference is proved when three looks in a row show the truth in the same
// state, and at the second of them all that had been written at the first had
// arrived: so what the second one read on the truth was not changed while it was
// read, and the follower had no reason to be behind.
func (w *walk) weigh(s *suspect, d value.Diff, arrived bool) verdict {
	truth, other := w.prints(d)
	same := truth != 0 && truth == s.truth
	s.looks++
	if arrived {
		s.arrived++
	}
	if !same {
		s.changes++
	}
	s.stuck = s.stuck && other != 0 && (s.other == other || s.other == 0)
	if s.still++; !same || !arrived {
		s.still = 0
	}
	s.diff, s.truth, s.other = d, truth, other
	switch {
	case d.Equal():
		return equal
	case d.Big: // it has grown
		return again
	case s.still >= stillNeeded && (!d.Torn || s.looks >= w.cfg.Rounds): // torn all the time by who writes to the follower: the truth stood still
		if d.Kind == value.Unsure {
			return undecided
		}
		return differing
	case s.looks < w.cfg.Rounds || s.still > 0:
		return again
	case s.changes > 0:
		return moving
	case s.looks < patience*w.cfg.Rounds:
		return again
	}
	return undecided
}

// closely decides about a small key that is written all the time. Both sides are
// read many times within a moment: the follower must have one of the states that
// the truth was seen in. One that stays as it was while the truth moves on does not
// follow.
func (w *walk) closely(ctx context.Context, s *suspect) (verdict, error) {
	n, may := w.mayWatch(s)
	if !may {
		s.why = "more keys change all the time than can be watched"
		return undecided, nil
	}
	s.watched++
	v, err := w.watch(ctx, s)
	if v == followed && err == nil { // it took a moment only
		w.mu.Lock()
		w.watching[n]--
		w.mu.Unlock()
	}
	return v, err
}

// mayWatch takes one of the times that keys may be watched closely, see walk.watching.
func (w *walk) mayWatch(s *suspect) (of int, may bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for n := range w.watching {
		if w.watching[n] < w.watchMost && (n == 0 || s.stuck) {
			w.watching[n]++
			w.report.Watched++
			return n, true
		}
	}
	return 0, false
}

func (w *walk) watch(ctx context.Context, s *suspect) (verdict, error) {
	n := int(max(1, min(burstReads, burstBytes/max(1, s.diff.Bytes))))
	if s.states == nil {
		s.states = make(map[uint64]bool)
	}
	states := s.states
	before := len(states)
	for i, began := 0, time.Now(); i < bursts || time.Since(began) < watchTime; i++ {
		if i > bursts/4 {
			if err := sleep(ctx, watchPause); err != nil {
				return again, err
			}
		}
		var truths, others []uint64
		err := retry(ctx, func() (err error) {
			truths, others, err = w.burst(ctx, s.key, n)
			return err
		}, w.src, w.dst)
		if err != nil {
			return again, err
		}
		w.throttle.Spent(int64(len(truths)) * s.diff.Bytes)
		for _, x := range truths {
			if len(states) < statesMost {
				states[x] = true
			}
		}
		for _, x := range others {
			s.stuck = s.stuck && x == s.other
			if states[x] && len(states) > max(1, before) { // it moves on, and the follower with it
				return followed, nil
			}
		}
	}
	switch {
	case len(states) <= max(1, before) && s.watched < watchedMost: // it has come to rest
		s.anew()
		return again, nil
	case s.stuck && s.changes >= stuckNeeded && s.arrived >= stuckNeeded:
		s.diff.Kind = value.Value
		s.diff.Words = fmt.Sprintf("%s has been the same for %v while the key changed on the other side", w.follower(), time.Since(s.since).Round(10*time.Millisecond))
		return differing, nil
	case s.watched < watchedMost:
		s.looks = 0
		return again, nil
	}
	return moving, nil
}

func (w *walk) follower() string {
	if w.cfg.Reverse {
		return "the source"
	}
	return "the target"
}

// burst reads a key n times from the truth, and some times from the follower.
func (w *walk) burst(ctx context.Context, key string, n int) (truths, others []uint64, err error) {
	failed := make(chan error, 1)
	go func() {
		var err error
		others, err = w.comparer.Prints(ctx, w.copy, !w.cfg.Reverse, key, max(1, n/4))
		failed <- err
	}()
	truths, err = w.comparer.Prints(ctx, w.truth, w.cfg.Reverse, key, n)
	if other := <-failed; err == nil {
		err = other
	}
	return truths, others, err
}

// sentence counts a verdict and lets the suspect go, or keeps it for another look.
// It reports whether the key is to be repaired, and is then still in hand.
func (w *walk) sentence(s *suspect, v verdict) (mend bool) {
	if v == again {
		w.suspects.again(s, w.cfg.Settle)
		return false
	}
	first := !s.counted
	w.mu.Lock()
	switch {
	case s.counted && (v == equal || v == followed):
		w.report.repaired(s)
	case v == followed:
		w.report.Followed++
	case v == moving && !s.counted:
		w.report.moving(s)
	case v == undecided && !s.counted:
		w.report.undecided(s)
		w.name(s.key)
	case v == differing && !s.counted:
		s.counted = true
		w.report.differing(s)
		w.name(s.key)
		w.cfg.OnDiffer(w.db, s.key, s.diff)
	}
	w.mu.Unlock()
	tell := first && w.told != nil
	if v == differing && w.cfg.Repair != nil && s.repaired < repairsMost {
		if tell {
			w.told(s, v)
		}
		return true
	}
	w.suspects.over(s)
	if tell {
		w.told(s, v)
	}
	return false
}

func (w *walk) name(key string) { // with mu held
	if len(w.named) < namedMost {
		w.named[key] = true
	}
}

// mend repairs keys that are in hand and gives them back to be compared again.
func (w *walk) mend(ctx context.Context, list []*suspect) error {
	if len(list) == 0 {
		return nil
	}
	keys := make([]string, len(list))
	for i, s := range list {
		keys[i] = s.key
	}
	err := w.cfg.Repair(ctx, w.db, keys)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		w.mu.Lock()
		w.report.Trouble = err.Error()
		w.mu.Unlock()
	}
	for _, s := range list {
		s.repaired++
		s.anew()
		w.suspects.again(s, w.cfg.Settle)
	}
	return nil
}
