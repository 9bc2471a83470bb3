package value

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// ErrFieldExpiry says that a hash has fields with an expiry of their own, which
// the target cannot have.
var ErrFieldExpiry = errors.New("target knows no expiry of hash fields")

// copyString reads a string that may be in chunks. One of many megabytes goes
// another way, see streamString.
func copyString(ctx context.Context, src *redis.Client, key string, t *temp) error {
	for {
		part, err := src.GetRange(ctx, key, t.length, t.length+chunkBytes-1).Result()
		if err != nil {
			return err
		}
		if part != "" || t.length == 0 {
			n, command := int64(len(part)), "APPEND"
			if t.length == 0 {
				command = "SET"
			}
			if err := t.append(ctx, n, "STRLEN", n, []any{command, t.key, part}); err != nil {
				return err
			}
		}
		if len(part) < chunkBytes {
			return nil
		}
	}
}

// copyList reads a list from the end that does not change.
func copyList(ctx context.Context, src *redis.Client, key string, t *temp) error {
	for {
		n := int64(t.pace.next(listMost))
		from, to, push := t.length, t.length+n-1, "RPUSH"
		if t.fromTail {
			from, to, push = -t.length-n, -t.length-1, "LPUSH"
		}
		elems, err := src.LRange(ctx, key, from, to).Result()
		if err != nil {
			return err
		}
		if len(elems) == 0 {
			return nil
		}
		if t.fromTail {
			slices.Reverse(elems)
		}
		got, bytes := int64(len(elems)), sum(elems)
		t.pace.saw(len(elems), bytes, chunkBytes, listMost)
		if err := t.append(ctx, bytes, "LLEN", got, anys(elems, push, t.key)); err != nil {
			return err
		}
		if got < n {
			return nil
		}
	}
}

// eachRange reads a list from its head.
func eachRange(ctx context.Context, c *redis.Client, key string, chunk func(from int64, elems []string) error) error {
	var p pace
	for from := int64(0); ; {
		n := p.next(chunkMost)
		elems, err := c.LRange(ctx, key, from, from+int64(n)-1).Result()
		if err != nil {
			return err
		}
		if len(elems) == 0 {
			return nil
		}
		p.saw(len(elems), sum(elems), chunkBytes, chunkMost)
		if err := chunk(from, elems); err != nil {
			return err
		}
		from += int64(len(elems))
	}
}

// eachScan reads a set, sorted set or hash. An element may come twice.
func eachScan(ctx context.Context, c *redis.Client, command, key string, chunk func(elems []string) error) error {
	var p pace
	cursor := "0"
	return scanOn(ctx, c, command, key, &p, &cursor, chunk)
}

// scanOn is eachScan from a cursor, which moves on when chunk has taken what was
// read. It is "" at the end.
func scanOn(ctx context.Context, c *redis.Client, command, key string, p *pace, cursor *string, chunk func(elems []string) error) error {
	for {
		n := p.next(chunkMost)
		reply, err := c.Do(ctx, command, key, *cursor, "COUNT", n).Slice()
		if err != nil {
			return err
		}
		if len(reply) != 2 {
			return fmt.Errorf("unexpected answer to %s", command)
		}
		elems, err := texts(reply[1])
		if err != nil {
			return err
		}
		p.saw(n, sum(elems), chunkBytes, chunkMost)
		if len(elems) > 0 {
			if err := chunk(elems); err != nil {
				return err
			}
		}
		if *cursor = text(reply[0]); *cursor == "0" || *cursor == "" {
			*cursor = ""
			return nil
		}
	}
}

// scan is scanOn from where t is. What was read in full is not read again.
func (t *temp) scan(ctx context.Context, src *redis.Client, command, key string, chunk func(elems []string) error) error {
	if t.cursor == "" {
		if t.began {
			return nil
		}
		t.cursor = "0"
	}
	return scanOn(ctx, src, command, key, &t.pace, &t.cursor, chunk)
}

func texts(v any) ([]string, error) {
	list, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("unexpected answer: %T instead of a list", v)
	}
	out := make([]string, len(list))
	for i, e := range list {
		if out[i], ok = e.(string); !ok {
			return nil, fmt.Errorf("unexpected answer: %T instead of a string", e)
		}
	}
	return out, nil
}

