package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// life is From as one process with one history, see line. An address says nothing about what answers
// there: when a host dies, or an address moves, an empty server may be at the other end of
// the next connection while the feed still hangs on the old one, and the old one may live on
// behind the connections of before. So all that is read of From in order to copy it goes
// through connections that have looked who is there, and they end with the life.
type life struct {
	m    *Mirror
	line *line // of no server before there was a first look
	pool *conn.Pool

	mu    sync.Mutex
	wires map[*conn.Wire]struct{}
	ended bool
}

// errElsewhere is why a connection is not used that leads to another process, or to one that
// may have other data.
var errElsewhere = errors.New("and is not followed again yet")

func (m *Mirror) newLife(who standing, at time.Time) *life {
	name := strings.TrimPrefix(m.cfg.From.Name(), conn.NamePrefix)
	l := &life{m: m, line: newLine(who, at), pool: m.cfg.From.Like(m.cfg.From.Endpoint(), name, m.cfg.Timeout), wires: make(map[*conn.Wire]struct{})}
	l.pool.Vet(func(ctx context.Context, cn *redis.Conn) error {
		who, at, err := whoIs(ctx, cn)
		return l.judge(ctx, who, at, err)
	})
	return l
}

// bundle connects to a place for bulk work.
func (l *life) bundle(ctx context.Context, place router.Place) (*conn.Bundle, error) {
	return l.pool.Bundle(ctx, place, func(w *conn.Wire) error {
		at := time.Now()
		who, err := whoIsAt(w)
		if err := l.judge(ctx, who, at, err); err != nil {
			return err
		}
		return l.keep(w)
	})
}

// whoIsAt asks the server at the other end of a wire who it is.
func whoIsAt(w *conn.Wire) (standing, error) {
	w.Command("INFO", "server")
	w.Command("INFO", "replication")
	if err := w.Flush(); err != nil {
		return standing{}, err
	}
	server, err := w.Text()
	if err != nil {
		return standing{}, err
	}
	replication, err := w.Text()
	return standingIn(server, replication), err
}

// judge returns an error unless who answered at a time or later is this life's process, and
// has its data.
func (l *life) judge(ctx context.Context, who standing, at time.Time, err error) error {
	if err != nil {
		return fmt.Errorf("asking %s who it is: %w", l.m.cfg.From, err)
	}
	what := l.became(ctx, who, at)
	if what == "" {
		return nil
	}
	if l.m.source() == l {
		l.m.dropFeed(fmt.Sprintf("%s %s", l.m.cfg.From, what)) // nobody has noticed yet
	}
	return fmt.Errorf("%s %s, %w", l.m.cfg.From, what, errElsewhere)
}

// became is line.judge.
func (l *life) became(ctx context.Context, who standing, at time.Time) string {
	return l.line.judge(who, at, func() (time.Duration, error) { return backlogTTL(ctx, l.m.cfg.From) })
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

// consider has the process be counted that a new feed comes from, which has said at a time
// who it is. It reports whether that is another one than is followed, or has other data.
func (m *Mirror) consider(ctx context.Context, who standing, at time.Time) bool {
	if m.source().became(ctx, who, at) == "" {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next = m.newLife(who, at)
	return true
}

// checkSource looks whether From is still who is followed.
func (m *Mirror) checkSource() {
	m.mu.Lock()
	l, up := m.life, m.feed != nil
	m.mu.Unlock()
	if !up {
		return // resubscribing takes care
	}
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	if who, at, err := whoIs(ctx, l.pool.DB(m.home[0])); err == nil { // else the beat will say it
		_ = l.judge(ctx, who, at, nil)
	}
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
		if err := l.pool.Warm(ctx, db, bigWorkers+1); err != nil {
			return err
		}
	}
	return nil
}
