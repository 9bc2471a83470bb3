package mirror

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/conn"
)

// carriedFunctions remembers the libraries that came from From, so that one
// that is deleted there is deleted on To, and others' libraries are left alone.
type carriedFunctions struct {
	brake   *brake // of what nobody has asked for: a Freeze holds that too
	mu      sync.Mutex
	carried map[string]bool
	due     bool
}

// FunctionsChanged says that the proxy saw a FUNCTION command that changes.
func (m *Mirror) FunctionsChanged() {
	m.functions.mu.Lock()
	defer m.functions.mu.Unlock()
	m.functions.due = true
}

func (m *Mirror) checkFunctions() {
	m.functions.mu.Lock()
	due := m.functions.due || m.functions.carried == nil
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

// CarryFunctions makes To's function libraries those of From, on each master of a cluster.
// Servers without functions (before 7.0) have none to carry.
func (m *Mirror) CarryFunctions(ctx context.Context) error {
	m.functions.mu.Lock()
	defer m.functions.mu.Unlock()
	servers, err := m.cfg.To.Masters(ctx)
	if err != nil {
		return fmt.Errorf("listing the functions of %s: %w", m.cfg.To, err)
	}
	to := make([]map[string]string, len(servers))
	errs := make([]error, len(servers))
	var asked sync.WaitGroup
	for i, s := range servers { // all at the same time: clients may be waiting
		asked.Go(func() { to[i], errs[i] = libraries(ctx, s.DB(0)) })
	}
	from, err := libraries(ctx, m.source().pool.DB(m.home[0]))
	asked.Wait()
	if err != nil {
		if unknownCommand(err) {
			return nil
		}
		return fmt.Errorf("listing the functions of %s: %w", m.cfg.From, err)
	}
	for i, s := range servers {
		if err := errs[i]; err != nil {
			if unknownCommand(err) && len(from) == 0 {
				return nil
			}
			return fmt.Errorf("listing the functions of %s: %w", s, err)
		}
	}
	if m.functions.carried == nil {
		m.functions.carried = make(map[string]bool)
	}
	for i, s := range servers {
		if err := m.carryTo(ctx, s, from, to[i]); err != nil {
			return err
		}
	}
	clear(m.functions.carried)
	for name := range from {
		m.functions.carried[name] = true
	}
	m.functions.due = false
	return nil
}

// carryTo carries From's libraries to one server that has those of to.
func (m *Mirror) carryTo(ctx context.Context, s *conn.Pool, from, to map[string]string) error {
	for name, code := range from {
		if to[name] != code {
			if err := s.DB(0).FunctionLoadReplace(ctx, code).Err(); err != nil {
				return fmt.Errorf("loading function library %q on %s: %w", name, s, err)
			}
		}
		m.functions.carried[name] = true
	}
	for name := range m.functions.carried {
		if _, there := from[name]; there {
			continue
		}
		if _, extra := to[name]; extra {
			if err := s.DB(0).FunctionDelete(ctx, name).Err(); err != nil {
				return fmt.Errorf("deleting function library %q on %s: %w", name, s, err)
			}
		}
	}
	return nil
}

// adoptFunctions takes all of From's libraries as carried: at a switch they are
// on both sides, and one that is deleted later must go on the other side too.
func (m *Mirror) adoptFunctions(ctx context.Context) error {
	m.functions.mu.Lock()
	defer m.functions.mu.Unlock()
	from, err := libraries(ctx, m.source().pool.DB(m.home[0]))
	if err != nil {
		if unknownCommand(err) {
			return nil
		}
		return fmt.Errorf("listing the functions of %s: %w", m.cfg.From, err)
	}
	m.functions.carried = make(map[string]bool)
	for name := range from {
		m.functions.carried[name] = true
	}
	return nil
}

func libraries(ctx context.Context, c *redis.Client) (map[string]string, error) {
	list, err := c.FunctionList(ctx, redis.FunctionListQuery{WithCode: true}).Result()
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, len(list))
	for _, lib := range list {
		out[lib.Name] = lib.Code
	}
	return out, nil
}

func unknownCommand(err error) bool {
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "unknown command")
}
