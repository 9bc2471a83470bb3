package migration

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// TestWhoHasAnothersDataIsNotTold: the applications' server was a replica for a moment, and
// has what another one had, with no record of the switch. It is not told again as if it had
// never forgotten, the status says so, and the other server keeps what it has.
func TestWhoHasAnothersDataIsNotTold(t *testing.T) {
	const keys = 300
	for name, seen := range map[string]bool{"between two looks": false, "seen as a replica": true} {
		t.Run(name, func(t *testing.T) {
			source, target := redistest.Start(t), redistest.Start(t, redistest.WithConfig("notify-keyspace-events", "KEA"))
			m := quietMigration(t, endpointOf(source, "", ""), endpointOf(target, "", ""), func(c *config.Config) {
				c.Cutover.CreateUser, c.Sync.Heartbeat = false, 100*time.Millisecond
			})
			if err := m.useMap(map[int]router.Place{0: {}}, nil); err != nil {
				t.Fatal(err)
			}
			m.rec.Side, m.rec.Epoch, m.rec.Token, m.rec.Copied, m.rec.Phase = router.Target, 1, testToken, true, ReverseLost
			ctx := withTimeout(t)
			e, err := m.record().entry()
			if err != nil {
				t.Fatal(err)
			}
			m.seen = e // as a recovery has read it
			if err := m.publish(ctx, router.Target, store.RecordKey); err != nil {
				t.Fatal(err)
			}
			fill := func(s *redistest.Server, value string) {
				var pairs []any
				for i := range keys {
					pairs = append(pairs, fmt.Sprintf("k:%d", i), value)
				}
				do(t, s.Client(0), append([]any{"MSET"}, pairs...)...)
			}
			fill(target, "new")
			if err := m.begin(ctx); err != nil {
				t.Fatal(err)
			}
			mi := m.activeMirror()
			defer mi.Stop()
			redistest.Eventually(t, 20*time.Second, func() bool { m.followPhase(); return m.record().Phase == ReverseTailing }, "all is copied back")
			m.guard(ctx)
			do(t, target.Client(0), "DEL", store.RecordKey)
			m.guard(ctx)
			if n := target.Client(0).Exists(ctx, store.RecordKey).Val(); n != 1 {
				t.Error("one that only lost the record is not told again")
			}

			other := redistest.Start(t, redistest.WithConfig("repl-diskless-sync-delay", "0"))
			fill(other, "old")
			host, port, err := net.SplitHostPort(other.Addr())
			if err != nil {
				t.Fatal(err)
			}
			do(t, target.Client(0), "REPLICAOF", host, port)
			redistest.Eventually(t, 20*time.Second, func() bool {
				return strings.Contains(target.Client(0).Info(ctx, "replication").Val(), "master_link_status:up")
			}, "it has the other's data")
			says := func(why string) func() error {
				return func() error {
					m.guard(ctx)
					m.followPhase()
					if s := m.Status(); s.Phase != ReverseLost || !strings.Contains(strings.Join(s.Reasons, "; "), why) {
						return fmt.Errorf("%s: %q", s.Phase, s.Reasons)
					}
					return nil
				}
			}
			if seen {
				redistest.Eventually(t, 20*time.Second, says("is a replica now"), "it is noticed")
			}
			do(t, target.Client(0), "REPLICAOF", "NO", "ONE")
			redistest.Eventually(t, 20*time.Second, says("does not know any more that the applications were moved to it"), "the loss is told")
			redistest.Eventually(t, 20*time.Second, func() bool { // some looks later
				m.guard(ctx)
				return timesLost(mi) > 1
			}, "it is asked again")
			if err := target.Client(0).Get(ctx, store.RecordKey).Err(); !errors.Is(err, redis.Nil) {
				t.Errorf("its record: %v", err)
			}
			for i := range keys {
				if v := source.Client(0).Get(ctx, fmt.Sprintf("k:%d", i)).Val(); v != "new" {
					t.Fatalf("key %d of the other server is %q", i, v)
				}
			}
		})
	}
}

// timesLost is how often a mirror has found that From is not what it was.
func timesLost(mi *mirror.Mirror) int {
	for _, e := range mi.Progress().Errors {
		if e.Kind == "loss" {
			return e.Count
		}
	}
	return 0
}
