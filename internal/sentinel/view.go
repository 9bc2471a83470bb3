package sentinel

import (
	"context"
	"net"
	"slices"
	"sync"
)

// View is what one sentinel says of the master, for an operator.
type View struct {
	Sentinel string
	Master   string   // its address, "" with Err
	Others   []string // the other sentinels that it knows
	// NoQuorum is why a failover could not be decided now; nil when it could.
	NoQuorum error
	Err      error // why it does not say where the master is
}

// Views asks all sentinels, each for itself, in the order of the URL.
func (f *Follower) Views(ctx context.Context) []View {
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	views := make([]View, len(f.sentinels))
	var wg sync.WaitGroup
	for i, s := range f.sentinels {
		wg.Go(func() { views[i] = f.view(ctx, s) })
	}
	wg.Wait()
	return views
}

func (f *Follower) view(ctx context.Context, s watcher) View {
	a := f.askOne(ctx, s)
	v := View{Sentinel: s.address, Master: a.master, Err: a.err}
	if a.err != nil {
		return v
	}
	v.NoQuorum = s.client.CkQuorum(ctx, f.Name()).Err()
	others, err := s.client.Sentinels(ctx, f.Name()).Result()
	if err != nil {
		return v // not all that may ask for the master may ask for this
	}
	for _, o := range others {
		v.Others = append(v.Others, net.JoinHostPort(o["ip"], o["port"]))
	}
	slices.Sort(v.Others)
	return v
}
