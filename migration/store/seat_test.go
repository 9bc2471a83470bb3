package store_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
)

func TestSeatGoesToWhoCountsMore(t *testing.T) {
	c := redistest.Start(t).Client(0)
	if _, ok, err := store.LoadSeat(t.Context(), c); ok || err != nil {
		t.Fatalf("an empty server: %v, %v", ok, err)
	}
	for _, tt := range []struct {
		seat  store.Seat
		taken bool
	}{
		{store.Seat{Token: 3, Holder: "b"}, true},
		{store.Seat{Token: 3, Holder: "b"}, true}, // a lost answer
		{store.Seat{Token: 2, Holder: "z"}, false},
		{store.Seat{Token: 3, Holder: "a"}, false}, // started at the same time
		{store.Seat{Token: 3, Holder: "c"}, true},
		{store.Seat{Token: 2, Holder: "c"}, true}, // its own
		{store.Seat{Token: 4, Holder: "a"}, true},
	} {
		err := store.TakeSeat(t.Context(), c, tt.seat)
		if (err == nil) != tt.taken || err != nil && !errors.Is(err, store.ErrSuperseded) {
			t.Errorf("%s: %v", tt.seat, err)
		}
		there, ok, err := store.LoadSeat(t.Context(), c)
		if err != nil || !ok || (there == tt.seat) != tt.taken {
			t.Errorf("after %s it is %s, %v, %v", tt.seat, there, ok, err)
		}
	}
	if err := c.Set(t.Context(), store.SeatKey, "nobody's", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := store.TakeSeat(t.Context(), c, store.Seat{Token: 1, Holder: "a"}); err != nil {
		t.Errorf("what is not ours keeps us away: %v", err)
	}
}

// Of many that take it at the same time all but one find out in the end.
func TestSeatHasOneHolder(t *testing.T) {
	s := redistest.Start(t)
	const n = 8
	clients := make([]*redis.Client, n)
	for i := range clients {
		clients[i] = s.Client(0)
	}
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i, c := range clients {
		wg.Go(func() { errs[i] = store.TakeSeat(t.Context(), c, store.Seat{Token: 5, Holder: fmt.Sprint(i)}) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil && !errors.Is(err, store.ErrSuperseded) || err != nil && i == n-1 {
			t.Errorf("%d: %v", i, err)
		}
	}
	if there, _, err := store.LoadSeat(t.Context(), clients[0]); err != nil || there.Holder != fmt.Sprint(n-1) {
		t.Errorf("it is %s, %v", there, err)
	}
}
