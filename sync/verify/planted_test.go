package verify

import (
	"context"
	"fmt"
	"maps"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/value"
)

// wantFound fails unless a report names just these keys, with these kinds.
func wantFound(t *testing.T, r Report, want map[string]value.Kind) {
	t.Helper()
	got := make(map[string]value.Kind)
	for _, d := range r.Databases {
		for _, e := range d.Examples {
			got[string(e.Key)] = e.Kind
		}
	}
	if !maps.Equal(got, want) || r.Differing != int64(len(want)) || !r.Complete {
		t.Errorf("found %v, not %v\n%s", got, want, r)
	}
}

// bigSize is the length of the big string, bigCount of the biggest collection, and
// someCount of the others.
const (
	bigSize   = 4 << 20
	bigCount  = 200_000
	someCount = 20_000
)

// plants are differences: what both sides have, and what is done to the target.
func plants() []plant {
	up := strconv.FormatFloat(math.Nextafter(0.1, 1), 'g', 17, 64)
	stream := func(then ...any) plant {
		base := [][]any{
			{"XADD", "", "1-1", "a", 1}, {"XADD", "", "1-2", "a", 2},
			{"XGROUP", "CREATE", "", "g", "1-2", "ENTRIESREAD", 2},
			{"XGROUP", "CREATECONSUMER", "", "g", "idle"},
			{"XCLAIM", "", "g", "c", 0, "1-1", "TIME", int64(1_700_000_000_000), "RETRYCOUNT", 1, "FORCE", "JUSTID"},
		}
		return plant{kind: value.Group, base: base, then: [][]any{then}}
	}
	return []plant{
		{"value", value.Value, [][]any{{"SET", "", "abc"}}, [][]any{{"SET", "", "abd"}}},
		{"type", value.Type, [][]any{{"SADD", "", 1}}, [][]any{{"DEL", ""}, {"RPUSH", "", 1}}},
		{"expiry off by 1 s", value.Expiry, [][]any{{"SET", "", 1, "PXAT", far}}, [][]any{{"PEXPIREAT", "", far + 1000}}},
		{"no expiry", value.Expiry, [][]any{{"SET", "", 1, "PXAT", far}}, [][]any{{"PERSIST", ""}}},
		{"missing", value.Missing, [][]any{{"SET", "", 1}}, [][]any{{"DEL", ""}}},
		{"extra", value.Extra, nil, [][]any{{"SET", "", 1}}},
		{"list order", value.Value, [][]any{{"RPUSH", "", "a", "b", "c"}}, [][]any{{"DEL", ""}, {"RPUSH", "", "a", "c", "b"}}},
		{"set member", value.Value, [][]any{{"SADD", "", "a", "b"}}, [][]any{{"SREM", "", "a"}, {"SADD", "", "c"}}},
		{"hash value", value.Value, [][]any{{"HSET", "", "a", 1}}, [][]any{{"HSET", "", "a", 2}}},
		{"score's last bit", value.Value, [][]any{{"ZADD", "", "0.1", "a"}}, [][]any{{"ZADD", "", up, "a"}}},
		{"stream entry", value.Value, [][]any{{"XADD", "", "1-1", "a", 1}}, [][]any{{"DEL", ""}, {"XADD", "", "1-1", "a", 2}}},
		{"last id", value.Value, [][]any{{"XADD", "", "1-1", "a", 1}}, [][]any{{"XSETID", "", "2-0"}}},
		named("group", stream("XGROUP", "DESTROY", "", "g")),
		named("group's last id", stream("XGROUP", "SETID", "", "g", "1-1", "ENTRIESREAD", 2)),
		named("consumer", stream("XGROUP", "CREATECONSUMER", "", "g", "new")),
		named("pending entry", stream("XACK", "", "g", "1-1")),
		named("pending entry's owner", stream("XCLAIM", "", "g", "idle", 0, "1-1", "TIME", int64(1_700_000_000_000), "RETRYCOUNT", 1, "FORCE", "JUSTID")),
	}
}

type plant struct {
	name       string
	kind       value.Kind
	base, then [][]any
}

func named(name string, p plant) plant {
	p.name = name
	return p
}

// on runs commands on a key, whose name stands where "" is.
func on(t *testing.T, c *redis.Client, key string, cmds [][]any) {
	t.Helper()
	for _, cmd := range cmds {
		args := make([]any, len(cmd))
		for i, a := range cmd {
			if a == "" {
				a = key
			}
			args[i] = a
		}
		run(t, c, args...)
	}
}

