package value

import (
	"context"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/elements"
)

// told is a Watch that says what it is told to say.
type told struct {
	known, seen Changes
	settled     bool
}

func (w *told) Begin()                   { w.known, w.seen = 0, 0 }
func (w *told) Known() (Changes, uint64) { return w.known, 1 }
func (w *told) Seen(context.Context) (Changes, uint64, error) {
	w.known = w.seen
	return w.seen, 1, nil
}
func (w *told) Settle(uint64)           { w.settled = true }
func (w *told) Elements() *elements.Key { return nil }
func (w *told) say(known, seen Changes) { w.known, w.seen, w.settled = known, seen, false }

func placedList(t *testing.T) (src, dst *redis.Client, b *Big, w *told) {
	t.Helper()
	src, dst = two(t)
	run(t, src, "RPUSH", "k", "a", "b", "c")
	b, w = NewBig("k", direct(dst)), new(told)
	if out, err := b.Build(t.Context(), src, w); err != nil || !out.Copied || !b.Placed() {
		t.Fatal(out, err)
	}
	wantEqual(t, src, dst, "k", "k")
	return src, dst, b, w
}

// What was read before an event came is worth nothing when the event says so.
func TestExtendBelievesTheLastWord(t *testing.T) {
	src, dst, b, w := placedList(t)
	run(t, src, "RPUSH", "k", "d")
	run(t, src, "LPUSH", "k", "z")
	w.say(Appended, Appended|Prepended)
	if _, ok, err := b.Extend(t.Context(), src, w); ok || err != nil {
		t.Errorf("it was extended: %v", err)
	}
	if have := run(t, dst, "LLEN", "k"); have != int64(3) {
		t.Errorf("something was added, %v elements", have)
	}
	if _, err := b.Build(t.Context(), src, w); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, src, dst, "k", "k")
}

// A target that is not what it was taken for is not added to and forgotten.
func TestExtendLooksAtTheTarget(t *testing.T) {
	src, dst, b, w := placedList(t)
	run(t, src, "RPUSH", "k", "d")
	run(t, dst, "RPOP", "k")
	w.say(Appended, Appended)
	if _, ok, err := b.Extend(t.Context(), src, w); ok || err != nil || w.settled {
		t.Errorf("it was extended: %v", err)
	}
	if _, err := b.Build(t.Context(), src, w); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, src, dst, "k", "k")
}

// Entries that went from the middle of a stream show in their number and in the
// oldest that is left.
func TestExtendFindsDeletedEntries(t *testing.T) {
	src, dst := two(t)
	for _, id := range []string{"1-1", "2-1", "3-1", "4-1"} {
		run(t, src, "XADD", "k", id, "f", "v")
	}
	b, w := NewBig("k", direct(dst)), new(told)
	if _, err := b.Build(t.Context(), src, w); err != nil || !b.Placed() {
		t.Fatal(err)
	}
	run(t, src, "XDEL", "k", "3-1")
	w.say(Deleted, Deleted)
	if _, ok, err := b.Extend(t.Context(), src, w); ok || err != nil {
		t.Errorf("it was extended: %v", err)
	}
	if _, err := b.Build(t.Context(), src, w); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, src, dst, "k", "k")
	run(t, src, "XDEL", "k", "1-1") // the oldest: that can be followed
	w.say(Deleted, Deleted)
	if _, ok, err := b.Extend(t.Context(), src, w); !ok || err != nil {
		t.Errorf("it was not extended: %v", err)
	}
	wantEqual(t, src, dst, "k", "k")
}

// A long string goes as one SET, which a source that shortens it leaves undone.
func TestStringInOneSet(t *testing.T) {
	src, dst := two(t)
	run(t, src, "SET", "k", strings.Repeat("0123456789abcdef", 300<<10))
	run(t, dst, "SET", "k", "old")
	b, w := NewBig("k", direct(dst)), new(told)
	tmp := newTemp(direct(dst), Manner{}, "k")
	if err := streamString(t.Context(), src, "k", tmp, 5<<20); err == nil || Unknown(err) {
		t.Errorf("more was written than there is: %v", err)
	}
	if n := run(t, dst, "EXISTS", tmp.key); n != int64(0) {
		t.Error("half a value was written")
	}
	if _, err := b.Build(t.Context(), src, w); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, src, dst, "k", "k")
	noTemp(t, dst)
	if a := b.Account(); a.Kind != "string" || a.Bytes != 300<<14 || a.Percent != 100 {
		t.Errorf("account %+v", a)
	}
}
