package router

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// closed reports whether ch is closed at this moment.
func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

func at(epoch uint64) Route {
	return Route{Side: Side(epoch % 2), Epoch: epoch}
}

func TestGateLetsThroughWhileOpen(t *testing.T) {
	g := NewGate(at(7))
	for range 3 {
		r, err := g.Enter(t.Context())
		if err != nil || r.Epoch != 7 || r.Side != Target {
			t.Fatalf("Enter: %+v, %v", r, err)
		}
	}
	if r, ok := g.TryEnter(); !ok || r.Epoch != 7 {
		t.Errorf("TryEnter: %+v, %v", r, ok)
	}
	if g.Inside() != 4 || g.IsShut() {
		t.Errorf("%d inside, shut: %v", g.Inside(), g.IsShut())
	}
	for range 4 {
		g.Leave()
	}
	if g.Inside() != 0 || g.Route().Epoch != 7 {
		t.Errorf("%d inside, route %+v", g.Inside(), g.Route())
	}
}

// Shut returns when the last of those inside has left, not before; those who
// come meanwhile wait, and get the route that Open sets.
func TestGateShutWaitsForThoseInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(at(1))
		old := make([]Route, 3)
		for i := range old {
			old[i], _ = g.Enter(t.Context())
		}
		var isShut, entered atomic.Bool
		var got Route
		go func() {
			if err := g.Shut(t.Context()); err != nil {
				t.Error(err)
			}
			isShut.Store(true)
		}()
		synctest.Wait()
		go func() {
			var err error
			if got, err = g.Enter(t.Context()); err != nil {
				t.Error(err)
			}
			entered.Store(true)
		}()
		for range old {
			synctest.Wait()
			if isShut.Load() {
				t.Fatalf("Shut returned with %d inside", g.Inside())
			}
			g.Leave()
		}
		synctest.Wait()
		if !isShut.Load() || g.Inside() != 0 {
			t.Fatalf("Shut does not return; %d inside", g.Inside())
		}
		if entered.Load() {
			t.Fatal("somebody entered a shut gate")
		}
		g.Open(at(2))
		synctest.Wait()
		if !entered.Load() || got.Epoch != 2 {
			t.Fatalf("Open let nobody in: %v, %+v", entered.Load(), got)
		}
		g.Leave()
		for _, r := range old {
			if r.Epoch != 1 {
				t.Errorf("a command's route changed under it: %+v", r)
			}
		}
	})
}

func TestGateOpenLetsAllIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(at(1))
		if err := g.Shut(t.Context()); err != nil {
			t.Fatal(err)
		}
		var in sync.WaitGroup
		for range 100 {
			in.Go(func() {
				if r, err := g.Enter(t.Context()); err != nil || r.Epoch != 2 {
					t.Errorf("Enter: %+v, %v", r, err)
				}
			})
		}
		synctest.Wait()
		if n := g.Inside(); n != 0 {
			t.Errorf("%d inside a shut gate", n)
		}
		g.Open(at(2))
		in.Wait()
		if n := g.Inside(); n != 100 {
			t.Errorf("%d of 100 are inside", n)
		}
	})
}

func TestGateEnterGivesUpWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(at(1))
		if err := g.Shut(t.Context()); err != nil {
			t.Fatal(err)
		}
		gone := errors.New("the client has gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := g.Enter(ctx)
			done <- err
		}()
		synctest.Wait()
		cancel(gone)
		if err := <-done; !errors.Is(err, gone) {
			t.Errorf("Enter returned %v, not the cause", err)
		}
		if n := g.Inside(); n != 0 {
			t.Errorf("%d inside after it gave up", n)
		}
		if err := g.Shut(t.Context()); err != nil { // and Shut is not confused by it
			t.Error(err)
		}
	})
}

// A Shut that gives up leaves the gate shut: who has begun to switch decides
// what happens next.
func TestGateShutGivesUpAndStaysShut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(at(1))
		_, _ = g.Enter(t.Context())
		_, _ = g.Enter(t.Context())
		budget := errors.New("the stall budget is used up")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, budget)
		defer cancel()
		start := time.Now()
		err := g.Shut(ctx)
		if !errors.Is(err, budget) || !strings.Contains(err.Error(), "2 commands in flight") {
			t.Errorf("Shut returned %v", err)
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("it took %v", took)
		}
		if _, ok := g.TryEnter(); ok || !g.IsShut() {
			t.Error("the gate is open")
		}
		// Shut again: it waits for the same two.
		again := make(chan error, 1)
		go func() { again <- g.Shut(t.Context()) }()
		synctest.Wait()
		g.Leave()
		synctest.Wait()
		if len(again) != 0 {
			t.Fatal("Shut returned with one inside")
		}
		g.Leave()
		if err := <-again; err != nil {
			t.Error(err)
		}
		g.Open(at(1))
		if _, ok := g.TryEnter(); !ok {
			t.Error("Open did not open")
		}
		g.Leave()
	})
}

// A switch that is taken back while commands are still inside: they go on, and
// the next Shut waits for them.
func TestGateOpenWithSomebodyInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGate(at(1))
		_, _ = g.Enter(t.Context())
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := g.Shut(ctx); err == nil {
			t.Fatal("Shut returned with one inside")
		}
		g.Open(at(1))
		if n := g.Inside(); n != 1 {
			t.Fatalf("%d inside", n)
		}
		done := make(chan error, 1)
		go func() { done <- g.Shut(t.Context()) }()
		synctest.Wait()
		if len(done) != 0 {
			t.Fatal("the second Shut forgot the one inside")
		}
		g.Leave()
		if err := <-done; err != nil {
			t.Error(err)
		}
		g.Open(at(2))
	})
}

