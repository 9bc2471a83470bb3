package value

import (
	"context"
	"fmt"
	"regexp"
	"slices"

	"github.com/redis/go-redis/v9"
)

// Glance compares what can be told about a key of a and a key of the same name
// of b at once, however big it is: type, length, expiry, and both ends of what
// has ends. It is for moments in which nobody can wait for Equal.
func Glance(ctx context.Context, a, b *redis.Client, key string) (Diff, error) {
	x, y, err := both(
		func() (glimpse, error) { return look(ctx, a, key) },
		func() (glimpse, error) { return look(ctx, b, key) })
	if err != nil {
		return Diff{}, fmt.Errorf("looking at key %q on %s and %s: %w", key, at(a), at(b), err)
	}
	if x.kind == "hash" && y.kind == "hash" && x.length != y.length {
		some, err := fieldsExpire(ctx, a, b)
		if err != nil {
			return Diff{}, fmt.Errorf("looking at key %q on %s and %s: %w", key, at(a), at(b), err)
		}
		if some { // HLEN counts those that have expired, too, until each server has removed them
			x.length = y.length
		}
	}
	const tolerance = 5 // milliseconds: servers before 7.0 tell no absolute expiry
	apart := x.expire - y.expire
	switch {
	case x.kind == "none" && y.kind == "none":
		return Diff{Gone: true}, nil
	case y.kind == "none":
		return alone(ctx, a, key, x.kind == "hash", differ(Missing, "it is not there"))
	case x.kind == "none":
		return alone(ctx, b, key, y.kind == "hash", differ(Extra, "it is there only"))
	case x.kind != y.kind:
		return differ(Type, "%s and %s", x.kind, y.kind), nil
	case x.length != y.length:
		return differ(Value, "lengths %d and %d", x.length, y.length), nil
	case (x.expire < 0) != (y.expire < 0) || apart > tolerance || -apart > tolerance:
		return differ(Expiry, "%d and %d", x.expire, y.expire), nil
	case !slices.Equal(x.ends, y.ends):
		return differ(Value, "its first or last part"), nil
	}
	return Diff{}, nil
}

// fieldsExpire reports whether one of two databases has hashes of which fields expire.
func fieldsExpire(ctx context.Context, a, b *redis.Client) (bool, error) {
	x, y, err := both(
		func() (string, error) { return a.Info(ctx, "keyspace").Result() },
		func() (string, error) { return b.Info(ctx, "keyspace").Result() })
	return expiring.MatchString(x) || expiring.MatchString(y), err
}

// expiring finds, in INFO keyspace, that keys have fields that expire: subexpiry of Redis,
// keys_with_volatile_items of Valkey. In which database does not matter much.
var expiring = regexp.MustCompile(`(subexpiry|keys_with_volatile_items)=[1-9]`)

// glimpse is what Glance sees of one side.
type glimpse struct {
	kind           string
	length, expire int64
	ends           []string
}

func look(ctx context.Context, c *redis.Client, key string) (glimpse, error) {
	var g glimpse
	var err error
	if g.kind, err = c.Type(ctx, key).Result(); err != nil || sizes[g.kind] == "" {
		return g, err
	}
	if g.expire, err = expireTime(ctx, c, key); err != nil {
		return g, err
	}
	p := c.Pipeline()
	length := p.Do(ctx, sizes[g.kind], key)
	var ends []*redis.Cmd
	var scores [2]*redis.ZSliceCmd
	switch g.kind {
	case "string":
		ends = append(ends, p.Do(ctx, "GETRANGE", key, 0, 4095), p.Do(ctx, "GETRANGE", key, -4096, -1))
	case "list":
		ends = append(ends, p.Do(ctx, "LRANGE", key, 0, 9), p.Do(ctx, "LRANGE", key, -10, -1))
	case "zset":
		scores = [2]*redis.ZSliceCmd{p.ZRangeWithScores(ctx, key, 0, 9), p.ZRangeWithScores(ctx, key, -10, -1)}
	case "stream":
		ends = append(ends, p.Do(ctx, "XRANGE", key, "-", "+", "COUNT", 10), p.Do(ctx, "XREVRANGE", key, "+", "-", "COUNT", 10))
	}
	if err := must(ctx, p); err != nil {
		return g, err
	}
	for _, e := range ends {
		g.ends = append(g.ends, fmt.Sprint(e.Val()))
	}
	for _, z := range scores {
		if z != nil {
			g.ends = append(g.ends, fmt.Sprint(z.Val()))
		}
	}
	g.length, err = length.Int64()
	return g, err
}
