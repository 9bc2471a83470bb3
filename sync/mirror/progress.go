package mirror

import (
	"sync"
	"time"

	"github.com/crossfade/crossfade/internal/failpoint"
	"github.com/crossfade/crossfade/router"
)

// State is what a mirror can vouch for.
type State string

// The states.
const (
	Idle    State = "idle"    // not following
	Copying State = "copying" // the first scan is under way
	Live    State = "live"    // everything was scanned, the feed is proved
	Behind  State = "behind"  // … but To has been without some change for too long, or for ever
	Resync  State = "resync"  // changes may have been missed, a scan makes up for it
)

// Progress is a mirror's own account of where it stands.
type Progress struct {
	State     State
	Reason    string // why it is not live, in an operator's words
	Gaps      int
	Databases []Database
	Big       []BigKey // at hand, some of each database
	// Stuck are some of the keys that cannot be copied; each Database says how many
	// there are.
	Stuck  []StuckKey
	Dirty  int
	Lag    time.Duration // of the newest heartbeat, or how long one has been on its way
	Recent Lags          // of the latest heartbeats
	// Oldest is the age of the oldest change that is not yet on To, 0 when there is
	// none that is known.
	Oldest time.Duration
	// Pressing is Oldest without the big keys that are copied again and are put off by
	// what that costs: a switch has them at once, for their Cost.
	Pressing time.Duration
	Errors   []Error
	Feed     string // FeedNotifications or FeedTracking
	// Hears says that the feed is there, and was proved to tell of changes of late.
	Hears bool
	// Searching says that a database is looked through for what silent commands may have
	// changed: a switch would have to wait for that.
	Searching bool
	Views     Views // how the notifications and the proxy's own view differ
}

// Database is the progress of one database.
type Database struct {
	Source          int          // its number on the source
	Place           router.Place // on the target
	Total, Scanned  int64        // of the current scan, keys
	Copied, Removed int64        // since the mirror began
	Equal           int64        // keys that scans have found on To as they are, and left there, since the mirror began
	Bytes           int64
	Dirty           int           // in hand or waiting for it
	InHand          int           // being copied
	Stuck           int           // cannot be copied
	Lossy           int           // copied without the expiries of their fields
	Oldest          time.Duration // age of the oldest change that is not yet on To
	ScanComplete    bool
	Elapsed         time.Duration // of the current or last scan
}

// Percent returns how much of the current scan is through, 0 to 100.
func (d Database) Percent() float64 {
	if d.ScanComplete {
		return 100
	}
	if d.Total == 0 {
		return 0
	}
	return min(99.9, 100*float64(d.Scanned)/float64(d.Total))
}

// Rate returns keys a second of the current or last scan.
func (d Database) Rate() float64 {
	if d.Elapsed <= 0 {
		return 0
	}
	return float64(d.Scanned) / d.Elapsed.Seconds()
}

// ETA returns how long the current scan will take at its present rate, or 0.
func (d Database) ETA() time.Duration {
	r := d.Rate()
	if d.ScanComplete || r <= 0 || d.Scanned >= d.Total {
		return 0
	}
	return time.Duration(float64(d.Total-d.Scanned) / r * float64(time.Second))
}

// liveAge is how old the oldest change that To is without may be in a mirror that
// calls itself live, see Pressing; the rest is for whoever looks at Oldest.
const liveAge = 5 * time.Second

// Progress returns the present account.
func (m *Mirror) Progress() Progress {
	m.mu.Lock()
	p := Progress{Reason: m.reason, Gaps: m.gaps}
	if p.Feed = FeedNotifications; m.tracking {
		p.Feed = FeedTracking
	}
	following, up, silent := m.following, m.feed != nil, m.silent || m.deaf != ""
	m.mu.Unlock()
	p.Hears = following && up && !silent
	complete, stuck := true, 0
	for _, db := range m.order {
		d := m.lanes[db].progress()
		big, _ := m.lanes[db].big.list()
		p.Big = append(p.Big, big...)
		p.Databases = append(p.Databases, d)
		some, n := m.lanes[db].stuckKeys()
		p.Stuck = append(p.Stuck, some...)
		stuck += n
		p.Dirty += d.Dirty
		p.Oldest = max(p.Oldest, d.Oldest)
		p.Pressing = max(p.Pressing, m.lanes[db].dirty.AgeBut(m.lanes[db].big.putOff()))
		complete = complete && d.ScanComplete
	}
	p.Lag, p.Recent = m.beat.Lag(), m.beat.lags()
	p.Errors = m.errs.list()
	p.Views, p.Searching = m.views.progress(), m.searching()
	switch {
	case !following:
		p.State = Idle
	case !up || silent || !complete && p.Gaps > 0:
		p.State = Resync
	case !complete:
		p.State = Copying
	default:
		p.State = Live
		if stuck > 0 || max(p.Pressing, p.Lag) > max(liveAge, 5*m.cfg.Heartbeat) {
			p.State = Behind
		}
		m.mu.Lock()
		if m.reason == p.Reason { // the gap is closed
			m.reason = ""
		}
		m.mu.Unlock()
		p.Reason = ""
	}
	return p
}

func (l *lane) progress() Database {
	_, under := l.big.list()
	place, _ := l.m.cfg.Map.Place(l.db)
	d := Database{
		Source: l.db, Place: place,
		Total: l.count.total.Load(), Scanned: l.count.scanned.Load(),
		Copied: l.count.copied.Load(), Removed: l.count.removed.Load(), Equal: l.count.equal.Load(), Bytes: l.count.bytes.Load() + under,
		Dirty: l.dirty.Len(), InHand: l.dirty.InHand(), Stuck: l.stuck.len(), Lossy: l.lossy.len(), Oldest: l.dirty.AgeBut(l.big.paces()), ScanComplete: l.scanComplete(),
	}
	if l.m.cfg.Only != nil || l.from.Prefix != "" {
		d.Scanned = min(d.Scanned, d.Total) // it is an estimate
	}
	if start := l.count.scanStart.Load(); start > 0 {
		end := l.count.scanEnd.Load()
		if end == 0 {
			end = time.Now().UnixNano()
		}
		d.Elapsed = time.Duration(end - start)
	}
	return d
}

// ErrorKinds are all kinds of trouble that there can be, by name.
var ErrorKinds = []string{"commandstats", "compare", "copy", "evicted", "feed", "functions", "gap", "heartbeat", "loss", "notifications", "scan", "target", "unannounced", "untold"}

// Error is one kind of trouble: how often, when last, and the last text.
type Error struct {
	Kind  string    `json:"kind"`
	Count int       `json:"count"`
	Last  time.Time `json:"last"`
	Text  string    `json:"text"`
}

// recentErrors counts errors by kind; its memory is bounded by the kinds.
type recentErrors struct {
	mu     sync.Mutex
	byKind map[string]*Error
	order  []string
}

func (r *recentErrors) add(kind string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byKind == nil {
		r.byKind = make(map[string]*Error)
	}
	e := r.byKind[kind]
	if e == nil {
		e = &Error{Kind: kind}
		r.byKind[kind] = e
		r.order = append(r.order, kind)
	}
	e.Count++
	e.Last = time.Now()
	e.Text = err.Error()
}

func (r *recentErrors) list() []Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Error, 0, len(r.order))
	for _, k := range r.order {
		out = append(out, *r.byKind[k])
	}
	return out
}

// barrierDisabled weakens the barrier in a test that proves that it is needed.
func barrierDisabled() bool { return failpoint.On("mirror.no-barrier") }
