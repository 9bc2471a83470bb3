package mirror

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/value"
)

// heartbeat proves, again and again, that a write to From becomes an event, is
// copied and can be read on To, and measures how long that takes.
type heartbeat struct {
	mu     sync.Mutex
	out    []beat // written and not read back yet, oldest first
	recent recentLags
	lag    time.Duration // of the newest beat that arrived
	seen   bool          // the event of the newest beat arrived
	before bool          // … of the one before it had, when that was written
	missed int           // beats in a row without their event
	lapses int           // how often there was one, and the next one's event came
	madeUp int           // … for how many of them scans were asked for
	mute   bool          // the newest beat was not written: it proves nothing
	newest beat          // also when it is not under way any more
	on     *feed         // where its event is to come
	event  chan struct{} // closed when the event of the newest beat arrives
	copies chan struct{} // one token per finished copy of the key
}

// beat is one write of the heartbeat's key; its number is the value.
type beat struct {
	seq  int64
	sent time.Time
	sure bool // From has acknowledged it
	void bool // it has not, and takes none: there may be nothing to wait for
}

// mostBeats bounds those that are under way. Of more, the oldest is kept, which
// tells how long To has been without.
const mostBeats = 64

func (h *heartbeat) init() {
	h.event = make(chan struct{})
	h.copies = make(chan struct{}, 1)
	h.seen = true
}

func (h *heartbeat) sawEvent() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.seen {
		if h.missed == 1 { // more are known for silence, see checkFeed
			h.lapses++
		}
		h.seen, h.missed = true, 0
		close(h.event)
	}
}

// lapsed reports whether From has not told of a beat, and tells again, and nobody has made up
// for that yet: who does says which it was, when the scans are asked for and not before.
func (h *heartbeat) lapsed() (which int, due bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lapses, h.lapses != h.madeUp
}

// makeUp notes that scans were asked for since a lapse was reported.
func (h *heartbeat) makeUp(which int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.madeUp = max(h.madeUp, which)
}

// unheard returns the newest beat if its event is still to come on a feed.
func (h *heartbeat) unheard(on *feed) (b beat, is bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newest, on != nil && h.on == on && !h.seen
}

// lacks reports whether the event of a beat is known not to have come, and nobody has made up
// for that yet. seq is one whose event would be here, 0 for none.
func (h *heartbeat) lacks(seq int64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.missed > 0 || h.lapses != h.madeUp || seq != 0 && !h.seen && h.newest.seq == seq
}

// lacksEvent notes that the event of the newest beat should be here and is not.
func (h *heartbeat) lacksEvent() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.seen {
		h.missed++
	}
}

func (h *heartbeat) copied() {
	select {
	case h.copies <- struct{}{}:
	default:
	}
}

// begin notes a new beat, whose event is to come on a feed; it is called before the beat is
// written.
func (h *heartbeat) begin(on *feed) (seq int64, event <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	// A number that was smaller than those before it, as a clock may be set back, would never be
	// seen to arrive.
	b := beat{seq: max(time.Now().UnixNano(), h.newest.seq+1), sent: time.Now()}
	if len(h.out) == mostBeats {
		h.out = append(h.out[:1], h.out[2:]...)
	}
	h.out = append(h.out, b)
	h.newest, h.on = b, on
	h.before, h.seen, h.mute = h.seen, false, false
	h.event = make(chan struct{})
	return b.seq, h.event
}

// failed notes that the newest beat, seq, is not known to have been written: no event is owed,
// and none was proved to come. Where From has refused it, it is not on its way either, nor
// perhaps those before it that were not acknowledged, which no other follows now.
func (h *heartbeat) failed(seq int64, refused bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seen, h.mute = h.seen || h.before, true
	if !refused {
		return
	}
	if n := len(h.out); n > 0 && h.out[n-1].seq == seq {
		h.out = h.out[:n-1]
	}
	for i := range h.out {
		h.out[i].void = !h.out[i].sure
	}
}

// written notes that From has acknowledged the newest beat.
func (h *heartbeat) written(seq int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.out); n > 0 && h.out[n-1].seq == seq {
		h.out[n-1].sure = true
	}
	h.newest.sure = h.newest.sure || h.newest.seq == seq
}

// arrived notes that beat seq was read on To: those before it need not be. One
// that is newer than all was not written by this mirror.
func (h *heartbeat) arrived(seq int64, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.out) == 0 || seq > h.out[len(h.out)-1].seq {
		return
	}
	n := 0
	for n < len(h.out) && h.out[n].seq <= seq {
		if h.out[n].seq == seq {
			h.lag = now.Sub(h.out[n].sent)
			h.recent.add(h.lag)
		}
		n++
	}
	h.out = append(h.out[:0], h.out[n:]...)
}

