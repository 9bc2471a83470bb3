package migration

import (
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/throttle"
)

// served counts what clients were answered.
func (m *Migration) served() throttle.Served {
	commands, took := m.traffic.Served()
	return throttle.Served{Commands: commands, Time: took}
}

// limits returns those that a scan has now: as configured, or as Throttle set them.
func (m *Migration) limits() throttle.Limits {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.scan.Limits
}

// ThrottleOptions change how fast scans may copy; what is nil stays as it is.
type ThrottleOptions struct {
	Keys, Bytes *int64 // a second; 0: no bound
	Paused      *bool
	Scheduled   bool // the schedule counts again; nothing else may be set
}

// scheduleOf makes the one of a configuration; nil: there is none.
func scheduleOf(c config.Config) *throttle.Schedule {
	list, zone, _ := c.Sync.Windows() // Validate has told its problems
	var windows []throttle.Window
	for _, h := range list {
		windows = append(windows, throttle.Window{
			Days: h.Days, From: h.From, To: h.To, Paused: h.Pause, Name: h.Name,
			Limits: throttle.Limits{Keys: int64(h.Keys), Bytes: int64(h.Bytes)},
		})
	}
	return throttle.NewSchedule(windows, zone, throttle.Limits{Keys: int64(c.Sync.KeysPerSecond), Bytes: int64(c.Sync.BytesPerSecond)})
}

// planned is until when what the schedule says holds, and while clients are where.
type planned struct {
	until time.Time // zero: it must be looked at
	side  router.Side
}

// planEvery is how often a schedule is looked at that never changes: to know that takes a
// look at a whole week, and whoever writes waits for the mutex.
const planEvery = time.Hour

// keepSchedule has the limits of now, unless an operator has set others.
func (m *Migration) keepSchedule(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.schedule(now)
}

func (m *Migration) schedule(now time.Time) { // with mu held
	if m.plan == nil {
		return
	}
	m.scan.Scheduled = true
	side := m.rec.Side
	if m.scan.Manual || side == m.planned.side && now.Before(m.planned.until) {
		return
	}
	p, was := m.plan.At(now), m.scan
	// A scan that must wait behind a switch is a way back that is lost meanwhile: that is
	// worth more than what a scan costs.
	if p.Paused && side == router.Target {
		p.Paused, p.Window = false, p.Window+", whose pause is not for the way back"
	}
	m.scan.Limits, m.scan.Paused, m.scan.Window, m.scan.Until = p.Limits, p.Paused, p.Window, m.plan.Next(now)
	m.planned = planned{until: m.scan.Until, side: side}
	if m.scan.Until.IsZero() {
		m.planned.until = now.Add(planEvery)
	}
	if was.Limits == p.Limits && was.Paused == p.Paused {
		return
	}
	m.log.Info("the schedule changes how fast the copy may go", "window", p.Window, "keys_per_second", p.Limits.Keys, "bytes_per_second", p.Limits.Bytes, "paused", p.Paused)
	if m.mirror != nil {
		m.mirror.Throttle().Set(p.Limits)
		m.mirror.Throttle().Pause(p.Paused)
	}
}

// throttled is what the throttle says with what the schedule does.
func (m *Migration) throttled(t throttle.Status) throttle.Status { // with mu held
	t.Scheduled, t.Manual = m.scan.Scheduled, m.scan.Manual
	if !t.Manual {
		t.Window, t.Until = m.scan.Window, m.scan.Until
	}
	return t
}

// Throttle changes how fast scans may copy, from now on and until the process ends, or
// until the schedule is to count again,
// and returns how fast that is. Changes that clients make are carried all the same; a
// switch can be made only when a scan is through, and waits for nothing else of it.
func (m *Migration) Throttle(o ThrottleOptions) throttle.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	if o.Keys != nil || o.Bytes != nil || o.Paused != nil {
		m.scan.Manual = m.plan != nil
	}
	if o.Scheduled {
		m.scan.Manual, m.planned = false, planned{}
		m.schedule(time.Now())
	}
	if o.Keys != nil {
		m.scan.Keys = *o.Keys
	}
	if o.Bytes != nil {
		m.scan.Bytes = *o.Bytes
	}
	if o.Paused != nil {
		m.scan.Paused = *o.Paused
	}
	if m.mirror == nil {
		return m.scan
	}
	t := m.mirror.Throttle()
	if o.Keys != nil || o.Bytes != nil {
		t.Set(m.scan.Limits)
	}
	if o.Paused != nil {
		t.Pause(m.scan.Paused)
	}
	return m.throttled(t.Status())
}
