package conn

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// shared returns a pool and a client of its server for what is really there.
func shared(t *testing.T) (*Pool, *redis.Client) {
	t.Helper()
	s := redistest.Start(t)
	p := New(config.Endpoint{Network: "tcp", Address: s.Addr()}, "t", 2*time.Second)
	t.Cleanup(func() { _ = p.Close() })
	return p, s.Client(2)
}

func names(t *testing.T, c *redis.Client) []string {
	t.Helper()
	keys, err := c.Keys(t.Context(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

// TestPlaceNamesKeys: each key of a command gets the prefix, and nothing else does.
func TestPlaceNamesKeys(t *testing.T) {
	p, raw := shared(t)
	c, ctx := p.At(router.Place{DB: 2, Prefix: "c3:"}), t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Set(ctx, "a", "a", time.Hour).Err())
	must(c.Do(ctx, "MSET", "b", "a", "x", "b").Err())
	must(c.Rename(ctx, "x", "y").Err())
	must(c.RPush(ctx, "list", "a", "b", "list").Err())
	must(c.Do(ctx, "XADD", "stream", "1-1", "a", "b").Err())
	must(c.XGroupCreate(ctx, "stream", "a", "0").Err())
	must(c.Set(ctx, "crossfade:ours", "1", time.Hour).Err())
	must(c.Eval(ctx, "return redis.call('SET', KEYS[1], ARGV[1])", []string{"e"}, "a").Err())
	if got, want := names(t, raw), []string{"c3:a", "c3:b", "c3:e", "c3:list", "c3:stream", "c3:y", "crossfade:ours"}; !slices.Equal(got, want) {
		t.Fatalf("keys are %v, not %v", got, want)
	}
	if n, err := c.Exists(ctx, "a", "b", "c3:a", "list", "crossfade:ours").Result(); err != nil || n != 4 {
		t.Errorf("EXISTS: %d, %v", n, err)
	}
	if v := raw.Get(ctx, "c3:a").Val(); v != "a" {
		t.Errorf("the value became %q", v)
	}
	if v := raw.LRange(ctx, "c3:list", 0, -1).Val(); !slices.Equal(v, []string{"a", "b", "list"}) {
		t.Errorf("the list became %q", v)
	}
	for _, args := range [][]any{{"MEMORY", "USAGE", "a"}, {"XINFO", "GROUPS", "stream"}, {"OBJECT", "ENCODING", "a"}, {"TYPE", []byte("a")}} {
		if err := c.Do(ctx, args...).Err(); err != nil || fmt.Sprint(args[len(args)-1]) == "c3:a" {
			t.Errorf("%v: %v", args, err)
		}
	}
	must(c.Watch(ctx, func(tx *redis.Tx) error {
		must(tx.Get(ctx, "a").Err())
		_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Set(ctx, "a", "2", 0)
			return nil
		})
		return err
	}, "a"))
	if v := raw.Get(ctx, "c3:a").Val(); v != "2" {
		t.Errorf("the transaction left %q", v)
	}
	must(c.Watch(ctx, func(tx *redis.Tx) error {
		must(raw.Set(ctx, "c3:a", "3", 0).Err())
		_, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error { return p.Set(ctx, "a", "4", 0).Err() })
		if err != redis.TxFailedErr { //nolint:errorlint // as go-redis documents it
			t.Errorf("WATCH did not see the key: %v", err)
		}
		return nil
	}, "a"))
	single := c.Conn()
	defer func() { _ = single.Close() }()
	if v, err := single.Get(ctx, "a").Result(); err != nil || v != "3" {
		t.Errorf("on a connection of its own: %q, %v", v, err)
	}
}

// TestPlaceLeavesArguments: the slices of a caller are as they were, so that a command
// that is sent again gets its prefix once.
func TestPlaceLeavesArguments(t *testing.T) {
	p, raw := shared(t)
	c, ctx := p.At(router.Place{DB: 2, Prefix: "c3:"}), t.Context()
	args := []any{"INCR", "n"}
	for range 2 {
		pipe := c.Pipeline()
		pipe.Do(ctx, args...)
		pipe.Do(ctx, args...)
		if _, err := pipe.Exec(ctx); err != nil || args[1] != "n" {
			t.Fatalf("%v, %v", args, err)
		}
		if err := c.Do(ctx, args...).Err(); err != nil || args[1] != "n" {
			t.Fatalf("%v, %v", args, err)
		}
	}
	if got := names(t, raw); !slices.Equal(got, []string{"c3:n"}) || raw.Get(ctx, "c3:n").Val() != "6" {
		t.Errorf("keys are %v", got)
	}
}

