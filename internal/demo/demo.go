// Package demo shows a whole migration on two real servers: there, back and there again, under load.
// It owns the servers, the sidecar, the writers and the folder that it makes, and leaves nothing behind.
// It never uses a server of the user's, and never calls a run good whose every acknowledged write it did not check.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/demo/sidecar"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// Options say how to show it. The zero value is what `crossfade demo` does,
// without printing.
type Options struct {
	Stdout, Stderr io.Writer
	Binary         string        // of crossfade; default this program
	Keys           int           // a database; default 20 000
	Writers        int           // through the proxy; default 8
	Rate           int           // operations a second and writer; default 200
	Under          time.Duration // of load before each switch; default 3 s
}

// databases are those in use on the source, and where they go.
var databases = map[int]int{0: 0, 3: 5, 7: 1}

// itemsPerKey keeps the writers' lists and streams small: a changed key is copied
// whole, and this machine's cores do everything at once.
const itemsPerKey = 512

var sourceDatabases = []int{0, 3, 7}

func mapped(db int) int { return databases[db] }

func same(db int) int { return db }

// show is one run of the demo.
type show struct {
	Options
	*teller
	source, target  *redistest.Server
	side            *sidecar.Process
	seed            seed
	clients, direct *load
	loads           context.Context

	copied struct {
		keys int64
		took time.Duration
	}
	switches []switched
	lags     []float64 // ms, sampled while nothing was switched
}

// switched is one switch that was made.
type switched struct {
	name   string
	report migration.Report
	stall  time.Duration // the longest that any client waited, by its own clock
}

// Run shows it and marks what happens. Its error says which step failed or what
// was lost; it ends early, with nothing left running, when ctx ends.
func Run(ctx context.Context, o Options) (err error) {
	orElse(&o.Stdout, io.Discard)
	orElse(&o.Stderr, io.Discard)
	orElse(&o.Keys, 20_000)
	orElse(&o.Writers, 8)
	orElse(&o.Rate, 200)
	orElse(&o.Under, 3*time.Second)
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("demo: find the program itself: %w", err)
		}
	}
	redistest.SilenceClients()
	dir, err := os.MkdirTemp("", "crossfade-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &show{Options: o, teller: &teller{w: o.Stdout, start: time.Now()}}
	defer func() {
		err = errors.Join(err, s.close(context.WithoutCancel(ctx), err != nil && ctx.Err() == nil))
	}()
	if err := s.play(ctx, dir); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("demo: %w", cause)
		}
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

