package preflight

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/slot"
)

// A cluster is looked at node by node where that matters, and as one server elsewhere: what
// INFO counts is added up then, and what can be asked of any node is asked of the first.

// clustered reports whether the side was given as a cluster.
func (s *server) clustered() bool { return s.pool.Endpoint().Cluster != nil }

// each returns what has settings, users and a clock of its own: the nodes of a cluster,
// replicas too, or the server.
func (s *server) each() []*server {
	if s.clustered() {
		return s.nodes
	}
	return []*server{s}
}

// masters are those of each that have keys.
func (s *server) masters() []*server {
	return slices.DeleteFunc(slices.Clone(s.each()), func(n *server) bool { return n.node != nil && (n.node.Master != "" || n.slots == 0) })
}

// machines are each of both sides, as far as they are up.
func (in *inspection) machines() []*server {
	var out []*server
	for _, s := range in.sides() {
		out = append(out, s.each()...)
	}
	return out
}

// on reports whether a server is one of a side's.
func (s *server) on(side *server) bool { return s == side || s.whole == side }

// tag is "" for a server, and for a master of a cluster what puts the name of a key into a
// slot that it has.
func (s *server) tag() string {
	if s.node == nil {
		return ""
	}
	return "{" + slot.Tag(s.first) + "}"
}

// loadNodes asks all nodes for their INFO. Replicas, and masters without slots, may be away;
// such are not among the nodes then.
func (s *server) loadNodes(ctx context.Context) error {
	t := cluster.Of(s.pool.Endpoint())
	if err := t.Refresh(ctx); err != nil {
		return err
	}
	s.slots, s.cluster = slot.Count, t.Map()
	var list []*server
	for _, n := range s.cluster.Nodes() {
		one := &server{pool: s.pool.Node(n.Address), name: s.name + " node", whole: s, node: n}
		if n.Master == "" {
			if has := s.cluster.Slots(n); len(has) > 0 {
				one.slots, one.first = len(has), has[0]
			}
		}
		list = append(list, one)
	}
	together, tctx := errgroup.WithContext(ctx)
	for _, one := range list {
		together.Go(func() error {
			err := one.client().Ping(tctx).Err()
			if err == nil {
				one.reached = true
				err = one.load(tctx)
			}
			if err != nil && one.slots > 0 {
				return fmt.Errorf("node %s: %w", one.node.Address, err)
			}
			return nil
		})
	}
	if err := together.Wait(); err != nil {
		return err
	}
	s.away = nil
	s.nodes = slices.DeleteFunc(list, func(one *server) bool {
		if !one.up {
			s.away = append(s.away, one.node.Address)
		}
		return !one.up
	})
	// What is not of each master is asked of the first.
	slices.SortStableFunc(s.nodes, func(a, b *server) int { return min(b.slots, 1) - min(a.slots, 1) })
	return nil
}

// summed are the fields of INFO that are added up over the masters.
var summed = []string{
	"used_memory", "used_memory_startup", "mem_clients_normal", "mem_clients_slaves", "mem_replication_backlog", "mem_aof_buffer",
	"used_memory_rss", "maxmemory", "total_system_memory", "evicted_keys", "connected_slaves",
}

// sum makes one INFO of those of the masters.
func sum(masters []*server) info {
	out := make(info)
	keys := make(map[int][2]int64)
	for i, one := range masters {
		for field, value := range one.info {
			if _, there := out[field]; !there || i == 0 {
				out[field] = value
			}
		}
		for db, n := range one.info.keyspace() {
			k := keys[db]
			keys[db] = [2]int64{k[0] + n, k[1] + attribute(one.info["db"+strconv.Itoa(db)], "expires")}
		}
	}
	for _, field := range summed {
		var n int64
		for _, one := range masters {
			n += one.info.number(field)
		}
		if _, there := out[field]; there {
			out[field] = strconv.FormatInt(n, 10)
		}
	}
	for db, k := range keys {
		out["db"+strconv.Itoa(db)] = fmt.Sprintf("keys=%d,expires=%d", k[0], k[1])
	}
	return out
}

// alike joins the findings of nodes: one finding for all that pass, and those that do not.
func alike(s *server, passed string, findings []Finding) []Finding {
	if !s.clustered() {
		return findings
	}
	rest := slices.DeleteFunc(slices.Clone(findings), func(f Finding) bool { return f.Level == Pass })
	if n := len(findings) - len(rest); n > 0 {
		rest = append([]Finding{pass("%s: %s", s, fmt.Sprintf(passed, plural(int64(n), "node", "nodes")))}, rest...)
	}
	return rest
}

// addresses names nodes.
func addresses(list []*server) string {
	var out []string
	for _, n := range list {
		out = append(out, n.node.Address)
	}
	return strings.Join(out, ", ")
}
