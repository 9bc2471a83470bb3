// Package proxy speaks Redis to clients and passes their commands to the server that the router's gate leads to.
// It owns the clients' connections, what each of them has told its server, and how that is said again after a switch.
// It never decodes a value, never decides which side is right, and never answers for a server that has not.
package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/internal/elements"
	"github.com/crossfade/crossfade/internal/epoll"
	"github.com/crossfade/crossfade/router"
)

// Upstream is one side as the proxy reaches it. Username and Password are the
// credentials of the operator's URL, which belong together as those of an Identity do.
type Upstream struct {
	Dial               func(ctx context.Context) (net.Conn, error)
	Username, Password string

	// Nameless says that the server lists all connections of ours with one address, as it
	// does those to its unix socket: each is asked for its id once it is made.
	Nameless bool

	// Admit is asked about each connection to the side once it is set up, and before a
	// command of a client is sent on it. Its error is why it is not used. So whoever first
	// has Admit say no and then closes the connections that are there has none left of
	// ours. nil: all are used. It is called concurrently.
	Admit func(ctx context.Context) error
}

// Observer hears of what keyspace notifications do not tell. Each call comes
// after the reply, or after the outcome became unknown, and before the command
// leaves the gate. Calls are concurrent and must not block. Database numbers are
// the clients', so the source's.
type Observer interface {
	// Silent names keys whose value may have changed without a notification.
	Silent(db int, keys ...string)
	// Changed names keys that a module's command may have changed in any way, and of
	// which there may be no notification.
	Changed(db int, keys ...string)
	// Flushed says that a database was emptied, or all (-1).
	Flushed(db int)
	// Swapped says that two databases were exchanged.
	Swapped(a, b int)
	// Functions says that the server's functions may have changed.
	Functions()
}

// Config of a Server. Zero durations mean: 5 s to dial, 10 s to shut down.
type Config struct {
	Listen          []Listen    // none: nobody is served
	TLS             *tls.Config // for the addresses that speak TLS
	Headers         Headers     // of the PROXY protocol
	MaxClients      int         // 0 means no limit
	DialTimeout     time.Duration
	ShutdownTimeout time.Duration
	ScriptCache     int // script bodies kept, of 64 MiB at most; 0 means 1000

	// Shared has the plain commands of many clients travel on shared upstream
	// connections. Without it, or where the system has no epoll, each client has a
	// connection of its own. Loops is how many threads serve plain commands (0: by
	// the number of cores).
	Shared bool
	Loops  int

	// SlowLogEntries is how many slow commands are remembered, 0 for none. A command
	// is slow that takes SlowLogSlowerThan or more: all are at 0, none below it.
	SlowLogEntries    int
	SlowLogSlowerThan time.Duration
	// UpstreamTimeout is how long a server may leave a command unanswered, and say
	// nothing else, before the connection is given up and its clients are closed. A
	// command that blocks may wait for as long as it says itself. 0 means for ever,
	// as without a proxy.
	UpstreamTimeout time.Duration

	// OutputLimit is how many bytes may wait for a client that does not read its
	// replies before it is closed; 0 means 256 MiB. QueryLimit is how many bytes of
	// one command are kept of a client before it is closed; 0 means 1 GiB. MaxMemory
	// bounds what the buffers of all clients hold together: past it those that hold
	// most are closed; 0 means no bound. It is looked at 50 times a second.
	// OutputTimeout is how long a client may take nothing of the replies that wait
	// for it before it is closed; 0 means for ever.
	OutputLimit   int
	OutputTimeout time.Duration
	QueryLimit    int
	MaxMemory     int

	// MaxBulk is how many bytes one argument may have: the servers' proto-max-bulk-len.
	// 0 means 512 MiB.
	MaxBulk int

	Upstreams [2]Upstream // indexed by router.Side

	// Identities are clients whom the servers know by different names. What nobody
	// of them says goes to the server as it is; with Users nobody else is let in.
	Identities []Identity
	Users      bool

	// Unblock runs CLIENT UNBLOCK id ERROR for each id, under an identity of our
	// own. Without it, clients that block are closed by a Hold.
	Unblock func(ctx context.Context, side router.Side, ids []int64) error

	// Refused is called when a server has refused commands as a fence does: they, and what
	// follows of their clients, wait for a Release or a Retry. It must not block. nil: clients
	// get what the server says.
	Refused func()

	// Locate returns the server's ids of its connections by their other end's address,
	// under an identity of our own, for clients that may not ask for theirs. Without it
	// such clients are closed by a Hold when they block.
	Locate func(ctx context.Context, side router.Side) (map[string]int64, error)

	lateAfter      time.Duration // 0 means the constant; tests have less patience
	streamPatience time.Duration // the same
}

