package value

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

func keysOf(fs []fixture) []string {
	keys := make([]string, len(fs))
	for i, f := range fs {
		keys[i] = f.key
	}
	return keys
}

func noTemp(t *testing.T, c *redis.Client) {
	t.Helper()
	if n := len(run(t, c, "KEYS", TempPrefix+"*").([]any)); n > 0 {
		t.Errorf("%d temporary keys left over", n)
	}
}

func wantEqual(t *testing.T, a, b *redis.Client, keyA, keyB string) {
	t.Helper()
	d, err := Equal(context.Background(), a, b, keyA, keyB)
	if err != nil || !d.Equal() || d.Gone {
		t.Errorf("%q: %+v, %v", keyA, d, err)
	}
}

func TestBatchCopiesEveryTypeAndEncoding(t *testing.T) {
	src, dst := two(t)
	all := plant(t, src)
	keys := keysOf(all)
	for i, k := range keys { // old values of another type must go
		run(t, dst, "RPUSH", k, "old")
		if i%2 == 0 {
			run(t, src, "PEXPIRE", k, 1_000_000+i)
		}
	}
	b := &Batch{}
	out, err := b.Copy(t.Context(), src, dst, keys)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range out {
		if !o.Copied || o.Removed || o.Err != nil || o.Bytes == 0 {
			t.Errorf("%q: %+v", keys[i], o)
		}
		wantEqual(t, src, dst, keys[i], keys[i])
		if all[i].encoding != "hashtable" && keys[i] != "set small" && // those have no order
			run(t, src, "DUMP", keys[i]) != run(t, dst, "DUMP", keys[i]) {
			t.Errorf("%q: dumps differ", keys[i])
		}
		if x, y := run(t, src, "PEXPIRETIME", keys[i]), run(t, dst, "PEXPIRETIME", keys[i]); x != y {
			t.Errorf("%q: expires at %v, not %v", keys[i], y, x)
		}
	}
}

func TestBatchRemovesWhatIsGone(t *testing.T) {
	for _, c := range []struct {
		name string
		opts []redistest.Option
	}{{"new", nil}, {"old", []redistest.Option{
		redistest.WithRenamed("UNLINK", ""), redistest.WithRenamed("PEXPIRETIME", ""),
	}}} {
		t.Run(c.name, func(t *testing.T) {
			src, dst := two(t, c.opts...)
			run(t, dst, "SET", "gone", "old")
			run(t, dst, "SET", "here", "old")
			run(t, src, "SET", "here", "new", "PX", 60_000)
			want := time.Now().UnixMilli() + 60_000
			b := &Batch{}
			for range 2 { // the second call knows what the server lacks
				out, err := b.Copy(t.Context(), src, dst, []string{"gone", "here", "never"})
				if err != nil || !out[0].Removed || !out[1].Copied || !out[2].Removed {
					t.Fatal(out, err)
				}
			}
			if n := run(t, dst, "EXISTS", "gone"); n != int64(0) {
				t.Error("the old value is still there")
			}
			left := run(t, dst, "PTTL", "here").(int64)
			if off := time.Now().UnixMilli() + left - want; off > 100 || off < -100 {
				t.Errorf("expiry is %d ms off", off)
			}
			run(t, src, "PERSIST", "here")
			if _, err := b.Copy(t.Context(), src, dst, []string{"here"}); err != nil {
				t.Fatal(err)
			}
			if left := run(t, dst, "PTTL", "here"); left != int64(-1) {
				t.Errorf("an expiry of %v was left", left)
			}
			out, err := Logical(t.Context(), src, dst, "here")
			if err != nil || !out.Copied {
				t.Fatal(out, err)
			}
		})
	}
}

// A source that still shows a key whose time has passed: one that is loading,
// or whose clock is late. DEBUG SET-ACTIVE-EXPIRE does not do, so the target's
// side is tried alone.
func TestExpiryAlreadyPastLeavesNothing(t *testing.T) {
	src, dst := two(t)
	ctx := t.Context()
	run(t, src, "SET", "k", "new")
	run(t, dst, "SET", "k", "old")
	p := src.Dump(ctx, "k").Val()
	if err := dst.Do(ctx, "RESTORE", "k", time.Now().UnixMilli()-1, p, "REPLACE", "ABSTTL").Err(); err != nil {
		t.Fatal(err)
	}
	if n := run(t, dst, "EXISTS", "k"); n != int64(0) {
		t.Error("RESTORE with an expiry already past left the old value")
	}
	run(t, dst, "SET", "k", "old")
	tmp := newTemp(direct(dst), Manner{}, "k")
	if err := tmp.write(ctx, 3, []any{"SET", tmp.key, "new"}); err != nil {
		t.Fatal(err)
	}
	if err := tmp.rename(ctx, "k", time.Now().UnixMilli()-1); err != nil {
		t.Fatal(err)
	}
	if n := run(t, dst, "DBSIZE"); n != int64(0) {
		t.Error("the logical copy with an expiry already past left something")
	}
}

