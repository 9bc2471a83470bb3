package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/internal/prefix"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
	"github.com/tidwall/redcon"
)

const (
	batchSize = 64 << 10    // bytes gathered for one write to the upstream
	readAhead = 64 << 20    // bytes read from a client while its command blocks
	itemBytes = 64 << 20    // of commands in flight that are more than plain, with what is noted of each
	stuckFor  = time.Second // after which a client that can send no more is not waited for to read
	lingerFor = time.Minute // how long a client that has hung up keeps its upstream for its last replies
	closeFor  = 5 * time.Second
)

var (
	errClientGone   = errors.New("the client has hung up")
	errUpstreamGone = errors.New("the upstream has closed the connection")
	errStopping     = errors.New("the proxy is stopping")
	errUnmovable    = errors.New("the connection cannot be moved")
	errHome         = errors.New("the connection is shared again")
	errTooMuch      = errors.New("the client has sent too much of one command")
	errTooLong      = errors.New("a reply that has to be looked at as a whole is longer than proxy.output_limit")
	errClosing      = errors.New("the connection is to be closed")
)

// session is one client. Its own goroutine reads and forwards; the reader of its
// link answers. Fields above mu belong to the session's goroutine.
type session struct {
	srv   *Server
	id    uint64
	conn  net.Conn
	where string // the client's address, when conn does not tell that
	out   *outbox

	in       resp.Requests
	wbuf     []byte
	route    router.Route
	ticket   bool // inside the gate, not handed to an item yet
	multi    bool // the commands sent so far end inside a transaction
	queuedIn int  // 1 + the database that a SELECT in it has gone to; 0: none
	hearing  bool // it subscribes to something
	prefixed bool // some keys have other names where it is
	noDB     bool // the current database is not in the map
	quit     bool
	eof      bool
	unsure   bool // whether the client has to authenticate is being asked
	pushed   bool // something more than plain was put in flight
	waitFrom time.Time
	wasHeld  bool  // at the gate, since the client was read last
	readAt   int64 // when it was read from last
	cur      call  // the command that is being forwarded
	curSpec  *spec // … its row
	curArgs  [][]byte
	curRaw   []byte // … as the client wrote it
	rewriter prefix.Rewriter
	scratch  []byte // for a command as it is written

	taken   uint64 // by the client, when the watch looked last
	takenAt time.Time

	own      *link     // brought along, until it is connected
	home     *loop     // where it goes when it needs no connection of its own; nil: nowhere
	pinnedAt time.Time // when it last needed one

	reading  atomic.Int64 // bytes kept for what the client has sent
	wakeup   chan struct{}
	streams  atomic.Bool  // a command is being passed on piecewise
	starved  atomic.Int64 // since when that waits for more of the client, by clock; 0: it does not
	crossing atomic.Bool
	stuffed  atomic.Bool // its replies are kept in memory until it has caught up with them
	move     atomic.Pointer[move]

	mu         sync.Mutex
	st         state
	fifo       fifo
	link       *link
	warm       *link // ready on the other side, without what full setup adds
	ahead      *link // ready on the other side, with all
	upID       int64 // CLIENT ID on link, 0 while unknown
	mute       bool  // CLIENT REPLY OFF
	skip       bool
	skipNext   bool
	justCached bool
	mid        bool // the upstream is in the middle of an element
	collected  int  // bytes kept of that until it is whole
	raw        bool
	down       bool // the upstream is lost
	ended      bool
	heard      time.Time // when the upstream last spoke, or was first waited for; kept only where it matters
	heavy      bool      // a large reply came since this was last looked at
	kept       bool      // the client knows which connection it has, or has told the server what a shared one must not hold
	waitsEmpty bool
	told       bool // that what it remembers may have changed, for the switch that is under way
	doubtful   bool // a HELLO was refused that may have been obeyed in part
	letIn      bool // a server has taken a command of the client, so it has let it in
	aside      aside
	asideIn    uint64 // the round in which something was set aside
}

