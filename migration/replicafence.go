package migration

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/store"
)

// replica is one that an attempt fences.
type replica struct {
	address string
	fence   fence
	state   *FenceState
	conn    *redis.Conn // that has looked at the token; nil before
}

// readyReplicas logs in to the replicas of the server that is left, and notes what a fence
// will change there. Those that it cannot be raised on are named, and left out.
func (a *attempt) readyReplicas(ctx context.Context) error {
	if !a.level.fencesReplicas() {
		return nil
	}
	a.onUndoLast(func(ctx context.Context) error { a.openOthers(ctx, a.from); return nil })
	bounded, cancel := context.WithTimeout(ctx, a.cfg.Proxy.DialTimeout)
	defer cancel()
	var mu sync.Mutex
	a.eachReplica(bounded, a.from, nil, func(ctx context.Context, address string, id *identity) error {
		st, err := a.saveFence(ctx, a.from, address, id, a.level)
		if err != nil {
			return err
		}
		f := a.fenceOn(id)
		f.replica = true
		mu.Lock()
		defer mu.Unlock()
		a.replicas = append(a.replicas, &replica{address: address, fence: f, state: st})
		return nil
	})
	return context.Cause(ctx)
}

// watchReplicas makes sure that the fences are still this attempt's to raise; see watchFence.
// A replica that does not answer any more, or has not heard of the token, is left out.
func (a *attempt) watchReplicas(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, replicaTime)
	defer cancel()
	var all sync.WaitGroup
	for _, r := range a.replicas {
		all.Go(func() {
			r.conn = r.fence.db().Conn()
			if err := r.awaitToken(ctx, a.record().Token); err != nil {
				_ = r.conn.Close()
				r.conn = nil
				a.noteUnfenced(a.from, r.address, err)
			}
		})
	}
	all.Wait()
	a.replicas = slices.DeleteFunc(a.replicas, func(r *replica) bool { return r.conn == nil })
}

// awaitToken is fence.watch for a server that hears of the token by its master.
func (r *replica) awaitToken(ctx context.Context, token uint64) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := r.fence.watch(ctx, r.conn, token)
		if !errors.Is(err, store.ErrSuperseded) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// raise has nobody write there from the instant on at which it runs on the replica, even if
// that becomes the master.
func (r *replica) raise(ctx context.Context) error { return r.fence.lift(ctx, r.conn, r.state) }

// dropReplicas gives the connections back.
func (a *attempt) dropReplicas() {
	for _, r := range a.replicas {
		if r.conn != nil {
			_ = r.conn.Close()
			r.conn = nil
		}
	}
}
