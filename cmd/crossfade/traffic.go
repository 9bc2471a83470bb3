package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/internal/fleet"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/proxy"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// traffic is the proxy as a migration sees it.
type traffic struct{ *proxy.Server }

var _ migration.Traffic = traffic{}

// Stalls gives the proxy's figures the migration's type.
func (t traffic) Stalls() migration.Stalls {
	s := t.Server.Stalls()
	return migration.Stalls{Sessions: s.Sessions, P50: s.P50, P99: s.P99, Max: s.Max}
}

// Shadow takes what is asked for in percent.
func (t traffic) Shadow(percent int) { t.Server.Shadow(float64(percent) / 100) }

// Shadowed counts the reads that both servers have answered alike.
func (t traffic) Shadowed() int64 { return t.Alike() }

// observer passes on what the proxy sees. Proxy and migration need each other, so
// the migration is set after both are made and before the proxy serves.
type observer struct{ *migration.Migration }

var (
	_ proxy.Observer        = (*observer)(nil)
	_ proxy.WriteObserver   = (*observer)(nil)
	_ proxy.ElementObserver = (*observer)(nil)
	_ proxy.ShadowObserver  = (*observer)(nil)
)

// Differed gives a read the migration's type.
func (o *observer) Differed(read proxy.ShadowRead) { o.Migration.Differed(migration.ShadowRead(read)) }

// writeLists are for Wrote, which is called often.
var writeLists = sync.Pool{New: func() any { return new([]mirror.Write) }}

// Wrote gives the proxy's writes the migration's type.
func (o *observer) Wrote(writes []proxy.Write) {
	list := writeLists.Get().(*[]mirror.Write)
	for _, w := range writes {
		*list = append(*list, mirror.Write(w))
	}
	o.Migration.Wrote(*list)
	clear(*list)
	*list = (*list)[:0]
	writeLists.Put(list)
}

// upstream is one server as the proxy reaches it.
type upstream struct {
	configured config.Endpoint
	timeout    time.Duration
	fleet      *fleet.Fleet // a cluster as one server; nil: it is one
	now        atomic.Pointer[config.Endpoint]
	pool       atomic.Pointer[conn.Pool]
	guard      func() *conn.Guard // of the pool
}

func newUpstream(e config.Endpoint, timeout time.Duration) *upstream {
	u := &upstream{configured: e, timeout: timeout}
	u.now.Store(&e)
	return u
}

func (u *upstream) dial(ctx context.Context) (net.Conn, error) {
	if u.fleet != nil {
		bounded, cancel := context.WithTimeout(ctx, u.timeout)
		defer cancel()
		return u.fleet.Dial(bounded)
	}
	return endpoint.Dial(ctx, *u.now.Load(), u.timeout)
}

// follow takes over the address that the migration goes by, as its status words
// it: after the traffic was moved, that is not always the configured one. Nothing
// may have been dialled yet.
func (u *upstream) follow(text string) error {
	if text == u.configured.String() || u.configured.Watched != nil || u.configured.Cluster != nil {
		return nil // sentinels of other names, and other clusters, are refused
	}
	used, err := config.Server{URL: config.Secret(text), Password: "-"}.Endpoint()
	if err != nil {
		return fmt.Errorf("reading the address of the state file: %w", err)
	}
	e := u.configured
	e.Network, e.Address = used.Network, used.Address
	u.now.Store(&e)
	return nil
}

// own returns a pool of our own connections for what clients do not see.
func (u *upstream) own() *conn.Pool {
	if u.pool.Load() == nil {
		p := conn.New(*u.now.Load(), "unblock", u.timeout)
		p.Guard(u.guard())
		if !u.pool.CompareAndSwap(nil, p) {
			_ = p.Close()
		}
	}
	return u.pool.Load()
}

// locate lists the server's connections: the id of each by its address.
func (u *upstream) locate(ctx context.Context) (map[string]int64, error) {
	if u.fleet != nil {
		return nil, nil // it tells everybody the ids
	}
	pool := u.own()
	list, err := pool.DB(0).ClientList(ctx).Result()
	if err != nil {
		return nil, fmt.Errorf("looking for blocked clients on %s: %w", pool, err)
	}
	ids := make(map[string]int64)
	for line := range strings.Lines(list) {
		var id int64
		var addr string
		for field := range strings.FieldsSeq(line) {
			switch name, value, _ := strings.Cut(field, "="); name {
			case "id":
				id, _ = strconv.ParseInt(value, 10, 64)
			case "addr":
				addr = value
			}
		}
		ids[addr] = id
	}
	return ids, nil
}

