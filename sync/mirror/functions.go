package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/crossfade/crossfade/sync/conn"
)

// carriedFunctions remembers whether From's libraries are to be looked at.
type carriedFunctions struct {
	brake  *brake // of what nobody has asked for: a Freeze holds that too
	mu     sync.Mutex
	looked bool
	due    bool
	left   string // libraries that were not carried, as they were told of last
}

// FunctionsChanged says that the proxy saw a FUNCTION command that changes.
func (m *Mirror) FunctionsChanged() {
	m.functions.mu.Lock()
	defer m.functions.mu.Unlock()
	m.functions.due = true
}

func (m *Mirror) checkFunctions() {
	m.functions.mu.Lock()
	due := m.functions.due || !m.functions.looked
	m.functions.mu.Unlock()
	if !due || !m.functions.brake.tryEnter() {
		return
	}
	defer m.functions.brake.leave()
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	if err := m.CarryFunctions(ctx); err != nil && m.ctx.Err() == nil {
		m.errs.add("functions", err)
	}
}

// CarryFunctions makes To's function libraries those of From, on each master of a cluster, and
// leaves others' alone, see Libraries.
// Servers without functions (before 7.0) have none to carry.
func (m *Mirror) CarryFunctions(ctx context.Context) error {
	m.functions.mu.Lock()
	defer m.functions.mu.Unlock()
	servers, err := m.cfg.To.Masters(ctx)
	if err != nil {
		return fmt.Errorf("listing the functions of %s: %w", m.cfg.To, err)
	}
	to := make([]libraries, len(servers))
	errs := make([]error, len(servers))
	var asked sync.WaitGroup
	for i, s := range servers { // all at the same time: clients may be waiting
		asked.Go(func() { to[i], errs[i] = listLibraries(ctx, s.DB(0)) })
	}
	from, err := listLibraries(ctx, m.source().pool.DB(m.home[0]))
	asked.Wait()
	if err != nil && !unknownCommand(err) {
		return fmt.Errorf("listing the functions of %s: %w", m.cfg.From, err)
	}
	var without error // a server that has no functions
	for i, s := range servers {
		if errs[i] == nil {
			continue
		}
		err := fmt.Errorf("listing the functions of %s: %w", s, errs[i])
		if !unknownCommand(err) {
			return err
		}
		without = err
	}
	if err := m.carry(ctx, from, servers, to, without); err != nil {
		return err
	}
	m.functions.looked, m.functions.due = true, false
	return nil
}

// carry does what there is to do, and has written down before whose is what. without is why
// nothing can be loaded.
func (m *Mirror) carry(ctx context.Context, from libraries, servers []*conn.Pool, to []libraries, without error) error {
	before := m.cfg.Shelf.Libraries()
	c := plan(m.cfg.Side, m.cfg.Map, before, from, to)
	m.tellLeft(c.left)
	switch {
	case without == nil:
	case len(c.want) > 0:
		return without
	default:
		return nil
	}
	if before == nil || !maps.Equal(before, c.known) {
		if err := m.cfg.Shelf.Keep(ctx, c.known); err != nil {
			return fmt.Errorf("noting whose the function libraries are: %w", err)
		}
	}
	errs := []error{c.clash(m.cfg.To)}
	for i, s := range servers {
		errs = append(errs, c.carryTo(ctx, s, to[i]))
	}
	if err := errors.Join(errs...); err != nil || len(c.gone) == 0 {
		return err
	}
	known := maps.Clone(c.known)
	for _, name := range c.gone {
		delete(known, name)
	}
	if err := m.cfg.Shelf.Keep(ctx, known); err != nil {
		return fmt.Errorf("noting whose the function libraries are: %w", err)
	}
	return nil
}

// tellLeft says, once, which libraries are not carried.
func (m *Mirror) tellLeft(left []string) { // with functions.mu held
	words := quotedList(left)
	if words != m.functions.left && words != "" {
		m.log.Warn("function libraries are not carried: they name databases by number, which cannot be mapped", "to", m.cfg.To.String(), "libraries", words)
	}
	m.functions.left = words
}

func unknownCommand(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "unknown command")
}
