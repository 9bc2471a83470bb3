package value

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
)

// expirer has fields of "h" expire behind the reading of their values, before it is asked when
// they do.
type expirer struct {
	t    *testing.T
	c    *redis.Client // another one of the same server
	done bool
}

func (e *expirer) DialHook(next redis.DialHook) redis.DialHook { return next }

func (e *expirer) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		e.before(cmd)
		return next(ctx, cmd)
	}
}

func (e *expirer) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		e.before(cmds...)
		return next(ctx, cmds)
	}
}

func (e *expirer) before(cmds ...redis.Cmder) {
	for _, cmd := range cmds {
		if cmd.Name() != "hpexpiretime" || e.done {
			continue
		}
		e.done = true
		for _, field := range []string{"short", "brief"} {
			run(e.t, e.c, "HPEXPIRE", "h", 1, "FIELDS", 1, field)
			redistest.Eventually(e.t, 10*time.Second, func() bool { return !e.c.HExists(e.t.Context(), "h", field).Val() }, "%s has expired", field)
		}
	}
}

// expiring are two servers, of which the source removes no field by itself, as while writers
// are paused: then no event tells of it either.
func expiringFields(t *testing.T) (src, dst *redis.Client) {
	t.Helper()
	s := redistest.Start(t, redistest.WithConfig("enable-debug-command", "yes"))
	src, dst = s.Client(0), redistest.Start(t).Client(0)
	if run(t, src, "COMMAND", "INFO", "HPEXPIRE").([]any)[0] == nil {
		t.Skip("no field expires here")
	}
	run(t, src, "DEBUG", "SET-ACTIVE-EXPIRE", 0)
	return src, dst
}

// TestFieldsThatExpireWhileTheyAreRead: whoever asks for the expiry of a field that has just
// gone is not told one, and without one it would live for ever on the target.
func TestFieldsThatExpireWhileTheyAreRead(t *testing.T) {
	for _, way := range []struct {
		name string
		copy func(src, dst *redis.Client) error
	}{
		{"one by one", func(src, dst *redis.Client) error {
			_, err := Logical(t.Context(), src, dst, "h")
			return err
		}},
		{"many", func(src, dst *redis.Client) error {
			out, err := (&ByType{}).Copy(t.Context(), src, dst, []string{"h"})
			return errors.Join(err, out[0].Err)
		}},
		{"elements", func(src, dst *redis.Client) error {
			b := NewBig("h", direct(dst))
			b.kind = "hash"
			_, _, err := b.bring(t.Context(), src, []string{"short", "long", "brief", "none"})
			return err
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			src, dst := expiringFields(t)
			run(t, src, "HSET", "h", "short", 1, "long", 2, "brief", 3)
			run(t, dst, "HSET", "h", "old", 1, "none", 1)
			slow := redis.NewClient(src.Options())
			t.Cleanup(func() { _ = slow.Close() })
			e := &expirer{t: t, c: src}
			slow.AddHook(e)
			if err := way.copy(slow, dst); err != nil {
				t.Fatal(err)
			}
			if !e.done {
				t.Fatal("no expiry was asked for")
			}
			for _, field := range []string{"short", "brief", "none"} {
				if dst.HExists(t.Context(), "h", field).Val() {
					t.Errorf("%s lives on, until %v", field, run(t, dst, "HPEXPIRETIME", "h", "FIELDS", 1, field))
				}
			}
			if dst.HGet(t.Context(), "h", "long").Val() != "2" {
				t.Error("long is not there")
			}
		})
	}
}

// TestHashWithoutFields: a hash all of whose fields have expired stays until the server has
// removed it, and that may last. To clients it is not there.
func TestHashWithoutFields(t *testing.T) {
	src, dst := expiringFields(t)
	ctx := t.Context()
	copies := map[string]func() (Outcome, error){
		"one by one": func() (Outcome, error) { return Logical(ctx, src, dst, "h") },
		"many": func() (Outcome, error) {
			out, err := (&ByType{}).Copy(ctx, src, dst, []string{"h"})
			if errors.Is(out[0].Err, ErrOneByOne) { // it may say so
				return Outcome{Removed: true}, dst.Del(ctx, "h").Err()
			}
			return out[0], err
		},
		"big": func() (Outcome, error) { return NewBig("h", direct(dst)).Build(ctx, src, new(told)) },
	}
	for name, copied := range copies {
		run(t, src, "DEL", "h")
		run(t, src, "HSET", "h", "f", 1)
		run(t, dst, "HSET", "h", "f", 1)
		run(t, src, "HPEXPIRE", "h", 1, "FIELDS", 1, "f")
		redistest.Eventually(t, 10*time.Second, func() bool { return len(src.HKeys(ctx, "h").Val()) == 0 }, "it has expired")
		if src.Exists(ctx, "h").Val() == 0 {
			t.Skip("a hash without fields goes at once here")
		}
		wantDiff := func(a, b *redis.Client, want Kind) {
			t.Helper()
			for _, c := range []*Comparer{{}, {Big: 1}} {
				if d, err := c.Compare(ctx, a, b, []string{"h"}); err != nil || d[0].Kind != want {
					t.Errorf("%s: compared: %+v, %v, want %q", name, d, err, want)
				}
			}
			if d, err := Glance(ctx, a, b, "h"); err != nil || d.Kind != want {
				t.Errorf("%s: glanced at: %+v, %v, want %q", name, d, err, want)
			}
		}
		if out, err := copied(); err != nil || !out.Removed || out.Copied {
			t.Errorf("%s: %+v, %v", name, out, err)
		}
		if n := dst.Exists(ctx, "h").Val(); n != 0 {
			t.Errorf("%s: it is on the target", name)
		}
		wantDiff(src, dst, Same)
		wantDiff(dst, src, Same)
		run(t, src, "HSET", "h", "f", 1, "g", 1)
		run(t, src, "HPEXPIRE", "h", 1_000_000, "FIELDS", 1, "f")
		wantDiff(src, dst, Missing)
		wantDiff(dst, src, Extra)
	}
}
