package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// life is From as one process, by its run id. An address says nothing about what answers
// there: when a host dies, or an address moves, an empty server may be at the other end of
// the next connection while the feed still hangs on the old one, and the old one may live on
// behind the connections of before. So all that is read of From in order to copy it goes
// through connections that have looked who is there, and they end with the life.
type life struct {
	m    *Mirror
	run  string // immutable; "" before there was a first look
	pool *conn.Pool

	mu    sync.Mutex
	wires map[*conn.Wire]struct{}
	ended bool
}

// errElsewhere is why a connection is not used that leads to another process.
var errElsewhere = errors.New("restarted, and is not followed again yet")

func (m *Mirror) newLife(run string) *life {
	name := strings.TrimPrefix(m.cfg.From.Name(), conn.NamePrefix)
	l := &life{m: m, run: run, pool: m.cfg.From.Like(m.cfg.From.Endpoint(), name, m.cfg.Timeout), wires: make(map[*conn.Wire]struct{})}
	l.pool.Vet(func(ctx context.Context, cn *redis.Conn) error {
		text, err := cn.Info(ctx, "server").Result()
		return l.judge(text, err)
	})
	return l
}

// bundle connects to a place for bulk work.
func (l *life) bundle(ctx context.Context, place router.Place) (*conn.Bundle, error) {
	return l.pool.Bundle(ctx, place, func(w *conn.Wire) error {
		w.Command("INFO", "server")
		text, err := "", w.Flush()
		if err == nil {
			text, err = w.Text()
		}
		if err := l.judge(text, err); err != nil {
			return err
		}
		return l.keep(w)
	})
}

// judge returns an error unless an answer to INFO server is that of this life's process.
func (l *life) judge(text string, err error) error {
	if err != nil {
		return fmt.Errorf("asking %s for its run id: %w", l.m.cfg.From, err)
	}
	if runIDIn(text) == l.run {
		return nil
	}
	if l.m.source() == l {
		l.m.dropFeed(fmt.Sprintf("%s restarted", l.m.cfg.From)) // nobody has noticed yet
	}
	return fmt.Errorf("%s %w", l.m.cfg.From, errElsewhere)
}

func (l *life) keep(w *conn.Wire) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return fmt.Errorf("%s %w", l.m.cfg.From, errElsewhere)
	}
	for old := range l.wires { // those that their owners have closed meanwhile
		if old.Closed() {
			delete(l.wires, old)
		}
	}
	l.wires[w] = struct{}{}
	return nil
}

// end closes every connection, under the hands of whoever reads by it.
func (l *life) end() {
	l.mu.Lock()
	l.ended = true
	for w := range l.wires {
		w.Close()
	}
	clear(l.wires)
	l.mu.Unlock()
	_ = l.pool.Close()
}

// source is From as the process that is followed: what is read there may be copied.
func (m *Mirror) source() *life {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life
}

// Follows returns an error unless run is the run id of the process whose changes are
// followed: a fence on another one would keep nobody from writing there.
func (m *Mirror) Follows(run string) error {
	if run == m.source().run {
		return nil
	}
	return fmt.Errorf("another process answers at %s now than is copied from, which is %w", m.cfg.From, errElsewhere)
}

// counted is From as it is counted: before it is plain whether a process that has come in
// the place of the one that is followed has lost its data, that is the new one already.
func (m *Mirror) counted() *life {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next != nil {
		return m.next
	}
	return m.life
}

// consider has the process be counted that a new feed comes from. It reports whether that
// is another one than is followed.
func (m *Mirror) consider(run string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life.run == run {
		return false
	}
	m.next = m.newLife(run)
	return true
}

// decide has the process be followed that was considered, or not.
func (m *Mirror) decide(follow bool) {
	m.mu.Lock()
	old := m.next
	if follow {
		old, m.life = m.life, m.next
	}
	m.next = nil
	m.mu.Unlock()
	old.end()
}

// Warm connects to From as often as what is still to be copied may need at the same time:
// there is no time for a handshake while clients wait.
func (m *Mirror) Warm(ctx context.Context) error {
	l := m.source()
	for _, db := range m.cfg.Map.On(m.cfg.Side) {
		if err := l.pool.Warm(ctx, db, bigWorkers+2); err != nil {
			return err
		}
	}
	return nil
}
