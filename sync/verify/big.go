package verify

import (
	"context"
	"fmt"
	"time"

	"github.com/crossfade/crossfade/sync/value"
)

// bigWaitSteps is how often one waits for a big key's changes to arrive, within Settle.
const bigWaitSteps = 20

// await waits until what was written of a key has arrived, though not for long.
func (w *walk) await(ctx context.Context, key string) (arrived bool, err error) {
	if w.cfg.Settled == nil {
		return true, sleep(ctx, w.cfg.Settle)
	}
	for range bigWaitSteps {
		have, err := w.arrived(ctx, []string{key})
		if err != nil || have[0] {
			return err == nil, err
		}
		if err := sleep(ctx, w.cfg.Settle/bigWaitSteps); err != nil {
			return false, err
		}
	}
	return false, nil
}

// lookStill compares a big key while it is watched for changes.
func (w *walk) lookStill(ctx context.Context, s *suspect) (verdict, error) {
	var d value.Diff
	var still, arrived bool
	before := func(ctx context.Context) (err error) {
		arrived, err = w.await(ctx, s.key)
		return err
	}
	err := retry(ctx, func() (err error) {
		d, still, err = w.comparer.Still(ctx, w.src, w.dst, w.truth, s.key, before)
		if one := []value.Diff{d}; err == nil {
			err = w.outside(ctx, []string{s.key}, one)
			d = one[0]
		}
		return err
	}, w.src, w.dst)
	if err != nil {
		return again, err
	}
	w.counted(d)
	s.looks++
	if arrived {
		s.arrived++
		lacks := d.Kind == value.Missing || d.Kind == value.Extra || d.Kind == value.Type
		if lacks && (s.apart == 0 || s.diff.Kind == d.Kind) {
			s.apart++
		}
	}
	s.diff = d
	s.truth, s.other = w.prints(d)
	if !still {
		s.changes++
	}
	switch {
	case d.Equal():
		return equal, nil
	case still && arrived && !d.Torn && d.Kind == value.Unsure:
		return undecided, nil
	case still && arrived && !d.Torn:
		return differing, nil
	case s.looks < w.cfg.Rounds, s.arrived == 0 && s.looks < patience*w.cfg.Rounds:
		return again, nil
	case s.apart >= stuckNeeded && s.apart == s.arrived:
		s.diff.Words = fmt.Sprintf("%s, at all %d looks within %v", d.Words, s.apart, time.Since(s.since).Round(10*time.Millisecond))
		return differing, nil
	case s.changes > 0:
		return w.byElements(ctx, s)
	}
	return undecided, nil
}

// byElements decides about a big collection that never stands still. Of what has other
// parts than elements with a name, nobody can say then that it is the same.
func (w *walk) byElements(ctx context.Context, s *suspect) (verdict, error) {
	var d value.Diff
	var decided bool
	err := retry(ctx, func() (err error) {
		d, decided, err = w.comparer.Elements(ctx, w.src, w.dst, w.cfg.Reverse, s.key,
			func(ctx context.Context) (bool, error) { return w.await(ctx, s.key) })
		return err
	}, w.src, w.dst)
	if err != nil {
		return again, err
	}
	w.counted(d)
	switch {
	case decided && d.Equal():
		return followed, nil
	case decided:
		s.diff = d
		return differing, nil
	}
	if d.Follows {
		return moving, nil
	}
	s.why = "it is big and never stood still"
	return undecided, nil
}
