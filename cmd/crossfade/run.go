package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/fleet"
	"github.com/crossfade/crossfade/internal/sentinel"
	"github.com/crossfade/crossfade/internal/tracing"
	"github.com/crossfade/crossfade/migration/hook"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/proxy"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

func runVerb() *verb {
	return &verb{name: "run", short: "serve clients and keep the target equal to the source", run: runSidecar, long: `
The sidecar itself. Clients connect to --listen as they would to the source;
the other verbs reach it by --admin. What it must know after a restart is in the
file of --state. It stops in order on SIGTERM and SIGINT, and at once on a
second one. With --sync-only it serves no clients: it copies for sidecars that
do (--role proxy), and switches them.

  crossfade run --listen 127.0.0.1:6380 --source redis://… --target redis://… \
      --map 0=0,3=5 --admin unix:crossfade.sock --state crossfade.state`}
}

func runSidecar(ctx context.Context, s *session) error {
	signal.Ignore(syscall.SIGPIPE, syscall.SIGHUP) // who reads the log may go away, or the terminal; the clients stay
	f := s.flagsOf()
	f.set.BoolFunc("sync-only", "copy and switch, and serve no clients: short for --role sync", func(text string) error {
		if only, err := strconv.ParseBool(text); err != nil || !only {
			return err
		}
		return f.set.Set("role", "sync")
	})
	c, err := f.parse()
	if err != nil {
		return err
	}
	if err := c.ValidateServers(); err != nil {
		return usage(problems(err))
	}
	log, queue := queuedLogger(s.stderr, c.Log)
	defer queue.Close(logPatience)
	conn.RouteLogs(log)
	defer tellHangups(log)()
	sc, err := newSidecar(ctx, c, log)
	if err == nil {
		err = sc.run(ctx)
	}
	if err == nil {
		return nil
	}
	// Said here: what the process says last must not wait for that reader either.
	return &exitError{code: report(queue, err), err: err, said: true}
}

// tellHangups has a SIGHUP, which ends nothing, answered in the log until stop is called.
// Other daemons read their files anew for it: those of certificates are looked at all the
// time, and nothing else can change while clients are served.
func tellHangups(log *slog.Logger) (stop func()) {
	signals, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(signals, syscall.SIGHUP)
	var telling sync.WaitGroup
	telling.Go(func() {
		for {
			select {
			case <-signals:
				log.Info("SIGHUP changes nothing: certificates that have changed are taken up by themselves, all else is read at the start; SIGTERM ends this process")
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Ignore(syscall.SIGHUP)
		close(done)
		telling.Wait()
	}
}

// sidecar is all that `crossfade run` consists of.
type sidecar struct {
	config    config.Config
	log       *slog.Logger
	file      *store.File
	audit     *audit.Log
	meeting   *config.Meeting // nil: the fleet meets on the target
	traces    *tracing.Traces
	hooks     *hook.Hooks
	ups       [2]*upstream
	masters   [2]*sentinel.Follower // nil where no sentinels watch
	nodes     [2]*cluster.Topology  // nil where it is no cluster
	proxy     *proxy.Server
	meter     *meter
	migration core
	door      *admin.Server
	serving   atomic.Bool
}

// newSidecar makes everything and takes the addresses and the state file.
func newSidecar(ctx context.Context, c config.Config, log *slog.Logger) (_ *sidecar, err error) {
	s := &sidecar{config: c, log: log}
	defer func() {
		if err != nil {
			s.leaveMasters()
		}
	}()
	var ends [2]config.Endpoint
	for side, server := range map[router.Side]config.Server{router.Source: c.Source, router.Target: c.Target} {
		if ends[side], err = server.Endpoint(); err != nil {
			return nil, usage(problems(fmt.Errorf("%s.%w", side, err)))
		}
		ends[side].ReportTo(log)
		ends[side], s.masters[side] = sentinel.Follow(ends[side], c.Proxy.DialTimeout, log.With("side", side.String()))
		ends[side], s.nodes[side] = cluster.Follow(ends[side], c.Proxy.DialTimeout, log.With("side", side.String()))
		s.ups[side] = newUpstream(ends[side], c.Proxy.DialTimeout)
		if t := s.nodes[side]; t != nil {
			o := fleet.Options{DialTimeout: c.Proxy.DialTimeout, Scripts: c.Proxy.ScriptCache}
			if s.ups[side].fleet, err = fleet.New(t, o, log.With("side", side.String())); err != nil {
				return nil, err
			}
		}
	}
	if s.meeting, err = c.Fleet.Meeting(); err != nil {
		return nil, usage(problems(err))
	}
	if s.meeting != nil {
		s.meeting.ReportTo(log)
	}
	if s.file, err = store.OpenFile(c.State); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.file.Close()
		}
	}()
	if s.audit, err = audit.Open(c.AuditFile(), log); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = s.audit.Close()
		}
	}()
	if s.traces, err = tracing.Open(ctx, c.Traces, buildVersion(), log); err != nil {
		return nil, usage(problems(err))
	}
	defer func() {
		if err != nil {
			_ = s.traces.Close()
		}
	}()
	told, more := c.HookList()
	if len(more) > 0 {
		return nil, usage(problems(errors.Join(more...)))
	}
	s.hooks = hook.New(told, log)
	gate := router.NewGate(router.Route{Side: router.Source})
	if err := gate.Shut(ctx); err != nil {
		return nil, err
	}
	parts := s.copies
	if c.Role == "proxy" {
		parts = s.onlyProxies
	}
	if err = parts(ends, gate); err != nil {
		return nil, err
	}
	for side, f := range s.masters {
		if f != nil {
			f.OnMove(func(from, to string) { s.masterMoved(router.Side(side), from, to) })
		}
	}
	tune(s.proxy.Threads())
	s.meter = &meter{Server: s.proxy}
	s.door = admin.New(admin.Options{
		Config: c.Admin, Operator: s.migration, Audit: s.audit, Tracer: s.traces.Tracer(), Meter: s.meter, Version: buildVersion(), Serving: s.serving.Load,
	}, log)
	if err = s.door.Listen(ctx); err != nil {
		return nil, err
	}
	if err = s.proxy.Listen(); err != nil {
		s.door.Close()
		return nil, fmt.Errorf("%w; give another address with --listen", err)
	}
	return s, nil
}

