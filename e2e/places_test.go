package e2e

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/verify"
)

// stringsOf reads the strings of a database.
func stringsOf(t *testing.T, c *redis.Client) map[string]string {
	t.Helper()
	out := make(map[string]string)
	iter := c.Scan(t.Context(), 0, "*", 1000).Iterator()
	for iter.Next(t.Context()) {
		if !strings.HasPrefix(iter.Val(), "crossfade:") {
			out[iter.Val()] = c.Get(t.Context(), iter.Val()).Val()
		}
	}
	if err := iter.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestPlaces moves 16 databases into one that others use as well, and back, with a sidecar
// that is killed in between. Nobody is served by it: whoever writes does so past it.
func TestPlaces(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	var pairs []string
	prefix := func(db int) string { return fmt.Sprintf("c%d:", db) }
	for db := range 16 {
		pairs = append(pairs, fmt.Sprintf("%d=0:%s", db, prefix(db)))
		for i := range 50 {
			if err := src.Client(db).Set(t.Context(), fmt.Sprint("k", i), fmt.Sprint(db, " ", i), 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	others := map[string]string{"theirs": "1", "c": "2", "c1": "3", "c16:k1": "4"}
	for key, value := range others {
		if err := dst.Client(0).Set(t.Context(), key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	equal := func(when string) {
		t.Helper()
		there, want := stringsOf(t, dst.Client(0)), maps.Clone(others)
		for db := range 16 {
			for key, value := range stringsOf(t, src.Client(db)) {
				want[prefix(db)+key] = value
			}
		}
		if !maps.Equal(there, want) {
			t.Fatalf("%s: the target has %d keys, not the %d that it should have: %v", when, len(there), len(want), there)
		}
	}
	write := func(side router.Side, what string) {
		t.Helper()
		for db := range 16 {
			c, at := src.Client(db), ""
			if side == router.Target {
				c, at = dst.Client(0), prefix(db)
			}
			p := c.Pipeline()
			p.Set(t.Context(), at+what, db, 0)
			p.Set(t.Context(), at+"k1", what, 0)
			p.Del(t.Context(), at+"k2", at+"gone")
			if _, err := p.Exec(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: strings.Join(pairs, ","), extra: []string{"--verify.rate", "0"}})
	c.start("")
	st := c.awaitReady()
	if len(st.Databases) != 16 || st.Databases[3].Source != 3 || st.Databases[3].Target != 0 || st.Databases[3].Prefix != "c3:" {
		t.Errorf("status: %+v", st.Databases)
	}
	write(router.Source, "first")
	compare := func(differing int64) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if r := must[verify.Report](t)(c.admin.Verify(ctx, admin.VerifyRequest{})); !r.Complete || r.Differing != differing {
			t.Fatalf("want %d differences:\n%s", differing, r)
		}
	}
	compare(0)
	equal("after the copy")
	dst.Client(0).Set(t.Context(), "c5:planted", 1, 0)
	dst.Client(0).Del(t.Context(), "c15:k7")
	compare(2)

	// Killed and started again, it finds what has changed meanwhile, and what was planted.
	c.kill()
	write(router.Source, "second")
	c.start("")
	c.awaitReady()
	compare(0)
	equal("after the restart")

	must[migration.Report](t)(c.cutover())
	c.await("on the target", func(s migration.Status) bool { return s.Side == router.Target && s.Ready })
	write(router.Target, "third")
	others["c99:new"] = "5"
	dst.Client(0).Set(t.Context(), "c99:new", 5, 0)
	compare(0)
	c.kill()
	write(router.Target, "fourth")
	c.start("")
	c.awaitReady()
	compare(0)

	must[migration.Report](t)(c.rollback())
	c.await("on the source", func(s migration.Status) bool { return s.Side == router.Source && s.Ready })
	write(router.Source, "fifth")
	compare(0)
	c.end(true)
	equal("in the end")
	for _, client := range []*redis.Client{src.Client(0), dst.Client(0)} {
		if keys := must[[]string](t)(client.Keys(t.Context(), "crossfade:*").Result()); len(keys) > 0 {
			t.Errorf("left over: %v", keys)
		}
	}
}