func newSession(srv *Server, id uint64, conn net.Conn) *session {
	s := &session{srv: srv, id: id, conn: conn, st: newState(), wakeup: make(chan struct{}, 1), readAt: srv.clock()}
	s.in.Bulk = srv.cfg.MaxBulk
	s.out = newOutbox(conn, srv.cfg.OutputLimit, s.hurry, func() { _ = conn.Close() }, s.overflow)
	return s
}

func (s *session) log() *slog.Logger { return s.srv.log.With("client", s.peer()) }

// overflow notes that the client is closed because too much waits for it.
func (s *session) overflow() {
	s.srv.overflowed.Add(1)
	s.log().Warn("closing a client that does not read its replies", "more_than", s.srv.cfg.OutputLimit)
}

// peer names the client for logs and errors. A socket whose peer has reset it has
// no remote address any more.
func (s *session) peer() string {
	if s.where != "" {
		return s.where
	}
	if addr := s.conn.RemoteAddr(); addr != nil && addr.Network() != "unix" {
		return addr.String()
	}
	return fmt.Sprintf("number %d", s.id)
}

func (s *session) hurry() bool {
	return s.crossing.Load() || s.stuffed.Load() || s.move.Load() != nil || s.srv.gate.IsShut()
}

// poke makes the session's goroutine look at what has changed.
func (s *session) poke() {
	select {
	case s.wakeup <- struct{}{}:
	default:
	}
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
}

// run serves the client until either side is gone.
func (s *session) run() {
	err := s.serve()
	if errors.Is(err, errHome) {
		return
	}
	switch {
	case errors.Is(err, errTooMuch):
		s.log().Warn("closing a client", "err", err)
	case errors.Is(err, errUpstreamGone), errors.Is(err, errUnmovable):
		s.log().Debug("closing a client", "err", err)
	}
	s.end()
	s.srv.clientGone()
}

func (s *session) serve() error {
	s.out.kick() // what it brings along waits for nobody
	err := s.connect()
	for err == nil {
		err = s.commands()
		if err == nil {
			err = s.flushUp()
		}
		s.waitFrom, s.wasHeld = time.Time{}, false // it may have been answered without the upstream
		s.out.kick()
		if s.stuffed.Load() && s.out.idle() {
			s.stuffed.Store(false)
		}
		if s.srv.cfg.Users && !s.isAuthed() {
			s.out.room(strangerHas)
		}
		switch {
		case err != nil:
		case s.isRaw():
			err = s.pipe()
		case s.eof, s.quit:
			err = s.settleDown()
		default:
			err = s.read()
		}
	}
	return err
}

// connect makes the first upstream connection, once the gate is open.
func (s *session) connect() error {
	from := time.Now()
	for {
		route, open := s.srv.gate.TryEnter()
		if !open {
			s.wasHeld = true
			var err error
			if route, err = s.srv.gate.Enter(s.srv.stopping); err != nil {
				return err
			}
		}
		s.srv.gate.Leave()
		if s.srv.waitedInVain(time.Since(from), s.hungUp) {
			return errClientGone
		}
		l, err := s.pooled(route)
		if l == nil {
			l, err = s.fresh(s.srv.killed, s.srv.reachDamped, route, whole)
		}
		if err != nil {
			s.srv.cannotConnect(err)
			s.refuseClient(err)
			return err
		}
		if s.srv.gate.Route().Side != route.Side {
			l.close()
			continue
		}
		if s.srv.waitedInVain(time.Since(from), s.hungUp) {
			l.close()
			return errClientGone
		}
		s.adopt(l)
		s.prepareLate()
		return nil
	}
}

// refuseClient tells the client what the server said, if it said anything.
func (s *session) refuseClient(err error) {
	s.mu.Lock()
	mid := s.mid || !s.fifo.empty()
	s.mu.Unlock()
	if mid {
		return
	}
	var refused *setupError
	if errors.As(err, &refused) && refused.greeting() {
		s.out.append([]byte("-" + refused.answer + "\r\n"))
	} else {
		s.out.append(clientError(err))
	}
	s.out.flush()
}