// tune sets what the environment does not: threads have a processor of the
// scheduler each besides those that all other work shares, so that a busy copy
// never stands between a client and its reply.
func tune(threads int) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + threads)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcMost)
	}
}

// run serves until ctx ends, and stops in the opposite order of the start: first
// the verbs, so that a switch under way is taken back or finished; then the
// clients; then the copy, which carries their last writes; then the state file.
func (s *sidecar) run(ctx context.Context) error {
	defer func() {
		for _, u := range s.ups {
			u.close()
		}
		s.leaveMasters()
		s.audit.Add(audit.Entry{Event: "stopped", Why: text(context.Cause(ctx))})
		if err := s.traces.Close(); err != nil {
			s.log.Warn("closing the traces", "error", err)
		}
		if err := s.audit.Close(); err != nil {
			s.log.Error("closing the audit log", "error", err)
		}
		if err := s.file.Close(); err != nil {
			s.log.Error("closing the state file", "error", err)
		}
	}()
	s.audit.Add(audit.Entry{Event: "started", Why: "crossfade " + buildVersion()})
	s.log.Info("crossfade", "version", buildVersion(), "listen", s.addresses(), "admin", s.door.Addr(),
		"source", s.ups[router.Source].configured, "target", s.ups[router.Target].configured, "state", s.file.Path())
	if page := s.door.Page(); page != "" {
		s.log.Info("the dashboard", "at", page, "token", s.config.Admin.Token != "")
	}
	if file := s.config.Cutover.PostponeFile; mayBeHidden(file) {
		s.log.Warn("a service may have a folder for temporary files of its own (PrivateTmp): then nobody else can make cutover.postpone_file there, and no cutover waits for it; put it in /etc/crossfade or /run/crossfade", "file", file)
	}

	life := newLife(ctx)
	life.begin("hooks", s.hooks.Run)
	life.begin("admin", s.door.Serve)
	for side, f := range s.masters {
		if f != nil {
			life.begin("sentinels of the "+router.Side(side).String(), f.Run)
		}
	}
	for side, t := range s.nodes {
		if t != nil {
			life.begin("nodes of the "+router.Side(side).String(), func(ctx context.Context) error { t.Run(ctx); return nil })
		}
	}
	if os.Getenv("GOGC") == "" {
		life.begin("collector", paceCollector)
	}
	// Clients that connect meanwhile wait in the listener's queue.
	if err := s.recover(life.ctx); err != nil {
		return errors.Join(err, life.end(), s.dropClients())
	}
	life.begin("status lines", s.tellProgress)
	life.begin("numbers", s.meter.run)
	life.begin("proxy", s.proxy.Serve)
	life.begin("migration", s.runMigration)
	s.serving.Store(true)
	if s.config.Role == "sync" {
		s.log.Info("serving no clients: this sidecar copies and switches (role: sync)", "side", s.migration.Status().Side)
	} else {
		s.log.Info("serving clients", "listen", s.addresses(), "side", s.migration.Status().Side)
	}
	s.tell("READY=1")

	<-life.ctx.Done()
	s.log.Info("stopping", "because", context.Cause(life.ctx))
	s.serving.Store(false)
	s.tell("STOPPING=1")
	err := life.end("admin", "proxy", "migration", "status lines", "numbers", "hooks")
	s.log.Info("stopped", "phase", s.migration.Status().Phase, "side", s.migration.Status().Side)
	return err
}

