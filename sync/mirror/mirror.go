// Package mirror keeps the databases of one server equal to those of another.
// It owns the feed of changes, the scans, the copies and the barrier between them.
// It never decides when traffic moves and never believes what an event says happened.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/internal/elements"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/dirty"
	"github.com/crossfade/crossfade/sync/filter"
	"github.com/crossfade/crossfade/sync/throttle"
	"github.com/crossfade/crossfade/sync/value"
)

// KeyPrefix begins the keys of ours. They are never copied, counted or compared,
// but for the heartbeat, which is there to be copied.
const KeyPrefix = "crossfade:"

// HeartbeatPrefix and Config.Name make the key that is written to the server
// that is copied from, in the lowest mapped database, and must arrive on the
// other side. The names differ so that two mirrors, there and back, that
// overlap for a moment do not take each other's beat for their own.
const HeartbeatPrefix = KeyPrefix + "heartbeat:"

// Config is what a mirror needs.
type Config struct {
	From, To *conn.Pool
	// Map says where on the target each database of the source is, whichever of them
	// From is. Databases have the source's numbers throughout, and keys the names that
	// they have there: those that clients know.
	Map router.DBMap
	// Name tells the mirrors there and back apart.
	Name string
	// Side is From's.
	Side router.Side
	// Feed is one of FeedAuto, FeedNotifications and FeedTracking; "" is the second.
	Feed string

	Workers    int           // copies at the same time, per database
	Batch      int           // keys per round trip; 0: by the round-trip time
	ScanCount  int           // SCAN's COUNT; 0: likewise
	DirtyLimit int           // dirty keys held per database; past it the database is scanned again
	Heartbeat  time.Duration // how often the feed is proved
	Timeout    time.Duration // connecting, and each round trip
	BigKey     int64         // bytes from which a key is copied in chunks; 0: 512 KiB
	AcceptLoss bool          // a From that lost most of its keys is copied all the same

	// Only says which keys are copied; nil: all. What is outside of it on To is not
	// touched, unless a key of From that was inside is outside now.
	Only *filter.Filter
	// DropFieldExpiries is value.Manner's.
	DropFieldExpiries bool

	// EnsureNotifications makes sure that From reports its changes, and returns
	// an error that says what to do when it does not and we may not switch it on.
	// It is called before each subscription and at each heartbeat.
	EnsureNotifications func(context.Context) error
	// CheckNotifications looks at From's setting without changing it; it returns
	// *NotificationsOff when changes are known not to be reported, and nil when
	// that cannot be told.
	CheckNotifications func(context.Context) error
	// Learn is called before each subscription, when From may know other commands than
	// before. nil: nobody wants to hear of them.
	Learn func(context.Context)
	// Remembers returns an error when From has come back in a state that is older than
	// what it has said, so that To may have what nobody else has. It is asked before a
	// scan, whenever From has been away. nil: nobody can tell.
	// It asks by the pool given, of the process that is meant.
	Remembers func(context.Context, *conn.Pool) error
	// Silent counts the commands without notifications that went through the
	// proxy, per command: nil when nobody counts. See foreign.go.
	Silent func() (forwarded, finished map[string]int64)
	// Limits bound the copies of scans; Served is what they are paced by besides, so
	// that clients do not feel them. nil: they are not.
	Limits throttle.Limits
	Served func() throttle.Served
	// MaxLatency is how much longer than at best PING may take at From and To while a
	// scan copies, the 99th percentile; 0: as long as it likes.
	MaxLatency time.Duration
	// Shelf keeps whose the target's function libraries are. nil: the mirror does, while it lives.
	Shelf Shelf
	// Bypassing names the clients that are connected to From past the proxy. nil:
	// nobody can tell.
	Bypassing func(context.Context) ([]string, error)
}

