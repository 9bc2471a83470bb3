package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

const lostKeys = 300

func fillLost(t *testing.T, w *world, value string) {
	t.Helper()
	var pairs []any
	for i := range lostKeys {
		pairs = append(pairs, fmt.Sprintf("k:%d", i), value)
	}
	ok(t, w.src.Client(0).MSet(t.Context(), pairs...).Err())
}

// awaitLosses waits until the mirror has looked n times and found that From is not what
// it was: between two looks lies a second, in which whoever wants to copy has long tried.
func awaitLosses(t *testing.T, w *world, why string, n int) {
	t.Helper()
	redistest.Eventually(t, 20*time.Second, func() error {
		p := w.m.Progress()
		for _, e := range p.Errors {
			if e.Kind == "loss" && e.Count >= n && strings.Contains(p.Reason, why) {
				return nil
			}
		}
		return fmt.Errorf("reason %q, errors %+v", p.Reason, p.Errors)
	}, "the loss is noticed")
}

// mustHaveLost fails unless the target has every key, with one of two values.
func mustHaveLost(t *testing.T, w *world, values ...string) {
	t.Helper()
	for i := range lostKeys {
		key := fmt.Sprintf("k:%d", i)
		if got := w.dst.Client(0).Get(t.Context(), key).Val(); got != values[0] && got != values[len(values)-1] {
			t.Fatalf("%s on the target is %q, want one of %q", key, got, values)
		}
	}
}

// TestNothingIsCopiedFromAServerThatLostItsData: keys that are dirty, and a scan that is
// due, when From dies wait until it is plain what has come back.
func TestNothingIsCopiedFromAServerThatLostItsData(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	fillLost(t, w, "old")
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)

	ok(t, w.m.Freeze(ctx))
	fillLost(t, w, "new")
	w.m.Rescan(-1, "a scan is to be due")
	redistest.Eventually(t, 20*time.Second, func() bool { return w.m.Progress().Dirty >= lostKeys }, "all are dirty")
	w.src.Kill()
	w.m.Thaw()
	ok(t, w.src.Restart(ctx))
	awaitLosses(t, w, "lost its data", 2)
	mustHaveLost(t, w, "old", "new")

	fillLost(t, w, "back")
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	mustHaveLost(t, w, "back")
	w.mustBeEqual(t)
}

// TestNothingIsCopiedFromAnOlderState: the same where all keys are there, and somebody
// knows that they are old.
func TestNothingIsCopiedFromAnOlderState(t *testing.T) {
	errOlder := errors.New("older than it should be")
	var older atomic.Bool
	w := newWorld(t, func(c *mirror.Config) {
		c.Remembers = func(context.Context, *conn.Pool) error {
			if older.Load() {
				return errOlder
			}
			return nil
		}
	})
	ctx := t.Context()
	fillLost(t, w, "old")
	ok(t, w.src.Client(0).Save(ctx).Err())
	fillLost(t, w, "new")
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	mustHaveLost(t, w, "new")

	older.Store(true)
	w.src.Kill()
	ok(t, w.src.Restart(ctx))
	awaitLosses(t, w, errOlder.Error(), 2)
	mustHaveLost(t, w, "new")

	older.Store(false) // the operator accepts it
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	mustHaveLost(t, w, "old")
	w.mustBeEqual(t)
}
