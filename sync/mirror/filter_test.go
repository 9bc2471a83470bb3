package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/filter"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/value"
)

func only(t *testing.T, match, types []string) *filter.Filter {
	t.Helper()
	f, err := filter.New(match, types)
	ok(t, err)
	return f
}

// kindsOf has the type of each key.
func kindsOf(t *testing.T, c *redis.Client, keys map[string]string) map[string]string {
	t.Helper()
	pipe := c.Pipeline()
	cmds := make(map[string]*redis.StatusCmd)
	for k := range keys {
		cmds[k] = pipe.Type(t.Context(), k)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := make(map[string]string)
	for k, c := range cmds {
		out[k] = c.Val()
	}
	return out
}

// mustBeFiltered compares what is inside of the filter, and what was on To before with
// what is there now.
func (w *world) mustBeFiltered(t *testing.T, f *filter.Filter, before map[int]map[string]string) {
	t.Helper()
	for from, to := range map[int]int{0: 0, 3: 5} {
		a, b := content(t, w.src.Client(from)), content(t, w.dst.Client(to))
		kinds := kindsOf(t, w.src.Client(from), a)
		want := before[to]
		for k := range want { // of To's own
			if a[k] != "" && f.Name(k) && f.Type(kinds[k]) {
				continue
			}
			if b[k] != want[k] {
				t.Errorf("database %d: key %q of the target's own was touched", to, k)
			}
			delete(b, k)
		}
		for k, v := range a {
			if !f.Name(k) || !f.Type(kinds[k]) {
				continue
			}
			if d, err := value.Equal(t.Context(), w.src.Client(from), w.dst.Client(to), k, k); b[k] != v && (err != nil || !d.Equal()) { // encodings may differ
				t.Errorf("database %d→%d: key %q (%s) differs (there: %v)", from, to, k, kinds[k], b[k] != "")
			}
			delete(b, k)
		}
		for k := range b {
			t.Errorf("database %d→%d: key %q is on the target; on the source it is %q", from, to, k, kinds[k])
		}
	}
	if t.Failed() {
		t.FailNow()
	}
}

// disturbTyped changes random keys, into other types too.
func disturbTyped(ctx context.Context, c *redis.Client, r *rand.Rand, n int) error {
	pipe := c.Pipeline()
	for range n {
		key := fmt.Sprintf("%s:%d", []string{"user", "other", "session", "us\x00er"}[r.IntN(4)], r.IntN(60))
		if r.IntN(3) > 0 {
			pipe.Del(ctx, key)
		}
		switch r.IntN(7) {
		case 0:
			pipe.Set(ctx, key, r.IntN(1000), 0)
		case 1:
			pipe.HSet(ctx, key, "f", r.IntN(1000), r.IntN(5), 1)
		case 2:
			pipe.ZAdd(ctx, key, redis.Z{Score: r.Float64(), Member: r.IntN(5)})
		case 3:
			pipe.RPush(ctx, key, r.IntN(1000))
		case 4:
			pipe.Rename(ctx, key, fmt.Sprintf("user:%d", r.IntN(60)))
		case 5:
			pipe.Set(ctx, key, 1, time.Duration(1+r.IntN(20))*time.Millisecond)
		case 6:
			pipe.HSet(ctx, key, "big", strings.Repeat("x", 40_000))
		}
	}
	_, err := pipe.Exec(ctx)
	if reply := redis.Error(nil); errors.As(err, &reply) {
		return nil // WRONGTYPE, and RENAME of what is not there
	}
	return err
}

// TestFiltered follows random changes, of types too, through a gap and a flush, and
// leaves alone what the target has of its own.
func TestFiltered(t *testing.T) {
	for name, f := range map[string]*filter.Filter{
		"names":           only(t, []string{"user:*"}, nil),
		"several names":   only(t, []string{"user:[0-3]*", "us?er:*", "session:?"}, nil),
		"type":            only(t, nil, []string{"hash"}),
		"names and types": only(t, []string{"*ser:*"}, []string{"hash", "zset"}),
	} {
		for how, opts := range map[string][]redistest.Option{"": nil, " by type": {redistest.WithRenamed("RESTORE", "")}} {
			t.Run(name+how, func(t *testing.T) {
				t.Parallel()
				filtered(t, f, opts...)
			})
		}
	}
}

func filtered(t *testing.T, f *filter.Filter, opts ...redistest.Option) {
	w := &world{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")),
		dst: redistest.Start(t, opts...),
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), func(c *mirror.Config) { c.Only, c.BigKey = f, 16<<10 })
	ctx := t.Context()
	before := map[int]map[string]string{}
	for from, to := range map[int]int{0: 0, 3: 5} {
		fill(t, w.src.Client(from), 500)
		c := w.dst.Client(to)
		for i := range 50 { // nobody else's business: none is inside of any of the filters
			ok(t, c.Set(ctx, fmt.Sprintf("mine:%d", i), i, 0).Err())
			ok(t, c.Set(ctx, fmt.Sprintf("other:%d", 100+i), i, 0).Err())
		}
		before[to] = content(t, c)
	}
	r := rand.New(rand.NewPCG(1, 2))
	change := func() {
		t.Helper()
		for range 40 {
			for _, db := range []int{0, 3} {
				ok(t, disturbTyped(ctx, w.src.Client(db), r, 25))
			}
		}
	}
	change()
	ok(t, w.m.Follow(ctx, true))
	change()
	drain(t, w.m)
	w.mustBeFiltered(t, f, before)

	// A gap, in which keys go and become others.
	w.awaitState(t, mirror.Live)
	gaps := w.m.Progress().Gaps
	ok(t, w.src.Client(0).ClientKillByFilter(ctx, "TYPE", "pubsub").Err())
	change()
	redistest.Eventually(t, 20*time.Second, func() bool { return w.m.Progress().Gaps > gaps }, "the gap is noticed")
	change()
	drain(t, w.m)
	w.mustBeFiltered(t, f, before)

	ok(t, w.src.Client(0).FlushDB(ctx).Err())
	w.m.Rescan(0, "FLUSHDB through the proxy")
	change()
	drain(t, w.m)
	w.mustBeFiltered(t, f, before)
}

