package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/failpoint"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// How a mirror keeps hearing of From's changes: its feed is made, proved, lost and
// made again, and what came by meanwhile is a gap.

// trackInstead tries tracking when no notification has come at all.
func (m *Mirror) trackInstead(ctx context.Context, err error) bool {
	if m.cfg.Feed != FeedAuto || m.isTracking() || !errors.Is(err, errNoEvents) {
		return false
	}
	m.track(err)
	m.dropFeed(err.Error())
	if err := m.proveTracking(ctx); err != nil {
		return false
	}
	m.mu.Lock()
	m.gaps, m.reason = 0, "" // nothing was followed yet that could have been missed
	m.mu.Unlock()
	return true
}

// proveTracking waits for a tracking feed, and for a heartbeat on it.
func (m *Mirror) proveTracking(ctx context.Context) error {
	for {
		if err := m.barrier(ctx); err != nil && ctx.Err() != nil {
			return err
		}
		m.mu.Lock()
		there := m.feed != nil && m.feed.tracking
		m.mu.Unlock()
		if there {
			return m.proveFeed(ctx)
		}
		if !sleep(ctx, 5*time.Millisecond) {
			return context.Cause(ctx)
		}
	}
}

// sink takes events of keys of From's database db, by their names there.
func (m *Mirror) sink(db int, e events) {
	if db == anyDatabase {
		for _, n := range m.cfg.Map.On(m.cfg.Side) {
			m.sink(n, events{keys: slices.Clone(e.keys), changes: slices.Clone(e.changes)})
		}
		return
	}
	if m.cfg.Side == router.Source || !m.cfg.Map.Shared(db) {
		if n, _, ok := m.cfg.Map.Find(m.cfg.Side, db, ""); ok {
			m.take(n, e)
		}
		return
	}
	parts := make(map[int]*events)
	for i, key := range e.keys {
		n, name, ok := m.find(db, key)
		if !ok {
			continue
		}
		p := parts[n]
		if p == nil {
			p = new(events)
			parts[n] = p
		}
		p.keys, p.changes = append(p.keys, name), append(p.changes, e.changes[i])
	}
	for n, p := range parts {
		m.take(n, *p)
	}
}

// find says whose a key of From's database db is, and its client's name.
func (m *Mirror) find(db int, key string) (n int, name string, ok bool) {
	if strings.HasPrefix(key, KeyPrefix) { // no prefix is like that
		return m.order[0], key, db == m.home[0]
	}
	n, name, ok = m.cfg.Map.Find(m.cfg.Side, db, key)
	return n, name, ok && !strings.HasPrefix(name, KeyPrefix)
}

// take takes events of keys of one lane.
func (m *Mirror) take(db int, e events) {
	l := m.lanes[db]
	e = m.chosen(e)
	l.big.note(e.keys, e.changes) // before the marks: who copies a key must know why
	if m.isTracking() {
		l.quiet.heard(e.keys...)
	}
	mine := e.keys[:0]
	for _, k := range e.keys {
		if strings.HasPrefix(k, KeyPrefix) {
			if k != m.heartbeatKey() || db != m.order[0] {
				continue
			}
			m.beat.sawEvent()
			m.changes.Add(-1) // counted below
		}
		mine = append(mine, k)
	}
	m.changes.Add(int64(len(mine)))
	l.dirty.MarkAll(mine)
	l.big.hasten(mine)
}

// chosen leaves those out whose keys are not copied. It reuses e's memory.
func (m *Mirror) chosen(e events) events {
	if m.cfg.Only == nil {
		return e
	}
	out := events{keys: e.keys[:0], changes: e.changes[:0]}
	for i, k := range e.keys {
		if strings.HasPrefix(k, KeyPrefix) || m.cfg.Only.Name(k) {
			out.keys, out.changes = append(out.keys, k), append(out.changes, e.changes[i])
		}
	}
	return out
}

// heard takes each event by itself, before sink has its key.
func (m *Mirror) heard(db int, key string, event []byte) {
	if strings.HasPrefix(key, KeyPrefix) {
		if db == m.home[0] && strings.HasPrefix(key, m.heartbeatKey()) {
			m.classes.told(key, event)
		}
		return
	}
	if founds(event) {
		if n, name, ok := m.find(db, key); ok {
			m.lanes[n].quiet.heard(name)
		}
	}
	if !m.views.on.Load() {
		return
	}
	if n, name, ok := m.cfg.Map.Find(m.cfg.Side, db, key); ok && m.cfg.Only.Name(name) {
		m.views.told(n, name, event)
	}
}

