package redistest

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Slots are moved and masters replaced here as operators do it. A move has three steps, so
// that a test can stop between them: Open, Carry until nothing is left, and Hand.

// Open begins to move slots to another master: from now on the old one answers ASK for keys
// that it does not have.
func (c *Cluster) Open(to *Server, slots ...uint16) {
	c.tb.Helper()
	for _, slot := range slots {
		from := c.Owner(slot)
		c.must(to, "CLUSTER", "SETSLOT", int(slot), "IMPORTING", c.ids[from])
		c.must(from, "CLUSTER", "SETSLOT", int(slot), "MIGRATING", c.ids[to])
	}
}

// Carry takes at most n keys of a slot that is open to its new master, and returns how many
// those were.
func (c *Cluster) Carry(to *Server, slot uint16, n int) int {
	c.tb.Helper()
	carried, err := c.carry(c.Owner(slot), to, slot, n)
	if err != nil {
		c.tb.Fatalf("%v", err)
	}
	return carried
}

func (c *Cluster) carry(from, to *Server, slot uint16, n int) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	keys, err := c.clients[from].ClusterGetKeysInSlot(ctx, int(slot), n).Result()
	if err != nil || len(keys) == 0 {
		return 0, err
	}
	args := []any{"MIGRATE", "127.0.0.1", to.Port(), "", 0, 10000}
	if p := to.Password(); p != "" {
		args = append(args, "AUTH", p)
	}
	args = append(args, "KEYS")
	for _, k := range keys {
		args = append(args, k)
	}
	// NOKEY means that they have gone meanwhile.
	if err := c.clients[from].Do(ctx, args...).Err(); err != nil {
		return 0, fmt.Errorf("moving %d keys of slot %d from %s to %s: %w", len(keys), slot, from.Addr(), to.Addr(), err)
	}
	return len(keys), nil
}

// Hand ends the move of a slot that has no keys any more at its old master.
func (c *Cluster) Hand(to *Server, slot uint16) {
	c.tb.Helper()
	from := c.Owner(slot)
	// The new master first: were it told last, and this ended between, nobody would have it.
	for _, s := range append([]*Server{to, from}, c.Masters()...) {
		_, err := c.do(s, "CLUSTER", "SETSLOT", int(slot), "NODE", c.ids[to])
		if err != nil {
			c.tb.Fatalf("%v", err)
		}
	}
}

// Move moves slots with their keys to another master, one after another, as a resharding
// does.
func (c *Cluster) Move(to *Server, slots ...uint16) {
	c.tb.Helper()
	masters := c.Masters()
	owners := c.view()
	for _, slot := range slots {
		var from *Server
		for _, s := range c.Servers {
			if s.Addr() == owners[int(slot)] {
				from = s
			}
		}
		if from == to {
			continue
		}
		c.must(to, "CLUSTER", "SETSLOT", int(slot), "IMPORTING", c.ids[from])
		c.must(from, "CLUSTER", "SETSLOT", int(slot), "MIGRATING", c.ids[to])
		for {
			n, err := c.carry(from, to, slot, 100)
			if err != nil {
				c.tb.Fatalf("%v", err)
			}
			if n == 0 {
				break
			}
		}
		for _, s := range append([]*Server{to, from}, masters...) {
			c.must(s, "CLUSTER", "SETSLOT", int(slot), "NODE", c.ids[to])
		}
	}
}

// Kill kills a master and returns the replica that has taken its place.
func (c *Cluster) Kill(master *Server) (now *Server) {
	c.tb.Helper()
	heirs := c.Replicas(master)
	master.Kill()
	return c.AwaitHeir(heirs)
}

// AwaitHeir waits until one of the servers has become a master that all agree on, and
// returns it.
func (c *Cluster) AwaitHeir(heirs []*Server) (now *Server) {
	c.tb.Helper()
	Eventually(c.tb, clusterWait, func() error {
		for _, s := range heirs {
			role, err := c.role(s)
			if err != nil {
				return err
			}
			if role == "master" {
				now = s
				return c.settled()
			}
		}
		return errors.New("none of them is one")
	}, "a new master")
	return now
}

func (c *Cluster) role(s *Server) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	role, err := c.clients[s].Do(ctx, "ROLE").Slice()
	if err != nil {
		return nil, fmt.Errorf("asking %s for its role: %w", s.Addr(), err)
	}
	return role[0], nil
}

// Failover has a replica take its master's place, as an operator does, and waits until all
// agree. Nothing that the master has acknowledged is lost.
func (c *Cluster) Failover(to *Server) {
	c.tb.Helper()
	Eventually(c.tb, clusterWait, func() error {
		if role, err := c.role(to); err != nil || role == "master" {
			return err
		}
		if _, err := c.do(to, "CLUSTER", "FAILOVER"); err != nil {
			return err
		}
		return Within(5*time.Second, func() error { // a failed one is given up after that
			role, err := c.role(to)
			if err == nil && role != "master" {
				err = errors.New("it is none yet")
			}
			return err
		})
	}, "a failover to %s", to.Addr())
	// On a slow machine the one that was the master may have its place back meanwhile.
	Eventually(c.tb, clusterWait, c.settled, "all agree after the failover to %s", to.Addr())
}
