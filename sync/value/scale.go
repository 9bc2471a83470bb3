package value

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// Scale says how large the keys of one server are, any of its databases. It remembers
// whether the server tells. Safe for concurrent use; the zero value is ready.
type Scale struct {
	blind atomic.Bool // no MEMORY USAGE: before 4.0, or forbidden
}

// Weigh returns how many bytes of memory each key takes on its server, in order and
// about; 0 for a key that is not there. Where the server does not tell, it goes by the
// numbers of elements.
func (s *Scale) Weigh(ctx context.Context, c *redis.Client, keys []string) ([]int64, error) {
	if s.blind.Load() {
		return lengths(ctx, c, keys)
	}
	sizes, err := usage(ctx, c, keys)
	if lacks(err) {
		s.blind.Store(true)
		return lengths(ctx, c, keys)
	}
	return sizes, err
}

// usage asks MEMORY USAGE, in one round trip and with little work, whatever the keys'
// sizes: five elements are looked at.
func usage(ctx context.Context, c *redis.Client, keys []string) ([]int64, error) {
	p := c.Pipeline()
	cmds := make([]*redis.IntCmd, len(keys))
	for i, k := range keys {
		cmds[i] = p.MemoryUsage(ctx, k, 5)
	}
	err := exec(ctx, p)
	out := make([]int64, len(keys))
	for i, cmd := range cmds {
		if e := cmd.Err(); err == nil && e != nil && !errors.Is(e, redis.Nil) {
			err = e
		}
		out[i] = cmd.Val()
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s for the size of %d keys: %w", at(c), len(keys), err)
	}
	return out, nil
}

// counters has the command that counts, and about how many bytes each counted
// thing takes.
var counters = map[string]struct {
	command string
	bytes   int64
}{
	"string": {"STRLEN", 1}, "list": {"LLEN", 64}, "set": {"SCARD", 64},
	"zset": {"ZCARD", 96}, "hash": {"HLEN", 128}, "stream": {"XLEN", 128},
}

// lengths estimates sizes without MEMORY USAGE, in two round trips.
func lengths(ctx context.Context, c *redis.Client, keys []string) ([]int64, error) {
	fail := func(err error) ([]int64, error) {
		return nil, fmt.Errorf("asking %s for the length of %d keys: %w", at(c), len(keys), err)
	}
	p := c.Pipeline()
	types := make([]*redis.StatusCmd, len(keys))
	for i, k := range keys {
		types[i] = p.Type(ctx, k)
	}
	if err := must(ctx, p); err != nil {
		return fail(err)
	}
	p = c.Pipeline()
	cmds := make([]*redis.Cmd, len(keys))
	for i, k := range keys {
		if n, ok := counters[types[i].Val()]; ok {
			cmds[i] = p.Do(ctx, n.command, k)
		}
	}
	if err := exec(ctx, p); err != nil {
		return fail(err)
	}
	out := make([]int64, len(keys))
	for i, cmd := range cmds {
		if cmd == nil {
			continue
		}
		n, err := cmd.Int64()
		if err != nil && !movedOn(err) && !errors.Is(err, redis.Nil) {
			return fail(err)
		}
		out[i] = n * counters[types[i].Val()].bytes
	}
	return out, nil
}
