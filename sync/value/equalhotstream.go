package value

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"
)

// The entries of a stream are its elements: one is added, and goes, but never changes. Of
// one that is written all the time the rest (its last id, its groups) has to be the same at
// a moment only.

// eachID finds the entries up to the last one that there is at the beginning.
func eachID(ctx context.Context, p *pair, chunk func(names []string) error) error {
	s, err := readStream(ctx, p.a, p.keyA)
	if says(err, "no such key") {
		return nil
	}
	if err != nil {
		return err
	}
	return eachEntries(ctx, p.a, p.keyA, s.last, func(es []entry) error {
		names := make([]string, len(es))
		for i, e := range es {
			p.bytes += sum(e.fields)
			names[i] = e.id.String()
		}
		return chunk(names)
	})
}

// askEntries asks for entries. Those of a chunk are one range: where there are others among
// them, the last ones are not seen.
func askEntries(ctx context.Context, p *pair, names []string, all bool) ([]element, error) {
	out := make([]element, len(names))
	if all && len(names) > 0 {
		reply, err := p.b.Do(ctx, "XRANGE", p.keyB, names[0], names[len(names)-1], "COUNT", len(names)).Result()
		if err != nil {
			return nil, err
		}
		es, err := parseEntries(reply)
		found := make(map[string]element, len(es))
		for _, e := range es {
			found[e.id.String()] = element{has: true, text: digest(e.fields)}
		}
		for i, n := range names {
			out[i] = found[n]
		}
		return out, err
	}
	pipe := p.b.Pipeline()
	cmds := make([]*redis.Cmd, len(names))
	for i, n := range names {
		cmds[i] = pipe.Do(ctx, "XRANGE", p.keyB, n, n)
	}
	if err := exec(ctx, pipe); err != nil {
		return nil, err
	}
	for i, c := range cmds {
		if err := c.Err(); err != nil {
			return nil, err
		}
		es, err := parseEntries(c.Val())
		if err != nil {
			return nil, err
		}
		if len(es) == 1 {
			out[i] = element{has: true, text: digest(es[0].fields)}
		}
	}
	return out, nil
}

// digest is the same for the same fields only, and small where these are not.
func digest(fields []string) string {
	h := sha256.New()
	for _, f := range fields {
		_, _ = fmt.Fprintf(h, "%d:%s", len(f), f)
	}
	return string(h.Sum(nil))
}

// restOfStream compares what a stream has beside its entries.
func restOfStream(second bool) func(ctx context.Context, p *pair) (same, moved bool, err error) {
	var before *stream // the follower's
	return func(ctx context.Context, p *pair) (same, moved bool, err error) {
		s, err := p.streams(ctx)
		if err != nil {
			return false, false, err
		}
		follower := s[1]
		if second {
			follower = s[0]
		}
		if before != nil {
			d := equalState(*before, follower)
			moved = !d.Equal() || !slices.Equal(before.groups, follower.groups)
		}
		before = &follower
		if d := equalState(s[0], s[1]); !d.Equal() {
			return false, moved, nil
		}
		d, err := equalGroups(ctx, p, s[0].groups, s[1].groups)
		return err == nil && d.Equal(), moved, err
	}
}
