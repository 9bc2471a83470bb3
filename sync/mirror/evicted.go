package mirror

import (
	"fmt"
	"time"

	"github.com/crossfade/crossfade/router"
)

// What To evicts, for want of memory, causes no event on From: nobody would copy it again.
// So whoever asks To which process it is asks how many keys it has evicted too.
//
// The server that was left is another matter. It throws away what its own policy says, as it
// did while it was served, and its copy has what it would have: that is said, and no more.

// being is what To was when it was looked at.
type being struct {
	id      string // another one once it may have lost anything
	evicted evicted
}

// evicted is how many keys To has evicted since it was looked at first.
type evicted int64

// more adds keys that a server has evicted, and returns what that means to an operator, ""
// where there are none.
func (e *evicted) more(server string, keys int64) string {
	if keys == 0 {
		return ""
	}
	*e += evicted(keys)
	return e.words(server)
}

func (e *evicted) words(server string) string {
	return fmt.Sprintf("%s evicts keys for want of memory, %d by now; raise its maxmemory, or free memory there", server, *e)
}

// The scan that brings back what was evicted waits until To has evicted nothing for a while:
// while it has no room, what is copied would take the place of something else. The while is
// doubled each time that it begins again soon after.
const (
	standstillMost  = 15 * time.Second
	standstillSince = 2 * time.Minute
)

// eviction is what is known of one that nobody has made up for yet. The mirror's lock guards it.
type eviction struct {
	last time.Time     // when it was found last
	wait time.Duration // for so long there must be none before the scan
	due  bool          // a scan must be
}

// found takes note of one, and reports whether it is the first.
func (e *eviction) found(now time.Time, least time.Duration) (first bool) {
	if now.Sub(e.last) > standstillSince {
		e.wait = least
	} else {
		e.wait = min(2*e.wait, max(least, standstillMost))
	}
	first = !e.due
	e.last, e.due = now, true
	return first
}

// over reports, once, that there has been none for so long that the scan can begin.
func (e *eviction) over(now time.Time) bool {
	if !e.due || now.Sub(e.last) < e.wait {
		return false
	}
	e.due = false
	return true
}

// evicts has what To has evicted copied again, in time. Until then nobody takes it for whole.
func (m *Mirror) evicts(why string) {
	m.mu.Lock()
	first := m.evicting.found(time.Now(), 2*m.cfg.Heartbeat)
	m.mu.Unlock()
	if first {
		m.noteGap(why)
		return
	}
	for _, l := range m.lanes {
		l.distrust()
	}
	m.setReason(why)
}

// evictedOver asks for the scan that brings back what To has evicted, if it is time.
func (m *Mirror) evictedOver() {
	m.mu.Lock()
	over := m.evicting.over(time.Now())
	m.mu.Unlock()
	if over {
		for _, l := range m.lanes {
			l.requestScan()
		}
	}
}

// toIsLeft reports whether To evicts by its own policy, as the server that clients have left
// does, or the one that is decided to be entered, see Regardless.
func (m *Mirror) toIsLeft() bool { return m.cfg.Side == router.Target || m.regardless.Load() }

// Regardless has what To evicts told and no more, or ends that: behind a decision clients wait
// for it, whatever it throws away.
func (m *Mirror) Regardless(on bool) { m.regardless.Store(on) }

// held is what matters of what To was to whoever has filled it.
func (m *Mirror) held(is being) being {
	if m.toIsLeft() {
		is.evicted = 0
	}
	return is
}
