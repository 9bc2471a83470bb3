package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// A zoo has keys of every type and encoding, and changes them. Which encodings a
// server has for them is its own affair: sizes and contents are on both sides of
// each limit at which servers choose another one.

// zooSizes are below and above the limits of the small encodings.
var zooSizes = []int{1, 20, 600}

// ableTo are the commands of the zoo that not every server has.
type ableTo struct {
	fieldTTL bool // HPEXPIREAT
	idle     bool // XGROUP CREATECONSUMER
}

func knows(ctx context.Context, c *redis.Client, command string) bool {
	about, err := c.Do(ctx, "COMMAND", "INFO", command).Slice()
	return err == nil && len(about) == 1 && about[0] != nil
}

func abilities(ctx context.Context, clients ...*redis.Client) ableTo {
	a := ableTo{fieldTTL: true, idle: true}
	for _, c := range clients {
		a.fieldTTL = a.fieldTTL && knows(ctx, c, "HPEXPIREAT")
		a.idle = a.idle && knows(ctx, c, "COPY") // which came with it, in 6.2
	}
	return a
}

// plantZoo fills c's database. far is a moment, in ms since 1970, that does not
// come during the test.
func plantZoo(tb testing.TB, c *redis.Client, a ableTo, far int64) {
	tb.Helper()
	ctx := context.Background()
	p := c.Pipeline()
	do := func(args ...any) { p.Do(ctx, args...) }
	binary := strings.Repeat("\x00\xff\r\n$-1*", 30)
	do("SET", "str int", "-12345")
	do("SET", "str huge int", "9223372036854775807")
	do("SET", "str embstr", "short")
	do("SET", "str raw", binary)
	do("SET", "str empty", "")
	do("SET", "str big", strings.Repeat(binary, 6000)) // over a megabyte
	do("SETBIT", "bitmap", 100_003, 1)
	do("BITFIELD", "bitfield", "SET", "u12", "#3", "4000", "SET", "i5", "100", "-16")
	do("SET", "key \x00\xff\r\n", "binary name")
	for _, n := range zooSizes {
		for i := range n {
			do("RPUSH", fmt.Sprintf("list %d", n), fmt.Sprintf("e%d\x00", i))
			do("SADD", fmt.Sprintf("set ints %d", n), i*1_000_003)
			do("SADD", fmt.Sprintf("set %d", n), fmt.Sprintf("e%d\xff", i))
			do("ZADD", fmt.Sprintf("zset %d", n), strconv.FormatFloat(1/float64(i+3), 'g', 17, 64), fmt.Sprintf("m%d", i))
			do("HSET", fmt.Sprintf("hash %d", n), fmt.Sprintf("f%d", i), fmt.Sprintf("v%d\r\n", i))
			do("PFADD", fmt.Sprintf("hll %d", n), fmt.Sprintf("e%d", i))
			do("GEOADD", fmt.Sprintf("geo %d", n), float64(i%360)-180+0.123, float64(i%170)-85, fmt.Sprintf("p%d", i))
		}
	}
	for i := range 5000 {
		do("PFADD", "hll dense", i)
	}
	do("RPUSH", "list wide", strings.Repeat("w", 70_000), binary, "")
	do("SADD", "set wide", strings.Repeat("w", 300), "")
	do("HSET", "hash wide", "f", strings.Repeat("w", 70_000), "", "")
	do("ZADD", "zset wide", "1", strings.Repeat("w", 300), "-inf", "", "inf", "top")
	do("ZADD", "zset scores", "5e-324", "least", "1.7976931348623157e308", "most", "-0", "minus zero", "9007199254740993", "odd", "0.1", "tenth")
	for _, kind := range []string{"str raw", "list 20", "set 20", "zset 600", "hash 20", "hll 20"} {
		do("PEXPIREAT", kind, far+int64(len(kind)))
	}
	if a.fieldTTL {
		for _, n := range zooSizes[1:] {
			key := fmt.Sprintf("hash ttl %d", n)
			for i := range n {
				do("HSET", key, fmt.Sprintf("f%d", i), i)
			}
			for i := 0; i < n; i += 3 {
				do("HPEXPIREAT", key, far+int64(i), "FIELDS", 1, fmt.Sprintf("f%d", i))
			}
		}
		do("PEXPIREAT", "hash ttl 20", far+99)
	}
	plantStreams(ctx, p, a)
	cmds, err := p.Exec(ctx)
	for _, cmd := range cmds {
		if cmd.Err() != nil {
			tb.Fatalf("planting the zoo: %.80q: %v", cmd.Args(), cmd.Err())
		}
	}
	if err != nil {
		tb.Fatal(err)
	}
}

