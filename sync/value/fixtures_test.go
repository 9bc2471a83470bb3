package value

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// binary has every byte.
var binary = func() string {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return string(b)
}()

// fixture is one key of a type and an encoding.
type fixture struct {
	key      string
	encoding string // what OBJECT ENCODING must say, so that the test is about what it says
	fill     func(t *testing.T, c *redis.Client, key string)
}

// many calls add for n elements in chunks of one command each.
func many(t *testing.T, c *redis.Client, n int, command, key string, elem func(i int) []any) {
	t.Helper()
	for from := 0; from < n; from += 500 {
		args := []any{command, key}
		for i := from; i < min(n, from+500); i++ {
			args = append(args, elem(i)...)
		}
		run(t, c, args...)
	}
}

func set(value any) func(*testing.T, *redis.Client, string) {
	return func(t *testing.T, c *redis.Client, key string) { run(t, c, "SET", key, value) }
}

func fill(n int, command string, elem func(i int) []any) func(*testing.T, *redis.Client, string) {
	return func(t *testing.T, c *redis.Client, key string) { many(t, c, n, command, key, elem) }
}

func fixtures() []fixture {
	name := func(i int) []any { return []any{fmt.Sprintf("e%d\x00\r\n", i)} }
	pairs := func(i int) []any { return []any{fmt.Sprintf("f%d\xff", i), fmt.Sprintf("v%d\x00", i)} }
	scores := []string{"inf", "-inf", "0", "-0", "0.1", "1e308", "5e-324", "-1.7976931348623157e308",
		strconv.FormatFloat(math.Nextafter(1, 2), 'g', 17, 64), "9007199254740993", "3"}
	scored := func(i int) []any {
		if i < len(scores) {
			return []any{scores[i], fmt.Sprintf("m%d", i)}
		}
		return []any{strconv.FormatFloat(float64(i)/7, 'g', 17, 64), fmt.Sprintf("m%d\x00", i)}
	}
	all := []fixture{
		{"str int", "int", set(12345)},
		{"str embstr", "embstr", set("short")},
		{"str raw", "raw", set(strings.Repeat(binary, 3))},
		{"str empty", "embstr", set("")},
		{"str big", "raw", set(string(bytes.Repeat([]byte(binary), 12*1024+1)))}, // 3 MiB and 256 bytes
		{"str one chunk", "raw", set(strings.Repeat("x", chunkBytes))},
		{"bitmap", "raw", func(t *testing.T, c *redis.Client, k string) { run(t, c, "SETBIT", k, 100001, 1) }},
		{"hll sparse", "raw", fill(20, "PFADD", name)},
		{"hll dense", "raw", fill(20000, "PFADD", name)},
		{binary, "", set("binary key")},
		{"list small", "", fill(5, "RPUSH", name)},
		{"list big", "quicklist", fill(5000, "RPUSH", name)},
		{"list wide", "quicklist", fill(40, "RPUSH", func(i int) []any { return []any{strings.Repeat(string(rune('a'+i%26)), 200_000+i)} })},
		{"set int", "intset", fill(100, "SADD", func(i int) []any { return []any{i * 1_000_000_007} })},
		{"set small", "", fill(20, "SADD", name)},
		{"set big", "hashtable", fill(5000, "SADD", name)},
		{"zset small", "listpack", fill(len(scores)+2, "ZADD", scored)},
		{"zset big", "skiplist", fill(3000, "ZADD", scored)},
		{"hash small", "listpack", fill(10, "HSET", pairs)},
		{"hash big", "hashtable", fill(5000, "HSET", pairs)},
		{"hash long value", "hashtable", func(t *testing.T, c *redis.Client, k string) {
			run(t, c, "HSET", k, "f", strings.Repeat("y", 300_000), "", "")
		}},
	}
	return append(all, streams()...)
}

func add(t *testing.T, c *redis.Client, key string, from, to int) {
	t.Helper()
	for i := from; i <= to; i++ {
		// A field name twice, in an order that is not the alphabet's.
		run(t, c, "XADD", key, fmt.Sprintf("%d-%d", 1000+i/3, i), "z", i, "a", binary, "z", "again")
	}
}

