package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/crossfade/crossfade/sync/conn"
)

// carriedFunctions remembers whether From's libraries are to be looked at.
type carriedFunctions struct {
	brake  *brake      // of what nobody has asked for: a Freeze holds that too
	due    atomic.Bool // something may have changed since they were looked at
	mu     sync.Mutex
	looked bool
	left   string // libraries that were not carried, as they were told of last
}

// FunctionsChanged says that the proxy saw a FUNCTION command that changes.
func (m *Mirror) FunctionsChanged() { m.functions.due.Store(true) }

func (m *Mirror) checkFunctions() {
	m.functions.mu.Lock()
	looked := m.functions.looked
	m.functions.mu.Unlock()
	if looked && !m.functions.due.Load() || !m.functions.brake.tryEnter() {
		return
	}
	defer m.functions.brake.leave()
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	if err := m.CarryFunctions(ctx); err != nil && m.ctx.Err() == nil {
		m.errs.add("functions", err)
	}
}

// shelves are the libraries of both sides.
type shelves struct {
	from    libraries
	servers []*conn.Pool
	to      []libraries // of each of servers
	without error       // one of them has no functions
}

// shelves asks both sides. Servers without functions (before 7.0) have no libraries.
func (m *Mirror) shelves(ctx context.Context) (s shelves, err error) {
	if s.servers, err = m.cfg.To.Masters(ctx); err != nil {
		return s, fmt.Errorf("listing the functions of %s: %w", m.cfg.To, err)
	}
	s.to = make([]libraries, len(s.servers))
	errs := make([]error, len(s.servers))
	var asked sync.WaitGroup
	for i, one := range s.servers { // all at the same time: clients may be waiting
		asked.Go(func() { s.to[i], errs[i] = listLibraries(ctx, one.DB(0)) })
	}
	s.from, err = listLibraries(ctx, m.source().pool.DB(m.home[0])) // which leads to no process that has lost its data
	asked.Wait()
	if err != nil && !unknownCommand(err) {
		return s, fmt.Errorf("listing the functions of %s: %w", m.cfg.From, err)
	}
	for i, one := range s.servers {
		if errs[i] == nil {
			continue
		}
		err := fmt.Errorf("listing the functions of %s: %w", one, errs[i])
		if !unknownCommand(err) {
			return s, err
		}
		s.without = err
	}
	return s, nil
}

// CarryFunctions makes To's function libraries those of From, on each master of a cluster, and
// leaves others' alone, see Libraries.
func (m *Mirror) CarryFunctions(ctx context.Context) error {
	m.functions.mu.Lock()
	defer m.functions.mu.Unlock()
	m.functions.due.Store(false) // before they are asked for: what changes later is looked at again
	s, err := m.shelves(ctx)
	if err == nil {
		err = m.carry(ctx, s)
	}
	if err != nil {
		m.functions.due.Store(true)
		return err
	}
	m.functions.looked = true
	return nil
}

// CompareFunctions returns an error unless To has the libraries that it should have, and has
// not those that are From's no longer. It changes nothing.
func (m *Mirror) CompareFunctions(ctx context.Context) error {
	m.functions.mu.Lock()
	defer m.functions.mu.Unlock()
	s, err := m.shelves(ctx)
	if err != nil {
		return err
	}
	c := plan(m.cfg.Side, m.cfg.Map, m.cfg.Shelf.Libraries(), s.from, s.to)
	for i, has := range s.to {
		for name, lib := range c.want {
			if has[name].code != lib.code {
				return fmt.Errorf("comparing function libraries: %q is not the same on %s and %s", name, m.cfg.From, s.servers[i])
			}
		}
		for _, name := range c.gone {
			if _, there := has[name]; there {
				return fmt.Errorf("comparing function libraries: %q is on %s, and on %s no longer", name, s.servers[i], m.cfg.From)
			}
		}
	}
	return nil
}

// carry does what there is to do, and has written down before whose is what.
func (m *Mirror) carry(ctx context.Context, s shelves) error {
	before := m.cfg.Shelf.Libraries()
	c := plan(m.cfg.Side, m.cfg.Map, before, s.from, s.to)
	m.tellLeft(c.left)
	switch {
	case s.without == nil:
	case len(c.want) > 0:
		return s.without
	default:
		return nil
	}
	if before == nil || !maps.Equal(before, c.known) {
		if err := m.cfg.Shelf.Keep(ctx, c.known); err != nil {
			return fmt.Errorf("noting whose the function libraries are: %w", err)
		}
	}
	errs := []error{c.clash(m.cfg.To)}
	for i, server := range s.servers {
		errs = append(errs, c.carryTo(ctx, server, s.to[i]))
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
