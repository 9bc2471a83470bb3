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

// life is From as one process with one history, see line. An address says nothing about what
// answers there: when a host dies, or an address moves, an empty server may be at the other end
// of the next connection while the feed still hangs on the old one, and the old one may live on
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
	if err != nil && forbids(err) {
		replication, err = "", nil // see answer
	}
	return standingIn(server, replication), err
}

// turned is an error: From is not any more what a life was.
type turned struct{ from, what string }

func (e *turned) Error() string { return fmt.Sprintf("%s %s, %v", e.from, e.what, errElsewhere) }
func (e *turned) Unwrap() error { return errElsewhere }

// differs returns an error unless who answered at a time or later is this life's process, and
// has its data. *turned means that it is not, or has not; any other, that nobody can tell.
func (l *life) differs(ctx context.Context, who standing, at time.Time, err error) error {
	if err != nil {
		return fmt.Errorf("asking %s who it is: %w", l.m.cfg.From, err)
	}
	what, err := l.line.judge(who, at, func() (time.Duration, error) { return backlogTTL(ctx, l.m.cfg.From) })
	if err != nil || what == "" {
		return err
	}
	return &turned{l.m.cfg.From.String(), what}
}

// judge is differs for those who ask by a connection of this life, or by a new one. What
// nobody has noticed yet ends the feed.
func (l *life) judge(ctx context.Context, who standing, at time.Time, err error) error {
	err = l.differs(ctx, who, at, err)
	var t *turned
	if errors.As(err, &t) && l.m.source() == l {
		l.m.dropFeed(t.from + " " + t.what)
	}
	return err
}

func (l *life) keep(w *conn.Wire) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return fmt.Errorf("%s has changed, %w", l.m.cfg.From, errElsewhere)
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
	if run == m.source().line.first.run {
		return nil
	}
	return &turned{m.cfg.From.String(), "is another process now than the one that is copied from"}
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
	if m.source().differs(ctx, who, at, nil) == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next = m.newLife(who, at)
	return true
}

// checkSource looks whether From is still who is followed, and returns *turned where it is not.
// That From does not answer is for others to find.
func (m *Mirror) checkSource(ctx context.Context) error {
	m.mu.Lock()
	l, up := m.life, m.feed != nil
	m.mu.Unlock()
	if !up {
		return nil // resubscribing takes care
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.Timeout)
	defer cancel()
	who, at, err := whoIs(ctx, l.pool.DB(m.home[0]))
	if err = l.judge(ctx, who, at, err); errors.As(err, new(*turned)) {
		return err
	}
	return nil
}

// stillThere returns an error unless From, as it was followed in a life, is so still, and told
// of its changes all the while: then what was read from it is what it has.
func (m *Mirror) stillThere(ctx context.Context, l *life) error {
	who, at, err := whoIs(ctx, l.pool.DB(m.home[0]))
	if err := l.judge(ctx, who, at, err); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.life != l || m.feed == nil {
		return fmt.Errorf("%s has changed, %w", m.cfg.From, errElsewhere)
	}
	return nil
}

// stillCounted returns an error unless From is still who was counted: meanwhile it may have
// become a replica, or have been given other data once more.
func (m *Mirror) stillCounted() error {
	l := m.counted()
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	who, at, err := whoIs(ctx, l.pool.DB(m.home[0]))
	return l.judge(ctx, who, at, err)
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