// Server accepts clients. Make one with New, then Listen, then Serve.
type Server struct {
	cfg  Config
	gate *router.Gate

	identities []Identity
	obs        Observer
	writes     WriteObserver // nil when the observer is none
	elements   ElementObserver
	log        *slog.Logger

	scripts  *scripts
	turns    turns // of those who block
	names    names
	counters map[string]*counter
	learning sync.Mutex
	learned  atomic.Pointer[map[string]*spec] // commands that are not in the table, by name

	commands, received, sent, accepted, refused, overflowed atomic.Int64
	failed                                                  [2]atomic.Int64 // attempts to connect in vain, by router.Side

	base     time.Time // of the clocks
	measures [8]sharedMeasure
	slow     slowLog

	listeners []*listener
	stopping  context.Context // ends when no new work is taken
	stop      context.CancelFunc
	killed    context.Context // ends when all that is left is closed
	kill      context.CancelFunc
	serving   sync.WaitGroup

	loops []*loop // none when nothing is shared
	pool  pool    // of pinned connections between two uses

	shadows shadows

	rounds rounds // of saying again what a fence has refused

	dampers    [2]damper // by router.Side
	complaints complaints
	refusals   complaints // of those that say no TLS, or no PROXY header

	switching sync.Mutex                   // one of Prepare, Hold, Align, Release at a time
	whole     atomic.Bool                  // a switch is near: no command is begun before it has come whole
	armed     atomic.Pointer[router.Route] // where sessions are prepared to go; nil: no switch is near
	stayUntil atomic.Int64                 // see staying; by clock
	streaming atomic.Int64                 // commands that are being passed on piecewise
	grace     atomic.Int64

	mu       sync.Mutex
	clients  int // all, those of the loops included
	sessions map[*session]struct{}
	links    map[*link]struct{}
	severed  [2]int // by router.Side, see Sever
	nextID   uint64
	stalls   []time.Duration
	left     []*link // by sessions, to be closed
}

