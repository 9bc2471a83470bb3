package mirror

import (
	"context"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/throttle"
)

// probe asks a server PING on a connection of its own, a cluster on one to each master, which
// is made when there is something to ask, and again after it broke. A cluster has answered
// once all have.
func (m *Mirror) probe(p *conn.Pool, db int) throttle.Probe {
	var b *conn.Bundle
	hangUp := func() {
		if b != nil {
			b.Close()
			b = nil
		}
	}
	ask := func(ctx context.Context) (err error) {
		if b == nil {
			b, err = p.Bundle(ctx, router.Place{DB: db}, nil)
		} else {
			err = b.Renew(ctx)
		}
		if err != nil {
			hangUp()
			return err
		}
		stop := context.AfterFunc(ctx, b.Close) // ends the wait for an answer
		defer stop()
		if err = b.Ping(); err != nil {
			hangUp()
		}
		return err
	}
	return throttle.Probe{Server: p.String(), Ask: ask, Close: hangUp}
}
