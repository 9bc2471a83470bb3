package e2e

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestManyKeys copies as many keys as a large server holds, and changes many of them
// while the target takes nothing: what the sidecar must remember is what it costs.
// With E2E_BIG (make big) there are twenty million keys and a million changed ones.
func TestManyKeys(t *testing.T) {
	n, changed := 200_000, 20_000
	if bigLong() {
		n, changed = 20_000_000, 1_000_000
	}
	src, dst := redistest.Start(t), redistest.Start(t)
	c := src.Client(0)
	setMany(t, c, n, "a value of thirty bytes or so")
	s := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0"})
	began := time.Now()
	s.start("")
	redistest.Eventually(t, 30*time.Minute, func() error {
		st, err := s.status()
		if err == nil && !st.Ready {
			err = errors.New("not ready")
		}
		return err
	}, "copied")
	t.Logf("%d keys copied in %.1f s, %d MB of memory at most", n, time.Since(began).Seconds(), s.memory("VmHWM")>>20)

	if err := dst.Stop(); err != nil {
		t.Fatal(err)
	}
	setMany(t, c, changed, "changed")
	redistest.Eventually(t, time.Minute, func() error {
		st, err := s.status()
		if err == nil && st.Dirty < changed*9/10 {
			err = fmt.Errorf("%d keys dirty", st.Dirty)
		}
		return err
	}, "all that has changed is known")
	t.Logf("%d keys dirty, %d MB of memory at most", changed, s.memory("VmHWM")>>20)
	if err := dst.Cont(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 10*time.Minute, func() error {
		st, err := s.status()
		if err == nil && (!st.Ready || st.Dirty > 0) {
			err = fmt.Errorf("ready %v, %d keys dirty", st.Ready, st.Dirty)
		}
		return err
	}, "copied again")
	if have, err := dst.Client(0).DBSize(t.Context()).Result(); err != nil || have < int64(n) {
		t.Errorf("%d of %d keys on the target: %v", have, n, err)
	}
	for from := 0; from < changed; from += 5000 {
		keys := make([]string, 0, 5000)
		for i := from; i < from+5000; i++ {
			keys = append(keys, manyKey(i))
		}
		values, err := dst.Client(0).MGet(t.Context(), keys...).Result()
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			if v != "changed" {
				t.Fatalf("%s is %v", keys[i], v)
			}
		}
	}
	peak := s.memory("VmHWM")
	t.Logf("%d MB of memory at most", peak>>20)
	if limit := 150 << 20; !raceDetector && peak > limit {
		t.Errorf("the sidecar took more than %d MB", limit>>20)
	}
}

func manyKey(i int) string { return fmt.Sprintf("key:%d", i) }

// setMany gives the first n of them a value.
func setMany(t *testing.T, c *redis.Client, n int, value string) {
	t.Helper()
	const chunk = 5000
	for from := 0; from < n; from += chunk {
		pairs := make([]any, 0, 2*chunk)
		for i := from; i < from+chunk; i++ {
			pairs = append(pairs, manyKey(i), value)
		}
		if err := c.MSet(t.Context(), pairs...).Err(); err != nil {
			t.Fatal(err)
		}
	}
}
