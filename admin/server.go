package admin

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/crossfade/crossfade/admin/web"
	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/internal/tracing"
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
	// Tracer makes a span of each verb; nil: there are none.
	Tracer trace.Tracer
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
	web      net.Listener // for browsers besides; nil: none
	secure   map[net.Listener]bool
	guesses  *guesses
	page     http.Handler
	nonce    string // what requests of our page know, see guard
	watch    *watch

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
	if opt.Tracer == nil {
		opt.Tracer = tracing.Off()
	}
	s := &Server{opt: opt, log: log, page: web.Handler(), nonce: rand.Text(), secure: map[net.Listener]bool{}, guesses: newGuesses()}
	s.watch = newWatch(s.moment)
	s.verbCtx, s.stop = context.WithCancelCause(context.Background())
	return s
}

// Listen takes the address. The error names it and says what would help.
func (s *Server) Listen(ctx context.Context) error {
	if err := s.opt.Config.CheckServing(); err != nil {
		return err
	}
	network, address, secure, err := config.SplitDoor(s.opt.Config.Address)
	if err != nil {
		return fmt.Errorf("admin.address: %w", err)
	}
	s.network = network
	if network == "unix" {
		s.listener, err = listenUnix(ctx, address)
	} else {
		s.listener, err = s.listenTCP(ctx, address, secure)
	}
	if err != nil {
		return fmt.Errorf("listening for the operator on %s: %w; give another place with --admin", s.opt.Config.Address, err)
	}
	if s.opt.Config.Web == "" {
		return nil
	}
	_, address, secure, err = config.SplitDoor(s.opt.Config.Web)
	if err == nil {
		s.web, err = s.listenTCP(ctx, address, secure)
	}
	if err != nil {
		_ = s.listener.Close()
		return fmt.Errorf("listening for browsers on %s: %w; give another place with --admin.web", s.opt.Config.Web, err)
	}
	return nil
}

// listenTCP takes a port, with TLS where that is wanted.
func (s *Server) listenTCP(ctx context.Context, address string, secure bool) (net.Listener, error) {
	var settings *tls.Config
	if secure {
		var err error
		if settings, err = s.opt.Config.ServerTLS(s.log); err != nil {
			return nil, err
		}
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", address)
	if err != nil || !secure {
		return l, err
	}
	l = tls.NewListener(l, settings)
	s.secure[l] = true
	return l, nil
}

// scheme is how a browser asks at a listener.
func (s *Server) scheme(l net.Listener) string {
	if s.secure[l] {
		return "https://"
	}
	return "http://"
}

// Page returns where a browser finds the dashboard, "" where only a unix socket leads
// there. Only after Listen.
func (s *Server) Page() string {
	switch {
	case s.web != nil:
		return s.scheme(s.web) + s.web.Addr().String() + "/"
	case s.network == "tcp":
		return s.scheme(s.listener) + s.listener.Addr().String() + "/"
	}
	return ""
}

// Addr returns where the server listens, as --admin takes it. Only after Listen.
func (s *Server) Addr() string {
	if s.network == "unix" {
		return "unix:" + s.listener.Addr().String()
	}
	if s.secure[s.listener] {
		return "tls://" + s.listener.Addr().String()
	}
	return s.listener.Addr().String()
}

// Close gives the address free without Serve having run. After Serve it does nothing.
func (s *Server) Close() {
	s.stop(ErrStopping)
	for _, l := range s.listeners() {
		_ = l.Close()
	}
}

func (s *Server) listeners() (list []net.Listener) {
	for _, l := range []net.Listener{s.listener, s.web} {
		if l != nil {
			list = append(list, l)
		}
	}
	return list
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
	listeners := s.listeners()
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() {
			err := server.Serve(l)
			if !errors.Is(err, http.ErrServerClosed) {
				err = fmt.Errorf("serving the operator on %s: %w", l.Addr(), err)
			}
			ended <- err
		}()
	}
	var broken []error // those that have ended
	select {
	case <-ctx.Done():
	case err := <-ended:
		broken = append(broken, err)
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
	for len(broken) < len(listeners) {
		broken = append(broken, <-ended)
	}
	s.watch.end()
	for _, err := range broken {
		if !errors.Is(err, http.ErrServerClosed) {
			return err
		}
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
