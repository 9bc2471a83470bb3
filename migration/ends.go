package migration

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/sentinel"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// ends are both servers of a configuration, for what is done without a sidecar.
type ends struct {
	from, to *conn.Pool

	masters []*sentinel.Follower
	nodes   []*cluster.Topology
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// openEnds reads the endpoints and begins to follow those that sentinels watch, and clusters.
// Nothing else is dialled yet. name tells the connections from others of ours.
func openEnds(ctx context.Context, cfg config.Config, name string) (*ends, error) {
	e := &ends{}
	ctx, e.cancel = context.WithCancel(ctx)
	for side, server := range []config.Server{cfg.Source, cfg.Target} {
		at, err := server.Endpoint()
		if err != nil {
			e.close()
			return nil, fmt.Errorf("%s: %w", router.Side(side), err)
		}
		at, f := sentinel.Follow(at, cfg.Proxy.DialTimeout, slog.New(slog.DiscardHandler))
		if f != nil {
			e.masters = append(e.masters, f)
			e.running.Go(func() { _ = f.Run(ctx) })
		}
		at, t := cluster.Follow(at, cfg.Proxy.DialTimeout, slog.New(slog.DiscardHandler))
		if t != nil {
			e.nodes = append(e.nodes, t)
			e.running.Go(func() { t.Run(ctx) })
		}
		pool := conn.New(at, name, cfg.Proxy.DialTimeout)
		if router.Side(side) == router.Source {
			e.from = pool
		} else {
			e.to = pool
		}
	}
	return e, nil
}

func (e *ends) close() {
	e.cancel()
	e.running.Wait()
	for _, pool := range []*conn.Pool{e.from, e.to} {
		if pool != nil {
			_ = pool.Close()
		}
	}
	for _, f := range e.masters {
		f.Close()
	}
	for _, t := range e.nodes {
		t.Close()
	}
}
