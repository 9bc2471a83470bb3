package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/demo/sidecar"
	"github.com/crossfade/crossfade/internal/redistest"
)

// way is one route from a client to the server.
type way struct {
	name, addr string
	pid        int  // of the proxy; 0 when there is none
	resp3      bool // it lets HELLO through
}

// The names of the ways.
const (
	direct = "direct"
	shared = "shared"
	pinned = "pinned"
)

// park is what runs for a measurement. All ways lead to the same server, so that
// they differ in nothing but the way: one process, with the same keys in the same
// places. They are used in turn, and the server's time is read before and after.
type park struct {
	crossfade, dir string
	source, target *redistest.Server
	version        string // of the servers

	said     strings.Builder // of what was measured
	servers  []*redistest.Server
	sidecars []*sidecar.Process
	others   []*process
}

// openPark starts the server, and an empty one that crossfade needs for a target.
func openPark(ctx context.Context, crossfade string) (p *park, err error) {
	redistest.SilenceClients()
	moreFiles()
	p = &park{crossfade: crossfade}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close(context.WithoutCancel(ctx)))
		}
	}()
	if p.dir, err = os.MkdirTemp("", "crossfade-bench-"); err != nil {
		return p, err
	}
	if p.source, err = p.server(ctx); err != nil {
		return p, err
	}
	if p.target, err = p.server(ctx); err != nil {
		return p, err
	}
	info, err := p.source.Client(0).InfoMap(ctx, "server").Result()
	if err != nil {
		return p, err
	}
	p.version = info["Server"]["redis_version"]
	return p, nil
}

func (p *park) server(ctx context.Context, opts ...redistest.Option) (*redistest.Server, error) {
	var config redistest.Config
	for _, opt := range opts {
		opt(&config)
	}
	s, err := redistest.Launch(ctx, config)
	if err == nil {
		p.servers = append(p.servers, s)
	}
	return s, err
}

// direct is the way without a proxy.
func (p *park) direct() way { return way{name: direct, addr: p.source.Addr(), resp3: true} }

// sidecar starts a sidecar between the two servers.
func (p *park) sidecar(ctx context.Context, name string, args ...string) (*sidecar.Process, error) {
	dir := filepath.Join(p.dir, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	s, err := sidecar.Start(ctx, sidecar.Config{
		Binary: p.crossfade, Dir: dir, Source: p.source.URL(0), Target: p.target.URL(0), Map: "0=0", Args: args,
	})
	if err == nil {
		p.sidecars = append(p.sidecars, s)
	}
	return s, err
}

// proxied is the way through crossfade with nothing to copy: the migration is
// given up, and what is left is the proxy. upstream is shared or pinned.
func (p *park) proxied(ctx context.Context, upstream string) (way, error) {
	s, err := p.sidecar(ctx, upstream, "--proxy.upstream", upstream)
	if err != nil {
		return way{}, err
	}
	if err := ready(ctx, s, 30*time.Second); err != nil {
		return way{}, err
	}
	if _, err := s.Admin().Complete(ctx, admin.CompleteRequest{StayOnSource: true}); err != nil {
		return way{}, fmt.Errorf("ending the copy: %w", err)
	}
	return way{name: upstream, addr: s.Addr(), pid: s.Pid(), resp3: true}, awaitPong(ctx, s.Addr(), s.Done())
}

// beside is the way through another proxy; ok is false where it is not installed.
func (p *park) beside(ctx context.Context, other peer) (w way, ok bool, err error) {
	proc, addr, err := other.start(ctx, p.dir, p.source.Addr())
	if err != nil || proc == nil {
		return way{}, false, err
	}
	p.others = append(p.others, proc)
	return way{name: other.name, addr: addr, pid: proc.pid, resp3: other.name == haproxy.name}, true, nil
}

// live starts a sidecar whose copy is live, with the keys of a cell, and says so. Nothing is compared
// in the background.
func (p *park) live(ctx context.Context, name string, c cell) (*sidecar.Process, way, *measurer, error) {
	s, err := p.sidecar(ctx, name, "--verify.rate", "0")
	if err != nil {
		return nil, way{}, nil, err
	}
	w := way{name: shared, addr: s.Addr(), pid: s.Pid()}
	p.banner(describe(ctx, p, []way{w}))
	m := &measurer{park: p}
	if err := m.fill(ctx, c); err != nil {
		return nil, way{}, nil, err
	}
	return s, w, m, ready(ctx, s, time.Minute)
}

// ready waits until the copy is live.
func ready(ctx context.Context, s *sidecar.Process, within time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("the copy is not live after %v", within))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := s.Admin().Status(ctx)
		if err != nil {
			return err
		}
		if st.Ready {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.Done():
			return fmt.Errorf("the sidecar has ended:\n%s", s.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", context.Cause(ctx), strings.Join(st.Reasons, "; "))
		}
	}
}

// retire ends a sidecar before the others.
func (p *park) retire(ctx context.Context, s *sidecar.Process) error {
	for i, one := range p.sidecars {
		if one == s {
			p.sidecars = append(p.sidecars[:i], p.sidecars[i+1:]...)
			break
		}
	}
	return s.Stop(ctx)
}

func (p *park) close(ctx context.Context) error {
	var errs []error
	for _, o := range p.others {
		o.stop()
	}
	for _, s := range p.sidecars {
		errs = append(errs, s.Stop(ctx))
	}
	for _, s := range p.servers {
		errs = append(errs, s.Close())
	}
	if p.dir != "" {
		errs = append(errs, os.RemoveAll(p.dir))
	}
	return errors.Join(errs...)
}