// forget drops the beats under way: nothing of before matters to To.
func (h *heartbeat) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.out = nil
}

func (h *heartbeat) lags() Lags {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.recent.percentiles()
}

// waiting reports whether a beat is under way.
func (h *heartbeat) waiting() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.out) > 0
}

// Lag returns the newest measured lag, or for how long the oldest beat has been
// on its way when that is longer. While To takes nothing it grows and grows.
func (h *heartbeat) Lag() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.out {
		if !b.void {
			return max(h.lag, time.Since(b.sent))
		}
	}
	return h.lag
}

func (m *Mirror) writeBeat(ctx context.Context, seq int64) error {
	db := m.home[0]
	ttl := max(20*m.cfg.Heartbeat, time.Minute)
	if err := m.counted().pool.DB(db).Set(ctx, m.heartbeatKey(), strconv.FormatInt(seq, 10), ttl).Err(); err != nil {
		if redis.IsOOMError(err) {
			err = fmt.Errorf("%w: %w", errFull, err)
		}
		return fmt.Errorf("writing the heartbeat %s into database %d of %s: %w", m.heartbeatKey(), db, m.cfg.From, err)
	}
	return nil
}

// errFull is what it means to an operator that From takes no write of ours.
var errFull = errors.New("it is at its maxmemory and evicts nothing, so it takes no new value, and none of the few keys that a migration writes there; raise maxmemory, or delete keys")

// errNoEvents is what a silent feed means to an operator.
var errNoEvents = errors.New("keyspace notifications do not arrive although they are switched on; look for a proxy or an ACL channel rule (&*) between")

// proveFeed writes a beat and waits for its event.
func (m *Mirror) proveFeed(ctx context.Context) error {
	seq, event := m.beat.begin(m.presentFeed())
	if err := m.writeBeat(ctx, seq); err != nil {
		m.beat.failed(seq, !value.Unknown(err))
		return err
	}
	m.beat.written(seq)
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

// heartbeats looks after From until the mirror stops. It does not wait for To,
// which may be away: what From does is noticed at once all the same.
func (m *Mirror) heartbeats() {
	tick := time.NewTicker(m.cfg.Heartbeat)
	defer tick.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
		}
		m.checkFeed()
		m.checkForeign()
		m.settleSlowly()
		_ = m.checkSource(m.ctx)
		heard := m.presentFeed()
		seq, event := m.beat.begin(heard)
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
		err := m.writeBeat(ctx, seq)
		cancel()
		if err != nil {
			if m.ctx.Err() == nil {
				m.errs.add("heartbeat", err)
				if redis.HasErrorPrefix(err, "READONLY") { // a replica's answer, since a moment ago
					_ = m.checkSource(m.ctx)
				}
			}
			refused := !value.Unknown(err)
			m.beat.failed(seq, refused)
			if !refused {
				continue
			}
			event = nil // that the feed is alive shows all the same
		} else {
			m.beat.written(seq)
		}
		m.awaitEvent(heard, event)
		m.checkLapse() // at once: a switch may be near
	}
}

// checkLapse makes it a gap that notifications were off for less time than it takes to call
// From silent. Behind a barrier an event that lacks is lost, and so are those of others, whoever
// made them. Where From is called silent, the end of that is what counts.
func (m *Mirror) checkLapse() {
	if which, due := m.beat.lapsed(); due && !m.isSilent() {
		m.scanUntold(which)
	}
}

// scanUntold has everything scanned that From may not have told of, and says why. which is what
// lapsed has said before.
func (m *Mirror) scanUntold(which int) (why string) {
	why = fmt.Sprintf("the event of a heartbeat on %s did not come: notifications were off for a while, and what changed then is not known", m.cfg.From)
	m.noteGap(why)
	for _, l := range m.lanes {
		l.requestScan()
	}
	m.beat.makeUp(which)
	return why
}