func plantStreams(ctx context.Context, p redis.Pipeliner, a ableTo) {
	do := func(args ...any) { p.Do(ctx, args...) }
	for _, key := range []string{"stream plain", "stream groups", "stream ghosts", "stream empty"} {
		for i := range 130 {
			do("XADD", key, fmt.Sprintf("%d-%d", 1000+i/3, i), "z", i, "a", "\x00\xff", "z", "again")
		}
	}
	for _, key := range []string{"stream groups", "stream ghosts", "stream empty"} {
		do("XGROUP", "CREATE", key, "g\x00", "0")
		do("XGROUP", "CREATE", key, "mid", "1005-15")
		do("XGROUP", "CREATE", key, "end", "$")
		do("XREADGROUP", "GROUP", "g\x00", "alice", "COUNT", 10, "STREAMS", key, ">")
		do("XREADGROUP", "GROUP", "g\x00", "bob\xff", "COUNT", 10, "STREAMS", key, ">")
		do("XREADGROUP", "GROUP", "mid", "alice", "COUNT", 3, "STREAMS", key, ">")
		do("XACK", key, "g\x00", "1000-2", "1004-12")
		do("XCLAIM", key, "g\x00", "bob\xff", 0, "1001-4", "TIME", 1_600_000_000_123, "RETRYCOUNT", 7)
		if a.idle {
			do("XGROUP", "CREATECONSUMER", key, "g\x00", "idle")
		} else {
			do("XREADGROUP", "GROUP", "g\x00", "idle", "STREAMS", key, 0)
		}
	}
	do("XDEL", "stream ghosts", "1000-1", "1001-3", "1003-9")
	do("XTRIM", "stream ghosts", "MAXLEN", 120)
	do("XTRIM", "stream empty", "MAXLEN", 0)
	do("XGROUP", "CREATE", "stream new", "g", "$", "MKSTREAM")
	do("XDEL", "stream plain", "1043-129") // the last one: its id must not come again
}

// disturb changes the zoo for as long as ctx lives, through the proxy, and returns
// how many commands were answered. Answers that say no are answers.
func disturb(ctx context.Context, c *redis.Client, a ableTo, far int64, r *rand.Rand) (n int, err error) {
	for ctx.Err() == nil {
		p := c.Pipeline()
		for range 8 {
			args := oneChange(a, far, r)
			p.Do(context.WithoutCancel(ctx), args...)
		}
		cmds, err := p.Exec(context.WithoutCancel(ctx))
		var reply redis.Error
		if err != nil && !errors.As(err, &reply) && !errors.Is(err, redis.Nil) {
			return n, err
		}
		for _, cmd := range cmds {
			if e := cmd.Err(); e != nil && !errors.Is(e, redis.Nil) && !permitted(e) {
				return n, fmt.Errorf("%.100q: %w", cmd.Args(), e)
			}
		}
		n += len(cmds)
	}
	return n, nil
}

// permitted reports whether an error is one that the changes themselves make.
func permitted(err error) bool {
	for _, text := range []string{"WRONGTYPE", "NOGROUP", "no such key", "equal or smaller", "hash value is not", "key does not exist",
		"smaller than", "requires the key"} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return false
}

