package migration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/internal/elements"
	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/tracing"
	"github.com/crossfade/crossfade/migration/hook"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/filter"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/throttle"
)

// Traffic is what a migration needs of the proxy: the clients' side of a switch.
type Traffic interface {
	// Prepare opens the sessions' connections to a side ahead of the switch.
	Prepare(ctx context.Context, to router.Side) error
	// Settle waits for clients that are in the middle of a large value. Prepare has come
	// before, whether it has failed or not.
	Settle(ctx context.Context) error
	// Hold makes new commands wait and returns once none is in flight.
	Hold(ctx context.Context) error
	// Align brings subscribers level on both sides, while held and fenced.
	Align(ctx context.Context, r router.Route) error
	// Release lets commands go on, to r's side.
	Release(r router.Route)
	// Stalls says how long sessions waited from the last Hold to its Release.
	Stalls() Stalls
	// Scripts returns the script bodies that clients used.
	Scripts() []string
	// UpstreamAddrs returns what the side's server lists the sessions' connections as: their
	// local addresses, or their ids as "id=17".
	UpstreamAddrs(side router.Side) map[string]struct{}
	// Learn takes what a server says of its commands.
	Learn(commands []keyspec.Command)
	// Silent counts commands that no notification reports, see mirror.Config.
	Silent() (forwarded, finished map[string]int64)
	// Shadow has so many of a hundred plain reads that go to the source asked of the
	// target too, until a Hold; Shadowed counts those that both have answered alike.
	Shadow(percent int)
	Shadowed() int64
	// Served counts the commands that clients were answered, those that wait in the
	// server left out, and the time that all of them took together.
	Served() (commands int64, took time.Duration)
}

// Stalls tells how long clients waited.
type Stalls struct {
	Sessions      int           `json:"sessions"`
	P50, P99, Max time.Duration `json:"-"`
}

// Options are a migration's collaborators and settings.
type Options struct {
	Config         config.Config
	Source, Target config.Endpoint
	// Meeting is where other sidecars are met; nil: on the target.
	Meeting *config.Meeting
	Gate    *router.Gate
	Traffic Traffic
	File    *store.File
	// Hooks and Audit are told of each transition; nil: nobody is.
	Hooks *hook.Hooks
	Audit *audit.Log
	// Tracer makes a span of each attempt to switch; nil: there are none.
	Tracer trace.Tracer
	// Only says which keys are copied, see Only; nil: all.
	Only *filter.Filter
	// Version is this program's, to be compared with those of other sidecars.
	Version string
}

// Only returns what a configuration says about which keys are copied and compared; nil:
// all. The error names all that is wrong.
func Only(c config.Config) (*filter.Filter, error) { return filter.New(c.Sync.Match, c.Sync.Types) }

// Migration is the state machine of one sidecar. Run does the background work;
// the verbs (Cutover, Rollback, Abort, Complete, Verify, Status) may be called
// from any goroutine.
type Migration struct {
	cfg     config.Config
	opt     Options
	log     *slog.Logger
	ids     [2]*identity
	dbmap   router.DBMap
	traffic Traffic

	mu       sync.Mutex // guards what follows; never held over I/O
	rec      Record
	seen     store.Entry    // place of the record that Recover goes by; no data
	claims   []string       // what claim has written
	fresh    bool           // that record is new: nobody had left one
	foreign  bool           // it was found on the servers and not in our state file
	mirror   *mirror.Mirror // the one that runs; nil before
	problems []string       // why the migration does not go on by itself
	abort    context.CancelCauseFunc
	// attempting says that an attempt is under way; abort is nil then from the moment
	// on at which it cannot be stopped any more.
	attempting bool
	current    *attempted      // what it is; nil: there is none
	why        string          // of the next transition
	waiting    *waiting        // who keeps the appointment of the record; nil: nobody
	report     *Report         // of the newest attempt, also while it runs
	looked     *CheckReport    // the newest
	password   string          // of our own user
	heard      string          // the source's notifications, where we have not changed them; "": not asked yet
	unheard    string          // what of that the target cannot be told to report
	scan       throttle.Status // how fast scans may copy; Pace is not kept here
	plan       *throttle.Schedule
	planned    planned

	wantsWrites atomic.Bool
	elements    atomic.Pointer[elements.Keys] // the mirror's

	verification verification
	shadow       shadow
	seat         seat
	admissions   [2]admissions // by router.Side
	serves       atomic.Bool   // clients were let in
	others       others
	crew         *crew // traffic, as the members have it too
	strays       strays
	switches     switches
	fenceLost    losses

	saving   sync.Mutex // held from reading the record to having written its successor
	operator sync.Mutex // held for the length of an operator's verb that changes something
	verb     sync.Mutex // taken after operator: whoever changes the state, the background work too
	wake     chan struct{}
	masters  chan struct{} // another server is a side's master
	swept    time.Time     // when former masters were last put back; the guard's
	unclear  bool          // clients may be left on the server that was left; the guard's
	opened   string        // the process on which findSavedFence has looked; with verb held
	unkept   string        // why the phase could not be kept; with verb held
	stopped  chan struct{}
}

