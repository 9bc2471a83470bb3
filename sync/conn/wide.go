package conn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/cluster"
)

// Some commands are about more than one node of a cluster. Each is sent to the nodes one
// after the other, and its answers become one.

// widely sends a unit of one command to several nodes.
func (h *routed) widely(ctx context.Context, u *unit) {
	cmd := u.cmds[0]
	var err error
	switch u.how {
	case split:
		err = h.inParts(ctx, cmd)
	case scanning:
		err = h.scan(ctx, cmd)
	default:
		err = h.overMasters(ctx, u.how, cmd)
	}
	if err != nil && cmd.Err() == nil {
		cmd.SetErr(err)
	}
}

// overMasters sends a command to all masters.
func (h *routed) overMasters(ctx context.Context, how reach, cmd redis.Cmder) error {
	m, err := h.t.Load(ctx)
	if err != nil {
		return &notSent{err}
	}
	masters := m.Masters()
	if len(masters) == 0 {
		return &notSent{fmt.Errorf("the cluster %s has no masters", h.t)}
	}
	if how == guessing {
		rand.Shuffle(len(masters), func(i, j int) { masters[i], masters[j] = masters[j], masters[i] })
	}
	var sum int64
	var tell keyspaces
	flags := make([]bool, 0)
	for _, n := range masters {
		cmd.SetErr(nil)
		if err := h.p.Node(n.Address).DB(0).Process(ctx, cmd); err != nil {
			if how == guessing && errors.Is(err, redis.Nil) {
				continue
			}
			if !isReply(err) && ctx.Err() == nil {
				h.t.Doubt(n.Address)
			}
			return fmt.Errorf("node %s: %w", n.Address, err)
		}
		switch v := value(cmd).(type) {
		case int64:
			sum += v
		case string:
			if how == guessing {
				return nil
			}
			tell.add(v)
		case []bool:
			flags = and(flags, v)
		}
	}
	switch c := cmd.(type) {
	case *redis.IntCmd:
		c.SetVal(sum)
	case *redis.BoolSliceCmd:
		c.SetVal(flags)
	case *redis.StringCmd:
		if how == telling {
			c.SetVal(tell.String())
		}
	case *redis.Cmd:
		if _, number := c.Val().(int64); number {
			c.SetVal(sum)
		}
	}
	return nil
}

// value is what a command was answered.
func value(cmd redis.Cmder) any {
	switch c := cmd.(type) {
	case *redis.IntCmd:
		return c.Val()
	case *redis.StringCmd:
		return c.Val()
	case *redis.BoolSliceCmd:
		return c.Val()
	case *redis.Cmd:
		return c.Val()
	}
	return nil
}

func and(all, one []bool) []bool {
	if len(all) == 0 {
		return one
	}
	for i := range all {
		all[i] = all[i] && i < len(one) && one[i]
	}
	return all
}

// keyspaces sums up answers to INFO keyspace: lines like "db0:keys=7,expires=0,avg_ttl=0".
type keyspaces struct{ keys, expires int64 }

func (k *keyspaces) add(text string) {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "db0:")
		if !ok {
			continue
		}
		for field := range strings.SplitSeq(rest, ",") {
			name, number, _ := strings.Cut(field, "=")
			n, _ := strconv.ParseInt(number, 10, 64)
			switch name {
			case "keys":
				k.keys += n
			case "expires":
				k.expires += n
			}
		}
	}
}

func (k *keyspaces) String() string {
	if k.keys == 0 {
		return "# Keyspace\r\n"
	}
	return fmt.Sprintf("# Keyspace\r\ndb0:keys=%d,expires=%d,avg_ttl=0\r\n", k.keys, k.expires)
}

// inParts sends a command whose keys are in several slots, once for each slot.
func (h *routed) inParts(ctx context.Context, cmd redis.Cmder) error {
	args := cmd.Args()
	bySlot := make(map[uint16][]any)
	var order []uint16
	for _, key := range args[1:] {
		s := slotOf(key)
		if bySlot[s] == nil {
			order = append(order, s)
			bySlot[s] = []any{args[0]}
		}
		bySlot[s] = append(bySlot[s], key)
	}
	list := make([]redis.Cmder, len(order))
	for i, s := range order {
		list[i] = redis.NewIntCmd(ctx, bySlot[s]...)
	}
	if err := h.all(ctx, list); err != nil {
		return err
	}
	var sum int64
	for _, c := range list {
		sum += c.(*redis.IntCmd).Val()
	}
	switch c := cmd.(type) {
	case *redis.IntCmd:
		c.SetVal(sum)
	case *redis.Cmd:
		c.SetVal(sum)
	default:
		return Refusal(fmt.Sprintf("ERR nobody reads the answer to %v of a cluster from a %T", args[0], cmd))
	}
	return nil
}

// Masters returns the pools of the masters that have slots, for what is to be asked of each:
// of a server by itself that is its own pool. They belong to p.
func (p *Pool) Masters(ctx context.Context) ([]*Pool, error) {
	t := cluster.Of(p.endpoint)
	if t == nil {
		return []*Pool{p}, nil
	}
	m, err := t.Load(ctx)
	if err != nil {
		return nil, err
	}
	var all []*Pool
	for _, n := range m.Masters() {
		all = append(all, p.Node(n.Address))
	}
	return all, nil
}

// Dialled returns the addresses of the nodes of a cluster that this pool may have connections
// to: all that Node was asked for.
func (p *Pool) Dialled() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Sorted(maps.Keys(p.nodes))
}

// topology returns that of a cluster.
func (p *Pool) topology() *cluster.Topology { return cluster.Of(p.endpoint) }