func TestGateShutWithAnEndedContext(t *testing.T) {
	g := NewGate(at(1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Shut(ctx); err != nil {
		t.Errorf("nobody is inside, but Shut says %v", err)
	}
	g.Open(at(1))
	_, _ = g.Enter(t.Context())
	if err := g.Shut(ctx); !errors.Is(err, context.Canceled) || !g.IsShut() {
		t.Errorf("Shut returned %v, shut: %v", err, g.IsShut())
	}
	g.Leave()
	g.Open(at(1))
}

func TestGateTryEnterNeverWaits(t *testing.T) {
	g := NewGate(at(1))
	if err := g.Shut(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if r, ok := g.TryEnter(); ok || r.Epoch != 0 {
			t.Fatalf("TryEnter on a shut gate: %+v, %v", r, ok)
		}
	}
	if g.Inside() != 0 {
		t.Errorf("%d inside", g.Inside())
	}
	g.Open(at(2))
	if r, ok := g.TryEnter(); !ok || r.Epoch != 2 {
		t.Errorf("TryEnter on an open gate: %+v, %v", r, ok)
	}
	g.Leave()
}

func TestGateShutting(t *testing.T) {
	g := NewGate(at(1))
	first := g.Shutting()
	if closed(first) {
		t.Fatal("closed before Shut")
	}
	g.Open(at(2)) // a change of route only
	if closed(g.Shutting()) || closed(first) {
		t.Fatal("Open closed it")
	}
	_, _ = g.Enter(t.Context())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Shut(ctx); err == nil {
		t.Fatal("Shut returned with one inside")
	}
	// Whoever waits inside is woken before Shut returns: it waits for them.
	if !closed(first) || !closed(g.Shutting()) {
		t.Error("not closed by Shut")
	}
	g.Leave()
	g.Open(at(3))
	second := g.Shutting()
	if closed(second) {
		t.Error("the new one is closed after Open")
	}
	if err := g.Shut(t.Context()); err != nil || !closed(second) {
		t.Errorf("second Shut: %v, closed: %v", err, closed(second))
	}
	g.Open(at(4))
}

// world is what the coordinator of the race test changes while the gate is shut
// and nobody may see changing: plain variables, so that the race detector has
// its say too.
type world struct {
	gate   *Gate
	epoch  uint64 // written only while shut, read only inside
	shut   atomic.Bool
	inside atomic.Int64
	ran    atomic.Int64
}

// command enters, checks that the world stands still, and leaves.
func (w *world) command(t *testing.T, r Route) {
	w.inside.Add(1)
	for range 3 {
		if w.shut.Load() {
			t.Error("a command ran while the gate was shut")
		}
		if r.Epoch != w.epoch || r.Side != at(w.epoch).Side {
			t.Errorf("a command of epoch %d ran in epoch %d", r.Epoch, w.epoch)
		}
	}
	runtime.Gosched()
	if w.shut.Load() || r.Epoch != w.epoch {
		t.Errorf("the world of a command of epoch %d changed under it", r.Epoch)
	}
	w.ran.Add(1)
	w.inside.Add(-1)
	w.gate.Leave()
}

// Many commands against a coordinator that shuts and opens all the time: no
// command runs while the gate is shut, and each runs with the route of its epoch.
func TestGateUnderRace(t *testing.T) {
	const workers, switches, between = 12, 300, 50
	w := &world{gate: NewGate(at(1)), epoch: 1}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for {
				if i%4 == 0 { // some never wait
					if r, ok := w.gate.TryEnter(); ok {
						w.command(t, r)
					} else {
						runtime.Gosched()
					}
					if ctx.Err() != nil {
						return
					}
					continue
				}
				r, err := w.gate.Enter(ctx)
				if err != nil {
					return
				}
				w.command(t, r)
				if ctx.Err() != nil {
					return
				}
			}
		})
	}
	for i := range switches {
		for until := w.ran.Load() + between; w.ran.Load() < until && !t.Failed(); {
			runtime.Gosched()
		}
		sctx, cancel := ctx, func() {}
		if i%5 == 4 { // some are given up, and must leave nobody confused
			sctx, cancel = context.WithTimeout(ctx, time.Duration(i)*time.Microsecond/10)
		}
		err := w.gate.Shut(sctx)
		cancel()
		if err != nil {
			w.gate.Open(at(w.gate.Route().Epoch))
			continue
		}
		w.shut.Store(true)
		if n := w.inside.Load(); n != 0 {
			t.Errorf("Shut returned with %d commands inside", n)
		}
		w.epoch++
		next := at(w.epoch)
		w.shut.Store(false)
		w.gate.Open(next)
	}
	stop()
	wg.Wait()
	if w.gate.Inside() != 0 || w.gate.IsShut() {
		t.Errorf("at the end %d inside, shut: %v", w.gate.Inside(), w.gate.IsShut())
	}
	t.Logf("%d commands in %d epochs", w.ran.Load(), w.epoch)
}

func BenchmarkGate(b *testing.B) {
	b.Run("alone", func(b *testing.B) {
		g := NewGate(at(1))
		ctx := b.Context()
		for b.Loop() {
			if _, err := g.Enter(ctx); err != nil {
				b.Fatal(err)
			}
			g.Leave()
		}
	})
	b.Run("parallel", func(b *testing.B) {
		g := NewGate(at(1))
		ctx := b.Context()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if _, err := g.Enter(ctx); err != nil {
					b.Error(err)
					return
				}
				g.Leave()
			}
		})
	})
}
