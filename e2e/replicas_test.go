package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// replicaOf starts a replica of a server and waits until it follows.
func replicaOf(t *testing.T, master *redistest.Server) *redistest.Server {
	t.Helper()
	host, port, _ := strings.Cut(master.Addr(), ":")
	r := redistest.Start(t, redistest.WithConfig("replicaof", host, port))
	redistest.Eventually(t, 30*time.Second, func() bool {
		return strings.Contains(master.Client(0).Info(t.Context(), "replication").Val(), ",state=online,")
	}, "the replica follows")
	return r
}

// TestSwitchWaitsForReplicas: what was drained, and that the switch is committed, is on
// the target's replica; one that says nothing more has the switch taken back in time.
func TestSwitchWaitsForReplicas(t *testing.T) {
	t.Parallel()
	s := newStage(t, "", "--cutover.max_stall", "1s")
	replica := replicaOf(t, s.dst)
	if err := replica.Stop(); err != nil {
		t.Fatal(err)
	}
	err := s.switchOnce(router.Source)
	if err == nil || !strings.Contains(err.Error(), store.ErrBehind.Error()) {
		t.Errorf("the switch, while the replica says nothing: %v", err)
	}
	if err := replica.Cont(); err != nil {
		t.Fatal(err)
	}
	if side := s.c.awaitReady().Side; side != router.Source {
		t.Fatalf("the applications are on the %s", side)
	}
	s.mustSwitch(router.Source)
	e, ok, err := store.Load(t.Context(), replica.Client(0), store.RecordKey)
	if err != nil || !ok || !strings.Contains(string(e.Data), `"side":"target"`) {
		t.Errorf("the record on the replica: %s, %v", e.Data, err)
	}
	s.settle(router.Target)
}
