package demo

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/crossfade/crossfade/internal/redistest/history"
)

// load is a set of writers that can be stopped for a check and started again.
type load struct {
	name string
	*history.History
	stop func() error // nil while nothing runs
}

// begin lets the writers write until pause or the end of ctx.
func (l *load) begin(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var err error
	wg.Go(func() { err = l.Run(ctx) })
	l.stop = func() error {
		cancel()
		wg.Wait()
		return err
	}
}

// pause waits until the writers have stopped. It may be called again.
func (l *load) pause() error {
	if l.stop == nil {
		return nil
	}
	err := l.stop()
	l.stop = nil
	if err != nil {
		return fmt.Errorf("%s: %w", l.name, err)
	}
	return nil
}

// verdict adds up what the histories found wrong.
type verdict struct {
	acked, refused, unknown, errors uint64
	lost, doubled, reordered, other int
	examples                        []string
}

func (v *verdict) add(r history.Report) {
	v.acked += r.Stats.Acked
	v.refused += r.Stats.Refused
	v.unknown += r.Stats.Unknown
	v.errors += r.Stats.Errors
	v.lost += r.Count[history.Lost]
	v.doubled += r.Count[history.Doubled]
	v.reordered += r.Count[history.Reordered]
	v.other += r.Count[history.Stale] + r.Count[history.RefusedButApplied]
	for _, violation := range r.Violations {
		if len(v.examples) < 10 {
			v.examples = append(v.examples, violation.String())
		}
	}
}

func (v *verdict) ok() bool { return v.lost+v.doubled+v.reordered+v.other == 0 }

// pauseAll pauses several loads.
func pauseAll(loads ...*load) error {
	var errs []error
	for _, l := range loads {
		errs = append(errs, l.pause())
	}
	return errors.Join(errs...)
}
