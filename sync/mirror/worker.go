package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/crossfade/crossfade/internal/failpoint"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/pipe"
	"github.com/crossfade/crossfade/sync/value"
)

// Where To has refused all of refusedFrom keys or more, the next refusedFor jobs are
// not tried with RESTORE.
const (
	refusedFrom = 16
	refusedFor  = 256
)

// task is a number of keys in hand, which were entered into the brake by nobody
// yet. done, where there is one, is called when they are given back.
type task struct {
	keys []string
	done func()
}

// worker copies keys of one lane, those that are dirty and those that a scan has
// claimed, through a pipe of its own.
type worker struct {
	l     *lane
	pipe  *pipe.Pipe
	to    *writer // the set that the pipe's connections to To are of
	scans bool    // scanned keys come first; the other workers take dirty ones first
	sick  []task  // could not be copied: to be tried again after a pause
}

func newWorker(l *lane, scans bool) *worker {
	w := &worker{l: l, scans: scans}
	w.pipe = pipe.New(l.ways, w.dial)
	return w
}

// dial connects to To.
func (w *worker) dial(ctx context.Context) (*conn.Bundle, error) {
	w.to = w.l.m.writer()
	return w.to.dial(ctx, w.l.to)
}

// run copies until the mirror stops. What is under way then is not cancelled: an
// answer that nobody waits for would be a write that may still arrive.
func (w *worker) run() {
	defer w.pipe.Close()
	_ = w.pipe.Connect(w.l.m.ctx) // whoever is first needed while clients wait has no time for it
	for {
		next, ok := w.next()
		if !ok {
			return
		}
		if next != nil && w.l.refused.Load() > 0 {
			w.l.refused.Add(-1)
			if next = w.withoutRestore(next); next == nil {
				continue
			}
		}
		w.step(next)
	}
}

// step has the pipe take a job, or go on with what is under way.
func (w *worker) step(next *pipe.Job) {
	began := time.Now()
	if failpoint.Enabled { // what the last step has asked From for is in hand
		failpoint.Hit("mirror.step." + w.l.m.cfg.Name)
	}
	jobs, err := w.pipe.Step(w.l.m.ctx, next)
	if err == nil {
		w.l.size.took(lengthOf(next), bytesOf(jobs), time.Since(began), w.pipe.RTT())
	}
	if err != nil {
		w.failed(jobs, err)
	}
	for _, j := range jobs {
		w.settle(j)
	}
}

func lengthOf(j *pipe.Job) int {
	if j == nil {
		return 0
	}
	return len(j.Keys)
}

func bytesOf(jobs []*pipe.Job) (n int64) {
	for _, j := range jobs {
		for _, o := range j.Outcomes {
			n += o.Bytes
		}
	}
	return n
}

// next returns the next job, entered into the brake; nil while there is none but
// something is under way, and not ok when there will be none any more.
func (w *worker) next() (job *pipe.Job, ok bool) {
	l := w.l
	idle := w.pipe.Idle()
	if len(w.sick) > 0 {
		if !idle {
			return nil, true
		}
		sleep(l.m.ctx, 100*time.Millisecond) // a server that is away or full is not hammered
		w.retry()
	}
	for {
		if l.m.ctx.Err() != nil {
			return nil, !idle
		}
		changed := l.dirty.Changed() // before looking: a change in between must wake us
		if !l.brake.tryEnter() {
			if !idle {
				return nil, true // who has pulled the brake waits for what is under way
			}
			if l.brake.enter(l.m.ctx) != nil {
				return nil, false
			}
		}
		t, wait := w.look()
		if len(t.keys) > 0 {
			return pipe.NewJob(t.keys, t.done), true
		}
		l.brake.leave()
		if !idle {
			return nil, true
		}
		if wait > 0 && l.jobs.gather(l.m.ctx, wait) {
			continue
		}
		select {
		case t := <-l.pages:
			if l.brake.enter(l.m.ctx) != nil {
				w.back(t)
				return nil, false
			}
			return pipe.NewJob(t.keys, t.done), true
		case <-changed:
		case <-l.m.ctx.Done():
		}
	}
}

// look takes what is there. Where nothing is, wait says how long dirty keys are gathered
// for yet, if there are any.
func (w *worker) look() (t task, wait time.Duration) {
	if !w.scans {
		if t.keys, wait = w.l.takeDirty(); len(t.keys) > 0 {
			return t, 0
		}
	}
	select {
	case t = <-w.l.pages:
		return t, 0
	default:
	}
	if w.scans {
		t.keys, wait = w.l.takeDirty()
	}
	return t, wait
}

// takeDirty takes as many dirty keys as make a job, if one is due.
func (l *lane) takeDirty() (keys []string, wait time.Duration) {
	n, most := l.dirty.Queued(), l.size.keys()
	if n == 0 {
		return nil, 0
	}
	now := time.Now()
	if n < most {
		if wait = l.jobs.wait(now); wait > 0 {
			return nil, wait
		}
	}
	if keys = l.dirty.TakeNow(most); len(keys) > 0 {
		l.jobs.took(now)
	}
	return keys, 0
}

