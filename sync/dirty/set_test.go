package dirty

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func take(t *testing.T, s *Set, n int) []string {
	t.Helper()
	keys, err := s.Take(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestMarkedWhileInHandIsTakenAgainAfterDone(t *testing.T) {
	s := New(0)
	s.Mark("a")
	got := take(t, s, 10)
	if s.Again("a") || s.Again("b") {
		t.Error("a key is to be taken again that nobody has marked")
	}
	s.Mark("a")
	s.Mark("b")
	if !s.Again("a") || s.Again("b") { // b is queued, in no hand
		t.Error("nobody knows that a was marked in hand")
	}
	if other := take(t, s, 10); !slices.Equal(other, []string{"b"}) {
		t.Fatalf("a was given to two hands: %v", other)
	}
	s.Done(got)
	if again := take(t, s, 10); !slices.Equal(again, []string{"a"}) {
		t.Fatalf("a was not taken again: %v", again)
	}
}

func TestMarkHeldLeavesQueuedKeysAlone(t *testing.T) {
	s := New(0)
	s.Mark("held")
	s.Mark("stale")
	got := append(take(t, s, 2), s.Claim([]string{"claimed"})...)
	s.Mark("stale")
	s.Mark("queued")
	s.MarkHeld()
	if n := s.Queued(); n != 1 {
		t.Fatalf("%d keys are queued while the others are in hand", n)
	}
	s.Done(got)
	if again := take(t, s, 10); !slices.Equal(again, []string{"queued", "held", "stale", "claimed"}) {
		t.Fatalf("taken again: %v", again)
	}
}

func TestHotKeyIsQueuedOnce(t *testing.T) {
	s := New(0)
	for range 100_000 {
		s.Mark("hot")
	}
	if n := len(take(t, s, 10)); n != 1 || s.Len() != 1 {
		t.Fatalf("taken %d, len %d, want 1 and 1", n, s.Len())
	}
}

func TestClaimLeavesDirtyAndHeldKeysAlone(t *testing.T) {
	s := New(0)
	s.Mark("queued")
	s.Mark("held")
	s.Mark("third")
	_ = take(t, s, 1) // "queued" is in hand now
	got := s.Claim([]string{"queued", "held", "cold"})
	if !slices.Equal(got, []string{"cold"}) {
		t.Fatalf("claimed %v", got)
	}
	s.Mark("cold")
	s.Done(got)
	if keys := take(t, s, 10); !slices.Contains(keys, "cold") {
		t.Fatalf("cold was marked during its scan copy and is not copied again: %v", keys)
	}
}

func TestOverflowIsRememberedUntilCleared(t *testing.T) {
	s := New(2)
	for i := range 5 {
		s.Mark(fmt.Sprint(i))
	}
	if s.Len() != 2 || !s.Overflowed() {
		t.Fatalf("len %d overflowed %v", s.Len(), s.Overflowed())
	}
	s.ClearOverflow()
	s.Mark("late")
	if !s.Overflowed() {
		t.Fatal("a mark dropped after ClearOverflow was forgotten")
	}
}

// TestLongNamesAreFewer: what the limit bounds is memory.
func TestLongNamesAreFewer(t *testing.T) {
	const limit, size = 1000, 64 << 10
	s := New(limit)
	name := func(i int) string { return fmt.Sprint(i) + strings.Repeat("x", size) }
	for i := range limit / 2 {
		s.Mark(name(i))
	}
	if n := s.Len(); n == 0 || n > limit*nameBytes/size || !s.Overflowed() {
		t.Fatalf("%d names of %d bytes are remembered, overflowed %v", n, size, s.Overflowed())
	}
	s.Done(take(t, s, limit))
	s.ClearOverflow()
	for i := range limit {
		s.Mark(fmt.Sprint(i))
	}
	if s.Len() != limit || s.Overflowed() {
		t.Errorf("behind them, %d short ones are, overflowed %v", s.Len(), s.Overflowed())
	}
	s = New(1)
	s.Mark(name(0)) // or else nothing would be followed at all
	if s.Len() != 1 || s.Overflowed() {
		t.Errorf("%d keys are remembered, overflowed %v", s.Len(), s.Overflowed())
	}
}

func TestWaitCleanWaitsForHandsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(0)
		s.Mark("a")
		keys := take(t, s, 1)
		clean := make(chan error, 1)
		go func() { clean <- s.WaitClean(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-clean:
			t.Fatalf("clean although a key is in hand (%v)", err)
		default:
		}
		s.Retry(keys)
		synctest.Wait()
		s.Done(take(t, s, 1))
		if err := <-clean; err != nil {
			t.Fatal(err)
		}
	})
}

func TestTakeGivesUpWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(0).Take(ctx, 1); err == nil {
		t.Fatal("no error")
	}
	s := New(0)
	s.Mark("a")
	if keys, err := s.Take(ctx, 1); err == nil {
		t.Fatalf("took %v although its context has ended", keys)
	}
}

