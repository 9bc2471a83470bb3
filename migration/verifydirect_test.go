package migration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/verify"
)

// TestNoRepairInAMigration: what clients have written on the target since they were moved
// there is not taken for a difference that a repair by hand puts right, nor does one meddle
// with a copy.
func TestNoRepairInAMigration(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	cfg, ctx := userConfig(source, target), t.Context()
	set := func(s *redistest.Server, key, value string) {
		t.Helper()
		if err := s.Client(0).Set(ctx, key, value, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set(source, "k", "of before")
	for _, c := range []struct {
		on     *redistest.Server
		key    string
		phase  Phase
		side   router.Side
		begins bool // while the servers are compared
		may    bool
	}{
		{on: target, key: store.RecordKey, phase: ReverseLost, side: router.Target},
		{on: source, key: store.JournalKey, phase: Committing, side: router.Target},
		{on: target, key: store.RecordKey, phase: Completed, side: router.Target},
		{on: target, key: store.RecordKey, phase: Copying, side: router.Source},
		{on: target, key: store.RecordKey, phase: Tailing, side: router.Source, begins: true},
		{on: target, key: store.RecordKey, phase: Cancelled, side: router.Source, may: true},
	} {
		set(target, "k", "of since")
		begin := func() {
			e, err := Record{ID: "m", Token: 1, Seq: 1, Phase: c.phase, Side: c.side}.entry()
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			set(c.on, c.key, string(text))
		}
		if !c.begins {
			begin()
		}
		r, err := VerifyServers(ctx, cfg, VerifyOptions{Repair: true}, func(p verify.Progress) {
			if c.begins && p.Step == "compare" {
				begin()
			}
		})
		said := fmt.Sprint(err)
		for _, d := range r.Databases {
			said += d.Trouble
		}
		refused := strings.Contains(said, "nothing is repaired directly")
		if want := map[bool]string{false: "of since", true: "of before"}[c.may]; refused == c.may || target.Client(0).Get(ctx, "k").Val() != want {
			t.Errorf("%s, clients on the %s: %q, %v\n%s", c.phase, c.side, target.Client(0).Get(ctx, "k").Val(), err, r)
		}
		if err := c.on.Client(0).Del(ctx, c.key).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestVerifyLeavesNoDatabaseOut: keys in a database that the other server does not have are not
// passed over in silence.
func TestVerifyLeavesNoDatabaseOut(t *testing.T) {
	large, small := redistest.Start(t), redistest.Start(t, redistest.WithDatabases(4))
	ctx := t.Context()
	if err := large.Client(7).Set(ctx, "k", 1, 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []config.Config{userConfig(large, small), userConfig(small, large)} {
		if r, err := VerifyServers(ctx, cfg, VerifyOptions{}, nil); err == nil || !strings.Contains(err.Error(), "database 7") {
			t.Errorf("%v\n%s", err, r)
		}
		cfg.LeaveOut = []int{7}
		if r, err := VerifyServers(ctx, cfg, VerifyOptions{}, nil); err != nil || !r.OK() {
			t.Errorf("where it is left out: %v\n%s", err, r)
		}
	}
}

// TestNoRepairByAnEmptySource: a source that seems to have lost its data takes it from nobody.
func TestNoRepairByAnEmptySource(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	cfg, ctx := userConfig(source, target), t.Context()
	pipe := target.Client(0).Pipeline()
	for i := range 300 {
		pipe.Set(ctx, fmt.Sprint("k", i), i, 0)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyServers(ctx, cfg, VerifyOptions{Repair: true}, nil); err == nil || !strings.Contains(err.Error(), "lost its data") {
		t.Errorf("repaired: %v", err)
	}
	if n := target.Client(0).DBSize(ctx).Val(); n != 300 {
		t.Fatalf("the target has %d keys left", n)
	}
	if r, err := VerifyServers(ctx, cfg, VerifyOptions{}, nil); err != nil || r.Differing != 300 {
		t.Errorf("without a repair: %v\n%s", err, r)
	}
	cfg.Sync.AcceptLoss = true
	if r, err := VerifyServers(ctx, cfg, VerifyOptions{Repair: true}, nil); err != nil || !r.OK() || target.Client(0).DBSize(ctx).Val() != 0 {
		t.Errorf("the loss is not carried over: %v\n%s", err, r)
	}
}
