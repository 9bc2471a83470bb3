package store_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
)

func TestMain(m *testing.M) {
	redistest.SilenceClients()
	goleak.VerifyTestMain(m)
}

func entry(id string, token, seq uint64) store.Entry {
	return store.Entry{ID: id, Token: token, Seq: seq, Data: json.RawMessage(fmt.Sprintf(`{"phase":"P%d.%d"}`, token, seq))}
}

// wantAt fails unless exactly want is at the key.
func wantAt(t *testing.T, c *redis.Client, key string, want store.Entry) {
	t.Helper()
	got, ok, err := store.Load(t.Context(), c, key)
	if err != nil || !ok || got.ID != want.ID || got.Token != want.Token || got.Seq != want.Seq || string(got.Data) != string(want.Data) {
		t.Errorf("at %s: %+v, %v, %v; want %+v", key, got, ok, err, want)
	}
}

func TestEntryAfter(t *testing.T) {
	for _, tt := range []struct {
		e, o store.Entry
		want bool
	}{
		{entry("a", 1, 2), entry("a", 1, 1), true},
		{entry("a", 1, 1), entry("a", 1, 1), false},
		{entry("a", 1, 1), entry("a", 1, 2), false},
		{entry("a", 2, 0), entry("a", 1, 99), true}, // a new coordinator counts more than any step
		{entry("a", 1, 99), entry("a", 2, 0), false},
	} {
		if got := tt.e.After(tt.o); got != tt.want {
			t.Errorf("%d.%d after %d.%d: %v", tt.e.Token, tt.e.Seq, tt.o.Token, tt.o.Seq, got)
		}
	}
}

func TestSaveAndLoad(t *testing.T) {
	c := redistest.Start(t).Client(0)
	if _, ok, err := store.Load(t.Context(), c, store.RecordKey); ok || err != nil {
		t.Fatalf("an empty server: %v, %v", ok, err)
	}
	// The same entry twice is what happens when the first answer was lost.
	for _, e := range []store.Entry{entry("a", 1, 1), entry("a", 1, 1), entry("a", 1, 2), entry("a", 2, 3), entry("a", 3, 1)} {
		if err := store.Save(t.Context(), c, store.RecordKey, e); err != nil {
			t.Fatalf("saving %d.%d: %v", e.Token, e.Seq, err)
		}
		wantAt(t, c, store.RecordKey, e)
	}
	if ttl := c.TTL(t.Context(), store.RecordKey).Val(); ttl != -1 {
		t.Errorf("the record expires in %v", ttl)
	}
	if _, ok, _ := store.Load(t.Context(), c, store.JournalKey); ok {
		t.Error("another key was written as well")
	}
}

func TestSaveRefuses(t *testing.T) {
	c := redistest.Start(t).Client(0)
	there := entry("a", 5, 10)
	if err := store.Save(t.Context(), c, store.JournalKey, there); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		e    store.Entry
		want error
	}{
		{entry("a", 4, 99), store.ErrSuperseded}, // an older coordinator, however far it came
		{entry("a", 5, 9), store.ErrSuperseded},
		{entry("b", 9, 99), store.ErrOther}, // newer, but not ours
		{entry("b", 1, 1), store.ErrOther},
	} {
		err := store.Save(t.Context(), c, store.JournalKey, tt.e)
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), store.JournalKey) {
			t.Errorf("saving %s %d.%d: %v, want %v and the key's name", tt.e.ID, tt.e.Token, tt.e.Seq, err, tt.want)
		}
		wantAt(t, c, store.JournalKey, there)
	}
}

