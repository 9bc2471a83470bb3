package mirror_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/mirror"
)

// A server runs what lies in a socket at one go and holds all the answers: of keys that
// are just not big, only a few may be asked for at a time.
func TestFewBytesAreAskedForAtATime(t *testing.T) {
	w := newWorld(t, func(c *mirror.Config) { c.Batch = 0 })
	src := w.src.Client(0)
	value := make([]byte, 400<<10)
	_, _ = rand.Read(value)
	for i := range 200 {
		ok(t, src.Set(t.Context(), fmt.Sprintf("s:%d", i), value, 0).Err())
	}
	ok(t, src.Set(t.Context(), "s:short", "v", 0).Err())
	before := infoNumber(t, src, "memory", "used_memory_peak")
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.mustBeEqual(t)
	if more := infoNumber(t, src, "memory", "used_memory_peak") - before; more > 24<<20 {
		t.Errorf("the source has held %d bytes more for the copy of 80 MB", more)
	}
}

// Who may not use transactions is asked without them.
func TestSourceWithoutTransactions(t *testing.T) {
	w := &world{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"), redistest.WithRenamed("MULTI", "")),
		dst: redistest.Start(t),
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), smallIsBig)
	src := w.src.Client(0)
	fill(t, src, 500)
	for _, kind := range []string{"string", "list", "hash"} {
		grow(t, src, kind, 0, 5000)
	}
	ok(t, src.Set(t.Context(), "mortal", "v", time.Hour).Err())
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	w.sameKeys(t, "string", "list", "hash", "s:1", "h:10", "l:10")
	for _, kind := range []string{"string", "list"} {
		grow(t, src, kind, 5000, 100)
	}
	ok(t, src.Del(t.Context(), "s:1").Err())
	drain(t, w.m)
	w.sameKeys(t, "string", "list", "hash")
	if left, want := w.dst.Client(0).PTTL(t.Context(), "mortal").Val(), time.Hour; left <= 0 || left > want {
		t.Errorf("the copy lives for %v", left)
	}
	if w.dst.Client(0).Exists(t.Context(), "s:1").Val() != 0 {
		t.Error("what was deleted is there")
	}
}

// A target that lets nobody remove keys is an error that is told, not a race.
func TestTargetThatRemovesNothing(t *testing.T) {
	w := &world{
		src: redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA")),
		dst: redistest.Start(t, redistest.WithRenamed("UNLINK", ""), redistest.WithRenamed("DEL", "")),
	}
	w.connect(t, w.src.Addr(), w.dst.Addr(), nil)
	fill(t, w.src.Client(0), 20)
	ok(t, w.m.Follow(t.Context(), true))
	w.awaitState(t, mirror.Live)
	ok(t, w.src.Client(0).Del(t.Context(), "s:1").Err())
	redistest.Eventually(t, 20*time.Second, func() error {
		for _, e := range w.m.Progress().Errors {
			if strings.Contains(e.Text, `removing key "s:1"`) {
				return nil
			}
		}
		return errors.New("nobody says so")
	}, "an error that says what is refused")
}
