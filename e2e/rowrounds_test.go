package e2e

import (
	"slices"
	"time"
)

// rounds counts what each of several clients has done. Its act's lock guards it.
type rounds struct {
	a *act
	n []int64
}

func (a *act) rounds(clients int) *rounds { return &rounds{a: a, n: make([]int64, clients)} }

// add says that client i has done it once more.
func (r *rounds) add(i int) {
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	r.n[i]++
	r.a.moved.Broadcast()
}

func (r *rounds) of(i int) int64 {
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	return r.n[i]
}

// goOn waits until each client that has begun has gone on twice: once may be what was
// under way.
func (r *rounds) goOn() {
	a, late := r.a, false
	patience := time.AfterFunc(peerPatience, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		late = true
		a.moved.Broadcast()
	})
	defer patience.Stop()
	a.mu.Lock()
	a.moved.L = &a.mu
	from, stuck := slices.Clone(r.n), -1
	for i := range r.n {
		for from[i] > 0 && r.n[i] < from[i]+2 && len(a.wrong) == 0 && !late {
			a.moved.Wait()
		}
		if late && from[i] > 0 && r.n[i] < from[i]+2 {
			stuck = i
			break
		}
	}
	a.mu.Unlock()
	a.check()
	if stuck >= 0 {
		a.failf("client %d does not go on", stuck)
	}
}
