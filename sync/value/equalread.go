package value

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// sight is one key as one side has it.
type sight struct {
	found  bool
	body   string // of DUMP, without version and checksum: they differ between servers that encode alike
	expire int64  // milliseconds since 1970, or noExpiry
}

// reader reads keys of one server to compare them, and remembers what the server
// cannot do. Safe for concurrent use.
type reader struct {
	old   atomic.Bool // no PEXPIRETIME: before Redis 7.0
	blind atomic.Bool // no MEMORY USAGE: before 4.0, or not allowed
}

// The bounds of one MULTI: no other client is served until its last DUMP is done.
const (
	groupKeys  = 32
	groupBytes = 128 << 10
)

// read returns the keys in order, in one round trip. Those that weigh limit or
// more are left out. Value and expiry of a key are one step; a few small keys
// share it, which costs the server a third of what one for each would.
func (r *reader) read(ctx context.Context, c *redis.Client, keys []string, weight []int64, limit int64) ([]sight, error) {
	out := make([]sight, len(keys))
	old := r.old.Load()
	type group struct {
		at   []int // positions in keys
		cmds []*redis.Cmd
	}
	var groups []group
	var bytes int64
	for i := range keys {
		if weight[i] >= limit {
			continue
		}
		if n := len(groups); n == 0 || len(groups[n-1].at) == groupKeys || bytes+weight[i] > groupBytes {
			groups, bytes = append(groups, group{}), 0
		}
		g := &groups[len(groups)-1]
		g.at, bytes = append(g.at, i), bytes+weight[i]
	}
	if len(groups) == 0 {
		return out, nil
	}
	p := c.Pipeline()
	for i := range groups {
		g := &groups[i]
		of := make([]string, len(g.at))
		for n, k := range g.at {
			of[n] = keys[k]
		}
		g.cmds = r.ask(ctx, p, old, of...)
	}
	if err := exec(ctx, p); err != nil {
		return nil, fmt.Errorf("reading %d keys from %s: %w", len(keys), at(c), err)
	}
	if !old && unknownCommand(groups[0].cmds[2].Err()) {
		r.old.Store(true)
		return r.read(ctx, c, keys, weight, limit)
	}
	for _, g := range groups {
		if err := parseGroup(g.cmds, g.at, old, out); err != nil {
			return nil, fmt.Errorf("reading %d keys, %q the first, from %s: %w", len(g.at), keys[g.at[0]], at(c), err)
		}
	}
	return out, nil
}

// ask puts one MULTI … EXEC for keys into a pipeline.
func (r *reader) ask(ctx context.Context, p redis.Pipeliner, old bool, keys ...string) []*redis.Cmd {
	cmds := make([]*redis.Cmd, 0, 2*len(keys)+3)
	cmds = append(cmds, p.Do(ctx, "MULTI"))
	expiry := "PEXPIRETIME"
	if old {
		expiry = "PTTL"
	}
	for _, k := range keys {
		cmds = append(cmds, p.Do(ctx, "DUMP", k), p.Do(ctx, expiry, k))
	}
	if old {
		cmds = append(cmds, p.Do(ctx, "TIME"))
	}
	return append(cmds, p.Do(ctx, "EXEC"))
}

// parseGroup reads the answers to one MULTI … EXEC.
func parseGroup(cmds []*redis.Cmd, at []int, old bool, out []sight) error {
	for _, c := range cmds { // the first error is the cause, EXECABORT only follows
		if err := c.Err(); err != nil {
			return discreet(err)
		}
	}
	res, err := cmds[len(cmds)-1].Slice()
	if err != nil {
		return err
	}
	if len(res) != len(cmds)-2 {
		return fmt.Errorf("EXEC answered %d elements", len(res))
	}
	for _, r := range res {
		if err, ok := r.(error); ok {
			return discreet(err)
		}
	}
	for n, i := range at {
		payload, expire := res[2*n], res[2*n+1]
		if payload == nil {
			continue
		}
		text, ok := payload.(string)
		if !ok {
			return fmt.Errorf("unexpected answer to DUMP: %T", payload)
		}
		s := sight{body: dump{payload: text}.body()}
		if s.expire, ok = expire.(int64); !ok {
			return fmt.Errorf("unexpected answer when asked for an expiry: %T", expire)
		}
		if old {
			if s.expire, err = absolute(expire, res[len(res)-1]); err != nil {
				return err
			}
		}
		s.found = s.expire != noKey // one that went by its expiry between the two is gone
		out[i] = s
	}
	return nil
}

// weigh says how many bytes each key takes, about; 0 for one that is not there.
func (r *reader) weigh(ctx context.Context, c *redis.Client, keys []string) ([]int64, error) {
	if r.blind.Load() {
		return lengths(ctx, c, keys)
	}
	sizes, err := Weigh(ctx, c, keys)
	if unknownCommand(err) || redis.IsPermissionError(err) {
		r.blind.Store(true)
		return lengths(ctx, c, keys)
	}
	return sizes, err
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
