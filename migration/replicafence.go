package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/failpoint"
)

// replica is one that an attempt fences.
type replica struct {
	address string
	fence   fence
	state   *FenceState
	conn    *redis.Conn // that has looked at the token, and whose replica it is; nil before
	err     error       // why it has no fence, once it was to have one
}

// readyReplicas logs in to the replicas of the server that is left, and notes what a fence
// will change there. Those that it cannot be raised on are named, and left out.
func (a *attempt) readyReplicas(ctx context.Context) error {
	if !a.level.fencesReplicas() {
		return nil
	}
	a.onUndoLast(func(ctx context.Context) error {
		a.awaitRaising()
		a.openOthers(ctx, a.from)
		return nil
	})
	a.forgetUnfenced(a.from)
	a.noteReplicas(ctx, a.cfg.Proxy.DialTimeout, nil)
	return context.Cause(ctx)
}

// noteReplicas is readyReplicas for those of which due says so, nil: all. Each is given as long
// as patience.
func (a *attempt) noteReplicas(ctx context.Context, patience time.Duration, due func(address string) bool) {
	a.replicas = nil
	var mu sync.Mutex
	a.eachReplica(ctx, a.from, patience, due, func(ctx context.Context, mb *member) error {
		st, err := a.saveFence(ctx, mb, a.level)
		if err == nil {
			err = a.noteFence(mb, st)
		}
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		a.replicas = append(a.replicas, &replica{address: mb.address, fence: a.fenceOn(mb), state: st})
		return nil
	})
}

// noteReplicasAgain notes once more what a fence will change on the replicas that are ready for
// it: the attempt may have waited for long. One that does not answer any more is left out.
func (a *attempt) noteReplicasAgain(ctx context.Context) error {
	ready := make(map[string]bool)
	for _, r := range a.replicas {
		ready[r.address] = true
	}
	if len(ready) > 0 {
		a.noteReplicas(ctx, replicaTime, func(address string) bool { return ready[address] })
	}
	return context.Cause(ctx)
}

// watchReplicas makes sure that the fences are still this attempt's to raise, and that the
// servers are replicas of the one that is left; see watchFence. One that does not answer any
// more, or has not heard of the token, is left out.
func (a *attempt) watchReplicas(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, replicaTime)
	defer cancel()
	var all sync.WaitGroup
	for _, r := range a.replicas {
		all.Go(func() {
			r.fence = r.fence.beside(a.left)
			r.conn = r.fence.db().Conn()
			if err := r.awaitToken(ctx); err != nil {
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
func (r *replica) awaitToken(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := r.fence.watchBeside(ctx, r.conn, true)
		if !errors.Is(err, errUnheard) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// raiseReplicas has nobody write on the replicas from the instant on at which it runs there,
// even if one becomes the master. It returns at once; see replicasFenced. Clients wait, and
// not for a replica that says nothing: none is given more than a quarter of the budget.
func (a *attempt) raiseReplicas(ctx context.Context) {
	if len(a.replicas) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(a.opt.MaxStall/4, replicaTime))
	done := make(chan struct{})
	a.raising = done
	go func() {
		defer close(done)
		defer cancel()
		var all sync.WaitGroup
		for _, r := range a.replicas {
			all.Go(func() { r.err = r.raise(ctx) })
		}
		all.Wait()
	}()
}

// raise raises the fence on one; by a new connection where the one that has looked is gone.
func (r *replica) raise(ctx context.Context) error {
	failpoint.Hit("cutover.replica")
	err := r.fence.lift(ctx, r.conn, r.state)
	if err == nil || certain(err) || errors.Is(err, errFenceLost) || ctx.Err() != nil {
		return err
	}
	_ = r.conn.Close()
	r.conn = r.fence.db().Conn()
	if err := r.fence.watchBeside(ctx, r.conn, true); err != nil {
		return err
	}
	return r.fence.lift(ctx, r.conn, r.state)
}

// awaitRaising returns once no fence is being raised on a replica any more.
func (a *attempt) awaitRaising() {
	if a.raising != nil {
		<-a.raising
	}
}

// replicasFenced waits for what raiseReplicas has begun. Those that could not be fenced are
// named. One that is no replica of the server that is left any more ends the attempt: if it
// is the master now it may have taken writes before the fence, which nobody has drained.
func (a *attempt) replicasFenced(ctx context.Context) error {
	if a.raising == nil {
		return nil
	}
	select {
	case <-a.raising:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, r := range a.replicas {
		if errors.Is(r.err, errFenceLost) {
			return fmt.Errorf("a replica of the server that is left has left it meanwhile: %w", r.err)
		}
		a.noteUnfenced(a.from, r.address, r.err)
	}
	return nil
}

// sameMaster has sentinels, where they watch the server that is left, say once more which one
// is the master: a replica without a fence could have taken its place, and writes. MasterMoved
// ends the attempt then. Those that say nothing are not waited for longer than for a replica.
func (a *attempt) sameMaster(ctx context.Context) error {
	finder := a.ids[a.from].url.Finder
	if finder == nil {
		return nil
	}
	before := finder.Present()
	bounded, cancel := context.WithTimeout(ctx, min(a.opt.MaxStall/4, replicaTime))
	defer cancel()
	finder.Doubt(before)
	present, err := finder.Find(bounded)
	switch {
	case err == nil && present != before, err != nil && finder.Present() != before:
		return fmt.Errorf("the master of the %s has changed: %s is it no more", a.from, before)
	case err != nil:
		a.log.Debug("the sentinels do not say in time which server is the master", "error", err)
	}
	return context.Cause(ctx)
}

// dropReplicas gives the connections back.
func (a *attempt) dropReplicas() {
	a.awaitRaising()
	for _, r := range a.replicas {
		if r.conn != nil {
			_ = r.conn.Close()
			r.conn = nil
		}
	}
}
