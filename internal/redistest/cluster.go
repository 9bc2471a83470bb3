package redistest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Cluster is a Redis Cluster on loopback ports. After failovers and moves of slots others
// than the first of Servers are masters: see Masters and Owner. Its methods are for the test's
// goroutine, and what waits has a limit: see Churn for what is to go on beside others.
type Cluster struct {
	Servers []*Server // the masters as they were first, in the order of their slots, then their replicas

	tb      TB
	opts    []Option
	ids     map[*Server]string
	clients map[*Server]*redis.Client
}

// clusterWait bounds each wait for a cluster.
const clusterWait = 60 * time.Second

// clusterSlots is how many slots a cluster has.
const clusterSlots = 16384

// StartCluster starts a cluster of masters, each with so many replicas, and ends it with the
// test. The slots are divided evenly, in order. The options are for each server; with a
// password all have the same. It returns when all agree that the cluster is whole. A master
// that says nothing counts as down after 4 s (cluster-node-timeout).
func StartCluster(tb TB, masters, replicas int, opts ...Option) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, ids: make(map[*Server]string), clients: make(map[*Server]*redis.Client)}
	opts = append([]Option{withBus, WithConfig("cluster-enabled", "yes"), WithConfig("cluster-node-timeout", "4000"), WithConfig("repl-diskless-sync-delay", "0")}, opts...)
	c.opts = append(opts, withMasterAuth)
	for i := range masters * (1 + replicas) {
		s := c.start()
		if i < masters {
			c.give(s, i*clusterSlots/masters, (i+1)*clusterSlots/masters)
		}
	}
	for _, s := range c.Servers[1:] {
		c.meet(s)
	}
	Eventually(tb, clusterWait, c.acquainted, "the nodes of a cluster")
	for i, s := range c.Servers[masters:] {
		c.must(s, "CLUSTER", "REPLICATE", c.ids[c.Servers[i%masters]])
	}
	c.Settle()
	return c
}

// start starts a server that knows nobody yet.
func (c *Cluster) start() *Server {
	c.tb.Helper()
	s := Start(c.tb, c.opts...)
	c.Servers = append(c.Servers, s)
	c.clients[s] = s.Client(0)
	c.ids[s] = c.must(s, "CLUSTER", "MYID").(string)
	// Replicas stay with their masters, whatever slots those have (7.0).
	_ = c.clients[s].ConfigSet(context.Background(), "cluster-allow-replica-migration", "no").Err()
	c.must(s, "CLUSTER", "SET-CONFIG-EPOCH", len(c.Servers)) // two of one epoch would quarrel first
	return s
}

func (c *Cluster) meet(s *Server) {
	c.tb.Helper()
	first := c.running()[0]
	c.must(s, "CLUSTER", "MEET", "127.0.0.1", first.Port(), first.busPort())
}

// Join adds a master, which has no slots, and returns once all know it.
func (c *Cluster) Join() *Server {
	c.tb.Helper()
	s := c.start()
	c.meet(s)
	Eventually(c.tb, clusterWait, c.acquainted, "a new node")
	c.Settle()
	return s
}

// withBus has a server's port chosen such that its bus port is free too.
func withBus(c *Config) { c.bus = true }

// busPort is where the nodes of a cluster speak to this one.
func (s *Server) busPort() int { return s.port + busOffset }

// busOffset is the distance of both ports, as it is where nobody says anything else.
const busOffset = 10000

// freePorts is freePort for a server that takes a bus port too.
func freePorts() (int, error) {
	for range 100 {
		port, err := freePort()
		if err != nil {
			return 0, err
		}
		if port+busOffset > 65535 {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+busOffset)))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("find a free port: %w", err)
		}
		return port, nil
	}
	return 0, errors.New("find a free port: no bus port is free with it")
}

// give gives a master the slots from .. to-1.
func (c *Cluster) give(s *Server, from, to int) {
	c.tb.Helper()
	args := []any{"CLUSTER", "ADDSLOTS"} // ADDSLOTSRANGE is 7.0's
	for slot := from; slot < to; slot++ {
		args = append(args, slot)
	}
	c.must(s, args...)
}

// do runs a command on one node.
func (c *Cluster) do(s *Server, args ...any) (any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	v, err := c.clients[s].Do(ctx, args...).Result()
	if err != nil {
		return nil, fmt.Errorf("%v %v on %s: %w", args[0], args[1], s.Addr(), err)
	}
	return v, nil
}

func (c *Cluster) must(s *Server, args ...any) any {
	c.tb.Helper()
	v, err := c.do(s, args...)
	if err != nil {
		c.tb.Fatalf("%v", err)
	}
	return v
}

// acquainted returns an error unless every node knows all.
func (c *Cluster) acquainted() error {
	for _, s := range c.running() {
		text, err := c.do(s, "CLUSTER", "NODES")
		if err != nil {
			return err
		}
		known := 0
		for line := range strings.Lines(text.(string)) {
			if !strings.Contains(line, "handshake") {
				known++
			}
		}
		if known != len(c.Servers) {
			return fmt.Errorf("%s knows %d of %d", s.Addr(), known, len(c.Servers))
		}
	}
	return nil
}

