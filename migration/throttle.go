package migration

import (
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
}

// Throttle changes how fast scans may copy, from now on and until the process ends,
// and returns how fast that is. Changes that clients make are carried all the same,
// and a switch waits for nothing of it.
func (m *Migration) Throttle(o ThrottleOptions) throttle.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
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
	return t.Status()
}
