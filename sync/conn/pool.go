// Package conn gives clients for one server: go-redis ones, one a database, and wires for bulk work.
// It owns their settings: no silent retry, contexts obeyed, a name that tells them apart.
// It never selects a database on a connection that somebody else may get.
package conn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/router"
)

// NamePrefix begins the CLIENT SETNAME of every connection of ours, so that
// they can be told from the applications' in CLIENT LIST.
const NamePrefix = "crossfade:"

// Pool is one server as one identity. Clients are made on first use and share
// nothing, so that no SELECT leaks between them. Safe for concurrent use.
type Pool struct {
	endpoint config.Endpoint
	name     string
	timeout  time.Duration
	guard    *guarded
	vet      func(context.Context, *redis.Conn) error // see Vet
	of       *Pool                                    // whose node this is; nil: a server by itself, or a cluster as a whole
	control  control                                  // of a cluster

	mu      sync.Mutex
	clients map[int]*redis.Client
	places  map[router.Place]*redis.Client // see At
	nodes   map[string]*Pool               // of a cluster, by address
	closed  bool

	openMu sync.Mutex
	open   map[*open]struct{} // the connections of clients, see Renew

	cursors    map[uint64]*scanAt // of scans of a cluster, see scan.go
	lastCursor uint64
}

// New returns a pool whose connections are named NamePrefix+name. Nothing is
// dialled yet. timeout bounds connecting and each command that has no deadline.
func New(e config.Endpoint, name string, timeout time.Duration) *Pool {
	return &Pool{endpoint: e, name: NamePrefix + name, timeout: timeout, guard: new(guarded), clients: make(map[int]*redis.Client), places: make(map[router.Place]*redis.Client), nodes: make(map[string]*Pool), open: make(map[*open]struct{}), cursors: make(map[uint64]*scanAt)}
}

// Endpoint returns where the pool connects to.
func (p *Pool) Endpoint() config.Endpoint { return p.endpoint }

// String names the server, without any secret.
func (p *Pool) String() string { return p.endpoint.String() }

// Name returns the CLIENT SETNAME of the pool's connections.
func (p *Pool) Name() string { return p.name }

// DB returns the client for one database. It belongs to the pool: do not close it.
//
// That of a cluster sends each command to the master that has its key, and follows a slot
// that moves. SCAN goes through all masters, DBSIZE, INFO keyspace and what is about whole
// databases, scripts or functions is about all of them. What is about one server (INFO, CLIENT,
// CONFIG …), or about one connection (WATCH, Conn, Subscribe), is refused or makes no sense: see
// Node, Masters and Control.
func (p *Pool) DB(n int) *redis.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.clients[n]; ok {
		return c
	}
	var c *redis.Client
	if p.endpoint.Cluster != nil {
		c = p.newRouted(n)
	} else {
		c = redis.NewClient(p.options(n))
		c.AddHook(stamps{})
	}
	if p.closed {
		_ = c.Close()
	}
	p.clients[n] = c
	return c
}

// options are those of a client for one database.
func (p *Pool) options(n int) *redis.Options {
	return &redis.Options{
		Network:  p.endpoint.Network,
		Addr:     p.endpoint.Address,
		Username: p.endpoint.Username,
		Password: p.endpoint.Password,
		DB:       n,
		// Dial keeps TLS, time-outs and error texts the same as everywhere else.
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
			nc, err := endpoint.Dial(ctx, p.endpoint, p.timeout)
			if err != nil {
				return nil, err
			}
			return p.opened(nc), nil
		},
		OnConnect: func(ctx context.Context, cn *redis.Conn) error {
			if err := p.admit(ctx, cn, n); err != nil || p.vet == nil {
				return err
			}
			return rejected(p.vet(ctx, cn))
		},
		ClientName:               p.name,
		Protocol:                 2,
		DisableIdentity:          true,
		ContextTimeoutEnabled:    true,
		MaxRetries:               -1, // an outcome that is unknown is never retried silently
		DialerRetries:            1,
		PoolSize:                 32,
		PipelinePoolSize:         -1, // or pipelines would have connections of their own, which nobody warms
		ReadTimeout:              p.timeout,
		WriteTimeout:             p.timeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// Warm makes sure that n connections to a database can be used at the same time without a
// handshake.
func (p *Pool) Warm(ctx context.Context, db, n int) error {
	if p.endpoint.Cluster != nil {
		return p.warmNodes(ctx, n)
	}
	for range n {
		c := p.DB(db).Conn()
		defer func() { _ = c.Close() }() // each once all are there
		if err := c.Ping(ctx).Err(); err != nil {
			return fmt.Errorf("connecting to database %d of %s: %w", db, p, err)
		}
	}
	return nil
}

func (p *Pool) warmNodes(ctx context.Context, n int) error {
	nodes, err := p.Masters(ctx)
	if err != nil {
		return err
	}
	together, tctx := errgroup.WithContext(ctx)
	for _, node := range nodes {
		together.Go(func() error { return node.Warm(tctx, 0, n) })
	}
	return together.Wait()
}

// Close closes every client.
func (p *Pool) Close() error {
	errs := []error{p.closeControl()}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, n := range p.nodes {
		errs = append(errs, n.Close())
	}
	for n, c := range p.clients {
		if err := c.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
			errs = append(errs, fmt.Errorf("closing the connections to %s database %d: %w", p, n, err))
		}
	}
	return errors.Join(errs...)
}