func TestGarbageAtTheKey(t *testing.T) {
	c := redistest.Start(t).Client(0)
	put := map[string]func() error{
		"text":   func() error { return c.Set(t.Context(), store.RecordKey, "not a record", 0).Err() },
		"empty":  func() error { return c.Set(t.Context(), store.RecordKey, "", 0).Err() },
		"binary": func() error { return c.Set(t.Context(), store.RecordKey, "{\"id\":\x00", 0).Err() },
		"a list": func() error { return c.RPush(t.Context(), store.RecordKey, "x").Err() },
	}
	for name, write := range put {
		t.Run(name, func(t *testing.T) {
			if err := errors.Join(c.Del(t.Context(), store.RecordKey).Err(), write()); err != nil {
				t.Fatal(err)
			}
			before := c.Dump(t.Context(), store.RecordKey).Val()
			if e, ok, err := store.Load(t.Context(), c, store.RecordKey); err == nil || ok || !strings.Contains(err.Error(), store.RecordKey) {
				t.Errorf("Load: %+v, %v, %v", e, ok, err)
			}
			if err := store.Save(t.Context(), c, store.RecordKey, entry("a", 9, 9)); err == nil || !strings.Contains(err.Error(), store.RecordKey) {
				t.Errorf("Save over it: %v", err)
			}
			if c.Dump(t.Context(), store.RecordKey).Val() != before {
				t.Error("what is not ours was overwritten")
			}
		})
	}
}

// Of two coordinators that save at the same time one wins or they stand in
// order; what a coordinator was told to be saved is never replaced by something
// older.
func TestConcurrentSavers(t *testing.T) {
	s := redistest.Start(t)
	clients := []*redis.Client{s.Client(0), s.Client(0)}
	const rounds = 150
	var wg sync.WaitGroup
	errs := make([][]error, len(clients))
	for i, c := range clients {
		token := uint64(i + 1)
		wg.Go(func() {
			for seq := range uint64(rounds) {
				errs[i] = append(errs[i], store.Save(t.Context(), c, store.RecordKey, entry("a", token, seq)))
			}
		})
	}
	wg.Wait()
	newest := uint64(0) // what the coordinator with the higher token could save last
	for i := range errs {
		for seq, err := range errs[i] {
			if err != nil && !errors.Is(err, store.ErrSuperseded) {
				t.Fatalf("coordinator %d, %d: %v", i+1, seq, err)
			}
			if err == nil && i == 1 {
				newest = uint64(seq)
			}
		}
	}
	wantAt(t, clients[0], store.RecordKey, entry("a", 2, newest))
	if err := store.Save(t.Context(), clients[0], store.RecordKey, entry("a", 1, rounds)); !errors.Is(err, store.ErrSuperseded) {
		t.Errorf("afterwards the older one may save: %v", err)
	}
}

// between changes the key after it was read, and before it is written: the
// instant that only WATCH protects.
type between struct{ do func() }

func (between) DialHook(next redis.DialHook) redis.DialHook { return next }

func (between) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (b between) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() == "multi" {
			b.do()
		}
		return next(ctx, cmds)
	}
}

func TestSaveIsComparedAndSetAtOnce(t *testing.T) {
	s := redistest.Start(t)
	slow, fast := s.Client(0), s.Client(0)
	newer := entry("a", 2, 1)
	hit := 0
	slow.AddHook(between{func() {
		hit++
		if err := store.Save(t.Context(), fast, store.JournalKey, newer); err != nil {
			t.Error(err)
		}
	}})
	err := store.Save(t.Context(), slow, store.JournalKey, entry("a", 1, 1))
	if !errors.Is(err, store.ErrSuperseded) || hit != 1 {
		t.Errorf("the slow one, overtaken %d times, gets %v", hit, err)
	}
	wantAt(t, fast, store.JournalKey, newer)
}

// The caller must be able to tell a refusal from an unknown outcome.
func TestSavePassesTheServersRefusalOn(t *testing.T) {
	s := redistest.Start(t, redistest.WithConfig("min-replicas-to-write", "1"))
	err := store.Save(t.Context(), s.Client(0), store.RecordKey, entry("a", 1, 1))
	// The SET is refused when it is queued, so EXEC says EXECABORT.
	if err == nil || !strings.Contains(err.Error(), "EXECABORT") || errors.Is(err, store.ErrSuperseded) {
		t.Errorf("Save: %v", err)
	}
	s.Kill()
	if err := store.Save(t.Context(), s.Client(0), store.RecordKey, entry("a", 1, 1)); err == nil || errors.Is(err, store.ErrSuperseded) {
		t.Errorf("Save without a server: %v", err)
	}
	if _, ok, err := store.Load(t.Context(), s.Client(0), store.RecordKey); err == nil || ok {
		t.Errorf("Load without a server: %v, %v", ok, err)
	}
}