func orElse[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// play is the plot.
func (s *show) play(ctx context.Context, dir string) error {
	var stop context.CancelFunc
	s.loads, stop = context.WithCancel(ctx)
	defer stop()
	for _, act := range []func(context.Context) error{
		s.startServers,
		s.fill,
		func(ctx context.Context) error { return s.startSidecar(ctx, dir) },
		s.awaitCopy,
		s.cutover, s.directIsRefused, s.check,
		s.rollback, s.directWritesAgain, s.check,
		s.cutover, s.directIsRefused, s.check,
		s.complete,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	return s.sumUp(ctx)
}

// close ends all that was started.
func (s *show) close(ctx context.Context, failed bool) error {
	var errs []error
	if s.clients != nil {
		_, _ = s.clients.pause(), s.direct.pause() // the error was told, or is a consequence
	}
	if s.side != nil {
		err := s.side.Stop(ctx)
		if failed {
			_, _ = fmt.Fprintf(s.Stderr, "the sidecar's last words:\n%s\n", s.side.LogTail())
		} else if err != nil {
			errs = append(errs, err)
		}
	}
	for _, server := range []*redistest.Server{s.source, s.target} {
		if server != nil {
			errs = append(errs, server.Close())
		}
	}
	return errors.Join(errs...)
}

func (s *show) startServers(ctx context.Context) (err error) {
	if s.source, err = redistest.Launch(ctx, redistest.Config{}); err != nil {
		return err
	}
	if s.target, err = redistest.Launch(ctx, redistest.Config{}); err != nil {
		return err
	}
	version := "?"
	if info, err := s.source.Client(0).InfoMap(ctx, "server").Result(); err == nil {
		version = info["Server"]["redis_version"]
	}
	s.say("redis-server %s, twice: source at port %d, target at %d", version, s.source.Port(), s.target.Port())
	return nil
}

func (s *show) fill(ctx context.Context) error {
	s.seed = seed{perDB: s.Keys, marks: make(map[int]map[string]mark)}
	total := 0
	for _, db := range sourceDatabases {
		c := s.source.Client(db)
		keys, err := fill(ctx, c, s.Keys)
		if err != nil {
			return err
		}
		if s.seed.marks[db], err = takeMarks(ctx, c, keys); err != nil {
			return err
		}
		total += len(keys)
	}
	s.say("%s keys in databases 0, 3, 7: strings, hashes, lists, sets,", count(total))
	s.say("  sorted sets, streams with groups, HyperLogLogs; a third expires")
	return nil
}

// startSidecar starts the real program and the writers.
func (s *show) startSidecar(ctx context.Context, dir string) (err error) {
	s.side, err = sidecar.Start(ctx, sidecar.Config{
		Binary: s.Binary, Dir: dir, Source: s.source.URL(0), Target: s.target.URL(0), Map: "0=0,3=5,7=1",
	})
	if err != nil {
		return err
	}
	s.say("crossfade run --map 0=0,3=5,7=1 serves clients at %s", s.side.Addr())
	through := history.Config{
		Addr: s.side.Addr(), Databases: sourceDatabases, Writers: s.Writers, MaxRate: s.Rate, Prefix: "client",
		ItemsPerKey: itemsPerKey,
	}
	past := history.Config{
		Addr: s.source.Addr(), Databases: sourceDatabases, Writers: 1, MaxRate: s.Rate, Prefix: "direct",
		ItemsPerKey: itemsPerKey,
	}
	s.clients = &load{name: "clients through the proxy", History: history.New(through)}
	s.direct = &load{name: "the client past the proxy", History: history.New(past)}
	s.clients.begin(s.loads)
	s.direct.begin(s.loads)
	s.say("%d clients write through it, one writes past it to the source", s.Writers)
	return nil
}

// awaitCopy waits until the target is level for the first time.
func (s *show) awaitCopy(ctx context.Context) error {
	began, said := time.Now(), time.Now()
	st, err := s.await(ctx, 60*time.Second, "the copy to be complete", func(st migration.Status) bool {
		if time.Since(said) >= time.Second && !st.Ready {
			said = time.Now()
			scanned, total := sums(st)
			s.say("  copying: %s of %s keys", count(scanned), count(total))
		}
		return st.Ready
	})
	if err != nil {
		return err
	}
	for _, db := range st.Databases {
		s.copied.keys += db.Scanned
	}
	s.copied.took = time.Since(began)
	s.say("the target is level: %s keys in %.1f s, lag %.1f ms", count(s.copied.keys), s.copied.took.Seconds(), st.LagMS)
	return nil
}

func sums(st migration.Status) (scanned, total int64) {
	for _, db := range st.Databases {
		scanned += db.Scanned
		total += max(db.Total, db.Scanned)
	}
	return scanned, total
}

// await asks for the status until cond holds.
func (s *show) await(ctx context.Context, most time.Duration, what string, cond func(migration.Status) bool) (migration.Status, error) {
	var st migration.Status
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("waited %v for %s", most, what))
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		var err error
		if st, err = s.side.Admin().Status(ctx); err != nil {
			return st, err
		}
		if st.LagMS > 0 && !st.Phase.Switching() {
			s.lags = append(s.lags, st.LagMS)
		}
		if cond(st) {
			return st, nil
		}
		select {
		case <-tick.C:
		case <-s.side.Done():
			return st, errors.New("the sidecar has ended")
		case <-ctx.Done():
			return st, fmt.Errorf("%w; phase %s, reasons %q", context.Cause(ctx), st.Phase, st.Reasons)
		}
	}
}

func (s *show) cutover(ctx context.Context) error {
	return s.switchOver(ctx, "cutover", router.Target, s.side.Admin().Cutover)
}

func (s *show) rollback(ctx context.Context) error {
	return s.switchOver(ctx, "rollback", router.Source, s.side.Admin().Rollback)
}

type verb func(context.Context, admin.SwitchRequest) (migration.Report, error)

// switchOver keeps the load up for a while and then moves it.
func (s *show) switchOver(ctx context.Context, name string, to router.Side, do verb) error {
	until := time.Now().Add(s.Under)
	if _, err := s.await(ctx, 60*time.Second, "being ready for the "+name, func(st migration.Status) bool {
		return st.Ready && time.Now().After(until)
	}); err != nil {
		return err
	}
	s.clients.TakeStall()
	r, err := s.insist(ctx, name, do)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	acked := s.clients.Stats().Acked
	st, err := s.await(ctx, 20*time.Second, "clients that go on after the "+name, func(migration.Status) bool {
		return s.clients.Stats().Acked > acked+uint64(20*s.Writers)
	})
	if err != nil {
		return err
	}
	if st.Side != to {
		return fmt.Errorf("%s: clients are on the %s", name, st.Side)
	}
	done := switched{name: name, report: r, stall: s.clients.TakeStall()}
	s.switches = append(s.switches, done)
	s.say("%s: clients are on the %s; longest stall of a client %s", name, to, inMS(done.stall))
	return nil
}

