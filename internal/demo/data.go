package demo

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// seed is the data that lies there when the demo begins, and what it was read
// back as from the source, key by key: the independent measure.
type seed struct {
	perDB int
	marks map[int]map[string]mark // by source database
}

// mark is what a key holds, in short.
type mark struct {
	sum     uint64
	expires int64 // Unix ms; 0: never
}

// The types, in the order of a key's number modulo 10.
var types = [10]string{"string", "string", "string", "string", "hash", "list", "set", "zset", "stream", "hll"}

const (
	batch = 500 // keys in a pipeline
	big   = 20_000
)

func keyName(i int) string { return fmt.Sprintf("demo:%s:%d", types[i%10], i) }

// typeOf reads the type from a key's name.
func typeOf(key string) string { return strings.Split(key, ":")[1] }

// fill writes n keys of all types and some big ones into a database.
func fill(ctx context.Context, c *redis.Client, n int) (keys []string, err error) {
	now := time.Now()
	for from := 0; from < n; from += batch {
		p := c.Pipeline()
		for i := from; i < min(from+batch, n); i++ {
			key := keyName(i)
			put(ctx, p, key, i)
			switch {
			case i%50 == 7: // these will be gone before the end
				p.PExpireAt(ctx, key, now.Add(time.Duration(4000+i%16000)*time.Millisecond))
			case i%3 == 0:
				p.PExpireAt(ctx, key, now.Add(time.Hour+time.Duration(i)*time.Millisecond))
			}
			keys = append(keys, key)
		}
		if _, err := p.Exec(ctx); err != nil {
			return nil, fmt.Errorf("fill database %d of %s: %w", c.Options().DB, c.Options().Addr, err)
		}
	}
	more, err := fillBig(ctx, c)
	return append(keys, more...), err
}

// put writes the i-th key.
func put(ctx context.Context, p redis.Pipeliner, key string, i int) {
	db := fmt.Sprint(i)
	switch typeOf(key) {
	case "string":
		p.Set(ctx, key, strings.Repeat("value "+db+" ", 1+i%20), 0)
	case "hash":
		p.HSet(ctx, key, "name", "n"+db, "count", i, "ratio", float64(i)/7, "bytes", "\x00\xff\r\n"+db)
	case "list":
		p.RPush(ctx, key, "first", db, "\x00", strings.Repeat("x", i%300))
	case "set":
		p.SAdd(ctx, key, "a", "b"+db, i, i*i)
	case "zset":
		p.ZAdd(ctx, key, redis.Z{Score: float64(i) / 3, Member: "m" + db}, redis.Z{Score: -1.5, Member: "low"})
	case "stream":
		p.XAdd(ctx, &redis.XAddArgs{Stream: key, ID: "1-1", Values: []any{"n", i}})
		p.XAdd(ctx, &redis.XAddArgs{Stream: key, ID: "2-1", Values: []any{"n", i + 1}})
		p.XAdd(ctx, &redis.XAddArgs{Stream: key, ID: "3-1", Values: []any{"n", i + 2}})
		p.XGroupCreate(ctx, key, "workers", "0")
		p.XGroupCreate(ctx, key, "audit", "2-1")
		// One entry is delivered and acknowledged, one is pending.
		p.XReadGroup(ctx, &redis.XReadGroupArgs{Group: "workers", Consumer: "w" + db, Streams: []string{key, ">"}, Count: 2, Block: -1})
		p.XAck(ctx, key, "workers", "1-1")
		p.XDel(ctx, key, "3-1")
	case "hll":
		p.PFAdd(ctx, key, "u"+db, i, i+1, i+2)
	}
}

// fillBig adds one list, one hash and one sorted set of thousands of elements.
func fillBig(ctx context.Context, c *redis.Client) ([]string, error) {
	keys := []string{"demo:list:big", "demo:hash:big", "demo:zset:big"}
	for from := 0; from < big; from += batch {
		p := c.Pipeline()
		for i := from; i < from+batch; i++ {
			text := fmt.Sprintf("element-%d", i)
			p.RPush(ctx, keys[0], text)
			p.HSet(ctx, keys[1], text, i)
			p.ZAdd(ctx, keys[2], redis.Z{Score: float64(i % 1000), Member: text})
		}
		if _, err := p.Exec(ctx); err != nil {
			return nil, fmt.Errorf("fill database %d of %s: %w", c.Options().DB, c.Options().Addr, err)
		}
	}
	return keys, nil
}

