package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/audit"
)

// Time limits towards a client. None of them bounds a verb: a verification of a
// hundred million keys may take its hour.
const (
	headerTimeout = 10 * time.Second // to send the request's head, and then its body
	writeTimeout  = 10 * time.Second // to take the reply
	idleTimeout   = 2 * time.Minute
	stopTimeout   = 5 * time.Second // to take the last replies when we stop
)

// Options are a server's collaborators and settings.
type Options struct {
	Config   config.Admin
	Operator Operator
	// Audit is told of each verb; nil: it is not.
	Audit *audit.Log
	// Meter may be nil: there are no numbers of the proxy then.
	Meter   Meter
	Version string
	// Serving reports whether clients of the proxy are served: /readyz, and the
	// verbs that change something wait for it.
	Serving func() bool
}

// Server answers the verbs. Use New, Listen, Serve, in this order, once each.
type Server struct {
	opt      Options
	log      *slog.Logger
	network  string
	listener net.Listener

	// verbs counts those under way. They run under the server's context and not
	// under their request's: a cutover goes on when who asked for it has gone.
	verbs   sync.WaitGroup
	mu      sync.Mutex // guards closing, and verbs.Add against verbs.Wait
	closing bool
	verbCtx context.Context
	stop    context.CancelCauseFunc
}

// New returns a server that does not listen yet.
func New(opt Options, log *slog.Logger) *Server {
	s := &Server{opt: opt, log: log}
	s.verbCtx, s.stop = context.WithCancelCause(context.Background())
	return s
}

// Listen takes the address. The error names it and says what would help.
func (s *Server) Listen(ctx context.Context) error {
	network, address, err := config.SplitAddress(s.opt.Config.Address)
	if err != nil {
		return fmt.Errorf("admin.address: %w", err)
	}
	s.network = network
	if network == "unix" {
		s.listener, err = listenUnix(ctx, address)
	} else {
		var lc net.ListenConfig
		s.listener, err = lc.Listen(ctx, "tcp", address)
	}
	if err != nil {
		return fmt.Errorf("listening for the operator on %s: %w; give another place with --admin", s.opt.Config.Address, err)
	}
	return nil
}

// Addr returns where the server listens, as --admin takes it. Only after Listen.
func (s *Server) Addr() string {
	if s.network == "unix" {
		return "unix:" + s.listener.Addr().String()
	}
	return s.listener.Addr().String()
}

// Close gives the address free without Serve having run. After Serve it does nothing.
func (s *Server) Close() {
	s.stop(ErrStopping)
	if s.listener != nil {
		_ = s.listener.Close()
	}
}

// Serve answers until ctx ends. Then verbs under way see their context end with
// ErrStopping, what they answer is still delivered, and Serve returns when they
// have; the socket file is gone by then. The error is that of a broken listener.
func (s *Server) Serve(ctx context.Context) error {
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan struct{})
	var broken error // once ended
	go func() {
		defer close(ended)
		broken = server.Serve(s.listener)
	}()
	select {
	case <-ctx.Done():
	case <-ended:
	}
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.stop(ErrStopping)
	s.verbs.Wait()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		_ = server.Close() // somebody does not read what was answered
	}
	<-ended
	if !errors.Is(broken, http.ErrServerClosed) {
		return fmt.Errorf("serving the operator on %s: %w", s.opt.Config.Address, broken)
	}
	return nil
}

// begin counts a verb in; false when the server stops.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.verbs.Add(1)
	return true
}
