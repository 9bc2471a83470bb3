package value

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// ErrFieldExpiry says that a hash has fields with an expiry of their own, which
// the target cannot have.
var ErrFieldExpiry = errors.New("target knows no expiry of hash fields")

func copyString(ctx context.Context, src *redis.Client, key string, t *temp) error {
	for from := int64(0); ; from += chunkBytes {
		part, err := src.GetRange(ctx, key, from, from+chunkBytes-1).Result()
		if err != nil {
			return err
		}
		if from == 0 {
			if err := t.write(ctx, int64(len(part)), []any{"SET", t.key, part}); err != nil {
				return err
			}
		} else if part != "" {
			if err := t.grow(ctx, int64(len(part)), "STRLEN", []any{"APPEND", t.key, part}); err != nil {
				return err
			}
			if t.length != from+int64(len(part)) {
				return fmt.Errorf("%w: temporary key has another length", errChanged)
			}
		}
		if len(part) < chunkBytes {
			return nil
		}
	}
}

func copyList(ctx context.Context, src *redis.Client, key string, t *temp) error {
	return eachRange(ctx, src, key, func(_ int64, elems []string) error {
		return t.grow(ctx, sum(elems), "LLEN", anys(elems, "RPUSH", t.key))
	})
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
	for cursor := "0"; ; {
		n := p.next(chunkMost)
		reply, err := c.Do(ctx, command, key, cursor, "COUNT", n).Slice()
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
		if cursor = text(reply[0]); cursor == "0" || cursor == "" {
			return nil
		}
	}
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
	return eachScan(ctx, src, "SSCAN", key, func(elems []string) error {
		return t.grow(ctx, sum(elems), "SCARD", anys(elems, "SADD", t.key))
	})
}

// copyZSet hands scores on as the text that the server gives: %.17g, which has
// every bit of a double, or inf.
func copyZSet(ctx context.Context, src *redis.Client, key string, t *temp) error {
	return eachScan(ctx, src, "ZSCAN", key, func(pairs []string) error {
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
	return eachScan(ctx, src, "HSCAN", key, func(pairs []string) error {
		cmds := [][]any{anys(pairs, "HSET", t.key)}
		if expiries {
			fields := make([]string, 0, len(pairs)/2)
			for i := 0; i+1 < len(pairs); i += 2 {
				fields = append(fields, pairs[i])
			}
			at, known, err := fieldExpiries(ctx, src, key, fields)
			if err != nil {
				return err
			}
			expiries = known
			for i, ms := range at {
				if ms > 0 {
					cmds = append(cmds, []any{"HPEXPIREAT", t.key, ms, "FIELDS", 1, fields[i]})
				}
			}
		}
		err := t.write(ctx, sum(pairs), cmds...) // no grow: fields may expire meanwhile
		if len(cmds) > 1 && unknownCommand(err) {
			return fmt.Errorf("%w: %w", ErrFieldExpiry, err)
		}
		return err
	})
}

// fieldExpiries returns the fields' expiries in milliseconds since 1970, or a
// negative number for none; known is false when the server has no such thing
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
