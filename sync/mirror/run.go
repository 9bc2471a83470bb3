package mirror

import (
	"context"
	"fmt"
	"strings"
)

// Restarted reports whether To is another process than the one that was copied
// to. Everything is scanned again then, once the mirror is not frozen.
func (m *Mirror) Restarted(ctx context.Context) (bool, error) { return m.checkRun(ctx) }

// checkRun finds out whether To is still the process that was copied to. One
// that restarted may have lost what it had acknowledged, so everything is
// scanned again; changed reports that. (From needs no such check: its restart
// ends the feed, which is a gap.)
func (m *Mirror) checkRun(ctx context.Context) (changed bool, err error) {
	text, err := m.cfg.To.DB(0).Info(ctx, "server").Result()
	if err != nil {
		return false, fmt.Errorf("asking %s for its run id: %w", m.cfg.To, err)
	}
	var id string
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "run_id:"); ok {
			id = strings.TrimSpace(v)
		}
	}
	m.mu.Lock()
	was := m.toRun
	m.toRun = id
	m.mu.Unlock()
	if was == "" || was == id {
		return false, nil
	}
	m.noteGap(fmt.Sprintf("%s restarted and may have lost keys", m.cfg.To))
	for _, l := range m.lanes {
		l.requestScan()
	}
	return true, nil
}
