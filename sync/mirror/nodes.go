package mirror

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/sync/conn"
)

// nodes knows the masters of a cluster, each by its line. A slot that moves from one of them
// to another takes its keys along. But where a master is another process than it was, or
// another node has taken its place, what it had acknowledged may be lost.
type nodes struct {
	pool *conn.Pool
	t    *cluster.Topology

	looking sync.Mutex       // held for a whole look, which takes some round trips
	lines   map[string]*line // by the addresses of masters that have slots
	losses  int
	evicted evicted
}

// newNodes returns nil where pool is one server.
func newNodes(pool *conn.Pool) *nodes {
	t := cluster.Of(pool.Endpoint())
	if t == nil {
		return nil
	}
	return &nodes{pool: pool, t: t}
}

// look returns what the cluster is, and what has happened to it where keys may have been lost
// since it was looked at before. An error means that nobody can say.
func (n *nodes) look(ctx context.Context) (is being, lost string, err error) {
	n.looking.Lock()
	defer n.looking.Unlock()
	m, err := n.t.Current(ctx)
	if err != nil {
		return being{}, "", err
	}
	if !m.Whole() {
		n.t.Doubt("")
		return being{}, "", fmt.Errorf("the cluster %s has slots without a master", n.t)
	}
	addresses := make(map[string]bool) // and whether it must answer
	for a := range n.lines {
		addresses[a] = false
	}
	for _, master := range m.Masters() {
		addresses[master.Address] = true
	}
	var mu sync.Mutex
	var evicts string // what became of a master that evicts
	now := make(map[string]*line)
	together, tctx := errgroup.WithContext(ctx)
	for a, must := range addresses {
		together.Go(func() error {
			was, what := n.lines[a], ""
			who, at, err := n.master(tctx, a)
			if err == nil && was != nil {
				what, err = was.judge(who, at, func() (time.Duration, error) { return backlogTTL(tctx, n.pool.Node(a)) })
			}
			if err != nil && must {
				n.t.Doubt(a)
				return err
			}
			if err != nil {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			if now[a] = was; was == nil || what != "" {
				now[a] = newLine(who, at)
			}
			if what != "" {
				lost = fmt.Sprintf("node %s of %s %s", a, n.pool, mayLack(what))
			} else if why := n.evicted.more(fmt.Sprintf("node %s of %s", a, n.pool), now[a].evicts(who)); why != "" {
				evicts = why
			}
			return nil
		})
	}
	if err := together.Wait(); err != nil {
		return being{}, "", err
	}
	for a := range n.lines {
		if now[a] == nil {
			lost = fmt.Sprintf("node %s of %s is no master any more, and who has taken its place may lack keys", a, n.pool)
		}
	}
	if lost != "" {
		n.losses++
	} else {
		lost = evicts
	}
	for a, must := range addresses {
		if !must {
			delete(now, a) // it has no slots any more, and has lost nothing
		}
	}
	n.lines = now
	return being{id: "masters " + strconv.Itoa(n.losses), evicted: n.evicted}, lost, nil
}

// master asks a node who it is. One that is no master, or that does not call the cluster
// whole, is an error.
func (n *nodes) master(ctx context.Context, address string) (who standing, at time.Time, err error) {
	pipe := n.pool.Node(address).DB(0).Pipeline()
	a := askHolder(ctx, pipe)
	state := pipe.ClusterInfo(ctx)
	_, err = pipe.Exec(ctx)
	if err == nil {
		who, err = a.answer()
	}
	switch {
	case err != nil:
		return who, a.at, fmt.Errorf("asking node %s of %s who it is: %w", address, n.pool, err)
	case who.replica:
		return who, a.at, fmt.Errorf("node %s of %s is no master", address, n.pool)
	case !strings.Contains(state.Val(), "cluster_state:ok"):
		return who, a.at, fmt.Errorf("node %s of %s says that the cluster is down", address, n.pool)
	}
	return who, a.at, nil
}