// adopt makes l the session's upstream and starts its reader. Nothing else reads
// an upstream of this session.
func (s *session) adopt(l *link) {
	s.mu.Lock()
	s.link, s.upID = l, l.listed.Load()
	_, mapped := l.route.DB(s.st.db)
	s.mid, s.doubtful = false, false
	s.queuedIn = s.st.queuedIn()
	s.mu.Unlock()
	if l.severed.Load() { // since before it could be seen here
		l.close()
	}
	s.route, s.prefixed = l.route, prefixed(l.route)
	s.noDB = !mapped
	l.done = make(chan struct{})
	go (&reader{s: s, l: l}).loop()
}

// read waits for bytes of the client, and moves the session when asked to.
func (s *session) read() error {
	for {
		if s.home != nil && s.mayGoHome() {
			// A poke that comes after this ends the wait, one before it is seen below.
			_ = s.conn.SetReadDeadline(time.Now().Add(quietFor))
		}
		if s.hasAside() {
			return s.sayAgain()
		}
		if s.isDown() {
			return errUpstreamGone
		}
		if s.srv.stopping.Err() != nil {
			_ = s.awaitEmpty()
			return errStopping
		}
		if s.move.Load() != nil {
			if err := s.moveIdle(); err != nil {
				return err
			}
		}
		between := s.in.Buffered() == 0 // two commands, with nothing of the next one here
		if between && s.goHome() {
			return errHome
		}
		got, err := s.readOnce()
		if got && err == nil && between && s.move.Load() == nil && s.goHome() {
			// A client that asks again as soon as it is answered is never seen idle
			// but here, and takes along what it asks.
			return errHome
		}
		if got || err != nil {
			return err
		}
	}
}