func TestRefusalsAreTold(t *testing.T) {
	src, dst := two(t)
	ctx := t.Context()
	run(t, src, "SET", "k", strings.Repeat("x", 1000))
	run(t, src, "SET", "k2", "small")
	out, err := (&Batch{MaxPayload: 10}).Copy(ctx, src, dst, []string{"k", "k2"})
	if err != nil || !errors.Is(out[0].Err, ErrTooBig) || !errors.Is(out[0].Err, ErrRestoreRefused) {
		t.Error(out, err)
	}
	for _, bad := range []string{"garbage", src.Dump(ctx, "k").Val() + "x"} {
		err := classify(dst.Do(ctx, "RESTORE", "k", 0, bad).Err())
		if !errors.Is(err, ErrRestoreRefused) || Unknown(err) {
			t.Error(err)
		}
	}
	run(t, dst, "CONFIG", "SET", "maxmemory", 1, "maxmemory-policy", "noeviction")
	run(t, dst, "DEL", "k")
	out, err = (&Batch{}).Copy(ctx, src, dst, []string{"k", "absent"})
	if err != nil || !errors.Is(out[0].Err, ErrOutOfMemory) || !out[1].Removed {
		t.Error(out, err)
	}
	if _, err := Logical(ctx, src, dst, "k"); !errors.Is(err, ErrOutOfMemory) || Unknown(err) {
		t.Error(err)
	}
}

func TestErrorsShowNoValue(t *testing.T) {
	src := redistest.Start(t).Client(0)
	dst := redistest.Start(t, redistest.WithRenamed("RESTORE", ""), redistest.WithRenamed("SET", "")).Client(0)
	run(t, src, "SET", "k", "sesame")
	out, err := (&Batch{}).Copy(t.Context(), src, dst, []string{"k"})
	if err != nil || out[0].Err == nil || Unknown(out[0].Err) || strings.Contains(out[0].Err.Error(), "sesame") {
		t.Error(out, err)
	}
	if _, err := Logical(t.Context(), src, dst, "k"); err == nil || Unknown(err) || strings.Contains(err.Error(), "sesame") {
		t.Error(err)
	}
}

func TestLostConnectionIsUnknown(t *testing.T) {
	s, d := redistest.Start(t), redistest.Start(t)
	link := redistest.NewLink(t, d.Addr())
	src, dst := s.Client(0), redis.NewClient(redistest.Options(link.Addr(), 0))
	defer func() { _ = dst.Close() }()
	run(t, dst, "PING")
	run(t, src, "SET", "k", strings.Repeat("x", 100_000))
	link.CutAfterUp(500)
	out, err := (&Batch{}).Copy(t.Context(), src, dst, []string{"k"})
	if !Unknown(err) || !Unknown(out[0].Err) {
		t.Error(out, err)
	}
	d.Kill()
	if _, err := Logical(t.Context(), src, dst, "k"); !Unknown(err) {
		t.Error(err)
	}
}

func TestBatchAdapts(t *testing.T) {
	src, dst := two(t)
	var keys []string
	for i := range 64 {
		k := string(rune('A' + i))
		keys = append(keys, k)
		run(t, src, "SET", k, binary+strings.Repeat("\x01\x7f", i)+strings.Repeat(binary, 40))
	}
	b := &Batch{Bound: 4096, Most: 32}
	if out, err := b.Copy(t.Context(), src, dst, keys); err != nil || !out[63].Copied {
		t.Fatal(err)
	}
	if n := b.pace.next(32); n > 4 {
		t.Errorf("still %d keys a round", n)
	}
}

