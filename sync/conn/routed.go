package conn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/internal/slot"
)

// Whoever copies or compares speaks to a cluster as to one server: each command goes to the
// master that has its key, on the clients of the nodes. What a node has refused because a
// slot or a master has moved is sent again, to where it belongs: it was not run. What was
// sent and not answered is not, ever.

// routedFor bounds for how long a command that a cluster refuses for the moment is sent again.
const routedFor = 2 * time.Second

// dialOwner connects to the master that has a key, which is given as the address: a cluster has
// none of its own. It is for those who speak for themselves (value.dialRaw); no command of the
// client itself is sent on what it dials.
func (p *Pool) dialOwner(ctx context.Context, _, key string) (net.Conn, error) {
	address, err := p.topology().Find(ctx, slot.Of(key))
	if err != nil {
		return nil, &notSent{err}
	}
	_ = p.Node(address) // there connections are closed by their name too
	c, err := endpoint.Dial(ctx, p.endpoint.At(address), p.timeout)
	if err != nil {
		p.topology().Doubt(address)
		return nil, &notSent{err}
	}
	return c, nil
}

// notSent is an error of ours about a command of which nothing was sent. Like a refusal it
// means that nothing was done.
type notSent struct{ err error }

func (n *notSent) Error() string { return n.err.Error() }
func (n *notSent) Unwrap() error { return n.err }

// RedisError makes it a redis.Error, as refusals are.
func (*notSent) RedisError() {}

// Away reports whether an error says that a cluster cannot do something for the moment, and
// has not done it: a slot is between two nodes, or a master is being replaced.
func Away(err error) bool {
	var none *notSent
	var answer redis.Error
	return errors.As(err, &none) || errors.As(err, &answer) && displaced(answer.Error())
}

// newRouted returns the client of a cluster as a whole. Hooks of before see its commands
// first.
func (p *Pool) newRouted(db int, before ...redis.Hook) *redis.Client {
	o := p.options(db)
	o.Dialer = p.dialOwner
	c := redis.NewClient(o)
	for _, h := range before {
		c.AddHook(h)
	}
	c.AddHook(&routed{p: p, t: cluster.Of(p.endpoint), db: db})
	return c
}

// routed is the hook that sends commands to the nodes of a cluster.
type routed struct {
	p  *Pool
	t  *cluster.Topology
	db int
}

func (h *routed) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *routed) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := h.all(ctx, []redis.Cmder{cmd}); err != nil {
			return err
		}
		return cmd.Err()
	}
}

func (h *routed) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if tx := transaction(cmds); tx != nil {
			return h.run(ctx, []*unit{{cmds: tx, tx: true}})
		}
		return h.all(ctx, cmds)
	}
}

// all sends commands as they come.
func (h *routed) all(ctx context.Context, cmds []redis.Cmder) error {
	return h.run(ctx, unitsOf(cmds))
}

// run sends units, and returns the first error among their commands.
func (h *routed) run(ctx context.Context, units []*unit) error {
	byNode := make(map[string][]*unit)
	var wide []*unit
	m, unknown := h.t.Current(ctx)
	for _, u := range units {
		if err := h.place(u, m, unknown); err != nil {
			u.fail(err)
			continue
		}
		if !u.single() {
			wide = append(wide, u)
			continue
		}
		byNode[u.node] = append(byNode[u.node], u)
	}
	if len(byNode) == 1 {
		for node, list := range byNode {
			h.send(ctx, node, list)
		}
	} else {
		var together errgroup.Group
		for node, list := range byNode {
			together.Go(func() error { h.send(ctx, node, list); return nil })
		}
		_ = together.Wait() // each command has its own error
	}
	h.again(ctx, units)
	for _, u := range wide {
		h.widely(ctx, u)
	}
	for _, u := range units {
		for _, c := range u.cmds {
			if err := c.Err(); err != nil {
				return err
			}
		}
	}
	return nil
}

// place finds out where a unit goes, by a map, or why it cannot go anywhere.
func (h *routed) place(u *unit, m *cluster.Map, err error) error {
	if h.db != 0 {
		return Refusal(fmt.Sprintf("ERR %s is a cluster, which has database 0 alone, and not %d", h.p, h.db))
	}
	if err := u.inspect(); err != nil || u.how != byKey && u.how != anywhere {
		return err
	}
	if err != nil {
		return &notSent{err}
	}
	n := m.Owner(u.slot)
	if u.how == anywhere {
		if masters := m.Masters(); len(masters) > 0 {
			n = masters[0]
		}
	}
	if n == nil {
		h.t.Doubt("")
		return &notSent{fmt.Errorf("the cluster %s has no master for slot %d", h.t, u.slot)}
	}
	u.node = n.Address
	return nil
}

