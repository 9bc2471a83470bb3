// Command bench measures what the proxy costs: redis-benchmark against a server alone and through crossfade.
// It owns the servers, the sidecars and the table that it prints; every figure is a median over alternating rounds.
// It never compares figures of different rounds' conditions, and never measures a server of the user's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/demo/sidecar"
	"github.com/crossfade/crossfade/internal/redistest"
)

// options are the flags.
type options struct {
	crossfade string
	rounds    int
	requests  int
	clients   int
	pipelines string
	tests     string
}

func main() {
	var o options
	flag.StringVar(&o.crossfade, "crossfade", "bin/crossfade", "the crossfade `BINARY`")
	flag.IntVar(&o.rounds, "rounds", 5, "rounds; each measures every way once, in turn")
	flag.IntVar(&o.requests, "requests", 40_000, "requests a measurement; with a pipeline four times as many")
	flag.IntVar(&o.clients, "clients", 50, "client connections")
	flag.StringVar(&o.pipelines, "pipelines", "1,16", "commands a client sends before it waits, several with commas")
	flag.StringVar(&o.tests, "tests", "get,set,incr,lpush", "the tests of redis-benchmark")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// way is one route from redis-benchmark to a server. Each has a server of its own:
// a copy that follows one must not load another.
type way struct {
	name, addr string
}

func run(ctx context.Context, o options) (err error) {
	redistest.SilenceClients()
	dir, err := os.MkdirTemp("", "crossfade-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	p := &park{crossfade: o.crossfade, dir: dir}
	defer func() { err = errors.Join(err, p.close(context.WithoutCancel(ctx))) }()

	direct, err := p.server(ctx)
	if err != nil {
		return err
	}
	alone, err := p.proxied(ctx, "alone", false)
	if err != nil {
		return err
	}
	copying, err := p.proxied(ctx, "copying", true)
	if err != nil {
		return err
	}
	ways := []way{
		{"direct", direct.Addr()},
		{"proxy", alone.Addr()},
		{"proxy+copy", copying.Addr()},
	}
	fmt.Printf("%s, %d CPUs, redis-server %s, %d clients, medians of %d rounds\n",
		processor(), runtime.NumCPU(), p.version, o.clients, o.rounds)
	fmt.Printf("client, servers and crossfade share the CPUs; figures of one run compare, others do not\n\n")
	return measureAll(ctx, o, ways)
}

// park is what runs for the measurement.
type park struct {
	crossfade, dir string
	servers        []*redistest.Server
	sidecars       []*sidecar.Process
	version        string
}

func (p *park) server(ctx context.Context) (*redistest.Server, error) {
	s, err := redistest.Launch(ctx, redistest.Config{})
	if err != nil {
		return nil, err
	}
	p.servers = append(p.servers, s)
	if info, err := s.Client(0).InfoMap(ctx, "server").Result(); err == nil {
		p.version = info["Server"]["redis_version"]
	}
	return s, nil
}

// proxied starts two servers and a sidecar. With live, its copy follows every
// write; otherwise the migration is given up, and what is left is the proxy.
func (p *park) proxied(ctx context.Context, name string, live bool) (*sidecar.Process, error) {
	source, err := p.server(ctx)
	if err != nil {
		return nil, err
	}
	target, err := p.server(ctx)
	if err != nil {
		return nil, err
	}
	dir := p.dir + "/" + name
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	s, err := sidecar.Start(ctx, sidecar.Config{
		Binary: p.crossfade, Dir: dir, Source: source.URL(0), Target: target.URL(0), Map: "0=0",
	})
	if err != nil {
		return nil, err
	}
	p.sidecars = append(p.sidecars, s)
	if err := ready(ctx, s); err != nil {
		return nil, err
	}
	if !live {
		if _, err := s.Admin().Complete(ctx, admin.CompleteRequest{StayOnSource: true}); err != nil {
			return nil, fmt.Errorf("ending the copy: %w", err)
		}
	}
	return s, nil
}

// ready waits until the copy is live.
func ready(ctx context.Context, s *sidecar.Process) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the copy is not live after 30 s"))
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

func (p *park) close(ctx context.Context) error {
	var errs []error
	for _, s := range p.sidecars {
		errs = append(errs, s.Stop(ctx))
	}
	for _, s := range p.servers {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// processor names the CPU, which every figure depends on.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
