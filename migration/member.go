package migration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// memberInstance begins the names of a member's connections, behind that of all of ours: who
// takes the seat leaves them alone, for a member changes nothing but what is the fleet's.
const memberInstance = "member:"

// MemberTraffic is what a member needs of the proxy.
type MemberTraffic interface {
	Traffic
	// Sever closes all connections to a side, and the clients that wait for an answer there.
	Sever(router.Side)
	// Retry says again what a fence has refused, where it was said before: what is answered
	// now is the answer.
	Retry()
	// DropListeners closes the clients that are subscribed on another side than this one.
	DropListeners(router.Side)
}

// MemberOptions are a member's collaborators and settings.
type MemberOptions struct {
	Config         config.Config
	Source, Target config.Endpoint
	// Meeting is where the one that coordinates speaks; nil: on the target.
	Meeting *config.Meeting
	Gate    *router.Gate
	Traffic MemberTraffic
	File    *store.File
	Version string
}

// Member is a sidecar that only proxies (role: proxy). It never takes the seat, copies
// nothing, and changes nothing on a server but its own heartbeat and its answers. Where its
// clients' commands go it reads in the migration's record; what a coordinator says makes it
// quicker, and is never believed. Run does the work; Status may be called from any goroutine.
type Member struct {
	cfg     config.Config
	opt     MemberOptions
	log     *slog.Logger
	traffic MemberTraffic
	id      string // of this process
	name    string
	ids     [2]*identity
	store   fleet.Store

	refusals chan struct{} // the fence has refused a client
	wake     chan struct{} // somebody has spoken
	changed  chan struct{} // there is something new to be said of this process

	mu      sync.Mutex
	rec     Record // the newest that was read
	route   router.Route
	state   fleet.State
	problem string
	beat    uint64
	over    bool      // the servers know of no migration any more: nothing is left there
	lost    bool      // they know of none, and it is not known where it has ended
	known   time.Time // when where commands go was known last
	filed   filed     // what the state file says
	unheard absence   // why the fleet does not hear of this process

	// What follows belongs to Run's goroutine that follows.
	heard    fleet.Word   // the newest that was obeyed
	prepared time.Time    // since when the clients are prepared for a switch; zero: they are not
	held     time.Time    // since when they wait
	looked   time.Time    // when the truth was read last
	alone    bool         // they wait because a fence has refused some, or nobody knows where they belong, and not because of a word
	aligned  uint64       // the switch for which the subscribers hear the other side; 0: none
	parked   bool         // some were refused, and why is not known yet
	kept     [2]uint64    // token and number of the record that the state file has
	hurries  bool         // it is saved beside, since clients wait or are about to
	beside   *store.Entry // what was saved so

	admissions [2]admissions // by router.Side
}

// NewMember returns a member that does nothing yet. The gate must be shut.
func NewMember(opt MemberOptions, log *slog.Logger) *Member {
	id := randomHex(8)
	m := &Member{
		cfg: opt.Config, opt: opt, log: log, traffic: opt.Traffic, id: id, name: memberName(opt.Config),
		refusals: make(chan struct{}, 1), wake: make(chan struct{}, 1), changed: make(chan struct{}, 1),
		state: fleet.Starting, problem: "where the applications' commands go is not known yet",
	}
	instance := memberInstance + id
	m.ids[router.Source] = newIdentity(router.Source, opt.Source, instance, opt.Config.Proxy.DialTimeout)
	m.ids[router.Target] = newIdentity(router.Target, opt.Target, instance, opt.Config.Proxy.DialTimeout)
	m.store = meet(opt.Meeting, m.ids[router.Target].first, m.migrationID, opt.Config.Proxy.DialTimeout)
	return m
}

// migrationID returns that of the migration, "" before it is known.
func (m *Member) migrationID() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rec.ID
}

// memberName is what people call the instance.
func memberName(c config.Config) string {
	if c.Instance != "" {
		return c.Instance
	}
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return fmt.Sprintf("%s:%d", host, os.Getpid())
}

// errNoMigration means that the servers know of none.
var errNoMigration = errors.New("the servers tell of no migration: start the sidecar that copies first (role: full); where it was completed, point the applications at their server and leave the sidecars out")

// errUndecided means that a switch is under way, or that nobody has begun one.
var errUndecided = errors.New("a switch is under way")

