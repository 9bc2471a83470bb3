package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/value"
)

// bigShare keeps the copying of big keys again and again at a tenth of the time:
// what took a second is not done again for ten, neither for this key nor for
// another that changes as fast. Whoever is in a hurry (a drain, with clients
// waiting) has it set aside.
type bigShare struct {
	mu    sync.Mutex
	next  time.Time // when the next repeated copy may begin
	hurry int
}

const (
	shareOf = 10 // repeated copies have one in so many parts of the time
	// longAddition is from when additions have their share too: a group with
	// thousands of entries that wait for their acknowledgement is written anew.
	longAddition = 20 * time.Millisecond
	repeats      = time.Minute // a copy that comes sooner after another is a repeated one

	// A key whose elements clients change without a pause, so that there never is a
	// moment in which no command is under way, is copied as a whole in the end.
	openLong  = time.Second
	openPause = 5 * time.Millisecond

	seekPause = 100 * time.Millisecond // until somebody looks again whether a key has gone that was there
)

// hurryUp sets the share aside, and the lanes' pace, until the returned function is called.
func (m *Mirror) hurryUp() (done func()) {
	m.bigs.add(1)
	for _, l := range m.lanes {
		l.jobs.press()
		l.big.mu.Lock()
		l.big.wake()
		l.big.mu.Unlock()
	}
	return func() {
		m.bigs.add(-1)
		for _, l := range m.lanes {
			l.jobs.relax()
		}
	}
}

func (b *bigShare) add(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hurry += n
}

func (b *bigShare) hurried() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hurry > 0
}

// may returns how long a whole copy of k has to wait. It is called with k's
// mutex held.
func (b *bigShare) may(k *bigKey, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.hurry > 0 || k.ended.IsZero() || k.spent > 0: // the first, or one that was begun
		return 0
	case now.Sub(k.ended) < max(repeats, 2*shareOf*k.cost) && b.next.After(k.notTill):
		return b.next.Sub(now)
	}
	return k.notTill.Sub(now)
}

