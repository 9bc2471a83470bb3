package verify

import (
	"maps"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// TestPlaces compares databases that share one of the target with others' keys: what
// begins with a prefix counts, and nothing else is looked at or mended.
func TestPlaces(t *testing.T) {
	a, b := redistest.Start(t), redistest.Start(t)
	ends := [2]*conn.Pool{}
	for i, s := range []*redistest.Server{a, b} {
		ends[i] = conn.New(config.Endpoint{Network: "tcp", Address: s.Addr()}, "t", 5*time.Second)
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	one, two := router.Place{DB: 5, Prefix: "{1}:"}, router.Place{DB: 5, Prefix: "two:"}
	cfg := Config{
		Source: ends[0].At, Target: ends[1].At, Databases: map[int]router.Place{1: one, 2: two, 3: {DB: 3}},
		Settle: 10 * time.Millisecond, Rounds: 3, Batch: 50,
	}
	fill(t, 30, a.Client(1), ends[1].At(one))
	fill(t, 20, a.Client(2), ends[1].At(two))
	fill(t, 10, a.Client(3), b.Client(3))
	raw := b.Client(5)
	for _, key := range []string{"str:1", "{1}", "other", "three:str:1", "two"} {
		run(t, raw, "SET", key, "x")
	}
	others := func() map[string]string {
		out := make(map[string]string)
		for _, key := range []string{"str:1", "{1}", "other", "three:str:1", "two"} {
			out[key] = raw.Get(t.Context(), key).Val()
		}
		return out
	}
	was := others()
	compare := func() Report {
		t.Helper()
		r, err := Run(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := compare()
	wantFound(t, r, map[string]value.Kind{})
	if d := r.Databases[0]; d.Prefix != "{1}:" || d.Target != 5 || d.Keys != d.TargetKeys || d.Keys == 0 || r.Databases[2].Prefix != "" {
		t.Errorf("%+v", d)
	}

	run(t, raw, "DEL", "{1}:str:1")
	run(t, raw, "SET", "{1}:extra", 1)
	run(t, raw, "HSET", "two:hash:1", "f", "x")
	run(t, raw, "PEXPIREAT", "two:str:2", far+2+50)
	run(t, raw, "SET", "two:{1}:str:3", 1)
	want := map[string]value.Kind{"str:1": value.Missing, "extra": value.Extra, "hash:1": value.Value, "str:2": value.Expiry, "{1}:str:3": value.Extra}
	wantFound(t, compare(), want)
	if got := others(); !maps.Equal(got, was) {
		t.Errorf("others' keys became %v", got)
	}

	cfg.Repair = Mender(cfg)
	if r := compare(); !r.OK() || r.Repaired != int64(len(want)) {
		t.Errorf("not mended:\n%s", r)
	}
	cfg.Repair = nil
	wantFound(t, compare(), map[string]value.Kind{})
	if got := others(); !maps.Equal(got, was) {
		t.Errorf("the repair made others' keys %v", got)
	}
	if n := raw.Exists(t.Context(), "{1}:extra", "two:{1}:str:3").Val(); n != 0 {
		t.Errorf("%d extra keys are there yet", n)
	}

	// The other way the target is the truth, and what it has of others' still no matter.
	cfg.Reverse = true
	run(t, a.Client(1), "PEXPIREAT", "str:9", far+5000)
	run(t, a.Client(2), "SET", "only here", 1)
	run(t, a.Client(2), "DEL", "str:3")
	wantFound(t, compare(), map[string]value.Kind{"str:9": value.Expiry, "only here": value.Missing, "str:3": value.Extra})
	cfg.Repair = Mender(cfg)
	if r := compare(); !r.OK() {
		t.Errorf("not mended:\n%s", r)
	}
	if v, err := a.Client(2).Exists(t.Context(), "only here").Result(); err != nil || v != 0 {
		t.Errorf("%d, %v", v, err)
	}
	if err := a.Client(2).Get(t.Context(), "str:3").Err(); err == redis.Nil { //nolint:errorlint // go-redis' own way
		t.Error("a key that the target has did not come back")
	}
}
