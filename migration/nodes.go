package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/slot"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// On a cluster each master has a part of the copies. The record, which is at one of them,
// says nothing of what the others have kept over a restart or a failover: so each master has
// a mark of its own behind its last copy, in a slot that it has.

// topologyOf returns the topology of a pool's cluster, nil where it is none.
func topologyOf(p *conn.Pool) *cluster.Topology { return cluster.Of(p.Endpoint()) }

// markKey is where the mark is that is in a slot.
func markKey(s uint16) string {
	return mirror.KeyPrefix + "{" + slot.Tag(s) + "}:" + strings.TrimPrefix(store.DrainedKey, mirror.KeyPrefix)
}

// chooseMarks returns a slot of each master of a cluster that is to be entered, for the marks;
// none where it is no cluster.
func (m *Migration) chooseMarks(ctx context.Context, to router.Side) ([]uint16, error) {
	t := topologyOf(m.ids[to].Pool())
	if t == nil {
		return nil, nil
	}
	if err := t.Refresh(ctx); err != nil {
		return nil, err
	}
	known := t.Map()
	if !known.Whole() {
		return nil, &Refused{[]string{fmt.Sprintf("the cluster %s has slots without a master", t)}}
	}
	// A key whose slot is between two masters is behind the mark of neither.
	open, _, err := t.Open(ctx)
	if err != nil {
		return nil, err
	}
	if len(open) > 0 {
		return nil, &Refused{[]string{fmt.Sprintf("slots of the cluster %s are being moved: %d of them; wait until the resharding has ended", t, len(open))}}
	}
	var marks []uint16
	for _, n := range known.Masters() {
		marks = append(marks, known.Slots(n)[0])
	}
	return marks, nil
}

// countMarks counts the marks that earlier attempts have left on a cluster that is entered: where
// slots have moved since, those of this one do not take their places. The table of tags is
// made here, before anybody waits.
func (a *attempt) countMarks(ctx context.Context) error {
	p := a.ids[a.to].Pool()
	if topologyOf(p) == nil {
		return nil
	}
	a.oldMarks = 0
	const atOnce = 1024
	for first := 0; first < slot.Count; first += atOnce {
		pipe := p.DB(0).Pipeline()
		var there []*redis.IntCmd
		for s := first; s < first+atOnce; s++ {
			there = append(there, pipe.Exists(ctx, markKey(uint16(s))))
		}
		if _, err := pipe.Exec(ctx); err != nil {
			return fmt.Errorf("counting the marks on %s: %w", p, err)
		}
		for _, t := range there {
			a.oldMarks += t.Val()
		}
	}
	return nil
}

// keepDrainedOnNodes leaves the marks, waits for the replicas, and makes sure that it was the
// drained processes that were marked, and no others.
func (a *attempt) keepDrainedOnNodes(ctx context.Context, patience time.Duration) error {
	if err := a.markNodes(ctx, a.record(), patience); err != nil {
		return err
	}
	p := a.ids[a.to].Pool().Control().Pipeline()
	holds := a.forward.Whole(ctx, p)
	_, _ = p.Exec(ctx) // each has its own error
	return holds()
}

// markNodes leaves the marks of a switch at the masters of the cluster that is entered, and
// waits until the replicas of each have them, and so all that it was told before, for at most
// patience.
func (m *Migration) markNodes(ctx context.Context, r Record, patience time.Duration) error {
	to := m.ids[r.Switch.To].Pool()
	known := topologyOf(to).Map()
	at, err := ownersOf(known, r.Switch.Marks)
	if err != nil {
		return fmt.Errorf("marking what was drained: of the cluster %s %w", to, err)
	}
	together, tctx := errgroup.WithContext(ctx)
	for i, n := range at {
		key, replicas := markKey(r.Switch.Marks[i]), 0
		for _, of := range known.Replicas(n) {
			if !of.Failed {
				replicas++
			}
		}
		together.Go(func() error {
			return store.Mark(tctx, to.Node(n.Address).DB(0), key, r.drainedMark(), replicas, patience)
		})
	}
	if err := together.Wait(); err != nil {
		return fmt.Errorf("marking what was drained on %s: %w", to, err)
	}
	return nil
}

// ownersOf returns the masters that have the slots of the marks, in that order. An error means
// that it is not one mark for each.
func ownersOf(known *cluster.Map, marks []uint16) ([]*cluster.Node, error) {
	var at []*cluster.Node
	for _, s := range marks {
		n := known.Owner(s)
		if n == nil || slices.Contains(at, n) {
			return nil, errors.New("the masters have changed since the switch began")
		}
		at = append(at, n)
	}
	if len(at) != len(known.Masters()) {
		return nil, fmt.Errorf("there are %d masters, and were %d when the switch began", len(known.Masters()), len(at))
	}
	return at, nil
}