// instanceBytes is of how many bytes the name of a process is made.
const instanceBytes = 4

// New returns a migration that does nothing yet. The gate must lead to the
// source or be shut; Recover sets it right.
func New(opt Options, log *slog.Logger) *Migration {
	if opt.Tracer == nil {
		opt.Tracer = tracing.Off()
	}
	instance := randomHex(instanceBytes)
	timeout := opt.Config.Proxy.DialTimeout
	m := &Migration{
		cfg: opt.Config, opt: opt, log: log, traffic: opt.Traffic,
		wake: make(chan struct{}, 1), masters: make(chan struct{}, 1), stopped: make(chan struct{}),
		seat: seat{holder: instance, ended: make(chan struct{})},
	}
	m.scan.Keys, m.scan.Bytes = int64(m.cfg.Sync.KeysPerSecond), int64(m.cfg.Sync.BytesPerSecond)
	m.plan = scheduleOf(m.cfg)
	m.shadow.percent, m.shadow.families = m.cfg.Shadow.Percent, make(map[string]*ShadowFamily)
	m.keepSchedule(time.Now())
	m.ids[router.Source] = newIdentity(router.Source, opt.Source, instance, timeout)
	m.ids[router.Target] = newIdentity(router.Target, opt.Target, instance, timeout)
	m.guardConnections()
	m.crew = newCrew(m, opt.Traffic)
	m.traffic = m.crew
	return m
}

// record returns a copy of the present record.
func (m *Migration) record() Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.clone()
}

// save persists a changed record to the state file before it takes effect. The
// change is refused when it is no legal move.
func (m *Migration) save(durable bool, change func(*Record)) error {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	next := m.rec.clone()
	was := next.Phase
	m.mu.Unlock()
	change(&next)
	if err := was.mustMay(next.Phase); err != nil {
		return err
	}
	next.Seq++
	next.Updated = time.Now()
	e, err := next.entry()
	if err != nil {
		return err
	}
	if err := m.opt.File.Save(e, durable); err != nil {
		return err
	}
	m.mu.Lock()
	m.rec = next
	m.mu.Unlock()
	if next.Phase != was {
		m.log.Info("phase", "from", was, "to", next.Phase, "side", next.Side, "token", next.Token)
		m.moved(was, next)
	}
	return nil
}

// publish writes the present record to a control key on one server.
func (m *Migration) publish(ctx context.Context, side router.Side, key string) error {
	return m.publishIf(ctx, side, key, nil)
}

// publishIf is publish under a condition, see store.SaveIf.
func (m *Migration) publishIf(ctx context.Context, side router.Side, key string, ok store.Condition) error {
	e, err := m.record().entry()
	if err != nil {
		return err
	}
	pool := m.ids[side].Pool()
	if err := store.SaveIf(ctx, pool.Control(), key, e, ok); err != nil {
		return fmt.Errorf("on %s: %w", pool, err)
	}
	return nil
}

