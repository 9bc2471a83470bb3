package value

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
)

// dumps counts how many DUMPs a client asks for at one go, at most.
type dumps struct{ most atomic.Int64 }

func (d *dumps) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (d *dumps) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }
func (d *dumps) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var n int64
		for _, c := range cmds {
			if c.Name() == "dump" {
				n++
			}
		}
		d.most.Store(max(d.most.Load(), n))
		return next(ctx, cmds)
	}
}

// TestComparesNotMuchAtOnce: who compares values of some size asks for a few at a time, since
// nobody else is served meanwhile, and for many small ones at once.
func TestComparesNotMuchAtOnce(t *testing.T) {
	src, dst := two(t)
	var keys []string
	for i := range 32 {
		k := fmt.Sprint("k", i)
		keys = append(keys, k)
		for _, c := range []*redis.Client{src, dst} {
			run(t, c, "SET", k, strings.Repeat("x", 400<<10)+k)
			run(t, c, "SET", "small"+k, k)
		}
	}
	for prefix, want := range map[string][2]int64{"": {1, 3}, "small": {32, 32}} {
		var d dumps
		src.AddHook(&d)
		list := make([]string, len(keys))
		for i, k := range keys {
			list[i] = prefix + k
		}
		diffs, err := new(Comparer).Compare(t.Context(), src, dst, list)
		if err != nil {
			t.Fatal(err)
		}
		for i, one := range diffs {
			if !one.Equal() || one.Big {
				t.Errorf("%q: %+v", list[i], one)
			}
		}
		if n := d.most.Load(); n < want[0] || n > want[1] {
			t.Errorf("%d values of %q are asked for at one go", n, prefix)
		}
	}
}