func TestForgetKeepsHands(t *testing.T) {
	s := New(0)
	s.Mark("a")
	keys := take(t, s, 1)
	s.Mark("a")
	s.Mark("b")
	s.Forget()
	if s.Len() != 1 {
		t.Fatalf("len %d", s.Len())
	}
	s.Done(keys)
	if s.Len() != 0 {
		t.Fatalf("a came back after Forget")
	}
}

// Whatever the order of calls, a key is never in two hands, and the last mark
// of a key is always followed by a Done of a later Take.
func TestSetProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New(0)
		version := map[string]int{} // marks so far
		copied := map[string]int{}  // version at the time of the last finished copy's take
		var hands []map[string]int
		inHand := map[string]bool{}
		names := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		hold := func(keys []string) {
			h := map[string]int{}
			for _, k := range keys {
				if inHand[k] {
					t.Fatalf("%q in two hands", k)
				}
				inHand[k] = true
				h[k] = version[k]
			}
			if len(h) > 0 {
				hands = append(hands, h)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"mark":  func(t *rapid.T) { k := names.Draw(t, "k"); version[k]++; s.Mark(k) },
			"claim": func(t *rapid.T) { hold(s.Claim([]string{names.Draw(t, "k")})) },
			"missed": func(t *rapid.T) { // changes of keys in hand, and of those that a scan comes upon
				k := names.Draw(t, "k")
				if version[k]++; !inHand[k] {
					s.Mark(k)
				}
				s.MarkHeld()
			},
			"take": func(t *rapid.T) { s.mu.Lock(); keys := s.take(2); s.mu.Unlock(); hold(keys) },
			"done": func(t *rapid.T) {
				if len(hands) == 0 {
					return
				}
				i := rapid.IntRange(0, len(hands)-1).Draw(t, "i")
				retry := rapid.Bool().Draw(t, "retry")
				var keys []string
				for k, v := range hands[i] {
					keys = append(keys, k)
					inHand[k] = false
					if !retry {
						copied[k] = v
					}
				}
				hands = slices.Delete(hands, i, i+1)
				if retry {
					s.Retry(keys)
				} else {
					s.Done(keys)
				}
			},
			"": func(t *rapid.T) {
				if s.Len() == 0 {
					for k, v := range version {
						if copied[k] != v {
							t.Fatalf("clean, but %q was copied at version %d of %d", k, copied[k], v)
						}
					}
				}
			},
		})
	})
}

func TestSetConcurrently(t *testing.T) {
	s := New(0)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				keys, err := s.Take(ctx, 7)
				if err != nil {
					return
				}
				s.Done(keys)
			}
		})
	}
	for i := range 20_000 {
		s.Mark(fmt.Sprint(i % 500))
	}
	if err := s.WaitClean(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	wg.Wait()
}

func TestCleanIsNeitherQueuedNorInHand(t *testing.T) {
	s := New(0)
	s.Mark("held")
	held := take(t, s, 1)
	s.Mark("queued")
	if got := s.Clean([]string{"held", "queued", "other"}); !slices.Equal(got, []bool{false, false, true}) {
		t.Fatalf("clean: %v", got)
	}
	s.Done(held)
	if got := s.Clean([]string{"held"}); !got[0] {
		t.Fatal("not clean when given back")
	}
}

// TestAgeWhenTheClockBeginsAnew: it counts 49 days.
func TestAgeWhenTheClockBeginsAnew(t *testing.T) {
	s := New(0)
	now := uint32(math.MaxUint32 - 2000)
	s.keys.clock = func() uint32 { return now }
	s.Mark("queued")
	s.Mark("held")
	_ = take(t, s, 1)
	now += 5000
	for _, got := range []time.Duration{s.Age(), s.AgeBut(map[string]bool{"queued": true}), s.AgeBut(map[string]bool{"other": true})} {
		if got != 5*time.Second {
			t.Errorf("the age is %v", got)
		}
	}
}

// TestAgeBut: the oldest change but for keys in hand that are left out.
func TestAgeBut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(0)
		s.Mark("big")
		if got := s.TakeNow(1); len(got) != 1 {
			t.Fatal(got)
		}
		time.Sleep(5 * time.Second) // of the test's own clock
		s.Mark("small")
		time.Sleep(time.Second)
		for _, c := range []struct {
			except map[string]bool
			want   time.Duration
		}{{nil, 6 * time.Second}, {map[string]bool{"other": true}, 6 * time.Second}, {map[string]bool{"big": true}, time.Second}} {
			if got := s.AgeBut(c.except).Round(10 * time.Millisecond); got != c.want {
				t.Errorf("the age without %v is %v, want %v", c.except, got, c.want)
			}
		}
		s.Done([]string{"big"})
		if got := s.AgeBut(map[string]bool{"big": true}).Round(10 * time.Millisecond); got != time.Second {
			t.Errorf("the age is %v", got)
		}
	})
}