// Mirror copies From to To and keeps it equal. The order of its life:
// Listen, then either Follow with a scan, or Rebase (what came before does not
// matter) and Follow without; Freeze and Thaw around a switch; Stop at the end.
// Methods are safe for concurrent use unless they say otherwise.
type Mirror struct {
	cfg   Config
	log   *slog.Logger
	lanes map[int]*lane // by the source's database
	order []int
	home  [2]int          // the databases of From and To in which the heartbeat is
	ends  [2]*sharedScans // for copying, removing
	count [2]*sharedScans // for counting: they never wait for those that copy, whose lanes may stand still until something was counted

	toNodes *nodes // nil: To is one server
	toOne   *one   // To, where it is one

	ctx    context.Context // of everything that runs until Stop
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu         sync.Mutex
	out        *writer       // where copies are written
	silent     bool          // connected, but events are known not to come
	tracking   bool          // the feed is CLIENT TRACKING
	deaf       string        // the classes of which none come, "" when all do
	feed       *feed         // nil while there is none
	dropped    string        // why it was closed by us, "" when it was not
	feedUp     chan struct{} // closed while there is a feed; replaced when it is lost
	reason     string        // why the mirror cannot vouch for being complete, or ""
	gaps       int
	toRun      being // what To was when it was looked at last, see lookRun
	drained    being // what it was at the last Drain
	evicting   eviction
	regardless atomic.Bool // see Regardless
	life       *life       // From, as it is followed; see there
	next       *life       // who has come in its place, and may have lost its data; nil: nobody
	listening  bool
	following  bool
	changes    atomic.Int64
	beat       heartbeat
	foreign    foreign
	debts      *debts
	throttle   *throttle.Throttle
	views      views
	classes    classes
	errs       recentErrors

	bigs      bigShare
	elements  *elements.Keys
	functions carriedFunctions
	replacing sync.Mutex // held while the writer is replaced, over its round trips: only copies wait
}

var errStopped = errors.New("the mirror was stopped")

// New returns a mirror that does nothing yet.
func New(cfg Config, log *slog.Logger) *Mirror {
	ctx, cancel := context.WithCancelCause(context.Background())
	if cfg.Shelf == nil {
		cfg.Shelf = &memory{Libraries{}}
	}
	m := &Mirror{
		cfg: cfg, log: log, ctx: ctx, cancel: cancel,
		lanes:  make(map[int]*lane),
		order:  cfg.Map.Sources(),
		feedUp: make(chan struct{}), elements: elements.NewKeys(cfg.Side), debts: newDebts(),
	}
	m.life = m.newLife(standing{}, time.Time{})
	m.functions.brake = newBrake()
	to := func() *conn.Pool { return cfg.To }
	m.ends = [2]*sharedScans{
		newSharedScans(m, func() *conn.Pool { return m.source().pool }, cfg.Side), newSharedScans(m, to, cfg.Side.Other()),
	}
	m.count = [2]*sharedScans{
		newSharedScans(m, func() *conn.Pool { return m.counted().pool }, cfg.Side), newSharedScans(m, to, cfg.Side.Other()),
	}
	for i, db := range m.order {
		from, _ := cfg.Map.At(cfg.Side, db)
		to, _ := cfg.Map.At(cfg.Side.Other(), db)
		if i == 0 {
			m.home = [2]int{from.DB, to.DB}
		}
		m.lanes[db] = newLane(m, db, from, to, dirty.New(cfg.DirtyLimit))
	}
	m.beat.init()
	m.throttle = throttle.New(cfg.Limits, cfg.Served)
	if cfg.MaxLatency > 0 {
		m.throttle.Heed(cfg.MaxLatency, m.probe(cfg.From, m.home[0]), m.probe(cfg.To, m.home[1]))
	}
	m.views.init(m.order, cfg.Only)
	m.out = newWriter(cfg.To, cfg.Timeout, 0)
	m.toNodes, m.toOne = newNodes(cfg.To), &one{pool: cfg.To}
	return m
}