func sum(elems []string) (n int64) {
	for _, e := range elems {
		n += int64(len(e))
	}
	return n
}

func copySet(ctx context.Context, src *redis.Client, key string, t *temp) error {
	return t.scan(ctx, src, "SSCAN", key, func(elems []string) error {
		return t.grow(ctx, sum(elems), "SCARD", anys(elems, "SADD", t.key))
	})
}

// copyZSet hands scores on as the text that the server gives: %.17g, which has
// every bit of a double, or inf.
func copyZSet(ctx context.Context, src *redis.Client, key string, t *temp) error {
	return t.scan(ctx, src, "ZSCAN", key, func(pairs []string) error {
		args := make([]any, 2, 2+len(pairs))
		args[0], args[1] = "ZADD", t.key
		for i := 0; i+1 < len(pairs); i += 2 {
			args = append(args, pairs[i+1], pairs[i])
		}
		return t.grow(ctx, sum(pairs), "ZCARD", args)
	})
}

func copyHash(ctx context.Context, src *redis.Client, key string, t *temp) error {
	expiries := true // until the server says that it has none
	return t.scan(ctx, src, "HSCAN", key, func(pairs []string) error {
		var at []int64
		if expiries {
			fields, _ := split(pairs)
			var err error
			if at, expiries, err = fieldExpiries(ctx, src, key, fields); err != nil {
				return err
			}
			if pairs, at = alive(pairs, at); len(pairs) == 0 {
				return nil
			}
		}
		cmds := [][]any{anys(pairs, "HSET", t.key)}
		for i, ms := range at {
			if ms > 0 {
				cmds = append(cmds, []any{"HPEXPIREAT", t.key, ms, "FIELDS", 1, pairs[2*i]})
			}
		}
		n, err := t.send(ctx, sum(pairs), "HLEN", cmds)
		if len(cmds) > 1 && lacks(err) {
			if !t.manner.DropFieldExpiries {
				return fmt.Errorf("%w: %w", ErrFieldExpiry, discreet(err))
			}
			t.dropped += len(cmds) - 1
			n, err = t.send(ctx, 0, "HLEN", cmds[:1])
		}
		if err == nil {
			t.length = n // less than before is no loss: fields may have expired meanwhile
		}
		return err
	})
}

// noField is HPEXPIRETIME's answer where there is no such field, or not any more.
const noField = -2

// alive leaves those fields out that have expired since their values were read: they have
// no expiry any more, and without one they would stay for ever where they are copied to. at
// are the fields' expiries; where there are none, nobody can tell.
func alive(pairs []string, at []int64) ([]string, []int64) {
	if !slices.Contains(at, noField) {
		return pairs, at
	}
	left, when := make([]string, 0, len(pairs)), make([]int64, 0, len(at))
	for i, ms := range at {
		if ms != noField {
			left, when = append(left, pairs[2*i], pairs[2*i+1]), append(when, ms)
		}
	}
	return left, when
}

// hollow reports whether nothing was found to be copied of a key that is there: a hash all
// of whose fields have expired, which its server has not removed yet, and does not remove
// while writers are paused. To clients it is not there.
func (t *temp) hollow(kind string) bool { return kind == "hash" && !t.began }

// fieldExpiries returns the fields' expiries in milliseconds since 1970, noField, or
// another negative number for none; known is false when the server has no such thing
// (before Redis 7.4).
func fieldExpiries(ctx context.Context, c *redis.Client, key string, fields []string) (at []int64, known bool, err error) {
	args := anys(fields, "HPEXPIRETIME", key, "FIELDS", strconv.Itoa(len(fields)))
	reply, err := c.Do(ctx, args...).Slice()
	switch {
	case unknownCommand(err):
		return nil, false, nil
	case errors.Is(err, redis.Nil), err == nil && len(reply) != len(fields): // the key is gone
		return nil, true, nil
	case err != nil:
		return nil, true, err
	}
	at = make([]int64, len(fields))
	for i, r := range reply {
		at[i], _ = r.(int64)
	}
	return at, true, nil
}
