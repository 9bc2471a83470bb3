package conn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/internal/slot"
)

// Our control keys are compared and set, several at a time. On a cluster this can only be
// where all of them have one slot: there they have a hash tag, which is put into their names
// here, so that nobody else need know.

// controlTag is put behind NamePrefix.
const controlTag = "{crossfade}:"

// controlSlot is where it leads.
var controlSlot = slot.Of(controlTag)

// control is the client of a cluster for control keys.
type control struct {
	mu     sync.Mutex
	client *redis.Client
	at     string // the master that its connections lead to; "": none yet
	closed bool
}

// Control returns the client for control keys, and for all that belongs to the same instant
// or connection as those. On a cluster it is one of the master that has their slot: what it
// says of itself and of its replicas is of that master alone, and when another one takes its
// place the client is closed and another one is to be asked for. Everywhere else it is that
// of database 0. It belongs to the pool: do not close it, and do not keep it for long.
func (p *Pool) Control() *redis.Client {
	t := cluster.Of(p.endpoint)
	if t == nil {
		return p.DB(0)
	}
	c := &p.control
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := t.Map().Owner(controlSlot); c.client != nil && c.at != "" && n != nil && n.Address != c.at {
		p.retire(c.client)
	}
	if c.client == nil {
		c.client, c.at = p.newControl(t), ""
	}
	return c.client
}

// retire closes the client that leads to a node which is not the master any more. The caller
// holds control.mu.
func (p *Pool) retire(client *redis.Client) {
	if p.control.client == client {
		p.control.client = nil
	}
	_ = client.Close()
}

// newControl makes it. The caller holds control.mu.
func (p *Pool) newControl(t *cluster.Topology) *redis.Client {
	var client *redis.Client
	o := p.options(0)
	o.Dialer = func(ctx context.Context, _, _ string) (net.Conn, error) {
		at, err := t.Find(ctx, controlSlot)
		if err != nil {
			return nil, fmt.Errorf("connecting to the master that has our keys: %w", err)
		}
		nc, err := endpoint.Dial(ctx, p.endpoint.At(at), p.timeout)
		if err != nil {
			t.Doubt(at)
			return nil, err
		}
		p.control.mu.Lock()
		defer p.control.mu.Unlock()
		if p.control.client != client {
			_ = nc.Close()
			return nil, redis.ErrClosed
		}
		p.control.at = at
		return nc, nil
	}
	o.OnConnect = func(ctx context.Context, cn *redis.Conn) error {
		g := p.guard.Load()
		if g == nil {
			return nil
		}
		value, err := cn.Get(ctx, tagName(g.Key)).Result()
		if err != nil && !errors.Is(err, redis.Nil) && !forbidden(err) {
			p.redirected(t, client, err.Error())
			return err
		}
		return rejected(g.Allow(value))
	}
	client = redis.NewClient(o)
	client.AddHook(stamps{})
	client.AddHook(tagged{func(text string) { p.redirected(t, client, text) }})
	if p.control.closed {
		_ = client.Close()
	}
	return client
}

// redirected takes notice of an error that a node has answered to a command for our keys.
func (p *Pool) redirected(t *cluster.Topology, client *redis.Client, text string) {
	p.control.mu.Lock()
	defer p.control.mu.Unlock()
	at := p.control.at
	if p.control.client != client {
		return
	}
	switch r, is := cluster.ParseRedirect(text, at); {
	case is && r.Ask: // the slot is being moved: the next attempt may find it at its end
		t.Doubt(at)
	case is:
		t.Moved(r, at)
		p.retire(client)
	case strings.HasPrefix(text, "READONLY"):
		t.Doubt(at)
		p.retire(client)
	}
}

func (p *Pool) closeControl() error {
	p.control.mu.Lock()
	defer p.control.mu.Unlock()
	p.control.closed = true
	if p.control.client == nil {
		return nil
	}
	if err := p.control.client.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("closing the connections to %s for our keys: %w", p, err)
	}
	return nil
}

// tagged is the hook of a cluster's client for control keys.
type tagged struct{ refused func(text string) }

func (h tagged) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h tagged) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		undo := make(changes)
		defer undo.all()
		undo.tag(cmd)
		err := next(ctx, cmd)
		h.look(cmd)
		return err
	}
}

func (h tagged) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		undo := make(changes)
		defer undo.all()
		for _, cmd := range cmds {
			undo.tag(cmd)
		}
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			h.look(cmd)
		}
		return err
	}
}

func (h tagged) look(cmd redis.Cmder) {
	if err := cmd.Err(); err != nil {
		h.refused(err.Error())
	}
}

// tag puts the tag into the names of keys of ours. All that goes this way names keys as
// keysIn knows them, or none.
func (c changes) tag(cmd redis.Cmder) {
	args := cmd.Args()
	at, err := keysIn(args)
	if err != nil {
		return
	}
	for _, i := range at {
		name, is := args[i].(string)
		if _, done := c[&args[i]]; done || !is {
			continue
		}
		c[&args[i]], args[i] = args[i], tagName(name)
	}
}

// tagName returns the name that a key of ours has on a cluster.
func tagName(key string) string {
	rest, ours := strings.CutPrefix(key, NamePrefix)
	if !ours || strings.HasPrefix(rest, "{") {
		return key
	}
	return NamePrefix + controlTag + rest
}

// Node returns the pool of one node of a cluster, under the same name and guard. It belongs
// to this pool: do not close it.
func (p *Pool) Node(address string) *Pool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.nodes[address]; n != nil {
		return n
	}
	n := New(p.endpoint.At(address), "", p.timeout)
	n.name, n.guard, n.of = p.name, p.guard, p
	if p.closed {
		_ = n.Close()
	}
	p.nodes[address] = n
	return n
}
