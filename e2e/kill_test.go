package e2e

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// TestKilledAtRandom kills the sidecar again and again, at random moments of its
// start, its copying, its switches and its idling. E2E_KILLS says how often, E2E_SEED
// repeats a run. Always both sides are equal in the end, and nothing is lost.
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
		if i%10 == 9 {
			s.goOn(50)
		}
	}
	st := s.c.awaitReady()
	s.settle(st.Side)
}