// stillDrained reports whether each master has its mark: then it has, whoever it is now, all
// that was drained.
func (a *attempt) stillDrained(ctx context.Context) (bool, error) {
	r := a.record()
	if all, err := a.drainedOnNodes(ctx, r); !all || err != nil {
		return false, err
	}
	_, err := ownersOf(topologyOf(a.ids[a.to].Pool()).Map(), r.Switch.Marks)
	return err == nil, nil
}

// drainedOnNodes reports whether all marks of a switch are there.
func (m *Migration) drainedOnNodes(ctx context.Context, r Record) (bool, error) {
	to := m.ids[r.Switch.To].Pool()
	t := topologyOf(to)
	if err := t.Refresh(ctx); err != nil {
		return false, err
	}
	for _, s := range r.Switch.Marks {
		address, err := t.Find(ctx, s)
		if err != nil {
			return false, err
		}
		mark, err := to.Node(address).DB(0).Get(ctx, markKey(s)).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return false, fmt.Errorf("reading %s on node %s of %s: %w", markKey(s), address, to, err)
		}
		if mark != r.drainedMark() {
			return false, nil
		}
	}
	return len(r.Switch.Marks) > 0, nil
}

// warmNodes connects to each master of a cluster, and to the one that has the record as
// often as it will be needed.
func warmNodes(ctx context.Context, p *conn.Pool) error {
	t := topologyOf(p)
	if t == nil {
		return nil
	}
	for range warmKeys {
		c := p.Control().Conn()
		defer func() { _ = c.Close() }() // each once all are there
		if err := c.Ping(ctx).Err(); err != nil {
			return fmt.Errorf("connecting to %s: %w", p, err)
		}
	}
	together, tctx := errgroup.WithContext(ctx)
	for _, n := range t.Map().Masters() {
		together.Go(func() error { return p.Node(n.Address).Warm(tctx, 0, 1) })
	}
	return together.Wait()
}

// everyNode calls f for each node of a cluster at the same time, and for the server where
// it is none. A node that the others say has failed, and a replica, may not answer.
func everyNode(ctx context.Context, p *conn.Pool, f func(context.Context, *redis.Client) error) error {
	t := topologyOf(p)
	if t == nil {
		return f(ctx, p.DB(0))
	}
	if err := t.Refresh(ctx); err != nil {
		return err
	}
	together, tctx := errgroup.WithContext(ctx)
	for _, n := range t.Map().Nodes() {
		together.Go(func() error {
			err := f(tctx, p.Node(n.Address).DB(0))
			if err == nil || n.Failed {
				return nil
			}
			var answered redis.Error
			if n.Master != "" && !errors.As(err, &answered) {
				return nil
			}
			return fmt.Errorf("node %s: %w", n.Address, err)
		})
	}
	return together.Wait()
}

// removeFromNodes deletes the keys of ours from a cluster.
func removeFromNodes(ctx context.Context, p *conn.Pool) (removed int64, err error) {
	t := topologyOf(p)
	if err := t.Refresh(ctx); err != nil {
		return 0, err
	}
	for _, n := range t.Map().Masters() {
		c := p.Node(n.Address).DB(0)
		iter := c.Scan(ctx, 0, mirror.KeyPrefix+"*", 1000).Iterator()
		for iter.Next(ctx) {
			if err := c.Del(ctx, iter.Val()).Err(); err != nil {
				return removed, fmt.Errorf("removing keys of ours from node %s of %s: %w", n.Address, p, err)
			}
			removed++
		}
		if err := iter.Err(); err != nil {
			return removed, fmt.Errorf("looking for keys of ours on node %s of %s: %w", n.Address, p, err)
		}
	}
	return removed, nil
}

// NodeStatus is a node of a cluster.
type NodeStatus struct {
	Address string `json:"address"`
	Master  string `json:"master,omitempty"` // of a replica: its master's address
	Slots   int    `json:"slots"`            // that a master has
	Failed  bool   `json:"failed,omitempty"`
}

// nodesOf lists the nodes of a cluster as far as they are known; none for a server. It does
// no I/O.
func nodesOf(p *conn.Pool) []NodeStatus {
	t := topologyOf(p)
	if t == nil {
		return nil
	}
	m := t.Map()
	var list []NodeStatus
	for _, n := range m.Nodes() {
		s := NodeStatus{Address: n.Address, Master: n.Master, Failed: n.Failed}
		if n.Master == "" {
			s.Slots = len(m.Slots(n))
		}
		list = append(list, s)
	}
	return list
}
