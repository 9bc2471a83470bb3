package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// enslave makes s a replica of another server, and returns once it has all of its data.
func enslave(t *testing.T, s, of *redistest.Server) {
	t.Helper()
	host, port, err := net.SplitHostPort(of.Addr())
	ok(t, err)
	ok(t, s.Client(0).Do(t.Context(), "REPLICAOF", host, port).Err())
	redistest.Eventually(t, 20*time.Second, func() bool {
		return strings.Contains(s.Client(0).Info(t.Context(), "replication").Val(), "master_link_status:up")
	}, "the replica has the master's data")
}

func promote(t *testing.T, s *redistest.Server) {
	t.Helper()
	ok(t, s.Client(0).Do(t.Context(), "REPLICAOF", "NO", "ONE").Err())
}

// startOther starts a server that gives its data away at once.
func startOther(t *testing.T) *redistest.Server {
	t.Helper()
	return redistest.Start(t, redistest.WithConfig("repl-diskless-sync-delay", "0"))
}

func fillOther(t *testing.T, s *redistest.Server, value string) {
	t.Helper()
	var pairs []any
	for i := range lostKeys {
		pairs = append(pairs, fmt.Sprintf("k:%d", i), value)
	}
	ok(t, s.Client(0).MSet(t.Context(), pairs...).Err())
}

// TestSourceGetsAnothersData: a source that was a replica for a while, and has what another
// server had, is scanned again, whether it was seen as a replica or not.
func TestSourceGetsAnothersData(t *testing.T) {
	for name, seen := range map[string]bool{"seen as a replica": true, "between two beats": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *mirror.Config) {
				if !seen {
					c.Heartbeat = 2 * time.Second
				}
			})
			ctx := t.Context()
			fillLost(t, w, "old")
			ok(t, w.m.Follow(ctx, true))
			w.awaitState(t, mirror.Live)
			drain(t, w.m)
			other := startOther(t)
			fillOther(t, other, "new")
			ok(t, other.Client(0).Set(ctx, "more", "v", 0).Err())
			enslave(t, w.src, other)
			if seen {
				redistest.Eventually(t, 20*time.Second, func() bool { return strings.Contains(w.m.Progress().Reason, "is a replica now") }, "it is noticed")
				mustHaveLost(t, w, "old")
			}
			promote(t, w.src)
			redistest.Eventually(t, 20*time.Second, func() bool {
				return w.dst.Client(0).Get(ctx, "more").Val() == "v" && w.m.Progress().State == mirror.Live
			}, "what it has got is copied")
			drain(t, w.m)
			mustHaveLost(t, w, "new")
			w.mustBeEqual(t)
		})
	}
}

// TestSourceGetsAnOlderState: nothing is copied from a source that was put back in this way,
// and that is known to be older.
func TestSourceGetsAnOlderState(t *testing.T) {
	errOlder := errors.New("older than it should be")
	var older atomic.Bool
	w := newWorld(t, func(c *mirror.Config) {
		c.Remembers = func(context.Context, *conn.Pool) error {
			if older.Load() {
				return errOlder
			}
			return nil
		}
	})
	ctx := t.Context()
	fillLost(t, w, "new")
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	older.Store(true)
	other := startOther(t)
	fillOther(t, other, "old")
	enslave(t, w.src, other)
	p := w.src.Client(0).Pipeline()
	followed := w.m.Followed(ctx, p)
	_, err := p.Exec(ctx)
	ok(t, err)
	if followed() == nil {
		t.Error("a replica is taken for who is followed")
	}
	promote(t, w.src)
	p = w.src.Client(0).Pipeline()
	followed = w.m.Followed(ctx, p)
	_, err = p.Exec(ctx)
	ok(t, err)
	if followed() == nil {
		t.Error("who has another server's data is taken for who is followed")
	}
	awaitLosses(t, w, errOlder.Error(), 2)
	mustHaveLost(t, w, "new")
}

// TestTargetGetsAnothersData: copies that are gone from a target that was a replica are made
// again, and it is not who a drain has filled.
func TestTargetGetsAnothersData(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	fillLost(t, w, "new")
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	filled := func() error {
		p := w.dst.Client(0).Pipeline()
		holds := w.m.Filled(ctx, p)
		_, err := p.Exec(ctx)
		return errors.Join(err, holds())
	}
	ok(t, filled())
	gaps := w.m.Progress().Gaps
	other := startOther(t)
	fillOther(t, other, "old")
	enslave(t, w.dst, other)
	if filled() == nil {
		t.Error("a replica is taken for who was filled")
	}
	promote(t, w.dst)
	if filled() == nil {
		t.Error("who has another server's data is taken for who was filled")
	}
	redistest.Eventually(t, 20*time.Second, func() bool { return w.m.Progress().Gaps > gaps }, "it is noticed")
	drain(t, w.m)
	ok(t, filled())
	mustHaveLost(t, w, "new")
	w.mustBeEqual(t)
}

// TestReplicasAreNoLoss: servers take new replication ids as well when their first replicas
// come, and when they have been without for long. Nothing is scanned for that.
func TestReplicasAreNoLoss(t *testing.T) {
	w := newWorld(t, nil)
	ctx := t.Context()
	fillLost(t, w, "v")
	ok(t, w.m.Follow(ctx, true))
	w.awaitState(t, mirror.Live)
	drain(t, w.m)
	ids := func(s *redistest.Server) string {
		for line := range strings.Lines(s.Client(0).Info(ctx, "replication").Val()) {
			if v, found := strings.CutPrefix(line, "master_replid:"); found {
				return v
			}
		}
		return ""
	}
	before := w.m.Progress()
	for _, s := range []*redistest.Server{w.src, w.dst} {
		ok(t, s.Client(0).ConfigSet(ctx, "repl-diskless-sync-delay", "0").Err())
		ok(t, s.Client(0).ConfigSet(ctx, "repl-backlog-ttl", "3").Err())
		was := ids(s)
		replica := redistest.Start(t)
		enslave(t, replica, s)
		with := ids(s)
		promote(t, replica)
		redistest.Eventually(t, 20*time.Second, func() bool { return ids(s) != with }, "the backlog is gone")
		if was == with {
			t.Errorf("%s has the same id with its first replica", s.Addr())
		}
		enslave(t, replica, s)
	}
	drain(t, w.m)
	awaitBeats(t, w)
	if p := w.m.Progress(); p.Gaps != before.Gaps || p.State != mirror.Live {
		t.Errorf("%s with %d gaps, there were %d: %s", p.State, p.Gaps, before.Gaps, p.Reason)
	}
	if restarted, err := w.m.Restarted(ctx); err != nil || restarted {
		t.Errorf("restarted %v, %v", restarted, err)
	}
}

// awaitBeats waits until some beats have gone by.
func awaitBeats(t *testing.T, w *world) {
	t.Helper()
	var values []string
	redistest.Eventually(t, 20*time.Second, func() bool {
		for _, k := range w.dst.Client(0).Keys(t.Context(), mirror.HeartbeatPrefix+"*").Val() {
			v := w.dst.Client(0).Get(t.Context(), k).Val()
			if len(values) == 0 || values[len(values)-1] != v {
				values = append(values, v)
			}
		}
		return len(values) > 4
	}, "beats arrive")
}