func TestPlaceScans(t *testing.T) {
	p, raw := shared(t)
	ctx := t.Context()
	for _, prefix := range []string{"c3:", "a*[b]?", "{c}"} {
		c := p.At(router.Place{DB: 2, Prefix: prefix})
		var want []string
		for i := range 300 {
			if err := c.Set(ctx, fmt.Sprint("k", i), 1, 0).Err(); err != nil {
				t.Fatal(err)
			}
			want = append(want, fmt.Sprint("k", i))
		}
		slices.Sort(want)
		raw.MSet(ctx, "other", 1, "aXb?", 1, "c", 1, "c3", 1, "crossfade:x", 1)
		for match, want := range map[string][]string{"": want, "*": want, "k1?": slices.DeleteFunc(slices.Clone(want), func(k string) bool { return len(k) != 3 || k[1] != '1' }), "other": nil} {
			var got []string
			for cursor := uint64(0); ; {
				keys, next, err := c.Scan(ctx, cursor, match, 50).Result()
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, keys...)
				if cursor = next; cursor == 0 {
					break
				}
			}
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, want) {
				t.Errorf("prefix %q, MATCH %q: %d keys, not %d", prefix, match, len(got), len(want))
			}
		}
		if keys, _, err := c.ScanType(ctx, 0, "", 10_000, "list").Result(); err != nil || len(keys) != 0 {
			t.Errorf("SCAN TYPE: %v, %v", keys, err)
		}
	}
}

// TestPlaceRefuses: what is about the whole database, or unknown, never reaches the server.
func TestPlaceRefuses(t *testing.T) {
	p, raw := shared(t)
	c, ctx := p.At(router.Place{DB: 2, Prefix: "c3:"}), t.Context()
	raw.Set(ctx, "other", 1, 0)
	for _, args := range [][]any{{"FLUSHDB"}, {"FLUSHALL"}, {"DBSIZE"}, {"RANDOMKEY"}, {"KEYS", "*"}, {"SWAPDB", 0, 2}, {"MOVE", "a", 1}, {"NOSUCH", "a"}, {"SCAN", 0}, {"SORT", "a", "BY", "w_*"}, {"GET", 5}} {
		if err := c.Do(ctx, args...).Err(); err == nil || !strings.Contains(err.Error(), "cannot be confined") {
			t.Errorf("%v: %v", args, err)
		}
		pipe := c.Pipeline()
		set := pipe.Set(ctx, "set", 1, 0)
		pipe.Do(ctx, args...)
		if _, err := pipe.Exec(ctx); err == nil || set.Err() == nil {
			t.Errorf("%v in a pipeline: %v, %v", args, err, set.Err())
		}
	}
	if got := names(t, raw); !slices.Equal(got, []string{"other"}) {
		t.Errorf("keys are %v", got)
	}
}

func TestWireAtPlace(t *testing.T) {
	p, raw := shared(t)
	w, err := p.WireAt(t.Context(), router.Place{DB: 2, Prefix: "c3:"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.Begin(3)
	w.Arg("SET")
	w.Key("a")
	w.Arg("a")
	w.About("PERSIST", "a")
	w.Usage("a")
	w.About("GETRANGE", "a", "0", "-1")
	w.About("EXISTS", "crossfade:x")
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := w.Status(); err != nil {
		t.Fatal(err)
	}
	_, _, _ = w.Int()
	if n, ok, err := w.Int(); n == 0 || !ok || err != nil {
		t.Errorf("MEMORY USAGE: %d, %v, %v", n, ok, err)
	}
	if text, err := w.Text(); text != "a" || err != nil {
		t.Errorf("GETRANGE: %q, %v", text, err)
	}
	if got := names(t, raw); !slices.Equal(got, []string{"c3:a"}) || w.DB() != 2 {
		t.Errorf("keys are %v", got)
	}
}