// plantAll makes both sides equal and then plants every difference, those in big
// keys too. It returns what is to be found.
func plantAll(t *testing.T, src, dst *redis.Client) map[string]value.Kind {
	t.Helper()
	want := make(map[string]value.Kind)
	for _, p := range plants() {
		on(t, src, p.name, p.base)
		on(t, dst, p.name, p.base)
		on(t, dst, p.name, p.then)
		want[p.name] = p.kind
	}
	fillBig(t, src, dst)
	ctx := t.Context()
	run(t, dst, "SETBIT", "big string", 8*(bigSize*2/3)+3, 1-src.GetBit(ctx, "big string", 8*(bigSize*2/3)+3).Val())
	run(t, dst, "LSET", "big list", someCount*3/4, "x")
	run(t, dst, "SREM", "big set", "m5")
	run(t, dst, "SADD", "big set", "other")
	run(t, dst, "HSET", "big hash", "m7", "x")
	run(t, dst, "ZADD", "big zset", strconv.FormatFloat(math.Nextafter(7, 8), 'g', 17, 64), "m7")
	run(t, dst, "XDEL", "big stream", "9-1")
	for _, k := range []string{"string", "list", "set", "hash", "zset", "stream"} {
		want["big "+k] = value.Value
	}
	if src.Do(ctx, "HPEXPIREAT", "field", far, "FIELDS", 1, "f").Err() == nil { // the server knows field expiries
		for i, c := range []*redis.Client{src, dst} {
			run(t, c, "HSET", "field", "f", 1)
			run(t, c, "HPEXPIREAT", "field", far+1000*i, "FIELDS", 1, "f")
		}
		want["field"] = value.Expiry
	}
	return want
}

// fillBig makes the same big keys on both sides, and an untouched one of each type.
func fillBig(t *testing.T, src, dst *redis.Client) {
	t.Helper()
	ctx := t.Context()
	run(t, src, "SET", "big string", strings.Repeat("0123456789abcdef", bigSize/16))
	const chunk = 1000
	for from := 0; from < bigCount; from += chunk {
		p := src.Pipeline()
		cmds := [][]any{{"SADD", "big set"}, {"RPUSH", "big list"}, {"HSET", "big hash"}, {"ZADD", "big zset"}}
		for i := from; i < from+chunk; i++ {
			m := fmt.Sprintf("m%d", i)
			cmds[0], cmds[1] = append(cmds[0], m), append(cmds[1], m)
			cmds[2], cmds[3] = append(cmds[2], m, i), append(cmds[3], i, m)
			if i < someCount {
				p.Do(ctx, "XADD", "big stream", fmt.Sprintf("%d-1", i+1), "f", strings.Repeat("v", 40))
			}
		}
		if from >= someCount {
			cmds = cmds[:1]
		}
		for _, c := range cmds {
			p.Do(ctx, c...)
		}
		if _, err := p.Exec(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range []string{"string", "list", "set", "hash", "zset", "stream"} {
		run(t, src, "COPY", "big "+k, "same "+k)
		payload := src.Dump(ctx, "big "+k).Val()
		for _, prefix := range []string{"big ", "same "} {
			run(t, dst, "RESTORE", prefix+k, 0, payload)
		}
	}
}

func TestEveryPlantedDifferenceIsFoundAndMended(t *testing.T) {
	s := start(t)
	fill(t, 50, s.src[0], s.dst[0])
	want := plantAll(t, s.src[0], s.dst[0])
	cfg := s.config(map[int]int{0: 0})
	cfg.Big = 256 << 10
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	wantFound(t, r, want)
	if r.Verdict != Different {
		t.Error(r.Verdict)
	}
	cfg.Repair = Mender(cfg)
	if r, err = Run(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	wantFound(t, r, want)
	if r.Repaired != r.Differing || !r.OK() || r.Verdict != Equal {
		t.Errorf("after the repair: %s", r)
	}
	for _, e := range r.Databases[0].Examples {
		if !e.Repaired {
			t.Errorf("not mended: %+v", e)
		}
	}
	cfg.Repair = nil
	if r, err = Run(t.Context(), cfg); err != nil || r.Differing != 0 || !r.OK() {
		t.Errorf("compared again: %s, %v", r, err)
	}
}

// TestReverse takes the target for the truth: the source is mended.
func TestReverse(t *testing.T) {
	s := start(t)
	fill(t, 20, s.src[0], s.dst[0])
	run(t, s.src[0], "SET", "only there", 1)
	run(t, s.dst[0], "SET", "only here", 1)
	run(t, s.dst[0], "SET", "str:3", "new")
	cfg := s.config(map[int]int{0: 0})
	cfg.Reverse = true
	cfg.Repair = Mender(cfg)
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	wantFound(t, r, map[string]value.Kind{"only there": value.Missing, "only here": value.Extra, "str:3": value.Value})
	ctx := context.Background()
	if s.src[0].Exists(ctx, "only there").Val() != 0 || s.src[0].Get(ctx, "str:3").Val() != "new" || r.Repaired != 3 {
		t.Errorf("%s", r)
	}
}
