package redistest

import (
	"context"
	"fmt"
	"testing"
)

func TestClusterMovesAndFailsOver(t *testing.T) {
	c := StartCluster(t, 3, 1)
	ctx := context.Background()
	all := c.Client()
	for i := range 2000 {
		if err := all.Set(ctx, fmt.Sprintf("key:%d", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string) {
		t.Helper()
		for i := range 2000 {
			if v, err := all.Get(ctx, fmt.Sprintf("key:%d", i)).Int(); err != nil || v != i {
				t.Fatalf("%s: key:%d is %d, %v", when, i, v, err)
			}
		}
	}
	to := c.Servers[1]
	var slots []uint16
	for slot := range uint16(100) {
		slots = append(slots, slot)
	}
	c.Move(to, slots...)
	if c.Owner(99) != to || c.Owner(100) != c.Servers[0] {
		t.Error("the slots have not moved")
	}
	check("after the move")

	slot := uint16(all.ClusterKeySlot(ctx, "key:1").Val())
	from, next := c.Owner(slot), c.Servers[2]
	if from == next {
		next = c.Servers[0]
	}
	c.Open(next, slot)
	if n := c.Carry(next, slot, 1); n != 1 {
		t.Errorf("%d keys went, want 1", n)
	}
	check("in the middle of a move")
	c.Finish(next, slot)
	c.Settle()

	replica := c.Replicas(to)[0]
	c.Failover(replica)
	if c.Owner(99) != replica {
		t.Error("the replica has not taken the slots over")
	}
	check("after a failover")
	now := c.Kill(c.Servers[2])
	if len(c.Masters()) != 3 || now == c.Servers[2] {
		t.Errorf("%d masters", len(c.Masters()))
	}
}
