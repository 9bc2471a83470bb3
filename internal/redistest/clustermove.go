package redistest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Slots are moved and masters replaced here as operators do it. A move has three steps, so
// that a test can stop between them: Open, Carry, and Finish.

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

// Finish carries what is left of a slot that is open, and ends its move.
func (c *Cluster) Finish(to *Server, slot uint16) {
	c.tb.Helper()
	if err := c.finish(c.Owner(slot), to, slot); err != nil {
		c.tb.Fatalf("ending the move of slot %d to %s: %v", slot, to.Addr(), err)
	}
}

// hand tells all masters who has a slot now: the new one first, since were it told last, and
// this ended between, nobody would have it.
func (c *Cluster) hand(from, to *Server, slot uint16) error {
	told := make(map[*Server]bool)
	for _, s := range append([]*Server{to, from}, c.running()...) {
		if told[s] {
			continue
		}
		told[s] = true
		_, err := c.do(s, "CLUSTER", "SETSLOT", int(slot), "NODE", c.ids[to])
		if err != nil && !strings.Contains(err.Error(), "use SETSLOT only with masters") {
			return err
		}
	}
	return nil
}

// Move moves slots with their keys to another master, one after another, as a resharding
// does.
func (c *Cluster) Move(to *Server, slots ...uint16) {
	c.tb.Helper()
	for _, slot := range slots {
		if err := c.move(to, slot); err != nil {
			c.tb.Fatalf("%v", err)
		}
	}
}

// Churn moves one slot after the other, each to where next says, until stop is called, which
// returns once the last move has ended; the end of the test does that too. next is given how
// many moves were made before, and is called by another goroutine; nobody else may move slots
// meanwhile.
func (c *Cluster) Churn(next func(i int) (to *Server, slot uint16)) (stop func()) {
	end, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-end:
				ended <- nil
				return
			default:
			}
			to, slot := next(i)
			if err := c.move(to, slot); err != nil {
				ended <- fmt.Errorf("after %d moves: %w", i, err)
				return
			}
		}
	}()
	var once sync.Once
	stop = func() {
		c.tb.Helper()
		once.Do(func() {
			close(end)
			if err := <-ended; err != nil { // each move has a time to end in
				c.tb.Fatalf("%v", err)
			}
		})
	}
	c.tb.Cleanup(stop)
	return stop
}

// move moves one slot. It gives up when a node does not answer, or keys are left, for as long
// as clusterWait.
func (c *Cluster) move(to *Server, slot uint16) error {
	c.agreeOnEpoch()
	from, err := c.owner(slot)
	if err != nil || from == to {
		return err
	}
	fail := func(err error) error {
		return fmt.Errorf("moving slot %d from %s to %s: %w", slot, from.Addr(), to.Addr(), err)
	}
	for _, half := range []struct {
		at, with *Server
		state    string
	}{{to, from, "IMPORTING"}, {from, to, "MIGRATING"}} {
		if _, err := c.do(half.at, "CLUSTER", "SETSLOT", int(slot), half.state, c.ids[half.with]); err != nil {
			return fail(err)
		}
	}
	if err := c.finish(from, to, slot); err != nil {
		return fail(err)
	}
	return nil
}

// agreeOnEpoch waits until all nodes that answer know of the newest epoch, for some seconds
// at most. A node that takes a slot makes itself an epoch from what it has heard
// (clusterBumpConfigEpochWithoutConsensus). If that is an older one than that of the node
// which gives it, a third one that has not been told yet says so to the taker, which then
// drops the slot again: nobody has it any more, and its keys are gone.
func (c *Cluster) agreeOnEpoch() {
	_ = Within(5*time.Second, func() bool {
		epochs := make(map[string]bool)
		for _, s := range c.running() {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			info, err := c.clients[s].ClusterInfo(ctx).Result()
			cancel()
			if _, epoch, ok := strings.Cut(info, "cluster_current_epoch:"); err == nil && ok {
				epoch, _, _ = strings.Cut(epoch, "\r\n")
				epochs[epoch] = true
			}
		}
		return len(epochs) <= 1
	})
}

// finish carries all keys of an open slot, and hands it over.
func (c *Cluster) finish(from, to *Server, slot uint16) error {
	for until := time.Now().Add(clusterWait); ; {
		switch n, err := c.carry(from, to, slot, 100); {
		case err != nil:
			return err
		case n == 0:
			return c.hand(from, to, slot)
		case time.Now().After(until):
			return fmt.Errorf("it still has keys after %v", clusterWait)
		}
	}
}

// owner returns the server that says itself that it has a slot. What others say may be some
// seconds old after a move; but one of them says whom to ask first, as some may be stopped.
func (c *Cluster) owner(slot uint16) (owner *Server, err error) {
	err = Within(clusterWait, func() error {
		hint := ""
		for _, s := range c.running() {
			if owners, err := c.owners(s); err == nil {
				hint = owners[int(slot)]
				break
			}
		}
		list := c.running()
		if i := slices.IndexFunc(list, func(s *Server) bool { return s.Addr() == hint }); i > 0 {
			list[0], list[i] = list[i], list[0]
		}
		errs := []error{fmt.Errorf("nobody says that slot %d is his", slot)}
		for _, s := range list {
			has, err := c.has(s, slot)
			if has {
				owner = s
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	return owner, err
}

// has reports whether a server says that a slot is its own.
func (c *Cluster) has(s *Server, slot uint16) (bool, error) {
	text, err := c.do(s, "CLUSTER", "NODES")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(text.(string)) {
		fields := strings.Fields(line)
		if len(fields) < 8 || !strings.Contains(fields[2], "myself,master") {
			continue
		}
		for _, span := range fields[8:] {
			first, last, ranged := strings.Cut(span, "-") // [93->-id] is one that is being moved
			if !ranged {
				last = first
			}
			from, err := strconv.Atoi(first)
			to, err2 := strconv.Atoi(last)
			if err == nil && err2 == nil && from <= int(slot) && int(slot) <= to {
				return true, nil
			}
		}
	}
	return false, nil
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
