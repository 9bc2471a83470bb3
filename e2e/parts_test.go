package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
)

// partsMap has four databases of the source become parts of one of the target's, and one
// the whole of another.
const partsMap = "0=0:c0:,3=0:c3:,7=0:{c7}:,12=0:c12:,9=2"

// keysOf returns the keys of a database, in order.
func keysOf(t *testing.T, s *redistest.Server, db int) []string {
	t.Helper()
	c := s.Client(db)
	defer func() { _ = c.Close() }()
	keys, err := c.Keys(context.Background(), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	keys = slices.DeleteFunc(keys, func(k string) bool { return strings.HasPrefix(k, "crossfade:") })
	slices.Sort(keys)
	return keys
}

// TestDatabasesThatBecomePartsOfOne moves several databases into one while clients write, to
// and fro, and then counts: each client has its own keys by their own names, nothing of
// others', and what else is there is as it was.
func TestDatabasesThatBecomePartsOfOne(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	other := dst.Client(0)
	if err := other.Set(t.Context(), "others:key", "others'", 0).Err(); err != nil {
		t.Fatal(err)
	}
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: partsMap})
	c.start("")
	c.awaitReady()
	databases := []int{0, 3, 7, 9, 12}
	through := startLoad(t, history.Config{Addr: c.addr, Databases: databases, Writers: 6, Prefix: "app", MaxRate: 300})
	direct := startLoad(t, history.Config{Addr: src.Addr(), Databases: []int{3}, Writers: 1, Prefix: "direct", MaxRate: 50})
	goOn := func(when string) {
		t.Helper()
		before := through.h.Stats().Acked
		redistest.Eventually(t, 60*time.Second, func() error {
			if through.h.Stats().Acked < before+200 {
				return errors.New("the writers do not go on")
			}
			return nil
		}, "writers go on %s", when)
	}
	goOn("before")
	for i, change := range []string{"cutover", "rollback", "cutover"} {
		c.awaitReady()
		f := c.cutover
		if change == "rollback" {
			f = c.rollback
		}
		r, err := f()
		if err != nil {
			t.Fatalf("switch %d, a %s: %v", i, change, err)
		}
		t.Logf("%s: clients stood still for %.1f ms at most", change, r.Stall.Max)
		goOn("after the " + change)
	}
	if err := through.end(); err != nil {
		t.Fatal(err)
	}
	identity := func(db int) int { return db }
	r := through.mustHold(t, c.addr, identity)
	direct.mustHold(t, c.addr, identity)
	if r.Stats.Errors > 0 {
		t.Errorf("clients saw %d errors, the last: %s", r.Stats.Errors, r.Stats.LastError)
	}
	t.Log(r)

	// The way back has brought the same to the source.
	c.end(false)
	var want []string
	for _, place := range strings.Split(partsMap, ",") {
		var db, there int
		_, _ = fmt.Sscanf(place, "%d=%d", &db, &there)
		keys := keysOf(t, src, db)
		if len(keys) == 0 {
			t.Errorf("database %d of the source is empty", db)
		}
		if there == 2 {
			if got := keysOf(t, dst, 2); !slices.Equal(got, keys) {
				t.Errorf("database 9 has %d keys, database 2 of the target %d", len(keys), len(got))
			}
			continue
		}
		_, with, _ := strings.Cut(place, ":")
		for _, k := range keys {
			want = append(want, with+k)
		}
	}
	want = append(want, "others:key")
	slices.Sort(want)
	if got := keysOf(t, dst, 0); !slices.Equal(got, want) {
		t.Errorf("database 0 of the target has %d keys, want %d", len(got), len(want))
	}
	if v, err := other.Get(t.Context(), "others:key").Result(); v != "others'" || err != nil {
		t.Errorf("what was there is %q, %v", v, err)
	}
}