// commands forwards all whole commands that came.
func (s *session) commands() error {
	s.mu.Lock()
	if s.fifo.empty() { // what was sent may have been refused: MULTI, EXEC
		s.multi = s.st.multi
	}
	s.mu.Unlock()
	for !s.quit && !s.isRaw() {
		if s.hasAside() {
			if err := s.sayAgain(); err != nil {
				return err
			}
		}
		// Before the next command is looked at: while it waits here, what follows is read.
		if err := s.makeRoom(); err != nil {
			return err
		}
		s.narrow()
		req, ok, err := s.in.Next()
		var bad resp.ProtocolError
		switch {
		case errors.As(err, &bad):
			_ = s.awaitEmpty()
			s.mu.Lock()
			if !s.mid && !s.down && !s.mute && !s.skip {
				s.out.append(bad.Reply())
			}
			s.mu.Unlock()
			return errClosing
		case err != nil: // Redis says nothing either
			_ = s.awaitEmpty()
			return errClosing
		case !ok:
			if again, err := s.limit(); err != nil {
				return err
			} else if again {
				continue
			}
			streamed, err := s.stream()
			if err != nil {
				return err
			}
			if streamed {
				continue
			}
			return nil
		}
		cmd := redcon.Command{Raw: req.Raw, Args: req.Args}
		if req.Inline {
			cmd.Raw = wireOf(req.Args...)
		}
		if err := s.command(cmd); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) command(cmd redcon.Command) error {
	s.srv.commands.Add(1)
	if err := s.enter(); err != nil {
		return err
	}
	if s.mayRead() {
		cmd.Raw, cmd.Args = bytes.Clone(cmd.Raw), cloneArgs(cmd.Args)
	}
	err := s.due()
	if err == nil {
		err = s.dispatch(cmd)
	}
	s.leave()
	return err
}

// enter passes the gate, waiting there if need be, and crosses to the side it
// leads to.
func (s *session) enter() error {
	route, ok := s.srv.gate.TryEnter()
	var from time.Time // since when the command is held
	if !ok {
		if err := s.flushUp(); err != nil {
			return err
		}
		s.out.kick()
		from, s.wasHeld = time.Now(), true
		var err error
		if route, err = s.srv.gate.Enter(s.srv.stopping); err != nil {
			return err
		}
		if s.srv.waitedInVain(time.Since(from), s.hungUp) {
			s.srv.gate.Leave()
			return errClientGone
		}
		if s.waitFrom.IsZero() {
			s.waitFrom = from
		}
	}
	s.ticket = true
	if from.IsZero() && s.route.Side != route.Side {
		from = time.Now()
	}
	err := s.follow(route)
	if err == nil && !from.IsZero() && s.srv.waitedInVain(time.Since(from), s.hungUp) {
		err = errClientGone // the other server has taken its time
	}
	if err != nil {
		s.leave()
	}
	return err
}

// follow brings the session to where a route leads.
func (s *session) follow(route router.Route) error {
	if s.route.Side != route.Side {
		return s.cross(route)
	}
	if s.route.Epoch != route.Epoch || !s.route.Map.Equal(route.Map) {
		s.route, s.prefixed = route, prefixed(route)
		s.mu.Lock()
		s.link.route = route
		s.mu.Unlock()
	}
	s.moved()
	return nil
}

// hungUp looks whether the client has closed its end.
func (s *session) hungUp() bool { return hungUp(s.conn) }

// leave gives the ticket back if no item took it.
func (s *session) leave() {
	if s.ticket {
		s.ticket = false
		s.srv.gate.Leave()
	}
}

// flushUp writes what was gathered to the upstream.
func (s *session) flushUp() error {
	if len(s.wbuf) == 0 {
		return nil
	}
	b := s.wbuf
	s.wbuf = b[:0]
	if cap(b) > 4*batchSize {
		s.wbuf = nil
	}
	if !s.waitFrom.IsZero() {
		s.srv.stalled(time.Since(s.waitFrom))
		s.waitFrom = time.Time{}
	}
	s.mu.Lock()
	s.fifo.calls.pass(s.srv.clock())
	s.mu.Unlock()
	return s.write(b)
}

// write writes to the upstream. When that fails, what it said before is awaited.
func (s *session) write(b []byte) error {
	if _, err := s.link.conn.Write(b); err != nil {
		timer := time.AfterFunc(time.Second, func() {
			s.link.close()
			s.out.within(closeFor) // its reader may be waiting for the client
		})
		defer timer.Stop()
		<-s.link.done
		return errUpstreamGone
	}
	return nil
}

// send gathers bytes for the upstream; large ones go at once.
func (s *session) send(b []byte) error {
	if len(b) > batchSize {
		s.wbuf = append(s.wbuf, b[:1]...) // one byte, so that flushUp accounts for the wait
		if err := s.flushUp(); err != nil {
			return err
		}
		return s.write(b[1:])
	}
	s.wbuf = append(s.wbuf, b...)
	if len(s.wbuf) >= batchSize {
		return s.flushUp()
	}
	return nil
}

func (s *session) isDown() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

func (s *session) isRaw() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raw
}

func (s *session) mapsChannels(l *link) bool {
	return l.route.Rewrites() && !l.route.Map.IsWhole()
}

// end closes everything. The gate is left by all that was inside.
func (s *session) end() {
	s.leave()
	s.out.within(closeFor)
	s.mu.Lock()
	s.ended = true
	links := []*link{s.link, s.warm, s.ahead, s.own}
	s.warm, s.ahead = nil, nil
	s.mu.Unlock()
	for _, l := range links {
		if l != nil {
			l.close()
		}
	}
	if links[0] != nil {
		<-links[0].done
	}
	s.out.finish()
	_ = s.conn.Close()
	s.srv.sent.Add(s.out.bytes())
	s.mu.Lock()
	effects := s.st.effects
	s.st.effects = nil
	s.track(nil)
	s.srv.names.end(s.st.named)
	s.mu.Unlock()
	for _, q := range effects {
		s.srv.uncount(q)
	}
	s.srv.remove(s)
	s.moved()
}