// Listen subscribes to From's notifications, proves that they arrive, and from
// then on marks every changed key. Nothing is copied yet. It starts before any
// scan: a change that is made while a key is scanned must be seen.
func (m *Mirror) Listen(ctx context.Context) error {
	m.mu.Lock()
	if m.listening {
		m.mu.Unlock()
		return nil
	}
	m.mu.Unlock()
	if _, err := m.checkRun(ctx); err != nil { // from here on a restart of To is noticed
		return err
	}
	f, err := m.subscribe(ctx)
	if err != nil {
		return err
	}
	if m.consider(ctx, f.who, f.at) { // whoever it is: nothing was copied yet
		m.decide(true)
	}
	m.setFeed(f)
	m.mu.Lock()
	m.listening = true
	m.mu.Unlock()
	m.wg.Go(func() { m.supervise(f) })
	if err := m.proveFeed(ctx); err != nil && !m.trackInstead(ctx, err) {
		return err
	}
	m.wg.Go(m.heartbeats)
	m.wg.Go(m.watchTo)
	m.wg.Go(m.compareViews)
	return nil
}

// Rebase declares that everything From was told before this call is known to
// be on To already: a PING barrier, then every mark is dropped. The caller
// guarantees that nobody writes to From meanwhile.
func (m *Mirror) Rebase(ctx context.Context) error {
	counted := make(chan error, 1)
	go func() { counted <- m.foreignBaseline(ctx) }()
	err := m.barrier(ctx)
	if err := errors.Join(err, <-counted); err != nil {
		return err
	}
	for _, l := range m.lanes {
		l.rebase()
	}
	m.beat.forget()
	m.mu.Lock()
	m.reason = ""
	m.mu.Unlock()
	return nil
}