// publishReplicated is publishIf that waits for replicas, see store.SaveReplicated.
func (m *Migration) publishReplicated(ctx context.Context, side router.Side, key string, ok store.Condition, patience time.Duration) error {
	e, err := m.record().entry()
	if err != nil {
		return err
	}
	pool := m.ids[side].Pool()
	if err := store.SaveReplicated(ctx, pool.Control(), key, e, ok, patience); err != nil {
		return fmt.Errorf("on %s: %w", pool, err)
	}
	return nil
}

// route returns the route that the record asks for.
func (m *Migration) route() router.Route {
	r := m.record()
	return router.Route{Side: r.Side, Epoch: r.Epoch, Map: m.databases()}
}

func (m *Migration) databases() router.DBMap {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dbmap
}

func (m *Migration) fence(side router.Side) fence {
	r := m.record()
	return fence{
		pool: m.ids[side].Pool(), own: m.ids[side].user(), token: r.Token,
		migration: r.ID, known: r.knownFence, before: r.Servers[side].Fence,
		proxied: func() map[string]struct{} { return m.traffic.UpstreamAddrs(side) },
		shared:  m.crew.exists(),
	}
}

// newMirror makes the mirror that copies from one side to the other.
func (m *Migration) newMirror(from router.Side) *mirror.Mirror {
	pool := m.ids[from].Pool()
	var served func() throttle.Served
	if m.cfg.Sync.Considerate {
		served = m.served
	}
	return mirror.New(mirror.Config{
		From: pool, To: m.ids[from.Other()].Pool(),
		Map:                 m.databases(),
		Name:                from.String(),
		Side:                from,
		Feed:                m.cfg.Sync.Feed,
		Workers:             m.cfg.Sync.Workers,
		Batch:               m.cfg.Sync.Batch,
		ScanCount:           m.cfg.Sync.ScanCount,
		DirtyLimit:          m.cfg.Sync.DirtyLimit,
		Heartbeat:           m.cfg.Sync.Heartbeat,
		Timeout:             m.cfg.Proxy.DialTimeout,
		AcceptLoss:          m.cfg.Sync.AcceptLoss,
		DropFieldExpiries:   m.dropsFieldExpiries(),
		Only:                m.opt.Only,
		EnsureNotifications: func(ctx context.Context) error { return m.ensureNotifications(ctx, from) },
		CheckNotifications:  func(ctx context.Context) error { return checkNotifications(ctx, m.ids[from].Pool()) },
		Learn:               func(ctx context.Context) { m.learn(ctx, from) },
		Remembers:           func(ctx context.Context, p *conn.Pool) error { return m.remembers(ctx, from, p) },
		Silent:              m.traffic.Silent,
		Shelf:               shelf{m},
		Limits:              m.limits(),
		MaxLatency:          m.cfg.Sync.MaxLatency,
		Served:              served,
		Bypassing:           func(ctx context.Context) ([]string, error) { return preflight.Bypassing(ctx, m.env(from)) },
	}, m.log.With("mirror", from.String()+"→"+from.Other().String()))
}

func (m *Migration) dropsFieldExpiries() bool { return m.cfg.Sync.FieldExpiries == "drop" }

func (m *Migration) setProblems(problems ...string) {
	m.mu.Lock()
	m.problems = problems
	m.mu.Unlock()
}

// solved takes back one of the problems, if it is the one that was set last.
func (m *Migration) solved(problem string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Equal(m.problems, []string{problem}) {
		m.problems = nil
	}
}

func (m *Migration) activeMirror() *mirror.Mirror {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mirror
}