// What a condition finds holds for the write: a server that restarts in between is
// not written to, although it would take the write.
func TestSaveIfTheServerIsStillTheOne(t *testing.T) {
	s := redistest.Start(t, redistest.WithAOF())
	c := s.Client(0)
	there := entry("a", 1, 1)
	if err := store.Save(t.Context(), c, store.JournalKey, there); err != nil {
		t.Fatal(err)
	}
	asked := 0
	err := store.SaveIf(t.Context(), c, store.JournalKey, entry("a", 1, 2), func(ctx context.Context, p redis.Pipeliner) func(store.Asker, store.Entry) error {
		pong := p.Ping(ctx)
		return func(tx store.Asker, found store.Entry) error {
			asked++
			if found.Seq != there.Seq {
				t.Errorf("the condition is told of %+v", found)
			}
			if pong.Val() != "PONG" {
				t.Errorf("what the condition has asked was answered %q, %v", pong.Val(), pong.Err())
			}
			if err := tx.Ping(ctx).Err(); err != nil {
				t.Error(err)
			}
			s.Kill()
			return s.Restart(ctx)
		}
	})
	if err == nil || asked != 1 {
		t.Errorf("asked %d times, and then: %v", asked, err)
	}
	wantAt(t, c, store.JournalKey, there)
	no := errors.New("no")
	if err := store.SaveIf(t.Context(), c, store.JournalKey, entry("a", 1, 2), func(context.Context, redis.Pipeliner) func(store.Asker, store.Entry) error {
		return func(store.Asker, store.Entry) error { return no }
	}); !errors.Is(err, no) {
		t.Errorf("a condition that does not hold: %v", err)
	}
	wantAt(t, c, store.JournalKey, there)
}

// Nothing stays watched on a connection that goes back into the pool: whoever gets it
// next would have a transaction refused that nobody has interfered with.
func TestNothingStaysWatched(t *testing.T) {
	s := redistest.Start(t)
	c, other := s.Client(0), s.Client(0)
	no := func(context.Context, redis.Pipeliner) func(store.Asker, store.Entry) error {
		return func(store.Asker, store.Entry) error { return errors.New("no") }
	}
	if err := store.SaveIf(t.Context(), c, store.RecordKey, entry("a", 1, 1), no); err == nil {
		t.Fatal("saved")
	}
	if err := store.Save(t.Context(), other, store.RecordKey, entry("b", 1, 1)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := c.TxPipelined(t.Context(), func(p redis.Pipeliner) error { return p.Set(t.Context(), "k", "v", 0).Err() }); err != nil {
			t.Errorf("a transaction of others: %v", err)
		}
	}
}

// SaveReplicated returns when the replica has it, and says so when it has not.
func TestSaveReplicated(t *testing.T) {
	s := redistest.Start(t, redistest.WithConfig("repl-diskless-sync-delay", "0"))
	c := s.Client(0)
	if err := store.SaveReplicated(t.Context(), c, store.RecordKey, entry("a", 1, 1), nil, time.Second); err != nil {
		t.Fatalf("without replicas: %v", err)
	}
	host, port, _ := strings.Cut(s.Addr(), ":")
	replica := redistest.Start(t, redistest.WithConfig("replicaof", host, port))
	redistest.Eventually(t, 30*time.Second, func() bool {
		return strings.Contains(c.Info(t.Context(), "replication").Val(), ",state=online,")
	}, "the replica follows")
	e := entry("a", 1, 2)
	if err := store.SaveReplicated(t.Context(), c, store.RecordKey, e, nil, time.Minute); err != nil {
		t.Fatal(err)
	}
	wantAt(t, replica.Client(0), store.RecordKey, e)
	if err := replica.Stop(); err != nil {
		t.Fatal(err)
	}
	e = entry("a", 1, 3)
	if err := store.SaveReplicated(t.Context(), c, store.RecordKey, e, nil, 20*time.Millisecond); !errors.Is(err, store.ErrBehind) {
		t.Errorf("with a replica that says nothing: %v", err)
	}
	wantAt(t, c, store.RecordKey, e)
	if err := replica.Cont(); err != nil {
		t.Fatal(err)
	}
}