// send sends units to one node.
func (h *routed) send(ctx context.Context, node string, units []*unit) {
	c := h.p.Node(node).DB(0)
	if len(units) == 1 && len(units[0].cmds) == 1 && !units[0].tx && !units[0].ask {
		_ = c.Process(ctx, units[0].cmds[0]) // it has the error
	} else {
		pipe := c.Pipeline()
		for _, u := range units {
			if u.tx {
				h.sendTx(ctx, c, u)
				continue
			}
			if u.ask {
				pipe.Do(ctx, "ASKING")
			}
			for _, cmd := range u.cmds {
				_ = pipe.Process(ctx, cmd) // is queued
			}
		}
		stamp(pipe.Exec(ctx))
	}
	for _, u := range units {
		if err := u.broken(); err != nil && ctx.Err() == nil {
			h.t.Doubt(node)
			return
		}
	}
}

// sendTx sends a transaction, whose answers only go-redis' own pipeline for that can read.
// An ASKING before MULTI holds for all that is in it.
func (h *routed) sendTx(ctx context.Context, c *redis.Client, u *unit) {
	pipe := c.TxPipeline()
	if u.ask {
		cn := c.Conn()
		defer func() { _ = cn.Close() }()
		if err := cn.Do(ctx, "ASKING").Err(); err != nil {
			u.fail(err)
			return
		}
		pipe = cn.TxPipeline()
	}
	for _, cmd := range u.cmds {
		_ = pipe.Process(ctx, cmd) // is queued
	}
	cmds, err := pipe.Exec(ctx)
	stamp(cmds, err)
	for _, cmd := range u.cmds {
		if err != nil && cmd.Err() == nil && !ran(err) {
			cmd.SetErr(err)
		}
	}
}

// stamp has the error of a pipeline be each command's where none has one: a server that refused
// the connection has run none of them, and go-redis leaves them as if they had been answered.
func stamp(cmds []redis.Cmder, err error) {
	if err == nil || slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return cmd.Err() != nil }) {
		return
	}
	for _, cmd := range cmds {
		cmd.SetErr(err)
	}
}

// stamps has a client stamp all its pipelines.
type stamps struct{}

// DialHook implements redis.Hook.
func (stamps) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (stamps) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

// ProcessPipelineHook implements redis.Hook.
func (stamps) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		stamp(cmds, err)
		return err
	}
}

// ran reports whether an error of EXEC is one of a command in it.
func ran(err error) bool {
	return isReply(err) && !strings.HasPrefix(err.Error(), "EXECABORT") && !errors.Is(err, redis.TxFailedErr)
}

func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}

// again sends those units again that were refused because something has moved, or were not
// sent because a node was not there, one by one and in their order. One is not, where a later one of the same slot was run: its time has
// passed.
func (h *routed) again(ctx context.Context, units []*unit) {
	var until time.Time
	for i, u := range units {
		if !u.single() || !u.refused() {
			continue
		}
		if overtaken(u, units[i+1:]) {
			h.learn(u) // for whoever comes next
			continue
		}
		if until.IsZero() {
			until = time.Now().Add(routedFor)
		}
		for wait := time.Duration(0); u.refused(); {
			known := h.learn(u)
			if time.Now().After(until) || ctx.Err() != nil {
				break
			}
			if !known || u.hops > mostHops {
				wait = min(max(2*wait, 2*time.Millisecond), 100*time.Millisecond)
				if !rest(ctx, wait) {
					break
				}
			}
			if !u.ask {
				m, err := h.t.Current(ctx)
				if err := h.place(u, m, err); err != nil {
					u.fail(err)
					break
				}
			}
			u.clear()
			h.send(ctx, u.node, []*unit{u})
		}
		u.owe()
	}
}

// overtaken reports whether a later unit of the same slot was run.
func overtaken(u *unit, later []*unit) bool {
	if u.how != byKey {
		return false
	}
	for _, l := range later {
		if l.how == byKey && l.slot == u.slot && !l.refused() {
			return true
		}
	}
	return false
}

// learn tells the topology what a refusal says, and reports whether it says where to go.
func (h *routed) learn(u *unit) (known bool) {
	text := u.refusal()
	u.ask = false
	r, is := cluster.ParseRedirect(text, u.node)
	switch {
	case is && r.Ask:
		u.ask, u.node = true, r.Address
		u.hops++
		return true
	case is:
		h.t.Moved(r, u.node)
		u.hops++
		return true
	case doubtful(text):
		h.t.Doubt(u.node)
	}
	return false
}

// mostHops is how many redirections are followed without a pause: two nodes may name each
// other for as long as they do not agree.
const mostHops = 3

// rest waits, and reports whether ctx is still alive.
func rest(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
