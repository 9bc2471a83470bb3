package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/internal/slot"
)

// One node may be cut off from the others and not know it yet, and what one knows of another
// is old for some seconds after a change. So several are asked. That one is believed which
// calls the cluster whole and has heard of the latest change, or, where that does not decide,
// what most of them say; and about its own slots each master.

const (
	askAtOnce = 8 // nodes are asked at a time
	// askGrace is how long others may still answer once one has, and at least three times
	// as long as it has taken.
	askGrace = 50 * time.Millisecond
)

// ConnName is the CLIENT SETNAME of the connections on which nodes are asked. They change
// nothing.
const ConnName = "crossfade:topology"

// answer is what one node says.
type answer struct {
	m     *Map
	self  uint16 // its own place in m, as in Map.owners; 0: it is not known
	ok    bool   // it calls the cluster whole
	epoch int64  // of the last change that it knows of
	votes int
}

// ask returns the map that is to be believed. The caller has the token.
func (t *Topology) ask(ctx context.Context) (*Map, error) {
	var errs []error
	for at := range slices.Chunk(t.seeds(), askAtOnce) {
		answers, err := t.askSome(ctx, at)
		if len(answers) > 0 {
			return believe(answers), nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("asking the nodes of the cluster %s who has which slots: %w", t, errors.Join(errs...))
}

// believe makes a map of answers, at least one.
func believe(answers []answer) *Map {
	for i := range answers {
		for _, other := range answers {
			if answers[i].m.same(other.m) {
				answers[i].votes++
			}
		}
	}
	slices.SortStableFunc(answers, func(a, b answer) int { // best first
		if a.ok != b.ok {
			if a.ok {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.epoch, a.epoch), cmp.Compare(b.votes, a.votes))
	})
	best := answers[0]
	m := best.m
	for s := range uint16(slot.Count) {
		if owner := ownerBy(answers, s); owner != nil && (m.Owner(s) == nil || m.Owner(s).Address != owner.Address) {
			if m == best.m {
				m = &Map{nodes: m.nodes, owners: m.owners}
			}
			m.set(s, *owner)
		}
	}
	return m
}

// ownerBy returns who has a slot by the answers, best first: whoever says so of itself, or
// else whom the one names that the others take for it.
func ownerBy(answers []answer, s uint16) *Node {
	for _, a := range answers {
		if a.ok == answers[0].ok && a.self > 0 && a.m.owners[s] == a.self {
			return a.m.Owner(s)
		}
	}
	owner := answers[0].m.Owner(s)
	for _, a := range answers {
		if a.ok == answers[0].ok && a.self > 0 && owner != nil && a.m.nodes[a.self-1].Address == owner.Address {
			return a.m.Owner(s)
		}
	}
	return owner
}

// askSome asks nodes at the same time. Where one has answered the others have not for ever.
func (t *Topology) askSome(ctx context.Context, addresses []string) ([]answer, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type one struct {
		answer
		err error
	}
	results := make(chan one, len(addresses))
	began := time.Now()
	for _, address := range addresses {
		go func() {
			a, err := t.askOne(ctx, address)
			results <- one{a, err}
		}()
	}
	var answers []answer
	var errs []error
	var grace <-chan time.Time
	for range addresses {
		select {
		case r := <-results:
			if r.err != nil {
				errs = append(errs, r.err)
				continue
			}
			answers = append(answers, r.answer)
			if grace == nil {
				grace = time.After(max(askGrace, 3*time.Since(began)))
			}
		case <-grace:
			return answers, nil
		}
	}
	return answers, errors.Join(errs...)
}

func (t *Topology) askOne(ctx context.Context, address string) (answer, error) {
	c := t.client(address)
	if c == nil {
		return answer{}, errClosed
	}
	pipe := c.Pipeline()
	info := pipe.Do(ctx, "CLUSTER", "INFO")
	slots := pipe.Do(ctx, "CLUSTER", "SLOTS")
	shards := pipe.Do(ctx, "CLUSTER", "SHARDS") // 7.0; knows of masters without slots
	self := pipe.Do(ctx, "CLUSTER", "MYID")
	_, refused := pipe.Exec(ctx) // each has its own error, but where the connection is refused
	fail := func(err error) (answer, error) {
		return answer{}, fmt.Errorf("node %s: %w", address, err)
	}
	if refused != nil && slots.Err() == nil && slots.Val() == nil {
		return fail(refused)
	}
	ranges, err := slots.Slice()
	if err != nil {
		return fail(err)
	}
	groups, _ := shards.Slice()
	a := answer{ok: true}
	if a.m, err = read(ranges, groups, address, t.at.TLS != nil); err != nil {
		return fail(err)
	}
	if text, err := info.Text(); err == nil {
		a.ok = strings.Contains(text, "cluster_state:ok")
		for line := range strings.Lines(text) {
			if v, is := strings.CutPrefix(strings.TrimSpace(line), "cluster_current_epoch:"); is {
				a.epoch, _ = strconv.ParseInt(v, 10, 64)
			}
		}
	}
	if id, err := self.Text(); err == nil && id != "" {
		a.self = uint16(slices.IndexFunc(a.m.nodes, func(n *Node) bool { return n.ID == id })) + 1
	}
	if !slices.ContainsFunc(a.m.owners[:], func(i uint16) bool { return i > 0 }) {
		return fail(errors.New("it knows of no master that has slots"))
	}
	return a, nil
}

// read makes a map of the answers to CLUSTER SLOTS and CLUSTER SHARDS (empty where there is
// none). from is the node that has answered.
func read(ranges, shards []any, from string, withTLS bool) (*Map, error) {
	nodes := make(map[string]*Node) // by address
	type span struct {
		first, last int64
		owner       string
	}
	var spans []span
	for _, r := range ranges {
		r, _ := r.([]any)
		if len(r) < 3 {
			return nil, fmt.Errorf("the answer to CLUSTER SLOTS has an entry of %d elements", len(r))
		}
		first, is := r[0].(int64)
		last, also := r[1].(int64)
		if !is || !also || first < 0 || last >= slot.Count || first > last {
			return nil, fmt.Errorf("the answer to CLUSTER SLOTS has the slots %v to %v", r[0], r[1])
		}
		master := ""
		for i, entry := range r[2:] {
			n, err := readNode(entry, from)
			if err != nil {
				return nil, err
			}
			if i == 0 {
				master = n.Address
			} else {
				n.Master = master
			}
			if nodes[n.Address] == nil || i == 0 {
				nodes[n.Address] = n
			}
		}
		spans = append(spans, span{first, last, master})
	}
	for _, s := range shards {
		readShard(nodes, s, from, withTLS)
	}
	m := new(Map)
	var all []*Node
	for _, n := range nodes {
		all = append(all, n)
	}
	m.setNodes(all)
	for _, s := range spans {
		owner := m.index(m.Node(s.owner))
		for i := s.first; i <= s.last; i++ {
			m.owners[i] = owner
		}
	}
	return m, nil
}

// readNode reads a node of CLUSTER SLOTS: its host, port, id (4.0), and more (7.0). The
// port is that of our kind of connection.
func readNode(entry any, from string) (*Node, error) {
	e, _ := entry.([]any)
	if len(e) < 2 {
		return nil, fmt.Errorf("the answer to CLUSTER SLOTS has a node of %d elements", len(e))
	}
	host, _ := e[0].(string) // nil: that of from
	port, is := e[1].(int64)
	if !is || port < 1 || port > 65535 {
		return nil, fmt.Errorf("the answer to CLUSTER SLOTS has the port %v", e[1])
	}
	if host == "?" && len(e) > 3 { // it is to have a name and has none: there is its address
		more, _ := e[3].([]any)
		host, _ = pairs(more)["ip"].(string)
	}
	n := &Node{Address: join(host, port, from)}
	if len(e) > 2 {
		n.ID, _ = e[2].(string)
	}
	return n, nil
}

// readShard adds what CLUSTER SHARDS knows beyond CLUSTER SLOTS: nodes without slots, and who
// has failed.
func readShard(nodes map[string]*Node, shard any, from string, withTLS bool) {
	list, _ := shard.([]any)
	members, _ := pairs(list)["nodes"].([]any)
	master := ""
	var replicas []*Node
	for _, member := range members {
		list, _ := member.([]any)
		has := pairs(list)
		host, _ := has["endpoint"].(string)
		if ip, _ := has["ip"].(string); host == "?" {
			host = ip
		}
		port, _ := has["port"].(int64)
		if tls, _ := has["tls-port"].(int64); withTLS && tls > 0 {
			port = tls
		}
		if port < 1 || port > 65535 {
			continue
		}
		n := &Node{Address: join(host, port, from), Failed: has["health"] == "fail" || has["health"] == "failed"}
		n.ID, _ = has["id"].(string)
		if known := nodes[n.Address]; known != nil {
			known.Failed = n.Failed
			if known.Master == "" {
				master = known.Address
			}
			continue
		}
		if has["role"] == "master" {
			nodes[n.Address] = n
			if !n.Failed && master == "" {
				master = n.Address
			}
			continue
		}
		replicas = append(replicas, n)
	}
	for _, n := range replicas {
		if master != "" {
			n.Master = master
			nodes[n.Address] = n
		}
	}
}

// pairs reads a map as RESP2 has it.
func pairs(list []any) map[string]any {
	all := make(map[string]any, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		if name, is := list[i].(string); is {
			all[name] = list[i+1]
		}
	}
	return all
}

// client returns the one that asks a node, nil after Close.
func (t *Topology) client(address string) *redis.Client {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	if c := t.clients[address]; c != nil {
		return c
	}
	e := t.at.At(address)
	c := redis.NewClient(&redis.Options{
		Addr: address, Username: e.Username, Password: e.Password,
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return endpoint.Dial(ctx, e, t.timeout)
		},
		ClientName:               ConnName,
		Protocol:                 2,
		DisableIdentity:          true,
		ContextTimeoutEnabled:    true,
		MaxRetries:               -1,
		DialerRetries:            1,
		PoolSize:                 2,
		ReadTimeout:              t.timeout,
		WriteTimeout:             t.timeout,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	t.clients[address] = c
	return c
}

// forget closes the clients of nodes that are gone.
func (t *Topology) forget(m *Map) {
	t.mu.Lock()
	var gone []*redis.Client
	for address, c := range t.clients {
		if m.Node(address) == nil && !slices.Contains(t.at.Cluster.Seeds, address) {
			gone = append(gone, c)
			delete(t.clients, address)
		}
	}
	t.mu.Unlock()
	for _, c := range gone {
		_ = c.Close()
	}
}
