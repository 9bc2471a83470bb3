package value

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/redis/go-redis/v9"
)

// dump is one key as a server has it.
type dump struct {
	found   bool
	payload string
	expire  int64 // milliseconds since 1970, or noExpiry
	err     error // the server's refusal of this one key
}

// body is the payload without the version and the checksum at its end, which
// differ between servers that encode alike.
func (d dump) body() string {
	const footer = 2 + 8
	if len(d.payload) < footer {
		return d.payload
	}
	return d.payload[:len(d.payload)-footer]
}

// dumper reads keys by DUMP. It remembers what its server cannot do. Safe for
// concurrent use.
type dumper struct{ old atomic.Bool } // no PEXPIRETIME: before Redis 7.0, or forbidden

// read returns the keys in order, in one round trip.
//
// Value and expiry are one step per key: a write in between would give one
// state's value the other's expiry. Each key has a MULTI of its own. One MULTI
// for the batch would save two tiny commands a key (about a microsecond) and
// cost that no other client is served until the last DUMP of the batch is done;
// a key of 10 MB alone takes that long already.
func (d *dumper) read(ctx context.Context, c *redis.Client, keys []string) ([]dump, error) {
	old := d.old.Load()
	p := c.Pipeline()
	queued := make([][]*redis.Cmd, len(keys))
	for i, k := range keys {
		cmds := []*redis.Cmd{p.Do(ctx, "MULTI"), p.Do(ctx, "DUMP", k)}
		if old {
			cmds = append(cmds, p.Do(ctx, "PTTL", k), p.Do(ctx, "TIME"))
		} else {
			cmds = append(cmds, p.Do(ctx, "PEXPIRETIME", k))
		}
		queued[i] = append(cmds, p.Do(ctx, "EXEC"))
	}
	if err := exec(ctx, p); err != nil {
		return nil, fmt.Errorf("reading %d keys from %s: %w", len(keys), at(c), err)
	}
	if !old && len(keys) > 0 && lacks(queued[0][2].Err()) {
		d.old.Store(true)
		return d.read(ctx, c, keys)
	}
	out := make([]dump, len(keys))
	for i, cmds := range queued {
		var err error
		if out[i], err = parseDump(cmds); err != nil {
			out[i].err = fmt.Errorf("reading key %q from %s: %w", keys[i], at(c), err)
		}
	}
	return out, nil
}

// parseDump makes a dump of the answers to one key's MULTI … EXEC.
func parseDump(cmds []*redis.Cmd) (dump, error) {
	for _, c := range cmds { // the first error is the cause, EXECABORT only follows
		if err := c.Err(); err != nil {
			return dump{}, discreet(err)
		}
	}
	res, err := cmds[len(cmds)-1].Slice()
	if err != nil {
		return dump{}, err
	}
	if len(res) != len(cmds)-2 {
		return dump{}, fmt.Errorf("EXEC answered %d elements", len(res))
	}
	for _, r := range res {
		if err, ok := r.(error); ok {
			return dump{}, err
		}
	}
	var d dump
	if res[0] == nil {
		return d, nil
	}
	payload, ok := res[0].(string)
	if !ok {
		return d, fmt.Errorf("unexpected answer to DUMP: %T", res[0])
	}
	d.payload = payload
	if len(res) == 3 {
		d.expire, err = absolute(res[1], res[2])
	} else if d.expire, ok = res[1].(int64); !ok {
		err = fmt.Errorf("unexpected answer to PEXPIRETIME: %T", res[1])
	}
	// A key that went by its expiry between the two is gone.
	d.found = err == nil && d.expire != noKey
	return d, err
}
