package verify

import (
	"context"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/value"
)

// scanPage is SCAN with what of a filter it can be told. A server that knows no TYPE
// there (before Redis 6.0) is not told it again.
func scanPage(ctx context.Context, c redis.Cmdable, cursor uint64, match string, kind *string, count int) ([]string, uint64, error) {
	if *kind != "" {
		keys, next, err := c.ScanType(ctx, cursor, match, int64(count), *kind).Result()
		if err == nil || value.Unknown(err) || !strings.Contains(strings.ToLower(err.Error()), "syntax error") {
			return keys, next, err
		}
		*kind = ""
	}
	return c.Scan(ctx, cursor, match, int64(count)).Result()
}

// kinds asks for the types of keys.
func kinds(ctx context.Context, c *redis.Client, keys []string) (out []string, err error) {
	err = retry(ctx, func() error {
		pipe := c.Pipeline()
		cmds := make([]*redis.StatusCmd, len(keys))
		for i, k := range keys {
			cmds[i] = pipe.Type(ctx, k)
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return fmt.Errorf("asking %s for the types of %d keys: %w", c.Options().Addr, len(keys), err)
		}
		out = make([]string, len(keys))
		for i, c := range cmds {
			out[i] = c.Val()
		}
		return nil
	}, c)
	return out, err
}

// chosen returns those of keys that are of a type that is compared.
func (w *walk) chosen(ctx context.Context, c *redis.Client, keys []string) ([]string, error) {
	if !w.cfg.Only.Typed() {
		return keys, nil
	}
	of, err := kinds(ctx, c, keys)
	if err != nil {
		return nil, err
	}
	out := keys[:0]
	for i, k := range keys {
		if w.cfg.Only.Type(of[i]) {
			out = append(out, k)
		}
	}
	return out, nil
}

// there says which keys the truth has.
func (w *walk) there(ctx context.Context, keys []string) ([]bool, error) {
	out := make([]bool, len(keys))
	if w.cfg.Only.Typed() {
		of, err := kinds(ctx, w.truth, keys)
		for i := range of {
			out[i] = w.cfg.Only.Type(of[i])
		}
		return out, err
	}
	err := retry(ctx, func() error {
		pipe := w.truth.Pipeline()
		found := make([]*redis.IntCmd, len(keys))
		for i, k := range keys {
			found[i] = pipe.Exists(ctx, k)
		}
		_, err := pipe.Exec(ctx)
		for i := range found {
			out[i] = found[i].Val() > 0
		}
		return err
	}, w.truth)
	return out, err
}

// tooMuch is the difference of a key that the follower has and the truth has not.
func (w *walk) tooMuch() value.Diff {
	if w.cfg.Reverse {
		return value.Diff{Kind: value.Missing, Words: "key is not on the target", PrintB: value.Absent}
	}
	return value.Diff{Kind: value.Extra, Words: "key is on the target only", PrintA: value.Absent}
}

// outside corrects the differences of keys that are not of a type that is compared:
// there is nothing to be of them on the follower.
func (w *walk) outside(ctx context.Context, keys []string, diffs []value.Diff) error {
	if !w.cfg.Only.Typed() {
		return nil
	}
	var odd []string
	var at []int
	for i, d := range diffs {
		if !d.Equal() {
			odd, at = append(odd, keys[i]), append(at, i)
		}
	}
	if len(odd) == 0 {
		return nil
	}
	truth, err := kinds(ctx, w.truth, odd)
	if err != nil {
		return err
	}
	follower, err := kinds(ctx, w.copy, odd)
	if err != nil {
		return err
	}
	for n, i := range at {
		if w.cfg.Only.Type(truth[n]) {
			continue
		}
		was := diffs[i]
		diffs[i] = value.Diff{Gone: true}
		if w.cfg.Only.Type(follower[n]) {
			diffs[i] = w.tooMuch()
		}
		diffs[i].Big, diffs[i].PrintA, diffs[i].PrintB = was.Big, was.PrintA, was.PrintB
	}
	return nil
}