// What was found when the key was watched holds for what is written later, or nothing is.
func TestWatchedAhead(t *testing.T) {
	s := redistest.Start(t, redistest.WithAOF())
	c := s.Client(0)
	watch := func(ok store.Condition) (*store.Watched, error) {
		w, err := store.Watch(t.Context(), c, store.RecordKey, entry("a", 1, 3), ok)
		t.Cleanup(func() { w.Close(context.WithoutCancel(t.Context())) })
		return w, err
	}
	w, err := watch(nil)
	if err != nil || !w.Alone() {
		t.Fatal(err)
	}
	var beside *redis.Cmd
	err = w.Save(t.Context(), entry("a", 1, 3), time.Second, func(p redis.Pipeliner) { beside = p.Do(t.Context(), "SET", "beside", "x") })
	if err != nil || beside.Err() != nil {
		t.Fatal(err, beside.Err())
	}
	wantAt(t, c, store.RecordKey, entry("a", 1, 3))
	if c.Get(t.Context(), "beside").Val() != "x" {
		t.Error("what was to be done in the same instant is not")
	}

	t.Run("what fails beside it is told by its own error", func(t *testing.T) {
		w := must(watch(nil))(t)
		err := w.Save(t.Context(), entry("a", 1, 3), time.Second, func(p redis.Pipeliner) { beside = p.Do(t.Context(), "LPUSH", "beside", "x") })
		if err != nil || beside.Err() == nil {
			t.Error(err, beside.Err())
		}
		wantAt(t, c, store.RecordKey, entry("a", 1, 3))
	})
	t.Run("somebody newer", func(t *testing.T) {
		w := must(watch(nil))(t)
		if err := store.Save(t.Context(), c, store.RecordKey, entry("a", 2, 1)); err != nil {
			t.Fatal(err)
		}
		err := w.Save(t.Context(), entry("a", 1, 4), time.Second, func(p redis.Pipeliner) { p.Do(t.Context(), "SET", "beside", "y") })
		if !errors.Is(err, store.ErrSuperseded) {
			t.Error(err)
		}
		wantAt(t, c, store.RecordKey, entry("a", 2, 1))
		if c.Get(t.Context(), "beside").Val() != "x" {
			t.Error("what belongs to it was done all the same")
		}
		if _, err := watch(nil); !errors.Is(err, store.ErrSuperseded) {
			t.Error(err)
		}
	})
	t.Run("a condition that does not hold", func(t *testing.T) {
		no := errors.New("no")
		if err := c.Del(t.Context(), store.RecordKey).Err(); err != nil {
			t.Fatal(err)
		}
		if _, err := watch(func(context.Context, redis.Pipeliner) func(store.Asker, store.Entry) error {
			return func(store.Asker, store.Entry) error { return no }
		}); !errors.Is(err, no) {
			t.Error(err)
		}
	})
	t.Run("the server restarts in between", func(t *testing.T) {
		w := must(watch(nil))(t)
		s.Kill()
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := w.Save(t.Context(), entry("a", 1, 5), time.Second, nil); err == nil || errors.Is(err, store.ErrSuperseded) {
			t.Errorf("written to another process: %v", err)
		}
		// A server that is killed while its disk is busy may have kept less, not more.
		if e, ok, err := store.Load(t.Context(), c, store.RecordKey); err != nil || ok && e.Seq == 5 {
			t.Error(e, ok, err)
		}
	})
}

// must makes a failed test of an error.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
