package mirror

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/sync/filter"
)

// Two see what happens on From: the notifications, and the proxy its clients'
// writes. Here the two are compared, in windows of a heartbeat: a write that is
// sure to have changed a key and of which no event came by a barrier after its
// reply, and an event of a key that nobody has written through the proxy. A write
// is reported after its event, so an event waits for a window more before it is
// judged.
//
// What is compared is a share of the keys, the smaller the more there are, so that
// neither memory nor time depends on the load.

// Write is what the proxy says of a key after a command was answered.
type Write struct {
	DB      int    // of the source
	Key     []byte // the caller's; nil stands for keys that the proxy cannot name
	Command string
	Sure    bool // the key has changed for certain, so that an event is due
}

// Views is what the comparison has found since the mirror began.
type Views struct {
	// Unannounced counts proxied writes without an event, per command. Each was
	// copied all the same.
	Unannounced map[string]int64 `json:"unannounced_writes,omitempty"`
	// Bypassed is about how many changes of keys were told that nobody made
	// through the proxy, and Unclear those that may have been made by scripts or
	// modules' commands that went through it.
	Bypassed int64 `json:"bypassed_changes"`
	Unclear  int64 `json:"unclear_changes"`
	// PerSecond, Databases, Keys and Clients describe the newest of Bypassed:
	// Databases are the source's, Clients who is connected to From past the proxy.
	PerSecond float64   `json:"bypassed_per_second"`
	Databases []int     `json:"bypassed_databases,omitempty"`
	Keys      []string  `json:"bypassed_keys,omitempty"`
	Clients   []string  `json:"bypassing_clients,omitempty"`
	Last      time.Time `json:"bypassed_last,omitzero"`
}

const (
	viewMost     = 32 << 10 // keys a window; past it the window says nothing
	viewMany     = 8 << 10  // keys a window above which a smaller share is compared
	viewFew      = 512      // … and below which a larger one is
	viewExamples = 5
	clientsEvery = 10 * time.Second
	alarmEvery   = time.Minute
)

type viewKey struct {
	db   int
	hash uint64
}

type viewWrite struct {
	key, command string
	sure         bool
}

type viewEvent struct {
	key string
	n   int64
}

// viewWindow is what both have seen from one cut to the next.
type viewWindow struct {
	begun   time.Time
	written map[viewKey]viewWrite
	events  map[viewKey]viewEvent
	unknown bool // there were writes whose keys nobody can name
	blind   bool // not all was seen
}

func newViewWindow() viewWindow {
	return viewWindow{begun: time.Now(), written: make(map[viewKey]viewWrite), events: make(map[viewKey]viewEvent)}
}

type views struct {
	seed   maphash.Seed
	mapped map[int]bool // the databases that are compared
	only   *filter.Filter
	on     atomic.Bool   // From's changes are the applications', not our copies
	mask   atomic.Uint64 // a key is compared when its hash has none of these bits

	mu      sync.Mutex
	windows [4]viewWindow // the first one is open
	found   Views
	asked   time.Time // for Clients
	alarmed time.Time
}

func (v *views) init(databases []int, only *filter.Filter) {
	v.seed, v.mapped, v.only = maphash.MakeSeed(), make(map[int]bool), only
	for _, db := range databases {
		v.mapped[db] = true
	}
	v.found.Unannounced = make(map[string]int64)
	v.reset()
}

// reset forgets what was seen: for whatever breaks the comparison.
func (v *views) reset() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := range v.windows {
		v.windows[i] = viewWindow{blind: true}
	}
}

var keyPrefix = []byte(KeyPrefix)

// wrote takes what the proxy says.
func (v *views) wrote(list []Write) {
	mask := v.mask.Load()
	locked := false
	for _, w := range list {
		var k viewKey
		if w.Key != nil {
			if !v.mapped[w.DB] || bytes.HasPrefix(w.Key, keyPrefix) || v.only != nil && !v.only.Name(string(w.Key)) {
				continue
			}
			if k = (viewKey{w.DB, maphash.Bytes(v.seed, w.Key)}); k.hash&mask != 0 {
				continue
			}
		}
		if !locked {
			v.mu.Lock()
			locked = true
		}
		open := &v.windows[0]
		if w.Key == nil {
			open.unknown = true
			continue
		}
		if open.blind || open.full() {
			continue
		}
		was, known := open.written[k]
		if !known {
			was.key = string(w.Key)
		}
		if w.Sure {
			was.sure, was.command = true, w.Command
		}
		open.written[k] = was
	}
	if locked {
		v.mu.Unlock()
	}
}

// full makes a window blind that has too much to remember.
func (w *viewWindow) full() bool {
	if len(w.written)+len(w.events) >= viewMost {
		w.blind = true
		w.written, w.events = nil, nil
	}
	return w.blind
}

// byServer are the events that no command causes.
var byServer = map[string]bool{"expired": true, "evicted": true, "hexpired": true, "new": true, "overwritten": true, "type_changed": true, "keymiss": true}

// told takes an event.
func (v *views) told(db int, key string, event []byte) {
	k := viewKey{db, maphash.String(v.seed, key)}
	if k.hash&v.mask.Load() != 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	open := &v.windows[0]
	if open.blind || open.full() {
		return
	}
	e := open.events[k]
	if e.key = key; !byServer[string(event)] {
		e.n++
	}
	open.events[k] = e
}

