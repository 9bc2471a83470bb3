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
	unread bool   // it is there, and too large or of no type to be read so
}

// expiring reports whether it is a hash of which fields expire. So say the kinds of encoding
// from 22 to 25, of Redis from 7.4 and Valkey from 9 on (rdb.h).
func (s sight) expiring() bool { return s.body != "" && s.body[0] >= 22 && s.body[0] <= 25 }

// reader reads keys of one server to compare them, and remembers what the server
// cannot do. Safe for concurrent use.
type reader struct {
	old   atomic.Bool // no PEXPIRETIME: before Redis 7.0, or forbidden
	mute  atomic.Bool // no DUMP: forbidden
	scale Scale
	typed ByType // how to read without DUMP
}

// errMute says that the server does not let us DUMP.
var errMute = errors.New("no DUMP")

// The bounds of one MULTI: no other client is served until its last DUMP is done.
const (
	groupKeys  = 32
	groupBytes = 128 << 10
)

// readBytes is about how many bytes of values a server is asked for at a time: it runs all that
// lies in a socket at one go.
const readBytes = 1 << 20

// read returns the keys in order, in a round trip or, where they are heavy, some. Those that
// weigh limit or more are left out. Value and expiry of a key are one step; a few small keys
// share it, which costs the server a third of what one for each would.
func (r *reader) read(ctx context.Context, c *redis.Client, keys []string, weight []int64, limit int64) ([]sight, error) {
	out := make([]sight, len(keys))
	old := r.old.Load()
	type group struct {
		at    []int // positions in keys
		bytes int64
		cmds  []*redis.Cmd
	}
	var groups []group
	most := groupKeys
	if Clustered(c) { // whose nodes have each some of them
		most = 1
	}
	for i := range keys {
		if weight[i] >= limit {
			continue
		}
		if n := len(groups); n == 0 || len(groups[n-1].at) == most || groups[n-1].bytes+weight[i] > groupBytes {
			groups = append(groups, group{})
		}
		g := &groups[len(groups)-1]
		g.at, g.bytes = append(g.at, i), g.bytes+weight[i]
	}
	if len(groups) == 0 {
		return out, nil
	}
	for i := 0; i < len(groups); {
		p := c.Pipeline()
		for sum := int64(0); i < len(groups) && (sum == 0 || sum+groups[i].bytes <= readBytes); i++ {
			g := &groups[i]
			of := make([]string, len(g.at))
			for n, k := range g.at {
				of[n] = keys[k]
			}
			g.cmds, sum = r.ask(ctx, p, old, of...), sum+max(1, g.bytes)
		}
		if err := exec(ctx, p); err != nil {
			return nil, fmt.Errorf("reading %d keys from %s: %w", len(keys), at(c), err)
		}
	}
	if err := groups[0].cmds[1].Err(); lacks(err) {
		r.mute.Store(true)
		return nil, fmt.Errorf("%w: %w", errMute, discreet(err))
	}
	if !old && lacks(groups[0].cmds[2].Err()) {
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
