package e2e

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// TestKilledAtRandom kills the sidecar again and again, at random moments of its
// start, its copying, its switches and its idling. E2E_KILLS says how often, E2E_SEED
// repeats a run. Whenever the copy says that it is in step, both sides are equal, and
// nothing is lost.
func TestKilledAtRandom(t *testing.T) {
	kills, err := strconv.Atoi(os.Getenv("E2E_KILLS"))
	if err != nil {
		kills = 6
	}
	if testing.Short() {
		kills = 2
	}
	seed, err := strconv.ParseUint(os.Getenv("E2E_SEED"), 10, 64)
	if err != nil || seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("E2E_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := newStage(t, "")
	for i := range kills {
		moment := time.Duration(rng.Int64N(int64(time.Second)))
		switched := make(chan struct{})
		if rng.IntN(3) == 0 {
			side := s.c.awaitReady().Side
			moment /= 10
			go func() {
				defer close(switched)
				_ = s.switchOnce(side) // who dies does not answer
			}()
		} else {
			close(switched)
		}
		<-time.After(moment) // the moment is what is tried, not waited for
		s.c.kill()
		<-switched
		s.c.start("")
		// Not after each one: a sidecar that is in step is not starting or copying any more.
		if every := min(10, max(4, kills/10)); i%every == every-1 {
			s.inStep(i + 1)
		}
	}
	st := s.c.awaitReady()
	s.settle(st.Side)
}

// inStep fails unless both sides are equal as soon as the sidecar says so, and the
// applications' server has all that was acknowledged. It interrupts the writers.
func (s *stage) inStep(kills int) {
	s.t.Helper()
	s.goOn(50)
	if s.c.awaitReady().Side == router.Target { // the source is behind its fence and cannot be read
		s.mustSwitch(router.Target)
	}
	s.calm()
	last := time.Now()
	s.c.await("in step", func(st migration.Status) bool {
		return st.Ready && st.Dirty == 0 && time.Since(last) > knowWithin
	})
	if err := sidesDiffer(s.t, s.src, s.dst, crashMap); err != nil {
		s.t.Fatalf("after %d kills it is ready, nothing is dirty, and yet: %v", kills, err)
	}
	home := func(db int) int { return db }
	s.through.mustHold(s.t, s.src.Addr(), home)
	s.direct.mustHold(s.t, s.src.Addr(), home)
	s.through.begin()
	s.direct.begin()
}
