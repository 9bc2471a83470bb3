package migration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// intoCluster is a migration to a cluster, of which nothing runs.
func intoCluster(t *testing.T, c *redistest.Cluster) *Migration {
	t.Helper()
	e, err := config.Server{URL: config.Secret(c.URL())}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	e, topology := cluster.Follow(e, 5*time.Second, slog.New(slog.DiscardHandler))
	t.Cleanup(topology.Close)
	return quietMigration(t, endpointOf(redistest.Start(t), "", ""), e, nil)
}

// TestMarksOfNodes: each master has a mark, which outlives a failover and a move of slots,
// and one is missed that came back without.
func TestMarksOfNodes(t *testing.T) {
	ctx := t.Context()
	c := redistest.StartCluster(t, 3, 1)
	m := intoCluster(t, c)
	marks, err := m.chooseMarks(ctx, router.Target)
	if err != nil || len(marks) != 3 {
		t.Fatalf("%v, %v", marks, err)
	}
	r := Record{ID: "x", Switch: &Switch{From: router.Source, To: router.Target, Token: 7, Marks: marks}}
	there := func(want bool) {
		t.Helper()
		redistest.Eventually(t, 20*time.Second, func() error {
			got, err := m.drainedOnNodes(ctx, r)
			if err == nil && got != want {
				t.Fatalf("the marks are there: %v", got)
			}
			return err
		}, "looking for the marks")
	}
	there(false)
	if err := m.markNodes(ctx, r, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	there(true)
	recovers := func(want bool) {
		t.Helper()
		if got, err := m.drainedThere(ctx, r); got != want || err != nil {
			t.Errorf("a recovery finds that all is there: %v, %v", got, err)
		}
	}
	recovers(true)
	c.Move(c.Owner(marks[1]), marks[0])
	there(true)
	recovers(false) // where the mark was may have come back without the rest
	if err := m.markNodes(ctx, r, 5*time.Second); err == nil || !strings.Contains(err.Error(), "have changed") {
		t.Errorf("two marks at one master: %v", err)
	}
	c.Kill(c.Masters()[2])
	there(true)
	older := r
	older.Switch = &Switch{To: router.Target, Token: 6, Marks: marks}
	if got, err := m.drainedOnNodes(ctx, older); got || err != nil {
		t.Errorf("the marks of another attempt: %v, %v", got, err)
	}
	last := c.Owner(marks[2])
	if err := c.On(last).FlushAll(ctx).Err(); err != nil {
		t.Fatal(err)
	}
	there(false)
}

// TestMarksBeforeTheHold: none while slots are being moved or a replica is missing, and those
// that are there are counted.
func TestMarksBeforeTheHold(t *testing.T) {
	ctx := t.Context()
	c := redistest.StartCluster(t, 2, 1)
	m := intoCluster(t, c)
	marks, err := m.chooseMarks(ctx, router.Target)
	if err != nil {
		t.Fatal(err)
	}
	a := &attempt{Migration: m, from: router.Source, to: router.Target}
	counted := func(want int64) {
		t.Helper()
		if err := a.countMarks(ctx); err != nil || a.oldMarks != want {
			t.Errorf("%d marks, not %d: %v", a.oldMarks, want, err)
		}
	}
	counted(0)
	r := Record{ID: "x", Switch: &Switch{From: router.Source, To: router.Target, Token: 7, Marks: marks}}
	if err := m.markNodes(ctx, r, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	counted(2)
	at := m.ids[router.Target].Pool().Node(c.Owner(marks[0]).Addr()).DB(0)
	for known, behind := range []bool{false, false, true} {
		err := store.Mark(ctx, at, markKey(marks[0]), "v", known, 5*time.Second)
		if errors.Is(err, store.ErrBehind) != behind || !behind && err != nil {
			t.Errorf("one replica of %d: %v", known, err)
		}
	}
	to := c.Masters()[0]
	if to == c.Owner(9) {
		to = c.Masters()[1]
	}
	c.Open(to, 9)
	var refused *Refused
	if marks, err := m.chooseMarks(ctx, router.Target); !errors.As(err, &refused) {
		t.Errorf("while a slot is moved: %v, %v", marks, err)
	}
}

// TestCertain: an answer of a cluster that cannot for the moment, and a node that could not be
// asked, say nothing of a write before.
func TestCertain(t *testing.T) {
	for text, want := range map[string]bool{
		"ERR no": true, "READONLY You can't write": true, "NOPERM no": true,
		"MOVED 1 h:1": false, "ASK 1 h:1": false, "CLUSTERDOWN Hash slot not served": false, "LOADING x": false,
	} {
		if got := certain(fmt.Errorf("writing k: %w", conn.Refusal(text))); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

// TestRecordOnCluster: the record, the seat, and who has what; and nothing is left in the end.
func TestRecordOnCluster(t *testing.T) {
	ctx := t.Context()
	c := redistest.StartCluster(t, 3, 1)
	m := intoCluster(t, c)
	m.rec.ID, m.rec.Token = "x", 3
	// Whoever has an older seat is thrown out of every node.
	for _, s := range c.Masters() {
		o := redistest.Options(s.Addr(), 0)
		o.ClientName, o.MaxRetries = "crossfade:older:target", -1
		client := redis.NewClient(o)
		t.Cleanup(func() { _ = client.Close() })
		if err := client.Ping(ctx).Err(); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.sit(ctx, router.Source, router.Target); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Masters() {
		if list := c.On(s).ClientList(ctx).Val(); strings.Contains(list, "name=crossfade:older:target") {
			t.Errorf("%s has a connection of an older run: %s", s.Addr(), list)
		}
	}
	if err := m.publishReplicated(ctx, router.Target, store.RecordKey, nil, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	e, ok, err := store.Load(ctx, m.ids[router.Target].Pool().Control(), store.RecordKey)
	if err != nil || !ok || e.ID != "x" || e.Token != 3 {
		t.Errorf("the record: %+v, %v, %v", e, ok, err)
	}
	seat, ok, err := store.LoadSeat(ctx, m.ids[router.Target].Pool().Control())
	if err != nil || !ok || seat.Holder != m.seat.holder {
		t.Errorf("the seat: %v, %v, %v", seat, ok, err)
	}
	if why := m.noReturn(); !strings.Contains(why, "cluster") {
		t.Errorf("the way back: %q", why)
	}
	if nodes := nodesOf(m.ids[router.Target].Pool()); len(nodes) != 6 {
		t.Errorf("nodes: %+v", nodes)
	}
	n, err := m.removeKeys(ctx, router.Target, m.ids[router.Target].Pool())
	if err != nil || n != 2 {
		t.Errorf("removed %d keys, %v", n, err)
	}
	err = c.Client().ForEachMaster(ctx, func(ctx context.Context, node *redis.Client) error {
		if keys := node.Keys(ctx, "*").Val(); len(keys) > 0 {
			t.Errorf("left over: %q", keys)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