// insist asks again when an attempt was taken back, which a busy machine's pauses
// may cause and which changes nothing; but not for ever.
func (s *show) insist(ctx context.Context, name string, do verb) (migration.Report, error) {
	for attempt := 1; ; attempt++ {
		r, err := do(ctx, admin.SwitchRequest{})
		var answered *admin.Error
		if err == nil || !errors.As(err, &answered) {
			return r, err
		}
		if len(answered.Reasons) > 1 {
			err = fmt.Errorf("%w: %q", err, answered.Reasons)
		}
		if attempt == 3 || answered.Report == nil || ctx.Err() != nil {
			return r, err
		}
		s.say("%s taken back, nothing has happened, trying again:", name)
		s.say("  %s", strings.ReplaceAll(answered.Message, "\n", "; "))
		if _, err := s.await(ctx, 60*time.Second, "being ready again for the "+name, func(st migration.Status) bool {
			return st.Ready
		}); err != nil {
			return r, err
		}
	}
}

// directIsRefused shows that the writer past the proxy cannot lose anything.
func (s *show) directIsRefused(ctx context.Context) error {
	before := s.direct.Stats()
	var now history.Stats
	if _, err := s.await(ctx, 10*time.Second, "the source to refuse the client past the proxy", func(migration.Status) bool {
		now = s.direct.Stats()
		return now.Errors >= before.Errors+20
	}); err != nil {
		return err
	}
	if now.Acked > before.Acked {
		return fmt.Errorf("the source took %d writes past the proxy after the cutover: they are lost", now.Acked-before.Acked)
	}
	s.say("  the source refuses the client past the proxy: %d errors, 0 writes", now.Errors-before.Errors)
	return nil
}

func (s *show) directWritesAgain(ctx context.Context) error {
	before := s.direct.Stats().Acked
	if _, err := s.await(ctx, 10*time.Second, "the source to take writes past the proxy again", func(migration.Status) bool {
		return s.direct.Stats().Acked >= before+20
	}); err != nil {
		return err
	}
	s.say("  the source takes writes past the proxy again")
	return nil
}

// check compares with the tool, the first time while clients write, and then, while
// they rest, by the writers' own records and the seed at the side in charge.
func (s *show) check(ctx context.Context) error {
	under := "while clients write"
	if len(s.switches) > 1 {
		under = "while they rest"
		if err := pauseAll(s.clients, s.direct); err != nil {
			return err
		}
	}
	r, err := s.side.Admin().Verify(ctx, admin.VerifyRequest{})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	if !r.OK() {
		return fmt.Errorf("verify: the sides differ:\n%s", r)
	}
	s.say("  crossfade verify %s: %s keys, no difference", under, count(r.Keys))
	if err := pauseAll(s.clients, s.direct); err != nil {
		return err
	}
	if _, err := s.judge(ctx); err != nil {
		return err
	}
	s.clients.begin(s.loads)
	s.direct.begin(s.loads)
	return nil
}

// judge checks every acknowledged write and the seed. The writers must rest.
func (s *show) judge(ctx context.Context) (v verdict, err error) {
	server, mapDB := s.target, mapped
	if st, err := s.side.Admin().Status(ctx); err != nil {
		return v, err
	} else if st.Side == router.Source {
		server, mapDB = s.source, same
	}
	for _, l := range []*load{s.clients, s.direct} {
		r, err := l.Verify(ctx, server.Addr(), history.Creds{}, mapDB)
		if err != nil {
			return v, err
		}
		v.add(r)
	}
	s.say("  %s acknowledged writes: %d lost, %d doubled, %d reordered, %d stale",
		count(v.acked), v.lost, v.doubled, v.reordered, v.other)
	if !v.ok() {
		for _, example := range v.examples {
			s.plain("           %s", example)
		}
		return v, errors.New("acknowledged writes are not as they should be")
	}
	c, err := s.seed.compare(ctx, func(db int) *redis.Client { return server.Client(db) }, mapDB)
	if err != nil {
		return v, err
	}
	s.say("  %s keys from the beginning: %d wrong, %s expired in time", count(c.equal), len(c.wrong), count(c.expired))
	if len(c.wrong) > 0 {
		for _, line := range c.wrong[:min(len(c.wrong), 10)] {
			s.plain("           %s", line)
		}
		return v, errors.New("keys from the beginning are not as they should be")
	}
	return v, nil
}

// complete ends the migration while clients write.
func (s *show) complete(ctx context.Context) error {
	if err := s.direct.pause(); err != nil && ctx.Err() != nil {
		return err // that nothing succeeded is as it should be
	}
	done, err := s.side.Admin().Complete(ctx, admin.CompleteRequest{})
	if err != nil {
		return fmt.Errorf("complete: %w", err)
	}
	s.say("complete: %d settings, users and keys put back; clients are served on", len(done))
	acked := s.clients.Stats().Acked
	_, err = s.await(ctx, 20*time.Second, "clients that go on after the end", func(migration.Status) bool {
		return s.clients.Stats().Acked > acked+uint64(20*s.Writers)
	})
	return err
}
