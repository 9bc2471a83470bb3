package mirror

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/sync/conn"
)

// nodes knows the masters of a cluster by their run ids. A slot that moves from one of them
// to another takes its keys along. But where a master is another process than it was, or
// another node has taken its place, what it had acknowledged may be lost.
type nodes struct {
	pool *conn.Pool
	t    *cluster.Topology

	looking sync.Mutex        // held for a whole look, which takes some round trips
	runs    map[string]string // by the addresses of masters that have slots
	losses  int
}

// newNodes returns nil where pool is one server.
func newNodes(pool *conn.Pool) *nodes {
	t := cluster.Of(pool.Endpoint())
	if t == nil {
		return nil
	}
	return &nodes{pool: pool, t: t}
}

// look returns what the cluster is: a text that is another one once keys may have been lost,
// and then what has happened. An error means that nobody can say.
func (n *nodes) look(ctx context.Context) (id, lost string, err error) {
	n.looking.Lock()
	defer n.looking.Unlock()
	m, err := n.t.Current(ctx)
	if err != nil {
		return "", "", err
	}
	if !m.Whole() {
		n.t.Doubt("")
		return "", "", fmt.Errorf("the cluster %s has slots without a master", n.t)
	}
	addresses := make(map[string]bool) // and whether it must answer
	for a := range n.runs {
		addresses[a] = false
	}
	for _, master := range m.Masters() {
		addresses[master.Address] = true
	}
	var mu sync.Mutex
	runs := make(map[string]string)
	together, tctx := errgroup.WithContext(ctx)
	for a, must := range addresses {
		together.Go(func() error {
			run, err := n.masterRun(tctx, a)
			if err != nil && must {
				n.t.Doubt(a)
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				runs[a] = run
			}
			return nil
		})
	}
	if err := together.Wait(); err != nil {
		return "", "", err
	}
	for a, was := range n.runs {
		switch {
		case runs[a] == was:
			continue
		case runs[a] != "":
			lost = fmt.Sprintf("node %s of %s restarted and may have lost keys", a, n.pool)
		default:
			lost = fmt.Sprintf("node %s of %s is no master any more, and who has taken its place may lack keys", a, n.pool)
		}
	}
	if lost != "" {
		n.losses++
	}
	for a, must := range addresses {
		if !must {
			delete(runs, a) // it has no slots any more, and has lost nothing
		}
	}
	n.runs = runs
	return "masters " + strconv.Itoa(n.losses), lost, nil
}

// masterRun asks a node for its run id. One that is no master, or that does not call the
// cluster whole, is an error.
func (n *nodes) masterRun(ctx context.Context, address string) (string, error) {
	pipe := n.pool.Node(address).DB(0).Pipeline()
	server := pipe.Info(ctx, "server")
	role := pipe.Info(ctx, "replication")
	state := pipe.ClusterInfo(ctx)
	if _, err := pipe.Exec(ctx); err != nil {
		return "", fmt.Errorf("asking node %s of %s for its run id: %w", address, n.pool, err)
	}
	if !strings.Contains(role.Val(), "role:master") {
		return "", fmt.Errorf("node %s of %s is no master", address, n.pool)
	}
	if !strings.Contains(state.Val(), "cluster_state:ok") {
		return "", fmt.Errorf("node %s of %s says that the cluster is down", address, n.pool)
	}
	return runIDIn(server.Val()), nil
}
