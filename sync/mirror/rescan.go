package mirror

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/pipe"
)

// sift stands before the writing of one scan. What To has already, exactly as From has
// it, is not written again: after a gap or a restart that is nearly all. Nothing is
// known then of which keys have changed, so each one is read, on both servers.
//
// Where that does not pay, as on the first scan or after very many changes, the scan's
// keys go to the workers at once, and only some are compared now and then.
type sift struct {
	l     *lane
	lots  chan task
	wg    sync.WaitGroup
	start sync.Once

	mu   sync.Mutex
	off  bool // nothing is compared in this scan
	skip int  // tasks that are not compared
	rest int  // how many that were after the last comparison that did not pay
}

const (
	// bare is up to how many keys To's database counts as empty. Ours are among them.
	bare = 16
	// restMost is how many tasks in a row are not compared, at most.
	restMost = 64
)

// newSift returns what a scan that begins now is sifted by. ctx bounds one question.
func (l *lane) newSift(ctx context.Context) *sift {
	s := &sift{l: l, lots: make(chan task)}
	n, err := l.m.cfg.To.DB(l.to.DB).DBSize(ctx).Result() // others' too: then the first comparison tells
	s.off = err != nil || n <= bare
	return s
}

// close ends the comparing. Every task must have been given back.
func (s *sift) close() {
	close(s.lots)
	s.wg.Wait()
}

// way returns where the next task of the scan goes. It is called for one that will go
// there, and by one goroutine.
func (s *sift) way() chan<- task {
	s.mu.Lock()
	straight := s.off || s.skip > 0
	if s.skip > 0 {
		s.skip--
	}
	s.mu.Unlock()
	if straight {
		return s.l.pages
	}
	s.start.Do(func() {
		for range s.l.m.cfg.Workers {
			s.wg.Go(s.run)
		}
	})
	return s.lots
}

// saw learns from a comparison. One costs about as much as a copy, most of it on To, and
// saves one where keys are alike: it pays if half of them are.
func (s *sift) saw(alike, all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case 2*alike >= all:
		s.skip, s.rest = 0, 0
	case s.skip == 0: // or else another one has found that already
		s.rest = min(max(1, 2*s.rest), restMost)
		s.skip = s.rest
	}
}

// run compares tasks until there are none any more.
func (s *sift) run() {
	l := s.l
	sieve := pipe.NewSieve(l.ways,
		func(ctx context.Context) (*conn.Bundle, error) { return l.m.cfg.To.Bundle(ctx, l.to, nil) }, l.m.mortal(1, l.to))
	defer sieve.Close()
	for {
		next := s.next(sieve.Idle())
		if next == nil && sieve.Idle() {
			return
		}
		lots, err := sieve.Step(l.m.ctx, next)
		if err != nil {
			s.failed(err)
		}
		for _, lot := range lots {
			s.settle(lot)
		}
	}
}

// next returns the next lot; nil while there is none but another one is under way, and
// when there will be none any more.
func (s *sift) next(idle bool) *pipe.Lot {
	var t task
	var open bool
	if idle {
		t, open = <-s.lots
	} else {
		select {
		case t, open = <-s.lots:
		default:
		}
	}
	if !open {
		return nil
	}
	return pipe.NewLot(t.keys, t.done)
}

// failed takes note. What was not compared is copied.
func (s *sift) failed(err error) {
	l := s.l
	if errors.Is(err, pipe.ErrBlind) {
		s.mu.Lock()
		s.off = true
		s.mu.Unlock()
		l.m.log.Debug("scanned keys are copied without being compared", "database", l.db, "because", err)
		return
	}
	if l.m.ctx.Err() == nil {
		l.m.errs.add("compare", fmt.Errorf("comparing database %s of %s with %s of %s before it is copied: %w", l.from, l.m.cfg.From, l.to, l.m.cfg.To, err))
	}
}

// settle gives back the keys of a lot that are the same, and hands over the others.
func (s *sift) settle(lot *pipe.Lot) {
	l := s.l
	done := lot.Note.(func())
	var alike, unlike, heavy []string
	for i, v := range lot.Verdicts {
		switch k := lot.Keys[i]; v {
		case pipe.Alike:
			alike = append(alike, k)
		case pipe.Heavy:
			heavy = append(heavy, k)
		default:
			unlike = append(unlike, k)
		}
	}
	s.saw(len(alike), len(alike)+len(unlike))
	if len(heavy) > 0 {
		l.copyBig(heavy, true)
	}
	l.count.equal.Add(int64(len(alike)))
	l.m.throttle.Spent(lot.Bytes)
	l.stuck.forget(alike...)
	l.lossy.forget(alike...)
	l.dirty.Done(alike) // who was marked meanwhile is queued, and copied
	if len(unlike) == 0 {
		done()
		return
	}
	select {
	case l.pages <- task{keys: unlike, done: done}:
	case <-l.m.ctx.Done():
		l.dirty.Retry(unlike)
		done()
	}
}
