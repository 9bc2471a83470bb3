package mirror

import (
	"context"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/throttle"
)

// probe asks a server PING on a connection of its own, which is made when there is
// something to ask, and again after it broke.
func (m *Mirror) probe(p *conn.Pool, db int) throttle.Probe {
	var w *conn.Wire
	hangUp := func() {
		if w != nil {
			w.Close()
			w = nil
		}
	}
	ask := func(ctx context.Context) (err error) {
		if w == nil {
			if w, err = p.Wire(ctx, db); err != nil {
				w = nil
				return err
			}
		}
		stop := context.AfterFunc(ctx, w.Close) // ends the wait for an answer
		defer stop()
		w.Command("PING")
		if err = w.Flush(); err == nil {
			err = w.Status()
		}
		if err != nil {
			hangUp()
		}
		return err
	}
	return throttle.Probe{Server: p.String(), Ask: ask, Close: hangUp}
}
