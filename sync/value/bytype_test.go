package value

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

func TestByTypeCopiesWhatIsSmall(t *testing.T) {
	for _, c := range []struct {
		name string
		opts []redistest.Option
	}{{"new", nil}, {"old", []redistest.Option{redistest.WithRenamed("PEXPIRETIME", ""), redistest.WithRenamed("RESTORE", "")}}} {
		t.Run(c.name, func(t *testing.T) {
			src, dst := two(t, c.opts...)
			all := plant(t, src)
			keys := keysOf(all)
			for i, k := range keys { // old values of another type must go
				run(t, dst, "RPUSH", k, "old")
				if i%2 == 0 {
					run(t, src, "PEXPIRE", k, 1_000_000+i)
				}
			}
			if run(t, src, "COMMAND", "INFO", "HPEXPIREAT").([]any)[0] != nil {
				run(t, src, "HPEXPIREAT", "hash small", time.Now().Add(time.Hour).UnixMilli(), "FIELDS", 1, "f1\xff")
			}
			run(t, dst, "SET", "gone", "old")
			keys = append(keys, "gone")
			b := &ByType{}
			for round := range 2 { // the first time it learns what the servers cannot do
				out, err := b.Copy(t.Context(), src, dst, keys)
				if err != nil {
					t.Fatal(err)
				}
				copied := 0
				for i, o := range out {
					switch {
					case errors.Is(o.Err, ErrOneByOne):
					case o.Err != nil:
						t.Errorf("%q: %v", keys[i], o.Err)
					case keys[i] == "gone":
						if !o.Removed || run(t, dst, "EXISTS", "gone") != int64(0) {
							t.Errorf("gone: %+v", o)
						}
					default:
						copied++
						wantEqual(t, src, dst, keys[i], keys[i])
					}
				}
				if round == 1 && (copied < 12 || copied == len(all)) {
					t.Errorf("%d of %d keys were copied as small", copied, len(all))
				}
			}
		})
	}
}

func TestByTypeSaysWhatWentWrong(t *testing.T) {
	src, dst := two(t)
	run(t, src, "HSET", "h", "f", "v")
	run(t, src, "SET", "s", "v")
	run(t, dst, "SET", "h", "old")
	run(t, dst, "CONFIG", "SET", "maxmemory", 1)
	out, err := (&ByType{}).Copy(t.Context(), src, dst, []string{"h", "s"})
	if err != nil || !errors.Is(out[0].Err, ErrOutOfMemory) || !errors.Is(out[1].Err, ErrOutOfMemory) {
		t.Errorf("%+v, %v", out, err)
	}
	run(t, dst, "CONFIG", "SET", "maxmemory", 0)
	if run(t, dst, "GET", "h") != "old" {
		t.Error("the old value is gone, the new one is not there")
	}
	gone := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer func() { _ = gone.Close() }()
	if out, err := (&ByType{}).Copy(t.Context(), src, gone, []string{"h", "none"}); err == nil || !Unknown(out[0].Err) || !Unknown(out[1].Err) {
		t.Errorf("%+v, %v", out, err)
	}
}

// TestByTypeSpeed compares with DUMP and RESTORE; VALUE_SPEED=n has n strings and a
// tenth as many hashes, lists and sorted sets.
func TestByTypeSpeed(t *testing.T) {
	var n int
	if _, err := fmt.Sscan(os.Getenv("VALUE_SPEED"), &n); err != nil {
		t.Skip("VALUE_SPEED is not set")
	}
	src, dst := two(t)
	var keys []string
	p := src.Pipeline()
	for i := range n {
		keys = append(keys, fmt.Sprintf("s%d", i))
		p.Set(t.Context(), keys[len(keys)-1], strings.Repeat("x", 100), 0)
		if i%10 == 0 {
			for _, kind := range []string{"HSET", "RPUSH", "ZADD"} {
				key := fmt.Sprintf("%s%d", kind, i)
				keys = append(keys, key)
				for e := range 20 {
					if kind == "RPUSH" {
						p.Do(t.Context(), kind, key, fmt.Sprintf("element-%d", e))
					} else {
						p.Do(t.Context(), kind, key, e, fmt.Sprintf("element-%d", e))
					}
				}
			}
		}
		if p.Len() > 5000 {
			run2(t, p)
		}
	}
	run2(t, p)
	type way struct {
		name string
		copy func(keys []string) ([]Outcome, error)
	}
	b, dump := &ByType{}, &Batch{}
	ctx := t.Context()
	for _, w := range []way{
		{"DUMP and RESTORE", func(k []string) ([]Outcome, error) { return dump.Copy(ctx, src, dst, k) }},
		{"by type", func(k []string) ([]Outcome, error) { return b.Copy(ctx, src, dst, k) }},
	} {
		run(t, dst, "FLUSHALL")
		begun := time.Now()
		for from := 0; from < len(keys); from += 256 {
			out, err := w.copy(keys[from:min(from+256, len(keys))])
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range out {
				if o.Err != nil {
					t.Fatal(o.Err)
				}
			}
		}
		t.Logf("%s: %.0f keys/s", w.name, float64(len(keys))/time.Since(begun).Seconds())
	}
}

func run2(t *testing.T, p redis.Pipeliner) {
	t.Helper()
	if _, err := p.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
}
