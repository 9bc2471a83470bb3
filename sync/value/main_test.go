package value

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// two returns clients of two servers, database 0 and database 3.
func two(t *testing.T, opts ...redistest.Option) (src, dst *redis.Client) {
	t.Helper()
	src = redistest.Start(t, opts...).Client(0)
	// The sides speak different protocols, so that both are read.
	o := redistest.Options(redistest.Start(t, opts...).Addr(), 3)
	o.Protocol = 2
	dst = redis.NewClient(o)
	t.Cleanup(func() { _ = dst.Close() })
	return src, dst
}

// run sends one command that must succeed.
func run(t *testing.T, c *redis.Client, args ...any) any {
	t.Helper()
	v, err := c.Do(context.Background(), args...).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatalf("%v: %v", args[:min(len(args), 4)], err)
	}
	return v
}