func TestLogicalEqualsDump(t *testing.T) {
	src, dst := two(t)
	all := plant(t, src)
	for i, f := range all {
		run(t, dst, "SET", f.key, "old", "PX", 50_000)
		if i%2 == 0 {
			run(t, src, "PEXPIRE", f.key, 1_000_000+i)
		}
		out, err := Logical(t.Context(), src, dst, f.key)
		if err != nil || !out.Copied {
			t.Errorf("%q: %+v, %v", f.key, out, err)
			continue
		}
		wantEqual(t, src, dst, f.key, f.key)
		if x, y := run(t, src, "PEXPIRETIME", f.key), run(t, dst, "PEXPIRETIME", f.key); x != y {
			t.Errorf("%q: expires at %v, not %v", f.key, y, x)
		}
		if strings.HasPrefix(f.key, "str ") || strings.HasPrefix(f.key, "hll") || f.key == "zset small" {
			if run(t, src, "DUMP", f.key) != run(t, dst, "DUMP", f.key) {
				t.Errorf("%q: dumps differ", f.key)
			}
		}
	}
	noTemp(t, dst)
}

func TestLogicalEndsAsRemoved(t *testing.T) {
	src, dst := two(t)
	run(t, dst, "SET", "gone", "old")
	if out, err := Logical(t.Context(), src, dst, "gone"); err != nil || !out.Removed {
		t.Fatal(out, err)
	}
	// Gone in the middle: the source's client deletes it after its first chunk.
	for _, f := range []string{"list big", "set big", "hash big", "zset big", "stream plain", "stream groups", "str big"} {
		for _, x := range fixtures() {
			if x.key == f {
				x.fill(t, src, f)
			}
		}
		run(t, dst, "SET", f, "old")
		c := redis.NewClient(src.Options())
		h := &deleter{key: f, other: src}
		c.AddHook(h)
		out, err := Logical(t.Context(), c, dst, f)
		_ = c.Close()
		if err != nil || !out.Removed || !h.done.Load() {
			t.Errorf("%s: %+v, %v", f, out, err)
		}
	}
	if n := run(t, dst, "DBSIZE"); n != int64(0) {
		t.Errorf("%v keys left: %v", n, run(t, dst, "KEYS", "*"))
	}
}

// deleter deletes a key once its first elements have been read.
type deleter struct {
	key   string
	other *redis.Client
	done  atomic.Bool
}

func (d *deleter) DialHook(next redis.DialHook) redis.DialHook { return next }
func (d *deleter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		switch strings.ToUpper(cmd.Name()) {
		case "LRANGE", "SSCAN", "HSCAN", "ZSCAN", "XRANGE", "GETRANGE":
			if d.done.CompareAndSwap(false, true) {
				return errors.Join(err, d.other.Del(ctx, d.key).Err())
			}
		}
		return err
	}
}
func (d *deleter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func TestLogicalCleansUpWhenCancelled(t *testing.T) {
	src, dst := two(t)
	many(t, src, 5000, "RPUSH", "l", func(i int) []any { return []any{i} })
	run(t, dst, "SET", "l", "old")
	ctx, cancel := context.WithCancel(t.Context())
	c := redis.NewClient(src.Options())
	defer func() { _ = c.Close() }()
	var n atomic.Int64
	c.AddHook(hook(func(name string) {
		if name == "lrange" && n.Add(1) == 2 {
			cancel()
		}
	}))
	if out, err := Logical(ctx, c, dst, "l"); !errors.Is(err, context.Canceled) {
		t.Error(out, err)
	}
	noTemp(t, dst)
	if v := run(t, dst, "GET", "l"); v != "old" {
		t.Error("a copy that failed touched the key")
	}
}

// hook calls itself before every single command.
type hook func(name string)

func (h hook) DialHook(next redis.DialHook) redis.DialHook { return next }
func (h hook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error { h(cmd.Name()); return next(ctx, cmd) }
}
func (h hook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// A temporary key that the target loses in between must not become half a value.
func TestLogicalNoticesALostTemporaryKey(t *testing.T) {
	src, dst := two(t)
	many(t, src, 5000, "RPUSH", "l", func(i int) []any { return []any{i} })
	c := redis.NewClient(src.Options())
	defer func() { _ = c.Close() }()
	var n atomic.Int64
	c.AddHook(hook(func(name string) {
		if name == "lrange" && n.Add(1) == 6 {
			_ = dst.FlushDB(context.Background()).Err()
		}
	}))
	if out, err := Logical(t.Context(), c, dst, "l"); err != nil || !out.Copied {
		t.Fatal(out, err)
	}
	wantEqual(t, src, dst, "l", "l")
	noTemp(t, dst)
}