// unblock wakes clients that wait in a blocking command.
func (u *upstream) unblock(ctx context.Context, ids []int64) error {
	if u.fleet != nil {
		return u.fleet.Unblock(ctx, ids)
	}
	pool := u.own()
	pipe := pool.DB(0).Pipeline()
	for _, id := range ids {
		pipe.ClientUnblockWithError(ctx, id)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return fmt.Errorf("waking blocked clients on %s: %w", pool, err)
	}
	return nil
}

func (u *upstream) close() {
	if p := u.pool.Load(); p != nil {
		_ = p.Close()
	}
}

// overseer is who sees what the proxy forwards, and knows whether it may.
type overseer interface {
	proxy.Observer
	// Guard looks at connections of our own to a side; nil is none.
	Guard(side router.Side) *conn.Guard
	// Admit looks at those of clients, see proxy.Upstream.
	Admit(ctx context.Context, side router.Side) error
}

// newProxy makes the proxy in front of both servers.
func newProxy(c config.Config, ups [2]*upstream, gate *router.Gate, o overseer, log *slog.Logger) (*proxy.Server, error) {
	pc := proxy.Config{
		MaxClients:        c.Proxy.MaxClients,
		Shared:            c.Proxy.Upstream == "shared",
		Loops:             c.Proxy.Loops,
		OutputLimit:       c.Proxy.OutputLimit,
		SlowLogEntries:    c.Proxy.SlowLogEntries,
		SlowLogSlowerThan: c.Proxy.SlowLogSlowerThan,
		OutputTimeout:     c.Proxy.OutputTimeout,
		QueryLimit:        c.Proxy.QueryLimit,
		MaxMemory:         c.Proxy.MaxMemory,
		MaxBulk:           c.Proxy.MaxBulk,
		UpstreamTimeout:   c.Proxy.UpstreamTimeout,
		DialTimeout:       c.Proxy.DialTimeout,
		ShutdownTimeout:   max(c.Proxy.ShutdownTimeout, time.Millisecond), // 0 would mean its default
		ScriptCache:       c.Proxy.ScriptCache,
		Unblock: func(ctx context.Context, side router.Side, ids []int64) error {
			return ups[side].unblock(ctx, ids)
		},
		Locate: func(ctx context.Context, side router.Side) (map[string]int64, error) {
			return ups[side].locate(ctx)
		},
	}
	if f, ok := o.(interface{ RefusedByFence() }); ok {
		pc.Refused = f.RefusedByFence
	}
	listeners, _ := c.Listeners() // Validate has told its problems
	for _, l := range listeners {
		pc.Listen = append(pc.Listen, proxy.Listen{Network: l.Network, Address: l.Address, TLS: l.TLS, Mode: l.Mode})
		if l.TLS && pc.TLS == nil {
			var err error
			if pc.TLS, err = c.Proxy.TLS.Server(log); err != nil {
				return nil, usage(problems(fmt.Errorf("proxy.tls: %w", err)))
			}
		}
	}
	identities, more := c.Proxy.Identities()
	if len(more) > 0 {
		return nil, usage(problems(errors.Join(more...)))
	}
	login := func(l config.Login) proxy.Login { return proxy.Login{User: l.User, Password: l.Password.Reveal()} }
	for _, one := range identities {
		pc.Identities = append(pc.Identities, proxy.Identity{Client: login(one.Client), Sides: [2]proxy.Login{login(one.Source), login(one.Target)}})
	}
	pc.Users = len(c.Proxy.Users) > 0
	trusted, _ := c.Proxy.Trusted()
	pc.Headers = proxy.Headers{Networks: trusted.Networks, Unix: trusted.Unix, Required: c.Proxy.ProxyProtocol == "required"}
	for side, u := range ups {
		u.guard = func() *conn.Guard { return o.Guard(router.Side(side)) }
		pc.Upstreams[side] = proxy.Upstream{Dial: u.dial, Username: u.configured.Username, Password: u.configured.Password,
			Nameless: u.now.Load().Network == "unix", Admit: func(ctx context.Context) error { return o.Admit(ctx, router.Side(side)) }}
	}
	return proxy.New(pc, gate, o, log)
}