// back gives keys back that were not copied.
func (w *worker) back(t task) {
	w.l.dirty.Retry(t.keys)
	if t.done != nil {
		t.done()
	}
}

func (w *worker) retry() {
	for _, t := range w.sick {
		w.back(t)
	}
	w.sick = nil
}

// failed makes sure that nothing of what was under way can still arrive.
func (w *worker) failed(jobs []*pipe.Job, err error) {
	l := w.l
	keys, unknown := 0, false
	for _, j := range jobs {
		if j.Failed {
			keys += len(j.Keys)
			unknown = unknown || j.Unknown
		}
	}
	if l.m.ctx.Err() == nil {
		l.m.errs.add("copy", fmt.Errorf("copying %d keys of database %s from %s to %s: %w", keys, l.from, l.m.cfg.From, l.m.cfg.To, err))
	}
	if unknown || w.to != nil && w.to.isClosed() {
		l.m.replaceWriter(w.to) // returns once nothing of the old one can arrive any more
	}
}

// settle gives back the keys of a job that has come out of the pipe.
func (w *worker) settle(j *pipe.Job) {
	l := w.l
	done, _ := j.Note.(func())
	good := make([]string, 0, len(j.Keys))
	var bad, again, refused, big, outside, moved []string
	var bytes int64
	for i, o := range j.Outcomes {
		k := j.Keys[i]
		switch {
		case o.Err == nil:
			good = append(good, k)
			l.count.add(o)
			bytes += o.Bytes
			continue
		case errors.Is(o.Err, pipe.ErrChanged):
			again = append(again, k)
			continue
		case errors.Is(o.Err, value.ErrElsewhere):
			moved = append(moved, k)
			continue
		case errors.Is(o.Err, value.ErrOutside):
			outside = append(outside, k)
			continue
		case errors.Is(o.Err, value.ErrTooBig):
			big = append(big, k)
			continue
		case errors.Is(o.Err, value.ErrRestoreRefused):
			refused = append(refused, k)
			continue
		}
		bad = append(bad, k)
		if !j.Failed {
			l.m.errs.add("copy", fmt.Errorf("copying database %s from %s to %s: %w", l.from, l.m.cfg.From, l.m.cfg.To, o.Err))
		}
	}
	if len(refused) >= refusedFrom && j.Restored == 0 {
		l.refused.Store(refusedFor)
	}
	if len(moved) > 0 {
		more, bulky, none, sick := w.where(moved)
		good, big, bad = append(good, more...), append(big, bulky...), append(bad, sick...)
		refused = append(refused, none...)
	}
	if len(big) > 0 {
		l.copyBig(big, done != nil)
	}
	if len(refused) > 0 {
		more, sick := w.byType(refused, done != nil)
		good, bad = append(good, more...), append(bad, sick...)
	}
	if len(outside) > 0 {
		more, sick := w.outside(outside)
		good, bad = append(good, more...), append(bad, sick...)
	}
	l.brake.leave()
	if done != nil {
		l.m.throttle.Spent(bytes)
	}
	l.copied(good)
	l.dirty.Retry(again)
	if len(bad) > 0 {
		w.sick = append(w.sick, task{keys: bad, done: done})
		return
	}
	if done != nil {
		done()
	}
}

// withoutRestore copies those keys of a job by type for which RESTORE would be needed,
// and returns a job of the others, if there are any.
func (w *worker) withoutRestore(j *pipe.Job) *pipe.Job {
	l := w.l
	done, _ := j.Note.(func())
	var easy, rest []string
	for _, k := range j.Keys {
		if l.ways.Short(k) || l.big.knows(k) { // SET would free at once what is big there: the pipe leaves it to others
			easy = append(easy, k)
		} else {
			rest = append(rest, k)
		}
	}
	if len(rest) == 0 {
		return j
	}
	for !w.pipe.Idle() { // what is under way must not wait for as long
		w.step(nil)
	}
	good, bad := w.byType(rest, done != nil)
	l.copied(good)
	if len(easy) > 0 {
		if len(bad) > 0 {
			w.sick = append(w.sick, task{keys: bad})
		}
		return pipe.NewJob(easy, j.Note)
	}
	l.brake.leave()
	switch {
	case len(bad) > 0:
		w.sick = append(w.sick, task{keys: bad, done: done})
	case done != nil:
		done()
	}
	return nil
}

// byType copies keys without RESTORE: many small ones at a time, the big ones in chunks
// beside the others, and what is left one by one.
func (w *worker) byType(keys []string, scanned bool) (good, bad []string) {
	good, bad, left := w.smallByType(keys)
	big, rest := w.weigh(left)
	if len(big) > 0 {
		w.l.copyBig(big, scanned)
	}
	more, sick := w.oneByOne(rest)
	return append(good, more...), append(bad, sick...)
}

