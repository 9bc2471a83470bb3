package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// The comparison here shares nothing with the program's own: it asks plain
// commands for every value and compares what a client would see.

// equalSides waits until both sides are equal: the copy is behind by its lag.
func equalSides(tb testing.TB, src, dst *redistest.Server, dbmap string) {
	tb.Helper()
	redistest.Eventually(tb, 60*time.Second, func() error { return sidesDiffer(tb, src, dst, dbmap) }, "both sides equal")
}

func sidesDiffer(tb testing.TB, src, dst *redistest.Server, dbmap string) error {
	tb.Helper()
	for pair := range strings.SplitSeq(dbmap, ",") {
		s, t, _ := strings.Cut(pair, "=")
		from, _ := strconv.Atoi(s)
		to, _ := strconv.Atoi(t)
		a, b := src.Client(from), dst.Client(to)
		if err := databaseDiffers(a, b); err != nil {
			return fmt.Errorf("database %d→%d: %w", from, to, err)
		}
	}
	return nil
}

func databaseDiffers(a, b *redis.Client) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	keysA, err := allKeys(ctx, a)
	if err != nil {
		return err
	}
	keysB, err := allKeys(ctx, b)
	if err != nil {
		return err
	}
	for i, k := range keysB {
		if _, found := slices.BinarySearch(keysA, k); !found {
			// It may have expired on the other side just now.
			if n, err := b.Exists(ctx, k).Result(); err == nil && n > 0 && a.Exists(ctx, k).Val() == 0 {
				return fmt.Errorf("key %q is only on the target (%d of %d)", k, i, len(keysB))
			}
		}
	}
	for chunk := range slices.Chunk(keysA, 500) {
		va, err := states(ctx, a, chunk)
		if err != nil {
			return err
		}
		vb, err := states(ctx, b, chunk)
		if err != nil {
			return err
		}
		for i, k := range chunk {
			if va[i].same(vb[i]) {
				continue
			}
			// Once more: it may have expired between the two questions.
			again, err := states(ctx, a, []string{k})
			if err != nil {
				return err
			}
			other, err := states(ctx, b, []string{k})
			if err != nil {
				return err
			}
			if !again[0].same(other[0]) {
				return fmt.Errorf("key %q: %v and %v", k, again[0], other[0])
			}
		}
	}
	return nil
}

func allKeys(ctx context.Context, c *redis.Client) ([]string, error) {
	var keys []string
	iter := c.Scan(ctx, 0, "*", 5000).Iterator()
	for iter.Next(ctx) {
		if !strings.HasPrefix(iter.Val(), "crossfade:") {
			keys = append(keys, iter.Val())
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys), iter.Err()
}

// state is what a client can see of a key: its type, a digest of its value and
// when it expires.
type state struct {
	kind    string
	digest  [32]byte
	expires int64 // unix ms, -1 none, -2 no key
}

func (s state) same(o state) bool {
	d := s.expires - o.expires
	return s.kind == o.kind && s.digest == o.digest && (d == 0 || s.expires > 0 && o.expires > 0 && d <= 5 && d >= -5)
}

func (s state) String() string {
	return fmt.Sprintf("%s %x expiring %d", s.kind, s.digest[:4], s.expires)
}

func states(ctx context.Context, c *redis.Client, keys []string) ([]state, error) {
	pipe := c.Pipeline()
	kinds := make([]*redis.StatusCmd, len(keys))
	expiries := make([]*redis.Cmd, len(keys))
	for i, k := range keys {
		kinds[i] = pipe.Type(ctx, k)
		expiries[i] = pipe.Do(ctx, "PEXPIRETIME", k)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, err
	}
	reads := c.Pipeline()
	out := make([]state, len(keys))
	values := make([][]*redis.Cmd, len(keys))
	for i, k := range keys {
		out[i].kind = kinds[i].Val()
		out[i].expires, _ = expiries[i].Int64()
		for _, args := range reading(out[i].kind, k) {
			values[i] = append(values[i], reads.Do(ctx, args...))
		}
	}
	if _, err := reads.Exec(ctx); err != nil && !redis.HasErrorPrefix(err, "ERR no such key") && !strings.Contains(err.Error(), "redis: nil") {
		return nil, err
	}
	for i := range keys {
		h := sha256.New()
		for _, v := range values[i] {
			_, _ = fmt.Fprint(h, canonical(out[i].kind, v.Val()))
		}
		copy(out[i].digest[:], h.Sum(nil))
	}
	return out, nil
}

// reading returns the commands that show a value whole.
func reading(kind, key string) [][]any {
	switch kind {
	case "string":
		return [][]any{{"GET", key}}
	case "list":
		return [][]any{{"LRANGE", key, 0, -1}}
	case "set":
		return [][]any{{"SMEMBERS", key}}
	case "zset":
		return [][]any{{"ZRANGE", key, 0, -1, "WITHSCORES"}}
	case "hash":
		return [][]any{{"HGETALL", key}}
	case "stream":
		return [][]any{{"XINFO", "STREAM", key, "FULL", "COUNT", 0}}
	}
	return nil
}

// canonical makes unordered replies comparable. Of a stream's description it
// leaves out what is about memory and what changes by looking.
func canonical(kind string, v any) string {
	list, ok := v.([]any)
	if !ok {
		if m, ok := v.(map[any]any); ok {
			return canonicalMap(m)
		}
		return fmt.Sprint(v)
	}
	switch kind {
	case "set":
		return fmt.Sprint(sorted(list))
	case "hash":
		var pairs []any
		for i := 0; i+1 < len(list); i += 2 {
			pairs = append(pairs, fmt.Sprintf("%q=%q", list[i], list[i+1]))
		}
		return fmt.Sprint(sorted(pairs))
	}
	return fmt.Sprint(dropVolatile(list))
}

func canonicalMap(m map[any]any) string {
	var pairs []any
	for k, v := range m {
		if volatile[fmt.Sprint(k)] {
			continue
		}
		if inner, ok := v.(map[any]any); ok {
			v = canonicalMap(inner)
		} else if l, ok := v.([]any); ok {
			v = fmt.Sprint(dropVolatile(l))
		}
		pairs = append(pairs, fmt.Sprintf("%v=%v", k, v))
	}
	return fmt.Sprint(sorted(pairs))
}

var volatile = map[string]bool{"radix-tree-keys": true, "radix-tree-nodes": true, "seen-time": true, "active-time": true}

func dropVolatile(list []any) []any {
	var out []any
	for i := 0; i < len(list); i++ {
		if name, ok := list[i].(string); ok && volatile[name] {
			i++
			continue
		}
		switch v := list[i].(type) {
		case []any:
			out = append(out, dropVolatile(v))
		case map[any]any:
			out = append(out, canonicalMap(v))
		default:
			out = append(out, v)
		}
	}
	return out
}

func sorted(list []any) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = fmt.Sprint(v)
	}
	slices.Sort(out)
	return out
}