func streams() []fixture {
	return []fixture{
		{"stream plain", "stream", func(t *testing.T, c *redis.Client, k string) { add(t, c, k, 1, 2500) }},
		{"stream deleted", "stream", func(t *testing.T, c *redis.Client, k string) {
			add(t, c, k, 1, 50)
			run(t, c, "XDEL", k, "1000-1", "1003-10", "1016-50")
			run(t, c, "XTRIM", k, "MAXLEN", 30)
		}},
		{"stream empty", "stream", func(t *testing.T, c *redis.Client, k string) {
			add(t, c, k, 1, 5)
			run(t, c, "XTRIM", k, "MAXLEN", 0)
		}},
		{"stream empty group", "stream", func(t *testing.T, c *redis.Client, k string) {
			run(t, c, "XGROUP", "CREATE", k, "g", "$", "MKSTREAM")
			idle(t, c, k, "g")
		}},
		{"stream groups", "stream", groups},
		{"stream ghosts deleted", "stream", func(t *testing.T, c *redis.Client, k string) {
			groups(t, c, k)
			run(t, c, "XDEL", k, "1000-1", "1001-3", "1003-9")
		}},
		{"stream ghosts trimmed", "stream", func(t *testing.T, c *redis.Client, k string) {
			groups(t, c, k)
			run(t, c, "XTRIM", k, "MAXLEN", 95)
		}},
		{"stream ghosts both", "stream", func(t *testing.T, c *redis.Client, k string) {
			groups(t, c, k)
			run(t, c, "XDEL", k, "1003-9")
			run(t, c, "XTRIM", k, "MAXLEN", 95)
		}},
		{"stream all ghosts", "stream", func(t *testing.T, c *redis.Client, k string) {
			groups(t, c, k)
			run(t, c, "XTRIM", k, "MAXLEN", 0)
		}},
		{"stream long pel", "stream", func(t *testing.T, c *redis.Client, k string) {
			add(t, c, k, 1, 2300)
			run(t, c, "XGROUP", "CREATE", k, "g", "0")
			run(t, c, "XREADGROUP", "GROUP", "g", "c1", "COUNT", 1500, "STREAMS", k, ">")
			run(t, c, "XREADGROUP", "GROUP", "g", "c2", "COUNT", 700, "STREAMS", k, ">")
			run(t, c, "XDEL", k, "1100-300", "1400-1200")
		}},
	}
}

// groups makes a stream with entries 1 to 100 and groups in several states.
func groups(t *testing.T, c *redis.Client, k string) {
	t.Helper()
	add(t, c, k, 1, 100)
	run(t, c, "XGROUP", "CREATE", k, "g1\x00", "0")
	run(t, c, "XGROUP", "CREATE", k, "mid", "1005-15")
	run(t, c, "XGROUP", "CREATE", k, "end", "$")
	run(t, c, "XREADGROUP", "GROUP", "g1\x00", "alice", "COUNT", 10, "STREAMS", k, ">")
	run(t, c, "XREADGROUP", "GROUP", "g1\x00", "bob\xff", "COUNT", 10, "STREAMS", k, ">")
	run(t, c, "XREADGROUP", "GROUP", "mid", "alice", "COUNT", 3, "STREAMS", k, ">")
	run(t, c, "XACK", k, "g1\x00", "1000-2", "1004-12")
	run(t, c, "XCLAIM", k, "g1\x00", "bob\xff", 0, "1001-4", "TIME", 1_600_000_000_123, "RETRYCOUNT", 7)
	idle(t, c, k, "g1\x00")
}

// idle makes a consumer that has nothing, also where no command is for that (before 6.2).
func idle(t *testing.T, c *redis.Client, k, group string) {
	t.Helper()
	err := c.XGroupCreateConsumer(t.Context(), k, group, "idle").Err()
	if err != nil {
		run(t, c, "XREADGROUP", "GROUP", group, "idle", "STREAMS", k, 0)
	}
}

// plant fills all fixtures into c and checks their encodings.
func plant(t *testing.T, c *redis.Client) []fixture {
	t.Helper()
	all := fixtures()
	for _, f := range all {
		f.fill(t, c, f.key)
		got := run(t, c, "OBJECT", "ENCODING", f.key)
		if got == "ziplist" { // its name before 7.0
			got = "listpack"
		}
		if f.encoding != "" && got != f.encoding {
			t.Errorf("%q has encoding %v, not %v: the test does not test what it says", f.key, got, f.encoding)
		}
	}
	return all
}
