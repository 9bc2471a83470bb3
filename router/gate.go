package router

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// Gate lets commands through to the current route and, for a switch, keeps new
// ones waiting while those inside finish. After Codis' slot locks, but it gives
// up with a context. All methods are safe for concurrent use, except that Shut
// and Open belong to one coordinator at a time.
type Gate struct {
	// state: the low bits count commands inside, shutBit says that the gate is shut.
	state atomic.Int64

	mu      sync.Mutex
	route   atomic.Pointer[Route]
	opened  chan struct{} // closed by Open; replaced by Shut
	shut    chan struct{} // closed by Shut; replaced by Open
	drained chan struct{} // closed by the Leave that empties a shut gate
}

const shutBit = int64(1) << 62

// NewGate returns an open gate that leads to r.
func NewGate(r Route) *Gate {
	g := &Gate{opened: make(chan struct{}), shut: make(chan struct{})}
	close(g.opened)
	g.route.Store(&r)
	return g
}

// Enter waits until the gate is open and counts the caller in. It returns the
// route that the command must keep; each successful Enter needs one Leave. The
// error is the context's cause.
func (g *Gate) Enter(ctx context.Context) (Route, error) {
	for {
		if g.state.Add(1)&shutBit == 0 {
			return *g.route.Load(), nil
		}
		g.Leave()
		g.mu.Lock()
		opened := g.opened
		g.mu.Unlock()
		select {
		case <-opened:
		case <-ctx.Done():
			return Route{}, context.Cause(ctx)
		}
	}
}

// TryEnter is Enter that never waits: false when the gate is shut.
func (g *Gate) TryEnter() (Route, bool) {
	if g.state.Add(1)&shutBit == 0 {
		return *g.route.Load(), true
	}
	g.Leave()
	return Route{}, false
}

// Leave counts a command out. It never blocks.
func (g *Gate) Leave() {
	if g.state.Add(-1) != shutBit {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.drained != nil && g.state.Load() == shutBit {
		close(g.drained)
		g.drained = nil
	}
}

// Shut makes new commands wait and returns once nobody is inside. When ctx ends
// first it returns an error and the gate stays shut: the caller must Open it.
// Shutting an already shut gate waits for those inside as well.
func (g *Gate) Shut(ctx context.Context) error {
	g.mu.Lock()
	if g.state.Load()&shutBit == 0 {
		g.opened = make(chan struct{})
		g.state.Add(shutBit)
		close(g.shut)
	}
	if g.state.Load() == shutBit {
		g.mu.Unlock()
		return nil
	}
	if g.drained == nil {
		g.drained = make(chan struct{})
	}
	drained := g.drained
	g.mu.Unlock()
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for %d commands in flight: %w", g.Inside(), context.Cause(ctx))
	}
}

// Open sets the route and lets everybody in who waits.
func (g *Gate) Open(r Route) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.route.Store(&r)
	if g.state.Load()&shutBit == 0 {
		return
	}
	g.shut = make(chan struct{})
	g.state.Add(-shutBit)
	close(g.opened)
}

// Shutting returns a channel that is closed once the gate is shut, for commands
// that may wait for long and must be woken. A new channel is made at each Open.
func (g *Gate) Shutting() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.shut
}

// IsShut reports whether new commands wait at this moment.
func (g *Gate) IsShut() bool { return g.state.Load()&shutBit != 0 }

// Inside returns how many commands are inside at this moment.
func (g *Gate) Inside() int64 { return g.state.Load() &^ shutBit }

// Route returns the current route.
func (g *Gate) Route() Route { return *g.route.Load() }
