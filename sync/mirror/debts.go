package mirror

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// debts are the copies that are due because silent commands ran on From of which nobody
// knows the keys, see quietKeys. The zero value owes nothing.
type debts struct {
	mu      sync.Mutex
	owed    map[string]bool // types of keys, "stream" and "vectorset"
	turn    chan struct{}   // holds one token while somebody pays, or looks what there is
	looking atomic.Bool     // somebody looks through whole databases
	next    time.Time       // when to look again, but in a hurry; of who has the turn
	told    bool
}

func newDebts() *debts { return &debts{owed: make(map[string]bool), turn: make(chan struct{}, 1)} }

// add says that keys of a type may have changed, and reports whether that is news.
func (d *debts) add(kinds ...string) (first bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range kinds {
		d.owed[k] = true
	}
	first = !d.told && len(kinds) > 0
	d.told = d.told || first
	return first
}

// take returns what is owed, and forgets it.
func (d *debts) take() (kinds []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k := range d.owed {
		kinds = append(kinds, k)
	}
	clear(d.owed)
	return kinds
}

func (d *debts) owes() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.owed) > 0
}

func (d *debts) enter(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *debts) leave() { <-d.turn }

// owe finds the keys that are owed; pay has them copied. What was said on From before the
// count was read that made them owed is in the copies.
func (m *Mirror) owe(ctx context.Context) error { // with the turn
	d := m.debts
	d.looking.Store(true) // before nothing is owed any more
	defer d.looking.Store(false)
	kinds := d.take()
	if len(kinds) == 0 {
		return nil
	}
	together, tctx := errgroup.WithContext(ctx)
	for _, l := range m.lanes {
		for _, kind := range kinds {
			together.Go(func() error { return l.quiet.owe(tctx, kind) })
		}
	}
	err := together.Wait()
	switch {
	case errors.Is(err, errMany): // a scan makes up for it
		m.foreignSeen("commands on more streams than can be copied again one by one")
	case err != nil:
		d.add(kinds...)
	}
	return err
}

// lookAhead finds the streams before they are owed, where it is to be expected that they will
// be: clients would wait for the look. With the turn.
func (m *Mirror) lookAhead(ctx context.Context) error {
	if !m.foreign.uncertain() {
		return nil
	}
	m.debts.looking.Store(true)
	defer m.debts.looking.Store(false)
	for _, l := range m.lanes {
		if l.quiet.complete() {
			continue
		}
		if err := l.quiet.look(ctx); err != nil && !errors.Is(err, errMany) {
			return err
		}
	}
	return nil
}

// settle marks all keys that those silent commands may have changed which were counted until
// now, and of which nobody knows the keys. A group whose event has not come yet is no
// matter: the event will mark the key, after the command.
func (m *Mirror) settle(ctx context.Context) error {
	if err := m.debts.enter(ctx); err != nil {
		return fmt.Errorf("waiting for a look through %s: %w", m.cfg.From, err)
	}
	defer m.debts.leave()
	if err := m.owe(ctx); err != nil {
		return err
	}
	for _, l := range m.lanes {
		l.quiet.pay(math.MaxInt)
	}
	return nil
}

// settleSlowly is settle where nobody waits for it, a little with each heartbeat.
func (m *Mirror) settleSlowly() {
	select {
	case m.debts.turn <- struct{}{}:
	default:
		return
	}
	left, piled := 0, false
	for _, l := range m.lanes {
		left += l.quiet.pay(quietTurn)
		piled = piled || l.quiet.piled()
	}
	now := time.Now()
	if m.bigs.hurried() || !piled && (left > 0 || now.Before(m.debts.next)) {
		m.debts.leave()
		return
	}
	m.wg.Go(func() { // the next heartbeats do not wait for it
		defer m.debts.leave()
		err := m.owe(m.ctx)
		if err == nil {
			err = m.lookAhead(m.ctx)
		}
		for _, l := range m.lanes {
			ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
			err = errors.Join(err, l.quiet.sift(ctx))
			cancel()
		}
		m.debts.next = time.Now().Add((shareOf - 1) * time.Since(now))
		if err != nil && m.ctx.Err() == nil {
			m.errs.add("commandstats", err)
		}
	})
}

// searching reports whether a switch would have to wait for a look through a database.
func (m *Mirror) searching() bool {
	if m.debts.looking.Load() {
		return true
	}
	if !m.debts.owes() && !m.foreign.uncertain() {
		return false
	}
	for _, l := range m.lanes {
		if !l.quiet.complete() {
			return true
		}
	}
	return false
}