// Follow starts copying: with scan, every key of From once and every extra of
// To away; without, only what is marked from Rebase on. It returns once no
// later change can be missed; the copy itself goes on until Stop.
func (m *Mirror) Follow(ctx context.Context, scan bool) error {
	if err := m.Listen(ctx); err != nil {
		return err
	}
	if scan {
		if err := m.checkLoss(ctx); err != nil {
			return err
		}
		if err := m.foreignBaseline(ctx); err != nil {
			return err
		}
		for _, l := range m.lanes {
			l.requestScan()
		}
	}
	if _, err := m.checkRun(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	started := m.following
	m.following = true
	m.mu.Unlock()
	m.views.on.Store(true)
	if started {
		return nil
	}
	m.wg.Go(func() { m.throttle.Run(m.ctx) })
	for _, db := range m.order {
		m.lanes[db].start()
	}
	return nil
}

// Near returns once every change that From acknowledged before the call was copied: a
// barrier on the feed, then until no key is dirty and no scan is due. Unlike after Drain,
// nobody has made sure that To has kept it, nor that From has told of everything.
func (m *Mirror) Near(ctx context.Context) error {
	defer m.throttle.Hurry()()
	defer m.hurryUp()()
	counted := make(chan error, 1)
	go func() {
		_, err := m.foreignSurplus(ctx, false) // a gap is for others to note
		counted <- err
	}()
	err := m.barrier(ctx)
	if err := errors.Join(err, <-counted); err != nil {
		return err
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	return m.clean(ctx)
}

// clean waits until nothing is left to be copied.
func (m *Mirror) clean(ctx context.Context) error {
	for _, db := range m.order {
		if err := m.lanes[db].waitClean(ctx); err != nil {
			return fmt.Errorf("waiting for database %s of %s to be copied (%d keys dirty): %w", m.lanes[db].from, m.cfg.From, m.lanes[db].dirty.Len(), err)
		}
		if some, n := m.lanes[db].stuckKeys(); n > 0 {
			return fmt.Errorf("%d keys of database %s of %s cannot be copied, such as %q: %s", n, m.lanes[db].from, m.cfg.From, some[0].Key, some[0].Why)
		}
	}
	return nil
}

// Drain returns once every change that From acknowledged before the call is on
// To: a barrier on the feed, then until no key is dirty and no scan is due, and
// To is still the process that took it all. Writers that go on may keep it
// waiting until ctx ends. Nobody past the proxy has said what CheckForeign finds.
func (m *Mirror) Drain(ctx context.Context) error {
	return m.drain(ctx, func(context.Context) error { return nil }, func() {})
}

// DrainFrozen is Drain and then Freeze, for when nobody writes to From. Once nothing is left
// to be copied and the mirror is frozen, then is called, while To is asked who it is: should
// that be another process than it was, all of this is done again.
func (m *Mirror) DrainFrozen(ctx context.Context, then func(context.Context) error) error {
	frozen := func(ctx context.Context) error {
		if err := m.Freeze(ctx); err != nil {
			return err
		}
		return then(ctx)
	}
	return m.drain(ctx, frozen, m.Thaw)
}

// errAnother is found when To is another process than it was, or has other data.
var errAnother = errors.New("it is another process than it was")

// drain has clean called, and then f, until To is the same process before and after; again
// is called before every other time. f is broken off where To is found to be another one.
func (m *Mirror) drain(ctx context.Context, f func(context.Context) error, again func()) error {
	defer m.throttle.Hurry()()
	defer m.hurryUp()()
	// A restart before this is another one than that which was looked at last, too.
	was := m.held(m.run())
	told := make(chan error, 2)
	go func() { told <- m.stillTold(ctx) }() // From is asked all of it at the same time
	go func() { told <- m.CheckForeign(ctx) }()
	err := m.barrier(ctx)
	if err := errors.Join(err, <-told, <-told); err != nil {
		return err
	}
	untold, err := m.checkTold(ctx)
	if err != nil {
		return err
	}
	if err := m.settle(ctx); err != nil {
		return err
	}
	for {
		l := m.source()
		if err := m.clean(ctx); err != nil {
			if untold != "" {
				err = fmt.Errorf("%s, so that all is scanned again: %w", untold, err)
			}
			return err
		}
		var is being
		together, tctx := errgroup.WithContext(ctx)
		together.Go(func() (err error) {
			if is, _, err = m.lookRun(tctx); err == nil && m.held(is) != was { // whoever has noticed that first
				err = errAnother // f may wait for what To has lost, and it is done again anyway
			}
			return err
		})
		together.Go(func() error { return m.stillThere(tctx, l) }) // who has other data has not told of that
		together.Go(func() error { return f(tctx) })
		switch err := together.Wait(); {
		case errors.Is(err, errAnother):
			was = m.held(is)
			again()
			continue
		case err != nil:
			return err
		}
		m.mu.Lock()
		m.drained = is
		m.mu.Unlock()
		return nil
	}
}

// stillTold returns an error when From has stopped reporting its changes: what
// was drained is then not known to be all. It need not be asked behind the barrier: what
// it is about came before both.
func (m *Mirror) stillTold(ctx context.Context) error {
	if m.isTracking() {
		return nil // no setting of the server's can take it away
	}
	err := m.cfg.CheckNotifications(ctx)
	if errors.As(err, new(*NotificationsOff)) {
		m.mu.Lock()
		m.silent = true
		m.mu.Unlock()
		m.noteGap(err.Error())
	}
	return err
}

// Freeze stops copying and returns once no write of ours to To is outstanding.
// Marks are still taken. An error means that a write may still arrive.
func (m *Mirror) Freeze(ctx context.Context) error {
	for _, db := range m.order {
		if err := m.lanes[db].freeze(ctx); err != nil {
			return err
		}
	}
	if err := m.functions.brake.pull(ctx); err != nil {
		return fmt.Errorf("waiting for the last functions to be carried to %s: %w", m.cfg.To, err)
	}
	return nil
}

// Thaw lets a frozen mirror go on.
func (m *Mirror) Thaw() {
	m.functions.brake.release()
	for _, l := range m.lanes {
		l.thaw()
	}
}

// Stop ends everything and returns once no goroutine of the mirror is left.
func (m *Mirror) Stop() {
	m.cancel(errStopped)
	m.mu.Lock()
	if m.feed != nil {
		m.feed.Close()
	}
	m.mu.Unlock()
	m.wg.Wait()
	m.writer().close()
	m.source().end()
}

// Mark says that keys of database db may not be on To as they are on From, whatever the
// reason: they are copied as a whole.
func (m *Mirror) Mark(db int, keys ...string) { m.mark(db, keys, value.Remade) }

// Silent says that keys of database db may have changed in a way that
// causes no event.
func (m *Mirror) Silent(db int, keys ...string) { m.mark(db, keys, value.Grouped) }

func (m *Mirror) mark(db int, keys []string, change value.Changes) {
	l, ok := m.lanes[db]
	if !ok {
		return
	}
	for _, k := range keys {
		if !strings.HasPrefix(k, KeyPrefix) && m.cfg.Only.Name(k) {
			l.big.note([]string{k}, []value.Changes{change})
			l.dirty.Mark(k)
			l.big.hasten([]string{k})
		}
	}
}

// Settled says which keys of database db have surely been brought across, as
// far as they were written before the call: behind a barrier they are not dirty. An
// error means that the mirror cannot vouch for anything now.
func (m *Mirror) Settled(ctx context.Context, db int, keys []string) ([]bool, error) {
	l, ok := m.lanes[db]
	if !ok {
		return nil, fmt.Errorf("database %d of %s is not copied", db, m.cfg.From)
	}
	if err := m.barrier(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	live := m.following && m.feed != nil && !m.silent
	m.mu.Unlock()
	if !live || !l.scanComplete() {
		return nil, fmt.Errorf("database %d of %s is being scanned again, or its changes do not arrive", db, m.cfg.From)
	}
	if !m.searching() || l.quiet.complete() {
		owed := l.quiet.owes(keys, m.debts.owes()) // first: what is paid meanwhile is dirty
		clean := l.dirty.Clean(keys)
		for i := range clean {
			clean[i] = clean[i] && !owed[i]
		}
		return clean, nil
	}
	return nil, fmt.Errorf("database %d of %s is looked through for what silent commands may have changed", db, m.cfg.From)
}

// Changes counts the changes that From has reported, but for those of ours. It only
// tells that there were some: one of a key may count several times.
func (m *Mirror) Changes() int64 { return m.changes.Load() }

// Rescan compares a whole database again (-1: all), both ways: for
// commands that change databases as a whole.
func (m *Mirror) Rescan(db int, why string) {
	for n, l := range m.lanes {
		if db < 0 || n == db {
			l.requestScan()
		}
	}
	m.log.Info("scanning again", "from", m.cfg.From.String(), "database", db, "because", why)
}

// Elements are the big keys of which it is worth knowing which elements clients change:
// for the proxy to write down.
func (m *Mirror) Elements() *elements.Keys { return m.elements }

// Throttle is what says how fast scans may go.
func (m *Mirror) Throttle() *throttle.Throttle { return m.throttle }

// manner is how values are copied by type.
func (m *Mirror) manner() value.Manner {
	return value.Manner{DropFieldExpiries: m.cfg.DropFieldExpiries, Takes: m.takes(), Cluster: m.cfg.To.Endpoint().Cluster != nil}
}

// takes says of which types keys are copied, nil where that does not matter. Ours are
// copied in any case.
func (m *Mirror) takes() func(key, kind string) bool {
	if !m.cfg.Only.Typed() {
		return nil
	}
	return func(key, kind string) bool { return strings.HasPrefix(key, KeyPrefix) || m.cfg.Only.Type(kind) }
}

func (m *Mirror) heartbeatKey() string { return HeartbeatPrefix + m.cfg.Name }

// sleep waits for d and reports whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