func (m *Migration) setMirror(mi *mirror.Mirror) {
	m.wantsWrites.Store(mi != nil)
	if mi == nil {
		m.elements.Store(nil)
	} else {
		m.elements.Store(mi.Elements())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mirror = mi
	if mi != nil { // what was said to an earlier one holds
		m.schedule(time.Now()) // but for a pause, if clients are elsewhere than they were
		mi.Throttle().Set(m.scan.Limits)
		mi.Throttle().Pause(m.scan.Paused)
	}
}

// Silent, Changed, Flushed, Swapped and Functions are what the proxy saw its clients do
// that no notification reports. Database numbers are the source's. They return
// at once and are called before the command leaves the gate.

// Silent says that keys may have changed.
func (m *Migration) Silent(db int, keys ...string) {
	m.verification.silent.Add(1)
	if mi, ok := m.observed(db); ok {
		mi.Silent(db, keys...)
	}
}

// Changed says that keys may have changed in any way.
func (m *Migration) Changed(db int, keys ...string) {
	m.verification.silent.Add(1)
	if mi, ok := m.observed(db); ok {
		mi.Mark(db, keys...)
	}
}

// Flushed says that a database (-1: all) was flushed.
func (m *Migration) Flushed(db int) {
	m.verification.silent.Add(1)
	if db < 0 {
		if mi := m.activeMirror(); mi != nil {
			mi.Rescan(-1, "FLUSHALL through the proxy")
		}
		return
	}
	if mi, ok := m.observed(db); ok {
		mi.Rescan(db, "FLUSHDB through the proxy")
	}
}

// Swapped says that two databases changed places.
func (m *Migration) Swapped(a, b int) {
	m.verification.silent.Add(1)
	for _, db := range []int{a, b} {
		if mi, ok := m.observed(db); ok {
			mi.Rescan(db, "SWAPDB through the proxy")
		}
	}
}

// WantsWrites reports whether Wrote has a use for what clients write.
func (m *Migration) WantsWrites() bool { return m.wantsWrites.Load() }

// Elements returns the big keys of which the copy wants to know what elements clients
// change, nil when there is no copy.
func (m *Migration) Elements() *elements.Keys { return m.elements.Load() }

// Wrote says what clients wrote that notifications do tell. It may change list and
// keeps nothing of it.
func (m *Migration) Wrote(list []mirror.Write) {
	m.mu.Lock()
	mi := m.mirror
	m.mu.Unlock()
	if mi != nil {
		mi.Wrote(list)
	}
}

// Functions says that function libraries changed.
func (m *Migration) Functions() {
	if mi := m.activeMirror(); mi != nil {
		mi.FunctionsChanged()
	}
}

// observed returns the mirror that runs, if it copies a database of clients'.
func (m *Migration) observed(db int) (*mirror.Mirror, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, mapped := m.dbmap.Place(db)
	return m.mirror, mapped && m.mirror != nil
}

// Run keeps the copy going until ctx ends. Recover must have succeeded. An error that is
// store.ErrSuperseded means that another process has taken over this migration: this one
// must end, for it does not know any more where its clients belong.
func (m *Migration) Run(ctx context.Context) error {
	defer close(m.stopped)
	defer func() {
		m.endShadow()
		m.shadow.judging.Wait()
		if mi := m.activeMirror(); mi != nil {
			mi.Stop()
		}
		m.closeOthers()
		_ = m.crew.store.Close()
		for _, id := range m.ids {
			_ = id.Pool().Close()
		}
	}()
	var beside sync.WaitGroup
	defer beside.Wait() // before the connections are closed
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer m.noteOusted()
	beside.Go(func() { m.resume(ctx) })
	beside.Go(func() { m.watchSeat(ctx) })
	beside.Go(func() { m.crew.watch(ctx) })
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		m.openStale(ctx)
		err := m.begin(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errNewer) {
			return fmt.Errorf("%w: %w; start again, to go on from there", store.ErrSuperseded, err)
		}
		if errors.Is(err, store.ErrSuperseded) {
			return err
		}
		m.log.Error("the copy cannot begin; clients are served all the same", "error", err, "again_in", wait.String())
		select {
		case <-time.After(wait):
		case <-m.wake:
		case <-m.seat.ended:
		case <-ctx.Done():
			return nil
		}
	}
	m.recallVerified()
	beside.Go(func() { m.verifyAlways(ctx) })
	m.supervise(ctx)
	return m.lostTo()
}