// spent notes what a whole copy cost, that k.ended is the end of the one before.
func (b *bigShare) spent(k *bigKey, now time.Time) {
	k.notTill = now.Add((shareOf - 1) * k.spent)
	if k.ended.IsZero() || now.Sub(k.ended) > repeats {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hurry > 0 { // it was set aside, and is not paid for afterwards either
		return
	}
	if b.next.Before(now) {
		b.next = now
	}
	b.next = b.next.Add((shareOf - 1) * k.spent)
}

// start runs the workers until the mirror stops.
func (s *bigKeys) start() {
	s.l.m.wg.Go(func() { s.work(s.takeAdded, s.extend) })
	s.l.m.wg.Go(func() { s.work(s.takeChanged, s.build) })
	for range bigWorkers - 1 {
		s.l.m.wg.Go(func() { s.work(s.takeWhole, s.build) })
	}
}

// work does with each key that take yields what do says. take returns nil and
// how long it is at most until it has one.
func (s *bigKeys) work(take func(time.Time) (*bigKey, time.Duration), do func(*bigKey)) {
	for s.l.m.ctx.Err() == nil {
		s.mu.Lock()
		k, wait := take(time.Now())
		changed := s.changed
		if k != nil {
			k.working = true
		}
		s.mu.Unlock()
		if k != nil {
			do(k)
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-changed:
		case <-t.C:
		case <-s.l.m.ctx.Done():
		}
		t.Stop()
	}
	s.dropAll()
}

// takeAdded takes one to be extended, or one that waits for a copy of the whole and may have
// gone: that is soon done, and does not wait for its share of the time.
func (s *bigKeys) takeAdded(now time.Time) (*bigKey, time.Duration) {
	hurry := s.l.m.bigs.hurried()
	soonest := time.Hour
	for i, k := range s.whole {
		if k.changes&value.Gone == 0 {
			continue
		}
		if wait := k.seek.Sub(now); wait > 0 {
			soonest = min(soonest, wait)
			continue
		}
		s.whole = slices.Delete(s.whole, i, i+1)
		return k, 0
	}
	for i, k := range s.added {
		wait := k.rest.Sub(now)
		if wait <= 0 || hurry {
			s.added = slices.Delete(s.added, i, i+1)
			return k, 0
		}
		soonest = min(soonest, wait)
	}
	return nil, soonest
}

func (s *bigKeys) takeWhole(now time.Time) (*bigKey, time.Duration) { return s.takeOf(now, true) }

// takeChanged leaves those alone that go as slowly as a scan: others do not queue behind
// them, which a pause may hold for hours.
func (s *bigKeys) takeChanged(now time.Time) (*bigKey, time.Duration) { return s.takeOf(now, false) }

// takeOf takes one that is to be copied as a whole, also such as are paced or not.
func (s *bigKeys) takeOf(now time.Time, paced bool) (*bigKey, time.Duration) {
	soonest := time.Hour
	for i, k := range s.whole {
		if k.paced && !paced {
			continue
		}
		wait := s.l.m.bigs.may(k, now)
		if wait <= 0 {
			s.whole = slices.Delete(s.whole, i, i+1)
			if k.since.IsZero() {
				k.since = now
			}
			return k, 0
		}
		soonest = min(soonest, wait)
	}
	return nil, soonest
}

func (s *bigKeys) queueWhole(k *bigKey) { // with mu held
	k.asWhole = true
	s.whole = append(s.whole, k)
}

// leave removes a key of which it is told that it may have gone, if it has, or lets it wait on.
func (s *bigKeys) leave(k *bigKey) {
	s.mu.Lock()
	k.changes &^= value.Gone // before it is looked for: it may come and go again
	s.mu.Unlock()
	kind, err := s.l.src().Type(s.l.m.ctx, k.key).Result()
	if err == nil && kind == "none" {
		s.build(k)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if k.working, k.seek = false, time.Now().Add(seekPause); err != nil {
		k.changes |= value.Gone
	}
	s.queueWhole(k)
	s.wake()
}

func (s *bigKeys) extend(k *bigKey) {
	if k.asWhole {
		s.leave(k)
		return
	}
	began := time.Now()
	out, ok, err := k.copy.Extend(s.l.m.ctx, s.l.src(), k)
	if took := time.Since(began); took > longAddition {
		s.mu.Lock()
		k.rest = time.Now().Add((shareOf - 1) * took)
		s.mu.Unlock()
	}
	open := errors.Is(err, value.ErrOpen)
	if (ok || err != nil) && !open {
		s.finish(k, out, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k.working = false
	now := time.Now()
	if open && k.open.IsZero() {
		k.open = now
	}
	if open && now.Sub(k.open) < openLong {
		if next := now.Add(openPause); k.rest.Before(next) {
			k.rest = next
		}
		s.added = append(s.added, k)
	} else {
		k.open = time.Time{}
		s.queueWhole(k)
	}
	s.wake()
}

func (s *bigKeys) build(k *bigKey) {
	began := time.Now()
	out, err := value.Outcome{Same: true}, error(nil)
	if !s.matches(k) {
		out, err = k.copy.Build(s.l.m.ctx, s.l.src(), k)
	}
	if unknown := err; errors.Is(err, value.ErrType) || value.Lacks(err) { // or what its type takes is forbidden
		if out, err = s.restore(k); errors.Is(err, value.ErrRestoreRefused) {
			err = errors.Join(unknown, err)
		} else if err == nil {
			k.copy.Drop(s.l.m.ctx) // what came of it in pieces before
		}
	}
	if errors.Is(err, value.ErrOutside) {
		out, err = value.Outcome{Removed: true}, k.through(s.l.m.ctx, func(ctx context.Context, dst *redis.Client) error {
			_, err := value.RemoveKinds(ctx, dst, []string{k.key}, k.copy.Manner.Takes)
			return err
		})
	}
	s.mu.Lock()
	k.spent += max(time.Since(began), 1)
	k.absent = err == nil && out.Removed
	switch {
	case k.absent: // what the last copy has cost counts for the next one, should there be the key again
		k.spent = 0
	case err == nil:
		now := time.Now()
		s.l.m.bigs.spent(k, now)
		k.cost, k.ended, k.spent = k.spent, now, 0
	}
	s.mu.Unlock()
	if err == nil && out.Copied && k.copy.Behind() { // the events of that were taken with the copy that failed
		s.l.dirty.Mark(k.key)
	}
	s.finish(k, out, err)
}

// matches reports whether To has a key that a scan has found already, as it is.
func (s *bigKeys) matches(k *bigKey) bool {
	if !k.scanned() {
		return false
	}
	l := s.l
	same, err := k.copy.Match(context.WithValue(l.m.ctx, compared{}, k), l.src(), l.dst(), s.compare, k)
	if err != nil && l.m.ctx.Err() == nil {
		l.m.errs.add("compare", fmt.Errorf("comparing key %q of database %s of %s with %s before it is copied: %w", k.key, l.from, l.m.cfg.From, l.m.cfg.To, err))
	}
	return same && err == nil
}

// restore copies a value of a type that only its own dump knows, in one piece.
func (s *bigKeys) restore(k *bigKey) (value.Outcome, error) {
	var out value.Outcome
	err := k.through(s.l.m.ctx, func(ctx context.Context, dst *redis.Client) error {
		b := value.Batch{MaxPayload: maxBulk}
		outs, err := b.Copy(ctx, s.l.src(), dst, []string{k.key})
		out = outs[0]
		if err = errors.Join(err, out.Err); err == nil && k.copy.Manner.Takes != nil {
			err = k.undo(ctx, dst)
		}
		return err
	})
	out.Err = nil
	return out, err
}

// undo takes away what was just written, if the key had become one meanwhile that is not
// copied.
func (k *bigKey) undo(ctx context.Context, dst *redis.Client) error {
	kind, err := dst.Type(ctx, k.key).Result()
	if err != nil || k.copy.Manner.Takes(k.key, kind) || kind == "none" {
		return err
	}
	return dst.Del(ctx, k.key).Err()
}

// finish counts, and gives the key back.
func (s *bigKeys) finish(k *bigKey, out value.Outcome, err error) {
	l := s.l
	a := k.copy.Account()
	s.mu.Lock()
	k.with, k.working, k.open = false, false, time.Time{}
	s.hand--
	l.count.bytes.Add(a.Bytes - k.counted)
	k.counted = a.Bytes
	k.failed = err != nil
	if err == nil {
		k.owed = false
		s.setPaced(k, false)
	}
	if err == nil && (out.Removed && time.Now().After(k.notTill) || !out.Removed && a.Size < l.bigSize()) && time.Since(k.known) > repeats {
		s.forget(k.key) // big once, not any more
	}
	s.mu.Unlock()
	l.tell()
	if err != nil && l.setAside(k.key, err) {
		s.mu.Lock()
		k.owed = false
		s.setPaced(k, false)
		s.mu.Unlock()
		l.tell()
		return
	}
	if err != nil {
		if l.m.ctx.Err() == nil && !errors.Is(err, context.Canceled) {
			l.m.errs.add("copy", fmt.Errorf("copying key %q of database %s from %s to %s: %w", k.key, l.from, l.m.cfg.From, l.m.cfg.To, err))
		}
		sleep(l.m.ctx, 100*time.Millisecond) // a server that is away or full is not hammered
		l.dirty.Retry([]string{k.key})
		return
	}
	switch {
	case out.Same:
		l.count.equal.Add(1)
	case out.Removed:
		l.count.removed.Add(1)
	default:
		l.count.copied.Add(1)
	}
	l.noteLoss(k.key, out)
	l.stuck.forget(k.key)
	l.dirty.Done([]string{k.key})
}

// through is a big key's way to To: one step at a time within the brake, so that
// a Freeze need not wait for the whole copy, and on the connections of the
// moment. What was lost on the way cannot arrive any more when it returns. A copy
// that a scan brought goes as fast as the scan may.
func (k *bigKey) through(ctx context.Context, write func(context.Context, *redis.Client) error) error {
	l := k.of.l
	if err := k.await(ctx); err != nil {
		return err
	}
	if err := l.brake.enter(ctx); err != nil {
		return err
	}
	defer l.brake.leave()
	to := l.m.writer()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*l.m.cfg.Timeout)
	defer cancel()
	err := write(ctx, to.pool.At(l.to))
	if value.Unknown(err) && l.m.ctx.Err() == nil {
		l.m.replaceWriter(to)
	}
	return err
}

func (k *bigKey) scanned() bool {
	k.of.mu.Lock()
	defer k.of.mu.Unlock()
	return k.owed
}

// dropAll removes temporary keys when the mirror stops, unless it is frozen:
// then they are left to their expiry.
func (s *bigKeys) dropAll() {
	for {
		s.mu.Lock()
		var k *bigKey
		for _, one := range s.known {
			if !one.working && one.copy.Building() {
				k, one.working = one, true
				break
			}
		}
		s.mu.Unlock()
		if k == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(s.l.m.ctx), time.Second)
		k.copy.Drop(ctx)
		cancel()
	}
}
