package history_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	goleak.VerifyTestMain(m)
}

func ctx(t *testing.T) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return c
}

// write runs h until it has so many more acknowledged operations, doing
// meanwhile what is asked for.
func write(t *testing.T, h *history.History, atLeast uint64, meanwhile ...func()) {
	t.Helper()
	running, cancel := context.WithCancel(ctx(t))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.Run(running) }()
	before, share := h.Stats().Acked, atLeast/uint64(len(meanwhile)+1)
	for i, f := range append(meanwhile, func() {}) {
		redistest.Eventually(t, 20*time.Second, func() bool { return h.Stats().Acked >= before+share*uint64(i+1) },
			"%d operations", share*uint64(i+1))
		f()
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func verify(t *testing.T, h *history.History, s *redistest.Server, mapDB func(int) int) history.Report {
	t.Helper()
	r, err := h.Verify(ctx(t), s.Addr(), history.Creds{Password: s.Password()}, mapDB)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCleanRunIsClean(t *testing.T) {
	for _, protocol := range []int{2, 3} {
		t.Run(fmt.Sprintf("RESP%d", protocol), func(t *testing.T) {
			s := redistest.Start(t, redistest.WithPassword("secret"))
			h := history.New(history.Config{
				Addr: s.Addr(), Password: "secret", Databases: []int{0, 3}, Protocol: protocol, ItemsPerKey: 100,
			})
			write(t, h, 8000)
			r := verify(t, h, s, nil)
			if !r.OK() || r.Stats.Refused+r.Stats.Unknown+r.Stats.Errors > 0 {
				t.Fatal(r)
			}
			if r.Items < 1000 || r.Keys < 50 || r.Stats.Reads == 0 || h.TakeStall() == 0 {
				t.Errorf("hardly anything was checked: %v", r)
			}
			write(t, h, 1000) // the record goes on
			if r := verify(t, h, s, nil); !r.OK() {
				t.Error(r)
			}
		})
	}
}

func TestMemoryBoundKeepsTheLoadUp(t *testing.T) {
	s := redistest.Start(t)
	h := history.New(history.Config{Addr: s.Addr(), MaxItems: 50})
	write(t, h, 1000)
	if r := verify(t, h, s, nil); !r.OK() || r.Items > 50 {
		t.Error(r)
	}
}

func TestRatePacesWriters(t *testing.T) {
	s := redistest.Start(t)
	h := history.New(history.Config{Addr: s.Addr(), Writers: 2, MaxRate: 100, Kinds: []history.Kind{history.Incr}})
	start := time.Now()
	write(t, h, 60)
	if took := time.Since(start); took < 250*time.Millisecond {
		t.Errorf("60 operations of 2 writers at 100/s took %v", took)
	}
}

func TestCutConnectionsAreUnknownAndNotWrong(t *testing.T) {
	s := redistest.Start(t)
	l := redistest.NewLink(t, s.Addr())
	h := history.New(history.Config{Addr: l.Addr(), Writers: 6})
	cuts := slices.Repeat([]func(){l.Cut, func() { l.CutAfter(500) }, func() { l.CutAfterUp(777) }}, 10)
	write(t, h, 6000, cuts...)
	r := verify(t, h, s, nil)
	if !r.OK() {
		t.Fatal(r)
	}
	if r.Stats.Unknown == 0 || r.Stats.Reconnects == 0 {
		t.Errorf("no operation was cut: %v", r)
	}
}

func TestUnansweredOperationsEnd(t *testing.T) {
	s := redistest.Start(t)
	l := redistest.NewLink(t, s.Addr())
	h := history.New(history.Config{Addr: l.Addr(), OpTimeout: 100 * time.Millisecond})
	running, cancel := context.WithCancel(ctx(t))
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.Run(running) }()
	redistest.Eventually(t, 10*time.Second, func() bool { return h.Stats().Acked > 200 }, "some writes")
	l.StallDown(true)
	redistest.Eventually(t, 10*time.Second, func() bool { return h.Stats().Errors > 3 }, "timeouts")
	cancel() // with everything stalled still
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	l.StallDown(false)
	if r := verify(t, h, s, nil); !r.OK() || r.Stats.LongestOp < 100*time.Millisecond {
		t.Error(r)
	}
}

func TestRefusedOperationsAreRefused(t *testing.T) {
	s := redistest.Start(t, redistest.WithACL("app on >pw ~* &* +@all"))
	admin := s.Client(0)
	h := history.New(history.Config{Addr: s.Addr(), Username: "app", Password: "pw"})
	deny := func(rules ...any) func() {
		return func() {
			before := h.Stats().Refused
			if err := admin.Do(ctx(t), append([]any{"ACL", "SETUSER", "app"}, rules...)...).Err(); err != nil {
				t.Fatal(err)
			}
			redistest.Eventually(t, 5*time.Second, func() bool { return h.Stats().Refused > before+20 }, "refusals")
			if err := admin.Do(ctx(t), "ACL", "SETUSER", "app", "+@all").Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
	replicas := func() {
		before := h.Stats().Refused
		if err := admin.ConfigSet(ctx(t), "min-replicas-to-write", "1").Err(); err != nil {
			t.Fatal(err)
		}
		redistest.Eventually(t, 5*time.Second, func() bool { return h.Stats().Refused > before+20 }, "refusals")
		if err := admin.ConfigSet(ctx(t), "min-replicas-to-write", "0").Err(); err != nil {
			t.Fatal(err)
		}
	}
	write(t, h, 4000, deny("-@all", "+ping", "+hello", "+auth", "+select"), replicas, deny("-@write"), replicas)
	r := verify(t, h, s, nil)
	if !r.OK() || r.Stats.Unknown > 0 {
		t.Fatal(r, r.Stats.LastError)
	}
	if r.Stats.LongestGap < r.Stats.LongestOp {
		t.Errorf("stall %v is shorter than one operation, %v", r.Stats.LongestGap, r.Stats.LongestOp)
	}
}

func TestVerifyElsewhereWithMappedDatabases(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	moves := map[int]int{0: 0, 3: 5, 7: 1}
	mapDB := func(db int) int { return moves[db] }
	h := history.New(history.Config{Addr: source.Addr(), Databases: []int{0, 3, 7}})
	write(t, h, 3000)
	for from, to := range moves {
		copyAll(t, source.Client(from), target.Client(to))
	}
	if r := verify(t, h, target, mapDB); !r.OK() {
		t.Error(r)
	}
	// Database 3 taken for database 0: same keys, other values.
	if err := target.Client(0).FlushDB(ctx(t)).Err(); err != nil {
		t.Fatal(err)
	}
	copyAll(t, source.Client(3), target.Client(0))
	if r := verify(t, h, target, mapDB); r.OK() || r.Count[history.Stale] == 0 || r.Count[history.Lost] == 0 {
		t.Errorf("mixed-up databases: %v", r)
	}
}

func copyAll(t *testing.T, from, to *redis.Client) {
	t.Helper()
	keys, err := from.Keys(ctx(t), "*").Result()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		dump := from.Dump(ctx(t), k).Val()
		ttl := max(from.PTTL(ctx(t), k).Val(), 0)
		if err := to.Restore(ctx(t), k, ttl, dump).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestErrors(t *testing.T) {
	h := history.New(history.Config{Kinds: []history.Kind{"nonsense"}, Databases: []int{1, 1}})
	if err := h.Run(t.Context()); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("three problems: %v", err)
	}
	s := redistest.Start(t)
	s.Kill()
	h = history.New(history.Config{Addr: s.Addr()})
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := h.Run(short); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("unreachable: %v", err)
	}
	if _, err := h.Verify(ctx(t), s.Addr(), history.Creds{}, nil); err == nil {
		t.Error("verified an unreachable server")
	}
}

func TestOnlyOneAtATime(t *testing.T) {
	s := redistest.Start(t)
	h := history.New(history.Config{Addr: s.Addr()})
	running, cancel := context.WithCancel(ctx(t))
	var wg sync.WaitGroup
	wg.Go(func() { _ = h.Run(running) })
	redistest.Eventually(t, 5*time.Second, func() bool { return h.Stats().Acked > 0 }, "first write")
	if _, err := h.Verify(ctx(t), s.Addr(), history.Creds{}, nil); err == nil {
		t.Error("verified beside the writers")
	}
	cancel()
	wg.Wait()
}