// Recover reads where the applications' commands go, and opens the gate to there. Until it
// returns, clients wait. An error means that this process must not serve.
func (m *Member) Recover(ctx context.Context) error {
	began := time.Now()
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := m.begin(ctx)
		if errors.Is(err, errUndecided) && time.Since(began) > m.patience() {
			err = m.failOpen(ctx, err)
		}
		if err == nil {
			return nil
		}
		var refused *Refused
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.As(err, &refused) {
			return err
		}
		if m.note(err.Error()) {
			m.log.Warn("clients wait: it is not known yet where their commands go", "error", err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// begin adopts what the servers say and lets the clients through.
func (m *Member) begin(ctx context.Context) error {
	for _, id := range m.ids {
		if id.url.Cluster != nil {
			return &Refused{[]string{"role: proxy is not made for a cluster yet: run one sidecar"}}
		}
		if id.url.Watched != nil {
			return &Refused{[]string{"role: proxy is not made for servers that sentinels watch yet: give the addresses of the servers, or run one sidecar"}}
		}
	}
	began := time.Now()
	r, err := m.read(ctx)
	if err != nil {
		return err
	}
	if err := m.mine(r); err != nil {
		return err
	}
	r = m.decidedBefore(r)
	route, ok := r.decided()
	m.noteKnown(began)
	m.mu.Lock()
	m.rec = r
	if !ok {
		m.route = router.Route{Side: r.Side, Epoch: r.Epoch, Map: mapOf(r)}
	}
	m.mu.Unlock()
	m.login(ctx, r)
	if !ok {
		return fmt.Errorf("%w (%s)", errUndecided, r.Phase)
	}
	return m.open(route)
}

func mapOf(r Record) router.DBMap {
	dm, _ := r.databases()
	return dm
}

// mine returns an error when a record is of another migration than this sidecar is set to,
// or was in before.
func (m *Member) mine(r Record) error {
	for side, stored := range map[router.Side]string{router.Source: r.Source, router.Target: r.Target} {
		if url := m.ids[side].url; stored != "" && !url.SamePlace(stored) {
			return &Refused{[]string{fmt.Sprintf("%s.url is %s, and the migration that its servers tell of (%s) has the %s at %s: give the same address to all sidecars", side, url, r.ID, side, stored)}}
		}
	}
	was, err := m.inFile()
	if was.id != "" && (was.id != r.ID || was.epoch > r.Epoch) { // who was told to move it away may have done so
		m.mu.Lock()
		m.filed = filed{}
		m.mu.Unlock()
		was, err = m.inFile()
	}
	switch {
	case err != nil:
		return err
	case was.id == "":
	case was.id != r.ID:
		return &Refused{[]string{fmt.Sprintf("the servers tell of migration %s, and the state file %s of %s: move it away, if that one is over", r.ID, m.opt.File.Path(), was.id)}}
	case was.epoch > r.Epoch:
		return fmt.Errorf("the servers have forgotten a switch: they tell of %d, and the state file %s of %d", r.Epoch, m.opt.File.Path(), was.epoch)
	}
	return nil
}

// filed is what mine asks of the state file, which nobody else writes: it is read once, and again
// where it is in the way.
type filed struct {
	id    string // of the migration; empty: the file was not read, or is none
	epoch uint64
}

func (m *Member) inFile() (filed, error) {
	m.mu.Lock()
	was := m.filed
	m.mu.Unlock()
	if was.id != "" {
		return was, nil
	}
	local, found, err := m.opt.File.Load()
	if err != nil || !found {
		return filed{}, err
	}
	r, err := decode(local)
	if err != nil {
		return filed{}, err
	}
	m.noteFiled(r)
	return filed{r.ID, r.Epoch}, nil
}

// noteFiled notes that the state file has a record; a newer one may be noted already.
func (m *Member) noteFiled(r Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.filed.id != r.ID || m.filed.epoch < r.Epoch {
		m.filed = filed{r.ID, r.Epoch}
	}
}

// read returns the newest record of the migration.
func (m *Member) read(ctx context.Context) (Record, error) {
	t, err := readTruth(ctx, m.ids)
	switch {
	case err != nil:
		return Record{}, err
	case !t.found && len(t.silent) > 0:
		return Record{}, fmt.Errorf("reading the control records: %w", errors.Join(t.silent...))
	case !t.found:
		return Record{}, errNoMigration
	}
	return t.rec, nil
}

// login becomes our own user where that is there: the fence spares it. Without it a member
// does with what the operator's user may.
func (m *Member) login(ctx context.Context, r Record) {
	if r.Sealed == "" {
		return
	}
	for side, id := range m.ids {
		if id.isOwn() || !r.Servers[side].User {
			continue
		}
		password, err := unseal(r.Sealed, [2]string{m.ids[router.Source].url.Password, m.ids[router.Target].url.Password})
		if err == nil {
			cctx, cancel := context.WithTimeout(ctx, id.timeout)
			err = id.enter(cctx, password)
			cancel()
		}
		if err != nil && m.note("our own user cannot be used: "+err.Error()) {
			m.log.Warn("our own user cannot be used: behind a fence, this sidecar may be unable to say anything", "server", id.url.String(), "error", err)
		}
	}
}

// patience is for how long a coordinator may say nothing in the middle of a switch.
func (m *Member) patience() time.Duration { return 2*m.cfg.Cutover.MaxStall + time.Second }

// failOpen lets clients go on where they were, if the server there has no fence: what it
// would have refused it refuses then (PROTOCOL §4). why is returned otherwise.
func (m *Member) failOpen(ctx context.Context, why error) error {
	m.mu.Lock()
	route := m.route
	m.mu.Unlock()
	if err := m.against(route); err != nil {
		return err
	}
	fenced, err := m.fenced(ctx, route.Side)
	switch {
	case err != nil:
		return fmt.Errorf("%w, and whether the %s is fenced is not known: %w", why, route.Side, err)
	case fenced:
		return fmt.Errorf("%w, and the %s is fenced: whoever coordinates has to finish it", why, route.Side)
	}
	m.log.Warn("a switch goes on for long and nobody says how it ends: clients go on where they were, which is not fenced", "side", route.Side)
	return m.open(route)
}

// fenced reports whether a server refuses the operator's own user what any user may do. Where
// there is no user of ours, the fence spares the operator's, and the record has to say so.
func (m *Member) fenced(ctx context.Context, side router.Side) (bool, error) {
	m.mu.Lock()
	kept := m.rec.Servers[side]
	m.mu.Unlock()
	if sparesOperator(m.ids[side], kept) {
		return kept.Fence != nil && kept.Fence.Raised, nil
	}
	return m.refuses(ctx, side)
}

// sparesOperator reports whether a fence lets the user of the operator's URL do everything,
// because there is none of ours.
func sparesOperator(id *identity, kept Kept) bool {
	user := id.url.Username
	return !kept.User && user != "" && user != "default"
}

// refuses is fenced where the fence does not spare who asks.
func (m *Member) refuses(ctx context.Context, side router.Side) (bool, error) {
	id := m.ids[side]
	p := id.Pool().Like(id.url, memberInstance+m.id+":"+side.String()+":fence", id.timeout)
	defer func() { _ = p.Close() }()
	ctx, cancel := context.WithTimeout(ctx, id.timeout)
	defer cancel()
	err := p.DB(0).Exists(ctx, store.RecordKey).Err()
	if errorPrefix(err, "NOPERM") {
		return true, nil
	}
	return false, err
}

// open lets clients through to a route. It is kept first: a restart never goes back. Where
// they were, they go on only if nothing is against it.
func (m *Member) open(route router.Route) error {
	m.mu.Lock()
	r := m.rec
	m.mu.Unlock()
	m.keep(r)
	m.traffic.Release(route)
	m.mu.Lock()
	moved := m.route.Side != route.Side || m.state == fleet.Starting
	m.route, m.state, m.problem = route, fleet.Open, ""
	m.mu.Unlock()
	m.held, m.prepared, m.alone, m.parked = time.Time{}, time.Time{}, false, false
	if moved {
		m.log.Info("the clients' commands go to the "+route.Side.String(), "epoch", route.Epoch)
	}
	m.tellOfChange()
	return nil
}

func (m *Member) tellOfChange() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// note keeps what is wrong; false: it was known.
func (m *Member) note(problem string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.problem
	m.problem = problem
	return was != problem
}

func (m *Member) setState(s fleet.State) {
	m.mu.Lock()
	m.state = s
	m.mu.Unlock()
	m.tellOfChange()
}

func (m *Member) now() (router.Route, fleet.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.route, m.state
}

// MasterMoved is for servers that sentinels watch, of which there are none.
func (m *Member) MasterMoved(router.Side, string, string) {}

// RefusedByFence says that a server has refused clients what a fence denies them, so that
// the truth is to be read. It returns at once.
func (m *Member) RefusedByFence() {
	select {
	case m.refusals <- struct{}{}:
	default:
	}
}
