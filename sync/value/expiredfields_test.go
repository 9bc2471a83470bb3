package value

import (
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestExpiredFieldsCount: HLEN counts fields that have expired and are not removed yet, which
// nobody can read any more. Servers that know none say so, and leave this out.
func TestExpiredFieldsCount(t *testing.T) {
	src, dst := redistest.Start(t, redistest.WithConfig("enable-debug-command", "yes")), redistest.Start(t)
	a, b := src.Client(0), dst.Client(0)
	if run(t, a, "COMMAND", "INFO", "HPEXPIRE").([]any)[0] == nil {
		t.Skip("no field expires here")
	}
	ctx := t.Context()
	run(t, a, "DEBUG", "SET-ACTIVE-EXPIRE", 0)
	for _, c := range []*redis.Client{a, b} {
		run(t, c, "HSET", "h", "same", 1)
	}
	run(t, a, "HSET", "h", "short", 1)
	run(t, a, "HSET", "lasting", "f", 1)
	run(t, a, "HPEXPIRE", "lasting", 1_000_000, "FIELDS", 1, "f")
	run(t, a, "HPEXPIRE", "h", 1, "FIELDS", 1, "short")
	redistest.Eventually(t, 10e9, func() bool { return len(a.HKeys(ctx, "h").Val()) == 1 }, "it has expired")
	if n := a.HLen(ctx, "h").Val(); n != 2 {
		t.Skipf("an expired field is not counted here: %d", n)
	}
	if d, err := Glance(ctx, a, b, "h"); err != nil || !d.Equal() {
		t.Errorf("glanced at: %+v, %v", d, err)
	}
	equal := func(want Kind) {
		t.Helper()
		for _, c := range [][2]*redis.Client{{a, b}, {b, a}} {
			d, err := (&Comparer{}).Compare(ctx, c[0], c[1], []string{"h"})
			if err != nil || d[0].Kind != want {
				t.Errorf("compared: %+v, %v, want %q", d, err, want)
			}
		}
	}
	equal(Same)
	run(t, b, "HSET", "h", "extra", 1) // as many as there, with the one that has expired
	equal(Value)
}