func (w *worker) oneByOne(keys []string) (good, bad []string) {
	l := w.l
	for i, k := range keys {
		if l.m.ctx.Err() != nil { // each may take as long as a server that does not answer
			return good, append(bad, keys[i:]...)
		}
		to := l.m.writer()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.m.ctx), 2*l.m.cfg.Timeout)
		o, err := l.typed.Manner.Logical(ctx, l.src(), to.pool.At(l.to), k)
		cancel()
		if err == nil {
			l.count.add(o)
			l.noteLoss(k, o)
			good = append(good, k)
			continue
		}
		if errors.Is(err, value.ErrOutside) {
			more, sick := w.outside([]string{k})
			good, bad = append(good, more...), append(bad, sick...)
			continue
		}
		if l.setAside(k, err) {
			continue
		}
		bad = append(bad, k)
		if l.m.ctx.Err() == nil {
			l.m.errs.add("copy", fmt.Errorf("copying key %q of database %s from %s to %s: %w", k, l.from, l.m.cfg.From, l.m.cfg.To, err))
		}
		if value.Unknown(err) {
			l.m.replaceWriter(to)
		}
	}
	return good, bad
}

// smallByType copies those keys that are small, and returns the others as left.
func (w *worker) smallByType(keys []string) (good, bad, left []string) {
	l := w.l
	var outside []string
	for len(keys) > 0 {
		if l.m.ctx.Err() != nil { // as in oneByOne
			bad = append(bad, keys...)
			break
		}
		some := keys[:min(len(keys), leastBatch)]
		keys = keys[len(some):]
		to := l.m.writer()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(l.m.ctx), 2*l.m.cfg.Timeout)
		outcomes, err := l.typed.Copy(ctx, l.src(), to.pool.At(l.to), some)
		cancel()
		for i, o := range outcomes {
			switch {
			case o.Err == nil:
				l.count.add(o)
				l.noteLoss(some[i], o)
				good = append(good, some[i])
				continue
			case err == nil && l.setAside(some[i], o.Err):
				continue
			case errors.Is(o.Err, value.ErrOutside):
				outside = append(outside, some[i])
				continue
			case errors.Is(o.Err, value.ErrOneByOne):
				left = append(left, some[i])
				continue
			}
			bad = append(bad, some[i])
			if l.m.ctx.Err() == nil && (err == nil || i == 0) {
				l.m.errs.add("copy", fmt.Errorf("copying database %s from %s to %s: %w", l.from, l.m.cfg.From, l.m.cfg.To, o.Err))
			}
		}
		if err != nil {
			l.m.replaceWriter(to)
		}
	}
	if len(outside) > 0 {
		more, sick := w.outside(outside)
		good, bad = append(good, more...), append(bad, sick...)
	}
	return good, bad, left
}

// outside takes keys off To that are not copied, or not any more, if what is there is
// of a type that is copied.
func (w *worker) outside(keys []string) (good, bad []string) {
	l := w.l
	to := l.m.writer()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.m.ctx), 2*l.m.cfg.Timeout)
	defer cancel()
	n, err := value.RemoveKinds(ctx, to.pool.At(l.to), keys, l.typed.Manner.Takes)
	l.count.removed.Add(int64(n))
	if err == nil {
		return keys, nil
	}
	if l.m.ctx.Err() == nil {
		l.m.errs.add("copy", fmt.Errorf("removing keys that are not copied any more from database %s of %s: %w", l.to, l.m.cfg.To, err))
	}
	if value.Unknown(err) {
		l.m.replaceWriter(to)
	}
	return nil, keys
}

// weigh parts those keys that are copied in chunks, beside the others, where they were
// not weighed by the pipe.
func (w *worker) weigh(keys []string) (big, rest []string) {
	if len(keys) == 0 {
		return nil, nil
	}
	l := w.l
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.m.ctx), l.m.cfg.Timeout)
	defer cancel()
	sizes, err := l.scale.Weigh(ctx, l.src(), keys)
	if err != nil {
		return nil, keys // which shows what is wrong
	}
	for i, k := range keys {
		if sizes[i] >= l.bigSize() {
			big = append(big, k)
		} else {
			rest = append(rest, k)
		}
	}
	return big, rest
}

// copied gives back keys that workers have copied, whichever way.
func (l *lane) copied(keys []string) {
	l.finished(keys)
	l.stuck.forget(keys...)
	l.big.paid(keys)
	l.dirty.Done(keys)
}

// noteLoss remembers keys of which something was left behind, as the operator wishes.
func (l *lane) noteLoss(key string, o value.Outcome) {
	if o.Dropped > 0 {
		l.lossy.add(key, "")
	} else {
		l.lossy.forget(key)
	}
}

func (c *counters) add(o value.Outcome) {
	c.bytes.Add(o.Bytes)
	if o.Removed {
		c.removed.Add(1)
	} else {
		c.copied.Add(1)
	}
}