// checkTold asks, behind a barrier, whether the event of each beat has come that From had run
// before that, and has everything scanned if not. It says why then, and whoever waits until the
// lanes are clean has waited for that.
func (m *Mirror) checkTold(ctx context.Context) (why string, err error) {
	if barrierDisabled() {
		return "", nil // what is late would count as lost
	}
	which, _ := m.beat.lapsed()
	f := m.presentFeed()
	b, unheard := m.beat.unheard(f)
	if unheard && !b.sure { // From's answer may be on its way
		got, err := m.counted().pool.DB(m.home[0]).Get(ctx, m.heartbeatKey()).Int64()
		if err != nil && !errors.Is(err, redis.Nil) {
			return "", fmt.Errorf("reading the heartbeat %s of %s: %w", m.heartbeatKey(), m.cfg.From, err)
		}
		b.sure = err == nil && got == b.seq
	}
	var seq int64
	if unheard && b.sure {
		if err := m.barrier(ctx); err != nil { // it may have run since the other one
			return "", err
		}
		if f == m.presentFeed() { // a new one begins with a scan
			seq = b.seq
		}
	}
	if !m.beat.lacks(seq) || m.isSilent() { // then the lanes are not clean before a scan behind its end
		return "", nil
	}
	return m.scanUntold(which), nil
}

// presentFeed is the feed of now, nil while there is none.
func (m *Mirror) presentFeed() *feed {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.feed
}

// awaitEvent returns when the event of the newest beat has come, or would have:
// one that is only late, behind a million others, is no sign of anything. A feed
// on which nothing moves at all is dropped. event is nil where none is to come. It was to
// come on heard: one that was lost with that is no sign of a server that tells nothing.
func (m *Mirror) awaitEvent(heard *feed, event <-chan struct{}) {
	for {
		f := m.presentFeed()
		if f == nil || f != heard {
			return
		}
		before := f.taken.Load()
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
		err := f.Barrier(ctx)
		late := ctx.Err() != nil
		cancel()
		select {
		case <-event:
			return
		default:
		}
		switch {
		case err == nil && event == nil:
			return
		case err == nil:
			m.beat.lacksEvent()
			return
		case !late || m.ctx.Err() != nil: // it has ended
			return
		case f.taken.Load() == before:
			m.errs.add("feed", fmt.Errorf("nothing came on the notification connection to %s for %v, not even the answer to a PING", m.cfg.From, m.cfg.Timeout))
			f.Close()
			return
		}
	}
}

// watchTo looks after To until the mirror stops: whether beats arrive there, and
// what is no key.
func (m *Mirror) watchTo() {
	tick, again := time.NewTicker(m.cfg.Heartbeat), time.NewTicker(stuckEvery)
	defer tick.Stop()
	defer again.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-again.C:
			for _, l := range m.lanes {
				l.retryStuck()
			}
		case <-m.beat.copies:
			m.readBack()
		case <-tick.C:
			if m.beat.waiting() {
				m.readBack() // its copy was made in a way that said nothing
			}
			m.checkTo()
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

// readBack looks which beat is on To.
func (m *Mirror) readBack() {
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	if got, err := m.cfg.To.DB(m.home[1]).Get(ctx, m.heartbeatKey()).Int64(); err == nil {
		m.beat.arrived(got, time.Now())
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
	missed, mute := m.beat.missed, m.beat.mute
	m.beat.mu.Unlock()

	var err error
	if !m.isTracking() {
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
		err = m.cfg.CheckNotifications(ctx)
		cancel()
	}
	if m.ctx.Err() != nil {
		return
	}
	switch {
	case errors.As(err, new(*NotificationsOff)):
	case missed >= 2 && !mute:
		if missed%10 == 2 {
			if missed > 10 && m.cfg.Feed == FeedAuto {
				m.track(errNoEvents)
			}
			// A connection that swallows everything is replaced.
			m.dropFeed(fmt.Sprintf("no event came for %d heartbeats on %s: %v", missed, m.cfg.From, errNoEvents))
		}
		err = fmt.Errorf("no event came for %d heartbeats on %s: %w", missed, m.cfg.From, errNoEvents)
	case wasSilent && seen && !mute:
		which, _ := m.beat.lapsed() // which the scan makes up for as well
		for _, l := range m.lanes { // first: who finds that all is told waits for them
			l.requestScan()
		}
		m.beat.makeUp(which)
		m.mu.Lock()
		m.silent = false
		m.mu.Unlock()
		m.tell()
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
	if m.isTracking() {
		return
	}
	ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
	defer cancel()
	if err := m.cfg.EnsureNotifications(ctx); err != nil && m.ctx.Err() == nil {
		m.errs.add("notifications", err)
		m.setReason(err.Error())
		if m.cfg.Feed == FeedAuto && errors.As(err, new(*NotificationsOff)) {
			m.track(err)
			m.dropFeed(err.Error())
		}
	}
}

// dropFeed closes the notification connection; supervise makes a new one, and says why.
func (m *Mirror) dropFeed(why string) {
	m.mu.Lock()
	f := m.feed
	if f != nil {
		m.dropped = why
	}
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