// cut ends the open window and begins another.
func (v *views) cut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	ended := v.windows[0]
	copy(v.windows[1:], v.windows[:3])
	v.windows[0] = newViewWindow()
	mask := v.mask.Load()
	switch n := len(ended.written) + len(ended.events); {
	case ended.blind && ended.begun.IsZero(): // nothing was to be seen yet
		return
	case ended.blind || n > viewMany:
		v.mask.Store(mask<<2 | 3)
	case n < viewFew && mask != 0:
		v.mask.Store(mask >> 2)
	default:
		return
	}
	for i := range v.windows { // another share: nothing to compare it with yet
		v.windows[i] = viewWindow{blind: true}
	}
	v.windows[0] = newViewWindow()
}

// unannounced is a write of which no event came.
type unannounced struct {
	db           int
	key, command string
}

// judge compares, after a barrier behind the last cut: the writes of the window
// that ended then, and the events of the one before it.
func (v *views) judge() (silent []unannounced, bypassed int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	w := &v.windows
	for i := range w {
		if w[i].blind {
			return nil, 0
		}
	}
	for k, write := range w[1].written {
		if write.sure && !eventIn(k, &w[0], &w[1], &w[2]) {
			silent = append(silent, unannounced{k.db, write.key, write.command})
			v.found.Unannounced[write.command]++
		}
	}
	share := int64(v.mask.Load()) + 1
	unknown := w[0].unknown || w[1].unknown || w[2].unknown || w[3].unknown
	dbs := make(map[int]bool)
	var keys []string
	for k, event := range w[2].events {
		if event.n == 0 || writeIn(k, w[:]) {
			continue
		}
		if unknown {
			v.found.Unclear += event.n * share
			continue
		}
		bypassed += event.n * share
		dbs[k.db] = true
		if len(keys) < viewExamples {
			keys = append(keys, event.key)
		}
	}
	v.found.PerSecond = 0
	if bypassed > 0 {
		v.found.Bypassed += bypassed
		v.found.Databases, v.found.Keys, v.found.Last = slices.Sorted(maps.Keys(dbs)), keys, time.Now()
		v.found.PerSecond = float64(bypassed) / w[1].begun.Sub(w[2].begun).Seconds()
	}
	return silent, bypassed
}

func eventIn(k viewKey, windows ...*viewWindow) bool {
	for _, w := range windows {
		if _, seen := w.events[k]; seen {
			return true
		}
	}
	return false
}

func writeIn(k viewKey, windows []viewWindow) bool {
	for i := range windows {
		if _, seen := windows[i].written[k]; seen {
			return true
		}
	}
	return false
}

func (v *views) progress() Views {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := v.found
	out.Unannounced = maps.Clone(v.found.Unannounced)
	out.Databases, out.Keys, out.Clients = slices.Clone(out.Databases), slices.Clone(out.Keys), slices.Clone(out.Clients)
	return out
}

// Wrote takes what the proxy saw its clients write. While no notifications come,
// the keys are marked by it; else it is only compared with them. It never blocks
// and keeps nothing of list.
func (m *Mirror) Wrote(list []Write) {
	m.mu.Lock()
	if m.tracking && m.feed != nil {
		m.mu.Unlock()
		return
	}
	deaf := m.feed == nil || m.silent || m.deaf != ""
	m.mu.Unlock()
	if deaf {
		for _, w := range list {
			if w.Key != nil {
				m.Mark(w.DB, string(w.Key))
			}
		}
		return
	}
	m.views.wrote(list)
}

// compareViews runs until the mirror stops.
func (m *Mirror) compareViews() {
	tick := time.NewTicker(m.cfg.Heartbeat)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-m.ctx.Done():
			return
		case <-tick.C:
		}
		if m.isTracking() {
			continue // it tells no databases
		}
		m.views.cut()
		numbers := m.numbers()
		ctx, cancel := context.WithTimeout(m.ctx, m.cfg.Timeout)
		err := m.barrier(ctx)
		if err == nil {
			m.findLost(numbers)
			suspect := m.judgeViews(ctx)
			if n%classBeats == 0 || suspect || m.isDeaf() {
				if err := m.proveClasses(ctx); err != nil && m.ctx.Err() == nil {
					m.errs.add("notifications", err)
				}
			}
		} else {
			m.views.reset()
		}
		cancel()
	}
}

func (m *Mirror) isDeaf() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.deaf != ""
}

// judgeViews says what the last window has shown, and whether there is reason to
// doubt the notifications.
func (m *Mirror) judgeViews(ctx context.Context) (suspect bool) {
	silent, bypassed := m.views.judge()
	for _, u := range silent {
		m.Mark(u.db, u.key)
	}
	if len(silent) > 0 {
		u := silent[0]
		m.errs.add("unannounced", fmt.Errorf("%s of key %q of database %d went through the proxy to %s and caused no notification", strings.ToUpper(u.command), u.key, u.db, m.cfg.From))
	}
	suspect = len(silent) > 0
	if bypassed == 0 {
		return suspect
	}
	v := &m.views
	v.mu.Lock()
	ask, alarm := time.Since(v.asked) > clientsEvery, time.Since(v.alarmed) > alarmEvery
	if ask {
		v.asked = time.Now()
	}
	if alarm {
		v.alarmed = time.Now()
	}
	v.mu.Unlock()
	if ask && m.cfg.Bypassing != nil {
		who, err := m.cfg.Bypassing(ctx)
		if err != nil {
			who = []string{"unknown: " + err.Error()}
		}
		v.mu.Lock()
		v.found.Clients = who[:min(len(who), viewExamples)]
		v.mu.Unlock()
	}
	if alarm {
		p := v.progress()
		m.log.Warn("somebody writes past the proxy; that is copied, but such clients do not move at a switch", "server", m.cfg.From.String(),
			"changes", p.Bypassed, "per_second", p.PerSecond, "databases", p.Databases, "keys", p.Keys, "clients", p.Clients)
	}
	return suspect
}
