package value

import (
	"math"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestEqualSeesThroughEncodings(t *testing.T) {
	src, dst := two(t)
	for _, f := range []string{"list-max-listpack-size", "hash-max-listpack-entries", "zset-max-listpack-entries", "set-max-intset-entries", "stream-node-max-entries"} {
		run(t, dst, "CONFIG", "SET", f, 2)
	}
	for _, f := range fixtures() {
		f.fill(t, src, f.key)
		f.fill(t, dst, f.key)
		switch f.key {
		case "stream groups", "stream long pel", "stream ghosts deleted", "stream ghosts trimmed", "stream ghosts both", "stream all ghosts":
			continue // delivered at other times
		}
		wantEqual(t, src, dst, f.key, f.key)
	}
}

func TestEqualFindsDifferences(t *testing.T) {
	src, dst := two(t)
	up := strconv.FormatFloat(math.Nextafter(0.1, 1), 'g', 17, 64)
	const far = 4_000_000_000_000
	cases := []struct {
		name string
		want Kind
		base [][]any // on both sides
		then [][]any // on the target
	}{
		{"missing", Missing, [][]any{{"SET", "k", 1}}, [][]any{{"DEL", "k"}}},
		{"extra", Extra, nil, [][]any{{"SET", "k", 1}}},
		{"type", Type, [][]any{{"SADD", "k", 1}}, [][]any{{"DEL", "k"}, {"RPUSH", "k", 1}}},
		{"string", Value, [][]any{{"SET", "k", "abc"}}, [][]any{{"SET", "k", "abd"}}},
		{"string length", Value, [][]any{{"SET", "k", "abc"}}, [][]any{{"APPEND", "k", "d"}}},
		{"list order", Value, [][]any{{"RPUSH", "k", "a", "b"}}, [][]any{{"DEL", "k"}, {"RPUSH", "k", "b", "a"}}},
		{"set order", Same, [][]any{{"SADD", "k", "a", "b", "c"}}, [][]any{{"DEL", "k"}, {"SADD", "k", "c", "b", "a"}}},
		{"set member", Value, [][]any{{"SADD", "k", "a", "b"}}, [][]any{{"SREM", "k", "a"}, {"SADD", "k", "c"}}},
		{"score's last bit", Value, [][]any{{"ZADD", "k", "0.1", "a"}}, [][]any{{"ZADD", "k", up, "a"}}},
		{"zset member", Value, [][]any{{"ZADD", "k", 1, "a"}}, [][]any{{"ZREM", "k", "a"}, {"ZADD", "k", 1, "b"}}},
		{"hash order", Same, [][]any{{"HSET", "k", "a", 1, "b", 2}}, [][]any{{"HDEL", "k", "a"}, {"HSET", "k", "a", 1}}},
		{"hash value", Value, [][]any{{"HSET", "k", "a", 1}}, [][]any{{"HSET", "k", "a", 2}}},
		{"hash field", Value, [][]any{{"HSET", "k", "a", 1, "b", 1}}, [][]any{{"HDEL", "k", "a"}, {"HSET", "k", "c", 1}}},
		{"hll", Value, [][]any{{"PFADD", "k", 1}}, [][]any{{"PFADD", "k", 2, 3, 4, 5}}},
		{"hll counted", Same, [][]any{{"PFADD", "k", 1}}, [][]any{{"PFCOUNT", "k"}}},
		{"expiry 50 ms", Expiry, [][]any{{"SET", "k", 1, "PXAT", far}}, [][]any{{"PEXPIREAT", "k", far + 50}}},
		{"expiry 5 ms", Same, [][]any{{"SET", "k", 1, "PXAT", far}}, [][]any{{"PEXPIREAT", "k", far - 5}}},
		{"expiry 6 ms", Expiry, [][]any{{"SET", "k", 1, "PXAT", far}}, [][]any{{"PEXPIREAT", "k", far - 6}}},
		{"no expiry", Expiry, [][]any{{"SET", "k", 1, "PXAT", far}}, [][]any{{"PERSIST", "k"}}},
		{"expiry, other encoding", Expiry, [][]any{{"SADD", "k", "a", "b"}}, [][]any{{"DEL", "k"}, {"SADD", "k", "b", "a"}, {"PEXPIREAT", "k", far}}},
		{"entry", Value, [][]any{{"XADD", "k", "1-1", "a", 1}}, [][]any{{"DEL", "k"}, {"XADD", "k", "1-1", "a", 2}}},
		{"entry's field order", Value, [][]any{{"XADD", "k", "1-1", "a", 1, "b", 1}}, [][]any{{"DEL", "k"}, {"XADD", "k", "1-1", "b", 1, "a", 1}}},
		{"last id", Value, [][]any{{"XADD", "k", "1-1", "a", 1}}, [][]any{{"XSETID", "k", "2-0"}}},
		{"entries added", Value, [][]any{{"XADD", "k", "1-1", "a", 1}}, [][]any{{"XSETID", "k", "1-1", "ENTRIESADDED", 9, "MAXDELETEDID", "0-0"}}},
		{"max deleted", Value, [][]any{{"XADD", "k", "1-1", "a", 1}}, [][]any{{"XSETID", "k", "1-1", "ENTRIESADDED", 1, "MAXDELETEDID", "0-5"}}},
		{"no group", Group, base(), [][]any{{"XGROUP", "DESTROY", "k", "g"}}},
		{"other group", Group, base(), [][]any{{"XGROUP", "DESTROY", "k", "g"}, {"XGROUP", "CREATE", "k", "h", "1-2", "ENTRIESREAD", 2}}},
		{"delivered id", Group, base(), [][]any{{"XGROUP", "SETID", "k", "g", "1-1", "ENTRIESREAD", 2}}},
		{"entries read", Group, base(), [][]any{{"XGROUP", "SETID", "k", "g", "1-2", "ENTRIESREAD", 1}}},
		{"consumer", Group, base(), [][]any{{"XGROUP", "CREATECONSUMER", "k", "g", "new"}}},
		{"other consumer", Group, base(), [][]any{{"XGROUP", "DELCONSUMER", "k", "g", "idle"}, {"XGROUP", "CREATECONSUMER", "k", "g", "new"}}},
		{"acknowledged", Group, base(), [][]any{{"XACK", "k", "g", "1-1"}}},
		{"claimed", Group, base(), [][]any{claim("idle", 1_700_000_000_000, 1)}},
		{"delivery count", Group, base(), [][]any{claim("c", 1_700_000_000_000, 2)}},
		{"delivery time", Group, base(), [][]any{claim("c", 1_700_000_000_050, 1)}},
		{"groups equal", Same, base(), [][]any{claim("c", 1_700_000_000_000, 1)}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for _, x := range []*redis.Client{src, dst} {
				run(t, x, "FLUSHDB")
				for _, cmd := range c.base {
					run(t, x, cmd...)
				}
			}
			for _, cmd := range c.then {
				run(t, dst, cmd...)
			}
			for _, big := range []int64{0, 1} { // by dump, and in chunks
				ds, err := (&Comparer{Big: big}).Compare(t.Context(), src, dst, []string{"k"})
				if err != nil || ds[0].Kind != c.want || (ds[0].Words == "") != (c.want == Same) {
					t.Errorf("big %d: %+v, %v", big, ds, err)
				}
			}
		})
	}
}

func base() [][]any {
	return [][]any{
		{"XADD", "k", "1-1", "a", 1}, {"XADD", "k", "1-2", "a", 2},
		{"XGROUP", "CREATE", "k", "g", "1-2", "ENTRIESREAD", 2},
		{"XGROUP", "CREATECONSUMER", "k", "g", "idle"},
		claim("c", 1_700_000_000_000, 1),
	}
}

func claim(consumer string, at int64, count int) []any {
	return []any{"XCLAIM", "k", "g", consumer, 0, "1-1", "TIME", at, "RETRYCOUNT", count, "FORCE", "JUSTID"}
}

func TestEqualOfAbsentKeys(t *testing.T) {
	src, dst := two(t)
	d, err := Equal(t.Context(), src, dst, "no", "no")
	if err != nil || !d.Gone || !d.Equal() {
		t.Error(d, err)
	}
}