// tell is for who started the process; that nobody listens is no reason to end.
func (s *sidecar) tell(state string) {
	if err := notify(state); err != nil {
		s.log.Warn("who started this process does not listen", "error", err)
	}
}

// masterMoved is told of a failover by what follows the sentinels of a side.
func (s *sidecar) masterMoved(side router.Side, from, to string) {
	if from != "" {
		s.proxy.Sever(side)
	}
	s.migration.MasterMoved(side, from, to)
}

// leaveMasters ends what follows the sentinels, and the nodes of clusters.
func (s *sidecar) leaveMasters() {
	for _, f := range s.masters {
		if f != nil {
			f.Close()
		}
	}
	for side, t := range s.nodes {
		if t == nil {
			continue
		}
		if f := s.ups[side].fleet; f != nil {
			f.Close()
		}
		t.Close()
	}
}

// text is what an error says; nothing for none.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// addresses names where clients connect.
func (s *sidecar) addresses() string {
	var texts []string
	for _, addr := range s.proxy.Addrs() {
		texts = append(texts, addr.String())
	}
	return strings.Join(texts, ",")
}

// recover settles where the traffic goes and lets the proxy follow.
func (s *sidecar) recover(ctx context.Context) error {
	if err := s.migration.Recover(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	st := s.migration.Status()
	return errors.Join(s.ups[router.Source].follow(st.Source), s.ups[router.Target].follow(st.Target))
}

// dropClients closes the listener of a proxy that has never served.
func (s *sidecar) dropClients() error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return s.proxy.Serve(ended)
}

// runMigration does not end before ctx: a copy that has come to an end, whatever
// its reason, is no reason to leave the clients without a proxy, but for one: another
// process has taken over, and only that one knows where they belong.
func (s *sidecar) runMigration(ctx context.Context) error {
	if err := s.migration.Run(ctx); errors.Is(err, store.ErrSuperseded) {
		return err
	} else if err != nil && ctx.Err() == nil {
		s.log.Error("the copy has ended; clients are served on", "error", err)
	}
	<-ctx.Done()
	return nil
}

// life runs the parts of a process, and ends them one after the other.
type life struct {
	ctx   context.Context // ends when the process is to stop
	fail  context.CancelCauseFunc
	group errgroup.Group
	parts map[string]*part
}

type part struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

func newLife(ctx context.Context) *life {
	l := &life{parts: make(map[string]*part)}
	l.ctx, l.fail = context.WithCancelCause(ctx)
	return l
}

// begin starts a part, which runs until end cancels its context. One that ends by
// itself ends the process.
func (l *life) begin(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(l.ctx))
	p := &part{cancel: cancel, ended: make(chan struct{})}
	l.parts[name] = p
	l.group.Go(func() error {
		defer close(p.ended)
		err := run(ctx)
		if err != nil {
			err = fmt.Errorf("%s: %w", name, err)
		}
		if ctx.Err() == nil {
			l.fail(errors.Join(fmt.Errorf("%s has ended", name), err))
		}
		return err
	})
}

// end ends the named parts in this order, then all others, and waits for each. It
// returns their first error or, without one, the cause that ended the process.
func (l *life) end(order ...string) error {
	for _, name := range order {
		if p := l.parts[name]; p != nil {
			p.cancel()
			<-p.ended
		}
	}
	for _, p := range l.parts {
		p.cancel()
	}
	err := l.group.Wait()
	cause := context.Cause(l.ctx)
	l.fail(nil)
	if err != nil {
		return err
	}
	return cause
}
