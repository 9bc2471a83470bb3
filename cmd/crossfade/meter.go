package main

import (
	"context"
	"sync"
	"time"

	"github.com/crossfade/crossfade/proxy"
)

// meterInterval is how often the proxy's numbers are noted, to tell what is recent.
const meterInterval = 5 * time.Second

// meter is the proxy with a memory of its numbers.
type meter struct {
	*proxy.Server

	mu   sync.Mutex
	last [2]proxy.Numbers // the older one first
}

// run notes the numbers at each interval until ctx ends.
func (m *meter) run(ctx context.Context) error {
	tick := time.NewTicker(meterInterval)
	defer tick.Stop()
	for {
		m.note(m.Numbers())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *meter) note(n proxy.Numbers) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last[0], m.last[1] = m.last[1], n
}

// Recent returns the numbers of the last one or two intervals, and how long that
// was: 0 in the first second.
func (m *meter) Recent() (proxy.Numbers, time.Duration) {
	now := m.Numbers()
	m.mu.Lock()
	before := m.last[0]
	if before.At.IsZero() {
		before = m.last[1]
	}
	m.mu.Unlock()
	d := now.At.Sub(before.At)
	if before.At.IsZero() || d < time.Second {
		return proxy.Numbers{}, 0
	}
	return now.Since(before), d
}