// New checks the configuration. It starts nothing.
func New(cfg Config, gate *router.Gate, obs Observer, log *slog.Logger) (*Server, error) {
	var errs []error
	for _, side := range []router.Side{router.Source, router.Target} {
		if cfg.Upstreams[side].Dial == nil {
			errs = append(errs, fmt.Errorf("configuring the proxy: no way to dial the %s", side))
		}
	}
	if cfg.TLS == nil && slices.ContainsFunc(cfg.Listen, func(a Listen) bool { return a.TLS }) {
		errs = append(errs, errors.New("configuring the proxy: no certificate for the addresses that speak TLS"))
	}
	if gate == nil || obs == nil || log == nil {
		errs = append(errs, errors.New("configuring the proxy: gate, observer and logger are needed"))
	}
	if cfg.DialTimeout <= 0 {
		cfg.DialTimeout = 5 * time.Second
	}
	if cfg.ShutdownTimeout <= 0 {
		cfg.ShutdownTimeout = 10 * time.Second
	}
	if cfg.OutputLimit <= 0 {
		cfg.OutputLimit = outboxMax
	}
	if cfg.QueryLimit <= 0 {
		cfg.QueryLimit = queryLimit
	}
	if cfg.ScriptCache <= 0 {
		cfg.ScriptCache = 1000
	}
	if cfg.lateAfter <= 0 {
		cfg.lateAfter = lateAfter
	}
	if cfg.streamPatience <= 0 {
		cfg.streamPatience = streamPatience
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	scripts, err := newScripts(cfg.ScriptCache)
	if err != nil {
		return nil, fmt.Errorf("configuring the proxy: %w", err)
	}
	s := &Server{cfg: cfg, gate: gate, obs: obs, log: log, scripts: scripts, identities: identitiesOf(cfg),
		counters: newCounters(), sessions: make(map[*session]struct{}), links: make(map[*link]struct{}),
		base: time.Now(), slow: newSlowLog(cfg.SlowLogEntries, cfg.SlowLogSlowerThan)}
	s.writes, _ = obs.(WriteObserver)
	s.elements, _ = obs.(ElementObserver)
	s.shadows.obs, _ = obs.(ShadowObserver)
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.killed, s.kill = context.WithCancel(context.Background())
	return s, nil
}

// Serve accepts clients until ctx ends, lets what is in flight finish for up to
// ShutdownTimeout, and returns when all its goroutines have. The error is nil
// after a stop by ctx. A Server serves once.
func (s *Server) Serve(ctx context.Context) error {
	if len(s.listeners) == 0 && len(s.cfg.Listen) > 0 {
		return errors.New("serving: Listen was not called")
	}
	if err := s.startLoops(); err != nil {
		return err
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		s.watch()
	}()
	err := s.accept(ctx)
	timer := time.AfterFunc(s.cfg.ShutdownTimeout, s.kill)
	stopKill := context.AfterFunc(s.killed, s.closeClients)
	for _, l := range s.eventLoops() {
		l.stop()
	}
	for _, sess := range s.snapshotSessions() {
		sess.poke()
	}
	s.serving.Wait()
	timer.Stop()
	stopKill()
	s.kill()
	<-watched
	s.pool.close(nil)
	return err
}

// Threads is how many threads of their own the event loops need while they are
// busy: what else the process does needs a GOMAXPROCS that is larger by as many.
func (s *Server) Threads() int {
	switch {
	case !epoll.Supported:
		return 0
	case s.cfg.Loops > 0:
		return s.cfg.Loops
	case !s.cfg.Shared: // nothing is to be gained by having many clients in one
		return max(1, min(8, runtime.NumCPU()))
	}
	return max(1, min(4, runtime.NumCPU()/4))
}

// startLoops begins the loops, where connections are shared.
func (s *Server) startLoops() error {
	loops := make([]*loop, s.Threads())
	for i := range loops {
		l, err := newLoop(s)
		if err != nil {
			for _, made := range loops[:i] {
				made.poll.Close()
			}
			return fmt.Errorf("starting to serve: %w", err)
		}
		loops[i] = l
	}
	s.mu.Lock()
	s.loops = loops
	s.mu.Unlock()
	for _, l := range loops {
		s.serving.Go(l.run)
	}
	return nil
}

func (s *Server) eventLoops() []*loop {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loops
}

// enlist begins a session.
func (s *Server) enlist(sess *session) {
	s.mu.Lock()
	s.sessions[sess] = struct{}{}
	s.mu.Unlock()
	s.serving.Go(sess.run)
	if s.stopping.Err() != nil {
		sess.poke()
	}
}

// clientGone counts a client out.
func (s *Server) clientGone() {
	s.mu.Lock()
	s.clients--
	s.mu.Unlock()
}

// closeClients ends whatever a stop has not.
func (s *Server) closeClients() {
	for _, l := range s.eventLoops() {
		l.kill()
	}
	for _, sess := range s.snapshotSessions() {
		sess.close()
	}
}

// close cuts a session off; its goroutines notice and end.
func (s *session) close() {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	_ = s.conn.Close()
	if l != nil {
		l.close()
	}
	s.poke()
}

func (s *Server) snapshotSessions() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*session, 0, len(s.sessions))
	for sess := range s.sessions {
		out = append(out, sess)
	}
	return out
}

func (s *Server) remove(sess *session) {
	s.mu.Lock()
	delete(s.sessions, sess)
	s.mu.Unlock()
}

// wantsWrites reports whether somebody wants to hear of writes now.
func (s *Server) wantsWrites() bool { return s.writes != nil && s.writes.WantsWrites() }

// books returns the books of the keys of a side whose elements somebody wants to hear
// of, nil when there are none.
func (s *Server) books(side router.Side) *elements.Keys {
	if s.elements == nil {
		return nil
	}
	if keys := s.elements.Elements(); keys.Any(side) {
		return keys
	}
	return nil
}

func (s *Server) addLink(l *link) {
	s.mu.Lock()
	s.links[l] = struct{}{}
	s.mu.Unlock()
}

func (s *Server) dropLink(l *link) {
	s.mu.Lock()
	delete(s.links, l)
	s.mu.Unlock()
}