// TestFilteredFromAnEmptySource takes the target's other keys for no loss of the
// source's.
func TestFilteredFromAnEmptySource(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.Only = only(t, []string{"user:*"}, nil) })
	fill(t, w.dst.Client(0), 1000)
	ok(t, w.src.Client(0).Set(t.Context(), "user:1", "v", 0).Err())
	before := content(t, w.dst.Client(0))
	ok(t, w.m.Follow(t.Context(), true))
	drain(t, w.m)
	if after := content(t, w.dst.Client(0)); len(after) != len(before)+1 || after["user:1"] == "" {
		t.Errorf("%d keys before, %d after", len(before), len(after))
	}
}

// TestLossByTypes: keys of types that are not copied hide no loss of those that are, and what
// others have on the target is not taken for what the source has lost.
func TestLossByTypes(t *testing.T) {
	some := func(c *redis.Client, n int, command, name string) {
		t.Helper()
		pipe := c.Pipeline()
		for i := range n {
			pipe.Do(t.Context(), command, fmt.Sprint(name, i), "a")
		}
		_, err := pipe.Exec(t.Context())
		ok(t, err)
	}
	begin := func() *world {
		return newWorld(t, func(c *mirror.Config) { c.Only = only(t, nil, []string{"string", "set"}) })
	}
	t.Run("others'", func(t *testing.T) {
		w := begin()
		some(w.src.Client(0), 200, "SADD", "ours")
		some(w.dst.Client(0), 1000, "RPUSH", "theirs")
		ok(t, w.m.Follow(t.Context(), true))
		w.awaitState(t, mirror.Live)
		if n := w.dst.Client(0).DBSize(t.Context()).Val(); n < 1200 {
			t.Errorf("the target has %d keys", n)
		}
	})
	t.Run("lost", func(t *testing.T) {
		w := begin()
		some(w.src.Client(0), 1000, "RPUSH", "left out")
		some(w.dst.Client(0), 500, "SADD", "lost on the source")
		if err := w.m.Follow(t.Context(), true); err == nil || !strings.Contains(err.Error(), "lost its data") {
			t.Errorf("begins with %v", err)
		}
	})
}
