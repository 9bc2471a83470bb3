package migration

import (
	"context"
	"sync"
	"time"

	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/router"
)

const (
	straysEvery  = 2 * time.Second
	straysWithin = 10 * time.Second // who was refused a command so long ago is still named
)

// strays are those who are connected to the server that was left, or try to be: nobody has
// pointed them at the proxy, and the fence refuses them.
type strays struct {
	mu    sync.Mutex
	names []string
	at    time.Time
}

// guardStrays looks who they are, and says so in the log when that has changed.
func (m *Migration) guardStrays(ctx context.Context, left router.Side) {
	m.strays.mu.Lock()
	due := time.Since(m.strays.at) >= straysEvery
	m.strays.mu.Unlock()
	if !due {
		return
	}
	names, err := preflight.Strays(ctx, m.env(left), straysWithin)
	if err != nil {
		m.log.Debug("who is still connected to the server that was left is not known", "error", err)
	}
	m.noteStrays(names)
	if len(names) > 0 {
		m.log.Debug("clients go to the server that was left, past the proxy", "side", left, "clients", names)
	}
}

// noteStrays notes who they are; nil: nobody, or it is not known.
func (m *Migration) noteStrays(names []string) {
	m.strays.mu.Lock()
	before := m.strays.names
	m.strays.names, m.strays.at = names, time.Now()
	m.strays.mu.Unlock()
	if len(names) > 0 && len(before) == 0 {
		m.log.Warn("clients go to the server that was left, past the proxy, and are refused: point them at the proxy", "clients", names)
	}
}

func (m *Migration) strayNames() []string {
	m.strays.mu.Lock()
	defer m.strays.mu.Unlock()
	return append([]string{}, m.strays.names...)
}
