package conn

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
)

// Guard is asked about each connection once the server knows its name, and before
// anything else is sent on it. So whoever first writes Key and then closes all
// connections by their names lets nobody through who was not to see what he wrote.
type Guard struct {
	// Key is looked up in database 0.
	Key string
	// Allow is told its value, "" where there is none or where the server lets nobody
	// read it. Its error is why the connection is not used.
	Allow func(value string) error
}

// guarded is the guard of pools that belong together.
type guarded struct{ atomic.Pointer[Guard] }

// Guard has every connection looked at that is made from now on, by this pool and by all
// that Like has made or will make of it.
func (p *Pool) Guard(g *Guard) { p.guard.Store(g) }

// Vet has every connection of the clients of this pool alone looked at, behind the guard and
// before it is used; an error is why it is not. Of wires their makers can say that: see
// Bundle. It is called before anything is dialled, and not for a cluster.
func (p *Pool) Vet(vet func(context.Context, *redis.Conn) error) { p.vet = vet }

// Like is New for another pool under the same guard.
func (p *Pool) Like(e config.Endpoint, name string, timeout time.Duration) *Pool {
	like := New(e, name, timeout)
	like.guard = p.guard
	return like
}

// admit asks the guard about a new connection, which is in database db.
func (p *Pool) admit(ctx context.Context, cn *redis.Conn, db int) error {
	g := p.guard.Load()
	if g == nil {
		return nil
	}
	switch {
	case p.of != nil:
		return p.of.admitElsewhere(ctx, g)
	case p.endpoint.Cluster != nil:
		return p.admitElsewhere(ctx, g)
	}
	pipe := cn.Pipeline()
	if db != 0 {
		pipe.Select(ctx, 0)
	}
	value := pipe.Get(ctx, g.Key)
	if db != 0 {
		pipe.Select(ctx, db)
	}
	cmds, _ := pipe.Exec(ctx) // each has its own error
	for _, c := range cmds {
		err := c.Err()
		if err == nil || c == redis.Cmder(value) && (errors.Is(err, redis.Nil) || forbidden(err)) {
			continue
		}
		return err
	}
	return rejected(g.Allow(value.Val()))
}

// admitElsewhere asks the guard about a new connection to a cluster: Key is at one of its
// nodes only. The node at the other end knows the connection's name already, so whoever
// wrote Key before it was looked up here, and closes all by their names behind that, finds
// this one too.
func (p *Pool) admitElsewhere(ctx context.Context, g *Guard) error {
	value, err := p.Control().Get(ctx, g.Key).Result()
	if err != nil && !errors.Is(err, redis.Nil) && !forbidden(err) {
		return err
	}
	return rejected(g.Allow(value))
}

// forbidden reports whether a server lets this user do something never.
func forbidden(err error) bool { return strings.HasPrefix(err.Error(), "NOPERM") }

// rejection is an error that goes through go-redis as it is: that takes a layer off the
// errors of connections that are being made.
type rejection struct{ err error }

func rejected(err error) error {
	if err == nil {
		return nil
	}
	return &rejection{err}
}

func (r *rejection) Error() string        { return r.err.Error() }
func (r *rejection) Is(target error) bool { return errors.Is(r.err, target) }
