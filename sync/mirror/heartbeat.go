package mirror

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"
)

// heartbeat proves, again and again, that a write to From becomes an event, is
// copied and can be read on To, and measures how long that takes.
type heartbeat struct {
	mu      sync.Mutex
	sent    time.Time     // of the newest beat
	seq     int64         // of the newest beat
	seen    bool          // its event arrived
	arrived bool          // it was read back on To
	lag     time.Duration // of the newest beat that arrived
	missed  int           // beats in a row without their event
	event   chan struct{} // closed when the event of the newest beat arrives
	copies  chan struct{} // one token per finished copy of the key
}

func (h *heartbeat) init() {
	h.event = make(chan struct{})
	h.copies = make(chan struct{}, 1)
	h.arrived, h.seen = true, true
}

func (h *heartbeat) sawEvent() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.seen {
		h.seen, h.missed = true, 0
		close(h.event)
	}
}

func (h *heartbeat) copied() {
	select {
	case h.copies <- struct{}{}:
	default:
	}
}

// begin notes a new beat; it is called before the beat is written.
func (h *heartbeat) begin() (seq int64, event <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq = time.Now().UnixNano()
	h.sent, h.seen, h.arrived = time.Now(), false, false
	h.event = make(chan struct{})
	return h.seq, h.event
}

func (h *heartbeat) acrossAt(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.arrived {
		h.arrived, h.lag = true, now.Sub(h.sent)
	}
}

// Lag returns the newest measured lag, or the age of a beat that is still on
// its way when that is longer.
func (h *heartbeat) Lag() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.arrived {
		return max(h.lag, time.Since(h.sent))
	}
	return h.lag
}

func (m *Mirror) writeBeat(ctx context.Context, seq int64) error {
	db := m.order[0]
	ttl := max(20*m.cfg.Heartbeat, time.Minute)
	if err := m.cfg.From.DB(db).Set(ctx, m.heartbeatKey(), strconv.FormatInt(seq, 10), ttl).Err(); err != nil {
		return fmt.Errorf("writing the heartbeat %s into database %d of %s: %w", m.heartbeatKey(), db, m.cfg.From, err)
	}
	return nil
}

// errNoEvents is what a silent feed means to an operator.
var errNoEvents = errors.New("keyspace notifications do not arrive although they are switched on; look for a proxy or an ACL channel rule (&*) between")

// proveFeed writes a beat and waits for its event.
func (m *Mirror) proveFeed(ctx context.Context) error {
	seq, event := m.beat.begin()
	if err := m.writeBeat(ctx, seq); err != nil {
		return err
	}
	t := time.NewTimer(max(2*m.cfg.Heartbeat, 2*time.Second))
	defer t.Stop()
	select {
	case <-event:
		return nil
	case <-t.C:
		return fmt.Errorf("proving the notifications of %s: %w", m.cfg.From, errNoEvents)
	case <-ctx.Done():
		return fmt.Errorf("proving the notifications of %s: %w", m.cfg.From, context.Cause(ctx))
	}
}

// heartbeats runs until the mirror stops.
func (m *Mirror) heartbeats() {
	tick := time.NewTicker(m.cfg.Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.beat.copies:
			m.readBack()
			continue
		case <-tick.C:
		}
		m.checkFeed()
		m.checkForeign()
		m.checkTo()
		seq, _ := m.beat.begin()
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
		err := m.writeBeat(ctx, seq)
		cancel()
		if err != nil && m.ctx.Err() == nil {
			m.errs.add("heartbeat", err)
			m.beat.sawEvent() // nothing was written, so no event is owed
		}
	}
}

// checkTo looks after what is no key: functions, and whether To restarted. One
// that is away is the copies' trouble.
func (m *Mirror) checkTo() {
	m.mu.Lock()
	following := m.following
	m.mu.Unlock()
	if !following {
		return // armed only: nothing of ours may be written to To yet
	}
	m.checkFunctions()
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	_, _ = m.checkRun(ctx)
}

// readBack looks whether the newest beat is on To.
func (m *Mirror) readBack() {
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	to, _ := m.cfg.Map.Target(m.order[0])
	got, err := m.cfg.To.DB(to).Get(ctx, m.heartbeatKey()).Int64()
	if err != nil {
		return
	}
	m.beat.mu.Lock()
	newest := m.beat.seq
	m.beat.mu.Unlock()
	if got == newest {
		m.beat.acrossAt(time.Now())
	}
}

// checkFeed looks at the last beat and at From's settings: an event that did
// not come, or notifications that somebody switched off, are a gap.
func (m *Mirror) checkFeed() {
	m.mu.Lock()
	up := m.feed != nil
	wasSilent := m.silent
	m.mu.Unlock()
	if !up {
		return // resubscribing takes care
	}
	m.beat.mu.Lock()
	seen := m.beat.seen
	if !seen {
		m.beat.missed++
	}
	missed := m.beat.missed
	m.beat.mu.Unlock()

	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	err := m.cfg.CheckNotifications(ctx)
	cancel()
	if m.ctx.Err() != nil {
		return
	}
	switch {
	case errors.As(err, new(*NotificationsOff)):
	case missed >= 2:
		if missed%10 == 2 {
			m.dropFeed() // a connection that swallows everything is replaced
		}
		err = fmt.Errorf("no event came for %d heartbeats on %s: %w", missed, m.cfg.From, errNoEvents)
	case wasSilent && seen:
		m.mu.Lock()
		m.silent = false
		m.mu.Unlock()
		for _, l := range m.lanes {
			l.requestScan()
		}
		m.log.Info("notifications arrive again, scanning what was missed", "from", m.cfg.From.String())
		return
	default:
		return
	}
	if !wasSilent {
		m.mu.Lock()
		m.silent = true
		m.mu.Unlock()
		m.noteGap(err.Error())
		// Switching them on again waits for the next beat, so that what happened
		// is seen in the status and is not over before anybody could look.
		return
	}
	ctx, cancel = context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	if err := m.cfg.EnsureNotifications(ctx); err != nil && m.ctx.Err() == nil {
		m.errs.add("notifications", err)
		m.setReason(err.Error())
	}
}

// dropFeed closes the notification connection; supervise makes a new one.
func (m *Mirror) dropFeed() {
	m.mu.Lock()
	f := m.feed
	m.mu.Unlock()
	if f != nil {
		f.Close()
	}
}

// NotificationsOff is returned by CheckNotifications when From is known not to
// report all changes.
type NotificationsOff struct{ Have, Need, Command string }

func (e *NotificationsOff) Error() string {
	return fmt.Sprintf("notify-keyspace-events is %q, which does not report every change; run: %s", e.Have, e.Command)
}