// Settle waits until all nodes that run agree who has which slots, call the cluster whole,
// and the replicas have what their masters have.
func (c *Cluster) Settle() {
	c.tb.Helper()
	Eventually(c.tb, clusterWait, c.settled, "the cluster")
}

func (c *Cluster) settled() error {
	var agreed map[int]string
	var masters map[string]string
	for _, s := range c.running() {
		info, err := c.do(s, "CLUSTER", "INFO")
		if err != nil {
			return err
		}
		if !strings.Contains(info.(string), "cluster_state:ok") || !strings.Contains(info.(string), "cluster_slots_ok:16384") {
			return fmt.Errorf("%s says: %.200s", s.Addr(), info)
		}
		owners, err := c.owners(s)
		if err != nil {
			return err
		}
		if agreed == nil {
			agreed = owners
		}
		for slot := range clusterSlots {
			if owners[slot] != agreed[slot] {
				return fmt.Errorf("%s says that slot %d is with %s, another one says %s", s.Addr(), slot, owners[slot], agreed[slot])
			}
		}
		roles, err := c.roles(s)
		if err != nil {
			return err
		}
		if masters == nil {
			masters = roles
		}
		if !maps.Equal(roles, masters) {
			return fmt.Errorf("%s knows the masters %v, another one %v", s.Addr(), roles, masters)
		}
		repl, err := c.do(s, "INFO", "replication")
		if err != nil {
			return err
		}
		if text := repl.(string); strings.Contains(text, "role:slave") && !strings.Contains(text, "master_link_status:up") {
			return fmt.Errorf("%s has no link to its master yet", s.Addr())
		}
	}
	return nil
}

// roles returns the master of each node that runs, "-" for a master, as one node sees it.
func (c *Cluster) roles(s *Server) (map[string]string, error) {
	text, err := c.do(s, "CLUSTER", "NODES")
	if err != nil {
		return nil, err
	}
	masters := make(map[string]string)
	for line := range strings.Lines(text.(string)) {
		fields := strings.Fields(line)
		for _, up := range c.running() {
			if c.ids[up] == fields[0] {
				masters[up.Addr()] = fields[3]
			}
		}
	}
	return masters, nil
}

// owners returns the address of each slot's master, as one node sees it.
func (c *Cluster) owners(s *Server) (map[int]string, error) {
	v, err := c.do(s, "CLUSTER", "SLOTS")
	if err != nil {
		return nil, err
	}
	owners := make(map[int]string)
	for _, r := range v.([]any) {
		r := r.([]any)
		node := r[2].([]any)
		for slot := r[0].(int64); slot <= r[1].(int64); slot++ {
			owners[int(slot)] = fmt.Sprintf("%v:%v", node[0], node[1])
		}
	}
	return owners, nil
}

func (c *Cluster) running() []*Server {
	return slices.DeleteFunc(slices.Clone(c.Servers), func(s *Server) bool { return !s.Running() })
}

// Masters returns the masters that run and have slots, in the order of Servers.
func (c *Cluster) Masters() []*Server {
	c.tb.Helper()
	owners := c.view()
	return slices.DeleteFunc(c.running(), func(s *Server) bool {
		for _, addr := range owners {
			if addr == s.Addr() {
				return false
			}
		}
		return true
	})
}

// view is who has which slot, as the first node that runs sees it.
func (c *Cluster) view() map[int]string {
	c.tb.Helper()
	owners, err := c.owners(c.running()[0])
	if err != nil {
		c.tb.Fatalf("%v", err)
	}
	return owners
}

// Owner returns the server that has a slot.
func (c *Cluster) Owner(slot uint16) *Server {
	c.tb.Helper()
	owner, err := c.owner(slot)
	if err != nil {
		c.tb.Fatalf("%v", err)
	}
	return owner
}

// Replicas returns the replicas of a master that run.
func (c *Cluster) Replicas(master *Server) []*Server {
	c.tb.Helper()
	return slices.DeleteFunc(c.running(), func(s *Server) bool {
		return !strings.Contains(c.must(s, "CLUSTER", "NODES").(string), "myself,slave "+c.ids[master])
	})
}

// ID returns the node id of a server.
func (c *Cluster) ID(s *Server) string { return c.ids[s] }

// On returns a client of one node, which belongs to the cluster.
func (c *Cluster) On(s *Server) *redis.Client { return c.clients[s] }

// Addrs returns host:port of each server.
func (c *Cluster) Addrs() []string {
	var all []string
	for _, s := range c.Servers {
		all = append(all, s.Addr())
	}
	return all
}

// URL returns redis+cluster://[:password@]addr,addr,… of all servers.
func (c *Cluster) URL() string {
	user := ""
	if p := c.Servers[0].Password(); p != "" {
		user = url.UserPassword("", p).String() + "@"
	}
	return "redis+cluster://" + user + strings.Join(c.Addrs(), ",")
}

// Client returns a new client of the whole cluster, which follows redirections; it is closed
// with the test.
func (c *Cluster) Client() *redis.ClusterClient {
	o := Options("", 0)
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: c.Addrs(), Password: c.Servers[0].Password(),
		ContextTimeoutEnabled: true, DisableIdentity: true, MaintNotificationsConfig: o.MaintNotificationsConfig,
		MaxRedirects: 16,
	})
	c.tb.Cleanup(func() { _ = client.Close() })
	return client
}