// oneChange is a random command on a key of the zoo.
func oneChange(a ableTo, far int64, r *rand.Rand) []any {
	size := zooSizes[r.IntN(len(zooSizes))]
	i := r.IntN(size + 5)
	e := fmt.Sprintf("e%d\x00", i)
	named := func(kind string) string { return fmt.Sprintf("%s %d", kind, size) }
	stream := []string{"stream plain", "stream groups", "stream ghosts", "stream empty"}[r.IntN(4)]
	all := [][]any{
		{"SET", "str embstr", r.IntN(1000)},
		{"APPEND", "str raw", "x"},
		{"SETRANGE", "str big", r.IntN(1_000_000), "changed"},
		{"INCRBY", "str int", r.IntN(9) - 4},
		{"SETBIT", "bitmap", r.IntN(100_000), r.IntN(2)},
		{"BITFIELD", "bitfield", "INCRBY", "u12", "#3", 7},
		{"RPUSH", named("list"), e}, {"LPUSH", named("list"), e}, {"LPOP", named("list")}, {"LREM", named("list"), 1, e},
		{"SADD", named("set"), e}, {"SREM", named("set"), e}, {"SADD", named("set ints"), i}, {"SREM", named("set ints"), i},
		{"ZADD", named("zset"), r.NormFloat64(), fmt.Sprintf("m%d", i)}, {"ZREM", named("zset"), fmt.Sprintf("m%d", i)},
		{"ZINCRBY", named("zset"), 0.1, fmt.Sprintf("m%d", i)},
		{"HSET", named("hash"), fmt.Sprintf("f%d", i), e}, {"HDEL", named("hash"), fmt.Sprintf("f%d", i)},
		{"PFADD", named("hll"), e}, {"PFCOUNT", named("hll")}, {"PFMERGE", "hll 1", "hll 20"},
		{"GEOADD", named("geo"), r.Float64()*300 - 150, r.Float64()*100 - 50, fmt.Sprintf("p%d", i)},
		{"PEXPIREAT", named("set"), far + int64(i)}, {"PERSIST", named("set")}, {"PEXPIRE", "str short", 1 + r.IntN(5)},
		{"SET", "str short", "soon gone", "PX", 1 + r.IntN(30)},
		{"RENAME", "list wide", "list renamed"}, {"RENAME", "list renamed", "list wide"},
		{"DEL", "comes and goes"}, {"RPUSH", "comes and goes", e}, {"SADD", "comes and goes", e}, {"SET", "comes and goes", e},
		{"XADD", stream, "*", "f", e}, {"XADD", stream, "MAXLEN", 150, "*", "f", e},
		{"XREADGROUP", "GROUP", "g\x00", "carol", "COUNT", 2, "STREAMS", stream, ">"},
		{"XREADGROUP", "GROUP", "g\x00", "alice", "COUNT", 2, "NOACK", "STREAMS", stream, ">"},
		{"XACK", stream, "g\x00", fmt.Sprintf("%d-%d", 1000+i/3, i)},
		{"XCLAIM", stream, "g\x00", "dave", 0, fmt.Sprintf("%d-%d", 1000+i/3, i)},
		{"XDEL", stream, fmt.Sprintf("%d-%d", 1000+i/3, i)},
		{"XGROUP", "DELCONSUMER", stream, "g\x00", "dave"}, {"XGROUP", "SETID", stream, "mid", "1010-30"},
	}
	if a.fieldTTL {
		key, f := fmt.Sprintf("hash ttl %d", zooSizes[1+r.IntN(2)]), fmt.Sprintf("f%d", i)
		all = append(all, []any{"HPEXPIREAT", key, far + int64(r.IntN(1000)), "FIELDS", 1, f}, []any{"HPERSIST", key, "FIELDS", 1, f},
			[]any{"HSET", key, f, e}, []any{"HPEXPIRE", key, 1 + r.IntN(20), "FIELDS", 1, f}, []any{"HDEL", key, f})
	}
	return all[r.IntN(len(all))]
}
