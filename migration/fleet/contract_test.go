package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/router"
)

// contract is what every store has to keep. fresh returns an empty one, and what has its
// listeners lose it.
func contract(t *testing.T, fresh func(t *testing.T) (st fleet.Store, cut func())) {
	word := func(by string, seq, token uint64, stage fleet.Stage) fleet.Word {
		return fleet.Word{By: by, Seq: seq, Token: token, Stage: stage, To: router.Target, Epoch: 3}
	}
	heard := func(t *testing.T, st fleet.Store, want fleet.Word) {
		t.Helper()
		if got, err := st.Heard(t.Context()); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("heard %+v, %v, want %+v", got, err, want)
		}
	}
	t.Run("words", func(t *testing.T) {
		st, _ := fresh(t)
		heard(t, st, fleet.Word{})
		first := word("a", 1, 5, fleet.Prepare)
		for range 2 { // repeated
			if err := st.Say(t.Context(), first); err != nil {
				t.Fatal(err)
			}
		}
		heard(t, st, first)
		if !first.Says() || (fleet.Word{}).Says() {
			t.Error("a word says something, none does not")
		}
		second := word("a", 2, 5, fleet.Hold)
		for _, w := range []fleet.Word{second, first} { // a late one is overtaken
			if err := st.Say(t.Context(), w); err != nil {
				t.Fatal(err)
			}
		}
		heard(t, st, second)
		newer := word("b", 1, 6, fleet.Release)
		newer.Aligned = []string{"x", "y"}
		if err := st.Say(t.Context(), newer); err != nil {
			t.Fatal(err)
		}
		if err := st.Say(t.Context(), word("a", 3, 5, fleet.Release)); !errors.Is(err, fleet.ErrOld) {
			t.Errorf("an older coordinator: %v", err)
		}
		heard(t, st, newer)
	})
	t.Run("many speak at once", func(t *testing.T) {
		st, _ := fresh(t)
		var all sync.WaitGroup
		for token := range uint64(8) {
			all.Go(func() {
				err := st.Say(t.Context(), word(fmt.Sprint(token), 1, token, fleet.Hold))
				if err != nil && !errors.Is(err, fleet.ErrOld) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		heard(t, st, word("7", 1, 7, fleet.Hold))
	})
	t.Run("listeners", func(t *testing.T) {
		st, cut := fresh(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var woken atomic.Int64
		lost := make(chan error, 1)
		go func() { lost <- st.Listen(ctx, func() { woken.Add(1) }) }()
		reaches := func(n int64) {
			t.Helper()
			redistest.Eventually(t, 10*time.Second, func() error {
				if got := woken.Load(); got < n {
					return fmt.Errorf("woken %d times", got)
				}
				return nil
			}, "woken %d times", n)
		}
		reaches(1)
		for seq := range uint64(3) {
			before := woken.Load()
			if err := st.Say(t.Context(), word("a", seq+1, 1, fleet.Hold)); err != nil {
				t.Fatal(err)
			}
			reaches(before + 1)
		}
		cut()
		select {
		case err := <-lost:
			if err == nil {
				t.Error("the store is lost, and Listen says nothing")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Listen does not notice that the store is lost")
		}
		go func() { lost <- st.Listen(ctx, func() {}) }()
		cancel()
		select {
		case err := <-lost:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("ended by its context: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("Listen does not end")
		}
	})
	t.Run("members", func(t *testing.T) {
		st, _ := fresh(t)
		members := func(t *testing.T) ([]fleet.Member, error) {
			list, err := st.Members(t.Context())
			for i := range list {
				list[i].Lives = false // what nobody has said is the store's affair
			}
			return list, err
		}
		if list, err := st.Members(t.Context()); err != nil || len(list) != 0 {
			t.Fatalf("members: %v, %v", list, err)
		}
		x := fleet.Member{ID: "1", Name: "x", Version: "v", Protocol: 1, State: fleet.Open, Side: router.Target, Epoch: 2, Token: 9, Inside: 4, Commands: 5, Beat: 1}
		y := fleet.Member{ID: "0", Name: "y", State: fleet.Held}
		later := x
		later.Beat, later.State = 2, fleet.Waiting
		for _, m := range []fleet.Member{x, y, later} {
			if err := st.Beat(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
		if list, err := members(t); err != nil || !reflect.DeepEqual(list, []fleet.Member{later, y}) {
			t.Errorf("members: %+v, %v", list, err)
		}
		if err := errors.Join(st.Leave(t.Context(), "0", "nobody"), st.Leave(t.Context())); err != nil {
			t.Fatal(err)
		}
		if list, err := members(t); err != nil || !reflect.DeepEqual(list, []fleet.Member{later}) {
			t.Errorf("members: %+v, %v", list, err)
		}
	})
	t.Run("answers", func(t *testing.T) {
		st, _ := fresh(t)
		for _, a := range []fleet.Answer{{Word: "a:1"}, {Word: "a:2", Failed: "no way"}} {
			if err := st.Answer(t.Context(), "1", a); err != nil {
				t.Fatal(err)
			}
		}
		if err := st.Answer(t.Context(), "2", fleet.Answer{Word: "a:2"}); err != nil {
			t.Fatal(err)
		}
		want := map[string]fleet.Answer{"1": {Word: "a:2", Failed: "no way"}}
		if got, err := st.Answers(t.Context(), []string{"1", "3"}); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("answers: %v, %v", got, err)
		}
		if got, err := st.Answers(t.Context(), nil); err != nil || len(got) != 0 {
			t.Errorf("answers of nobody: %v, %v", got, err)
		}
		if err := st.Leave(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		if got, err := st.Answers(t.Context(), []string{"1"}); err != nil || len(got) != 0 {
			t.Errorf("answers of one that has left: %v, %v", got, err)
		}
	})
	t.Run("clear", func(t *testing.T) {
		st, _ := fresh(t)
		if err := errors.Join(st.Say(t.Context(), word("a", 1, 1, fleet.Hold)), st.Beat(t.Context(), fleet.Member{ID: "1"}),
			st.Answer(t.Context(), "1", fleet.Answer{Word: "a:1"}), st.Clear(t.Context())); err != nil {
			t.Fatal(err)
		}
		heard(t, st, fleet.Word{})
		if list, err := st.Members(t.Context()); err != nil || len(list) != 0 {
			t.Errorf("members: %v, %v", list, err)
		}
		if got, err := st.Answers(t.Context(), []string{"1"}); err != nil || len(got) != 0 {
			t.Errorf("answers: %v, %v", got, err)
		}
	})
}
