package value

import (
	"context"
	"errors"
	"fmt"
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

// settle has b brought up to what src has, by additions alone while that will do, as
// whoever hears of changes does, and returns whether the whole was copied.
func settle(t *testing.T, src *redis.Client, b *Big, w *told) (whole bool) {
	t.Helper()
	for range 5 {
		_, ok, err := b.Extend(t.Context(), src, w)
		if err != nil {
			t.Fatal(err)
		}
		if w.settled {
			return whole
		}
		if !ok {
			whole = true
			if _, err := b.Build(t.Context(), src, w); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Fatal("it is never settled")
	return whole
}

// An entry that goes while the stream is copied, when it was found to be there and was
// not read yet, is pending all the same. Its end is all that is told.
func TestPendingEntriesGoDuringTheCopy(t *testing.T) {
	for name, gone := range map[string][]any{
		"deleted": {"XDEL", "k", "996-1", "997-1"},
		"trimmed": {"XTRIM", "k", "MAXLEN", 200},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := two(t)
			for i := range 1000 {
				run(t, src, "XADD", "k", fmt.Sprintf("%d-1", i+1), "f", "v")
			}
			run(t, src, "XGROUP", "CREATE", "k", "g", "0")
			run(t, src, "XREADGROUP", "GROUP", "g", "c", "COUNT", 1000, "STREAMS", "k", ">")
			w, kind := new(told), map[string]Changes{"deleted": Deleted, "trimmed": Trimmed}[name]
			chunks := 0
			b := NewBig("k", func(ctx context.Context, write func(context.Context, *redis.Client) error) error {
				if chunks++; chunks == 1 {
					run(t, src, gone...)
					w.say(kind, kind)
				}
				return write(ctx, dst)
			})
			if _, err := b.Build(t.Context(), src, w); err != nil {
				t.Fatal(err)
			}
			settle(t, src, b, w)
			wantEqual(t, src, dst, "k", "k")
		})
	}
}

// A server of 8.2 and later can take what is pending away together with entries. The
// events are those of any trimming.
func TestPendingGoesWithEntries(t *testing.T) {
	src, dst := two(t)
	add(t, src, "k", 1, 30)
	run(t, src, "XGROUP", "CREATE", "k", "g", "0")
	run(t, src, "XREADGROUP", "GROUP", "g", "c", "COUNT", 10, "STREAMS", "k", ">")
	b, w := NewBig("k", direct(dst)), new(told)
	if _, err := b.Build(t.Context(), src, w); err != nil {
		t.Fatal(err)
	}
	run(t, src, "XTRIM", "k", "MAXLEN", 28)
	run(t, src, "XACK", "k", "g", "1000-1", "1000-2")
	w.say(Trimmed, Trimmed)
	if settle(t, src, b, w) {
		t.Error("the whole was copied")
	}
	wantEqual(t, src, dst, "k", "k")
}

// What stood in for an entry in a copy that was interrupted is no entry in the end,
// although what was pending was acknowledged before the copy went on.
func TestStandInsOfAnInterruptedCopy(t *testing.T) {
	src, dst := two(t)
	for i := range 1000 {
		run(t, src, "XADD", "k", fmt.Sprintf("%d-1", i+1), "f", "v")
	}
	run(t, src, "XGROUP", "CREATE", "k", "g", "0")
	run(t, src, "XREADGROUP", "GROUP", "g", "c", "COUNT", 20, "STREAMS", "k", ">")
	run(t, src, "XDEL", "k", "7-1", "9-1")
	cut, chunks := errors.New("cut"), 0
	b, w := NewBig("k", func(ctx context.Context, write func(context.Context, *redis.Client) error) error {
		if chunks++; chunks == 2 {
			return cut
		}
		return write(ctx, dst)
	}), new(told)
	if _, err := b.Build(t.Context(), src, w); !errors.Is(err, cut) {
		t.Fatal(err)
	}
	run(t, src, "XACK", "k", "g", "7-1")
	w.say(Grouped, Grouped)
	if _, err := b.Build(t.Context(), src, w); err != nil {
		t.Fatal(err)
	}
	if w.known == 0 {
		t.Error("the copy began anew: the test does not test what it says")
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

// adding is a Watch behind whose beginning, once all was read, somebody adds something.
type adding struct {
	told
	begun bool
	add   func()
}

func (w *adding) Begin() {
	w.told.Begin()
	w.begun = true
}

func (w *adding) Known() (Changes, uint64) {
	if w.begun && w.add != nil {
		w.add()
		w.add, w.seen = nil, Appended
	}
	return w.told.Known()
}

// A value that was made anew, and of which what was added meanwhile could not be written, is
// not in place: nothing is added to the one that was there before.
func TestPlacingFailsHalfway(t *testing.T) {
	src, dst := two(t)
	cut, fails := errors.New("cut"), false
	b := NewBig("k", func(ctx context.Context, write func(context.Context, *redis.Client) error) error {
		if fails {
			return cut
		}
		return write(ctx, dst)
	})
	run(t, src, "RPUSH", "k", "a", "b", "c")
	if _, err := b.Build(t.Context(), src, new(told)); err != nil || !b.Placed() {
		t.Fatal(err)
	}
	run(t, src, "DEL", "k")
	run(t, src, "RPUSH", "k", "w", "x", "y", "z")
	w := &adding{add: func() { fails = true; run(t, src, "RPUSH", "k", "more") }}
	if _, err := b.Build(t.Context(), src, w); !errors.Is(err, cut) {
		t.Fatalf("it was not cut: %v", err)
	}
	if fails = false; b.Placed() {
		t.Error("what was there before counts as the value")
		w.say(Appended, Appended)
		out, ok, err := b.Extend(t.Context(), src, w)
		t.Log(out, ok, err)
	}
	if _, err := b.Build(t.Context(), src, w); err != nil {
		t.Fatal(err)
	}
	wantEqual(t, src, dst, "k", "k")
}
