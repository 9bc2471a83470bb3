package migration

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// onTarget is a migration whose applications are on the target, with the source fenced.
func onTarget(t *testing.T) (m *Migration, source, target *redistest.Server) {
	t.Helper()
	keyspace := redistest.WithConfig("notify-keyspace-events", "KEA")
	source, target = redistest.Start(t, redistest.WithACL(ownACL)), redistest.Start(t, keyspace, redistest.WithACL(ownACL))
	m = quietMigration(t, endpointOf(source, OwnUser, ownPassword), endpointOf(target, OwnUser, ownPassword), func(c *config.Config) {
		c.Cutover.CreateUser = false
	})
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	m.rec.Side, m.rec.Epoch, m.rec.Token, m.rec.Copied, m.rec.Phase = router.Target, 1, testToken, true, ReverseLost
	return m, source, target
}

// TestNothingIsCopiedToWhoWaitsThere: while those who wait in a blocking command on the
// server that was left cannot be sent away, nothing is copied to it.
func TestNothingIsCopiedToWhoWaitsThere(t *testing.T) {
	m, source, target := onTarget(t)
	ctx := withTimeout(t)
	stranger := source.Client(0)
	popped := make(chan error, 1)
	go func() { popped <- stranger.BLPop(ctx, 0, "queue").Err() }()
	redistest.Eventually(t, 10*time.Second, func() bool {
		return strings.Contains(source.Client(1).Info(t.Context(), "clients").Val(), "blocked_clients:1\r\n")
	}, "somebody waits")
	f := m.fence(router.Source)
	st, err := f.save(ctx, FenceACL)
	if err == nil {
		err = errors.Join(f.arm(ctx, testToken), f.raise(ctx, st, testToken))
	}
	if err != nil {
		t.Fatal(err)
	}
	st.Raised = true
	m.rec.Servers[router.Source].Fence = st

	mi := m.newMirror(router.Target)
	defer mi.Stop()
	m.setMirror(mi)
	if err := mi.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	do(t, target.Client(0), "RPUSH", "queue", "job")
	own := m.ids[router.Source].Pool().DB(0)
	do(t, own, "ACL", "SETUSER", OwnUser, "-client|kill")
	if err := m.publish(ctx, router.Target, store.RecordKey); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, "copying to a server that cannot be cleared", errors.Unwrap(m.follow(ctx, mi, false)), "NOPERM")
	m.guard(ctx)
	if s := mi.Progress().State; s != mirror.Idle {
		t.Errorf("the copy is %s", s)
	}
	select {
	case err := <-popped:
		t.Fatalf("the stranger was answered: %v", err)
	default:
	}

	do(t, own, "ACL", "SETUSER", OwnUser, "+client|kill")
	m.guard(ctx)
	if err := <-popped; err == nil {
		t.Error("the stranger has taken what was copied")
	}
	redistest.Eventually(t, 20*time.Second, func() bool { return own.LLen(t.Context(), "queue").Val() == 1 }, "the copy")
}

// TestBeginMeetsItsMirror: what clients do that no feed tells is known to the mirror from
// before its scan on.
func TestBeginMeetsItsMirror(t *testing.T) {
	source := redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
	target := redistest.Start(t)
	w := &watching{}
	m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), func(c *config.Config) {
		c.Cutover.CreateUser, c.Cutover.Unsafe = false, true
	})
	w.m, m.traffic = m, w
	if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := m.begin(withTimeout(t)); err != nil {
		t.Fatal(err)
	}
	defer m.activeMirror().Stop()
	if w.asked.Load() == 0 || w.without.Load() {
		t.Errorf("asked %d times, without a mirror: %v", w.asked.Load(), w.without.Load())
	}
}

// watching is traffic that looks, when it is asked for what was counted, whether what a
// client does now would be known to a mirror.
type watching struct {
	idle
	m       *Migration
	asked   atomic.Int64
	without atomic.Bool
}

func (w *watching) Silent() (forwarded, finished map[string]int64) {
	w.asked.Add(1)
	if _, there := w.m.observed(0); !there {
		w.without.Store(true)
	}
	return nil, nil
}

// TestBeginTellsNobodyWhoHasForgotten: a server that has come back, since it was asked,
// without the record of the switch is not told of it as if it had never forgotten.
func TestBeginTellsNobodyWhoHasForgotten(t *testing.T) {
	m, _, target := onTarget(t)
	ctx := withTimeout(t)
	for _, s := range stepsBegin {
		if s.name != "begin-tell" {
			continue
		}
		if err := s.run(m, ctx, nil); err == nil {
			t.Error("it was told")
		}
		if err := target.Client(0).Get(ctx, store.RecordKey).Err(); !errors.Is(err, redis.Nil) {
			t.Errorf("its record: %v", err)
		}
		if err := m.publish(ctx, router.Target, store.RecordKey); err != nil { // who knows of it
			t.Fatal(err)
		}
		if err := s.run(m, ctx, nil); err != nil {
			t.Error(err)
		}
	}
}
