package migration

import (
	"context"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// TestNothingLateByTheReins: a pause that is still on its way when the budget ends
// would hold up every writer after the clients were let go. It is called back.
func TestNothingLateByTheReins(t *testing.T) {
	for _, called := range []bool{false, true} {
		s := redistest.Start(t)
		link := redistest.NewLink(t, s.Addr())
		m := quietMigration(t, endpointOf(s, "", ""), endpointOf(s, "", ""), nil)
		a := &attempt{Migration: m, from: router.Source, to: router.Target}
		far := endpointOf(s, "", "")
		far.Address = link.Addr()
		a.reins = &reins{Pool: conn.New(far, "test:source:reins", testTimeout)}
		t.Cleanup(a.dropReins)
		if err := a.reins.DB(0).Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		link.StallUp(true)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		err := a.rein().pause(ctx, a.reins.DB(0), time.Minute)
		cancel()
		a.noteStray(err)
		if err == nil || !a.stray {
			t.Fatalf("a pause that is not answered: %v", err)
		}
		if called {
			if err := a.callBack(withTimeout(t)); err != nil || a.stray {
				t.Fatalf("calling it back: %v", err)
			}
		} else {
			a.dropReins()
		}
		sent := link.BytesUp()
		link.StallUp(false)
		if called {
			redistest.Eventually(t, 10*time.Second, func() bool { return link.Conns() == 0 }, "the end of the connection")
		} else {
			redistest.Eventually(t, 10*time.Second, func() bool { return link.BytesUp() > sent }, "the pause to arrive")
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		c := poolOf(t, s, "", "").DB(0)
		redistest.Eventually(t, 10*time.Second, func() bool {
			err = c.Set(ctx, "k", "v", 0).Err()
			return called || err != nil // the pause may be a moment behind
		}, "a write")
		cancel()
		if called && err != nil {
			t.Errorf("a write after the pause was called back: %v", err)
		}
	}
}