// takeMarks reads keys back. A key that is not there has no mark.
func takeMarks(ctx context.Context, c *redis.Client, keys []string) (map[string]mark, error) {
	out := make(map[string]mark, len(keys))
	for part := range slices.Chunk(keys, batch) {
		p := c.Pipeline()
		expiries := make([]*redis.Cmd, len(part))
		values := make([][]*redis.Cmd, len(part))
		for i, key := range part {
			values[i] = look(ctx, p, key)
			expiries[i] = p.Do(ctx, "PEXPIRETIME", key)
		}
		_, _ = p.Exec(ctx) // each command has its own error
		for i, key := range part {
			at, err := expiries[i].Int64()
			if err != nil {
				return nil, fmt.Errorf("read key %s of database %d at %s: %w", key, c.Options().DB, c.Options().Addr, err)
			}
			if at == -2 {
				continue // gone
			}
			sum, err := digest(typeOf(key), values[i])
			if err != nil {
				return nil, fmt.Errorf("read key %s of database %d at %s: %w", key, c.Options().DB, c.Options().Addr, err)
			}
			out[key] = mark{sum: sum, expires: max(at, 0)}
		}
	}
	return out, nil
}

// look queues the commands that read all that a key holds.
func look(ctx context.Context, p redis.Pipeliner, key string) []*redis.Cmd {
	switch typeOf(key) {
	case "hash":
		return []*redis.Cmd{p.Do(ctx, "HGETALL", key)}
	case "list":
		return []*redis.Cmd{p.Do(ctx, "LRANGE", key, 0, -1)}
	case "set":
		return []*redis.Cmd{p.Do(ctx, "SMEMBERS", key)}
	case "zset":
		return []*redis.Cmd{p.Do(ctx, "ZRANGE", key, 0, -1, "WITHSCORES")}
	case "stream":
		return []*redis.Cmd{
			p.Do(ctx, "XRANGE", key, "-", "+"), p.Do(ctx, "XINFO", "GROUPS", key), p.Do(ctx, "XPENDING", key, "workers"),
			p.Do(ctx, "XPENDING", key, "audit"),
		}
	}
	return []*redis.Cmd{p.Do(ctx, "GET", key)} // a HyperLogLog is a string too
}

// digest makes one number of the replies, whatever the order of a set's members
// or a hash's fields.
func digest(kind string, cmds []*redis.Cmd) (uint64, error) {
	h := fnv.New64a()
	for _, cmd := range cmds {
		v, err := cmd.Result()
		if errors.Is(err, redis.Nil) {
			v = "(none)"
		} else if err != nil {
			return 0, err
		}
		list, is := v.([]any)
		if is && kind == "set" {
			slices.SortFunc(list, func(x, y any) int { return strings.Compare(fmt.Sprint(x), fmt.Sprint(y)) })
		}
		_, _ = fmt.Fprintf(h, "%q|", fmt.Sprint(v)) // maps are printed in the order of their keys
	}
	return h.Sum64(), nil
}

// compared is the outcome of a comparison with the seed.
type compared struct {
	equal, expired int
	wrong          []string
}

// compare reads the seed at a server and holds it against what it was. Expiries
// may differ by 5 ms; a key whose time has come must be gone.
func (s *seed) compare(ctx context.Context, client func(db int) *redis.Client, mapDB func(int) int) (compared, error) {
	const slack = 5
	var out compared
	for db, marks := range s.marks {
		keys := make([]string, 0, len(marks))
		for key := range marks {
			keys = append(keys, key)
		}
		before := time.Now().UnixMilli()
		got, err := takeMarks(ctx, client(mapDB(db)), keys)
		if err != nil {
			return compared{}, err
		}
		after := time.Now().UnixMilli()
		for key, want := range marks {
			is, there := got[key]
			due := want.expires != 0 && want.expires <= before-slack
			mayBeDue := want.expires != 0 && want.expires <= after+slack
			wrong := ""
			switch {
			case there && due:
				wrong = "should have expired"
			case !there && !mayBeDue:
				wrong = "is missing"
			case !there:
				out.expired++
			case is.sum != want.sum:
				wrong = "holds something else"
			case is.expires-want.expires > slack || want.expires-is.expires > slack:
				wrong = fmt.Sprintf("expires %d ms later than it should", is.expires-want.expires)
			default:
				out.equal++
			}
			if wrong != "" {
				out.wrong = append(out.wrong, fmt.Sprintf("database %d, key %s %s", db, key, wrong))
			}
		}
	}
	return out, nil
}
