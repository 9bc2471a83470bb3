package migration

import (
	"context"
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
	c.Move(c.Masters()[1], marks[0])
	there(true)
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