// subscribe opens a feed.
func (m *Mirror) subscribe(ctx context.Context) (*feed, error) {
	if m.cfg.Learn != nil {
		m.cfg.Learn(ctx)
	}
	if m.cfg.Feed == FeedTracking {
		m.mu.Lock()
		m.tracking = true
		m.mu.Unlock()
	}
	if !m.isTracking() {
		err := m.cfg.EnsureNotifications(ctx)
		switch {
		case err == nil:
		case m.cfg.Feed == FeedAuto && errors.As(err, new(*NotificationsOff)):
			m.track(err)
		default:
			return nil, err
		}
	}
	f := &feed{sink: m.sink, each: m.heard, all: m.flushedSomewhere, tracking: m.isTracking()}
	return f.open(ctx, m.feedPool(), m.cfg.Timeout)
}

// feedPool is From, but for tests that lead the feed alone through a slow link.
func (m *Mirror) feedPool() *conn.Pool {
	addr := failpoint.Value("mirror.feed." + m.cfg.Name)
	if addr == "" {
		return m.cfg.From
	}
	return m.cfg.From.Like(m.cfg.From.Endpoint().At(addr), strings.TrimPrefix(m.cfg.From.Name(), conn.NamePrefix), m.cfg.Timeout)
}

func (m *Mirror) setFeed(f *feed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.feed = f
	close(m.feedUp)
	if m.ctx.Err() != nil { // Stop looked before there was a feed to close
		f.Close()
	}
}

// supervise reads the feed, and makes a new one after each loss. A loss is a
// gap: what happened meanwhile is found by scanning every database again.
func (m *Mirror) supervise(f *feed) {
	for {
		err := f.read()
		if m.ctx.Err() != nil {
			return
		}
		m.mu.Lock()
		m.feed = nil
		m.feedUp = make(chan struct{})
		why := m.dropped
		m.dropped = ""
		if why == "" {
			why = fmt.Sprintf("the notification connection to %s was lost (%v)", m.cfg.From, err)
		}
		m.reason = why // at once: whoever sees that there is no feed may ask why
		m.mu.Unlock()
		for _, l := range m.lanes { // until it is plain what From is now
			l.brake.bar(true)
		}
		m.views.reset()
		m.noteGap(why)
		if f = m.resume(); f == nil {
			return
		}
		m.setReason(why) // and not what kept us from subscribing any more
		m.countAnew()
		// Subscribed first, scan second: nothing can fall between.
		for _, l := range m.lanes {
			l.requestScan()
			l.brake.bar(false)
		}
		m.setFeed(f)
		m.log.Info("notifications are back, scanning what the gap covered", "from", m.cfg.From.String())
	}
}

// resume returns a feed from a server that has what it had; nil when the mirror stops.
func (m *Mirror) resume() *feed {
	for {
		f := m.resubscribe()
		if f == nil || m.awaitWhole(f) {
			return f
		}
		if !sleep(m.ctx, 100*time.Millisecond) { // two servers may answer by turns
			return nil
		}
	}
}

func (m *Mirror) resubscribe() *feed {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		f, err := m.subscribe(m.ctx)
		if err == nil {
			return f
		}
		if m.ctx.Err() != nil {
			return nil
		}
		m.errs.add("feed", err)
		m.setReason(err.Error())
		if !sleep(m.ctx, wait) {
			return nil
		}
	}
}

// noteGap records that changes may have been missed. The lanes are not clean
// before a scan that begins after the cause is gone.
func (m *Mirror) noteGap(why string) {
	for _, l := range m.lanes {
		l.distrust()
	}
	m.mu.Lock()
	m.gaps++
	m.reason = why
	m.mu.Unlock()
	m.errs.add("gap", errors.New(why))
	m.log.Warn("changes may have been missed: the databases will be scanned again", "because", why)
}

// untold reports whether it is known that not all changes of From are reported. The scan
// that makes up for it is asked for before it is over.
func (m *Mirror) untold() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.silent || m.deaf != ""
}

// isSilent reports whether From is known to tell of nothing.
func (m *Mirror) isSilent() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.silent
}

// tell wakes who waits for any of the lanes to be complete.
func (m *Mirror) tell() {
	for _, l := range m.lanes {
		l.tell()
	}
}

func (m *Mirror) setReason(why string) {
	m.mu.Lock()
	m.reason = why
	m.mu.Unlock()
}

// barrier waits until every event of the past is marked. While there is no
// feed it waits for one.
func (m *Mirror) barrier(ctx context.Context) error {
	for {
		m.mu.Lock()
		f, up := m.feed, m.feedUp
		m.mu.Unlock()
		if f != nil {
			if barrierDisabled() {
				return nil
			}
			return f.Barrier(ctx)
		}
		select {
		case <-up:
		case <-ctx.Done():
			return fmt.Errorf("waiting for the notification connection to %s: %w", m.cfg.From, context.Cause(ctx))
		case <-m.ctx.Done():
			return errStopped
		}
	}
}
