package verify

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// lazilyFreed is how many values a server has freed beside its clients.
func lazilyFreed(t *testing.T, c *redis.Client) (n int) {
	t.Helper()
	for line := range strings.Lines(c.Info(t.Context(), "memory").Val()) {
		if v, ok := strings.CutPrefix(line, "lazyfreed_objects:"); ok {
			_, _ = fmt.Sscan(v, &n)
		}
	}
	return n
}

// TestRepairBlocksNobody: a big value that a repair puts another one in the place of, big or
// small, is freed in the background.
func TestRepairBlocksNobody(t *testing.T) {
	s := start(t, redistest.WithConfig("lazyfree-lazy-server-del", "no"))
	src, dst := s.src[0], s.dst[0]
	members := make([]any, 5000)
	for i := range members {
		members[i] = fmt.Sprint("m", i)
	}
	for _, c := range []*redis.Client{src, dst} {
		run(t, c, append([]any{"SADD", "big"}, members...)...)
	}
	run(t, dst, "SADD", "big", "another")
	run(t, src, "SET", "small", 1)
	run(t, src, "RPUSH", "list", 1)
	for _, k := range []string{"small", "list", "gone"} {
		run(t, dst, append([]any{"SADD", k}, members...)...)
	}
	cfg := s.config(map[int]int{0: 0})
	cfg.Big = 64 << 10
	cfg.Repair = Mender(cfg)
	before := lazilyFreed(t, dst)
	r, err := Run(t.Context(), cfg)
	if err != nil || !r.OK() || r.Repaired != 4 {
		t.Fatalf("%v\n%s", err, r)
	}
	redistest.Eventually(t, 5*time.Second, func() error {
		if n := lazilyFreed(t, dst) - before; n < 4 {
			return fmt.Errorf("%d were", n)
		}
		return nil
	}, "four big values freed in the background")
	if n := len(dst.Keys(t.Context(), "crossfade:*").Val()); n > 0 {
		t.Errorf("%d temporary keys are left", n)
	}
}
