package migration

import (
	"errors"
	"maps"
	"sync"
	"time"

	"github.com/crossfade/crossfade/router"
)

// Outcome is how an attempt to switch has ended. Dry runs and rehearsals have none.
type Outcome string

// The outcomes.
const (
	Made      Outcome = "made"      // clients waited no longer than they were to
	MadeLate  Outcome = "late"      // it was made, and clients waited longer than that
	Overspent Outcome = "overspent" // taken back: clients would have waited longer
	Forbidden Outcome = "refused"   // a check said no
	TakenBack Outcome = "failed"    // taken back for another reason
)

// Outcomes are all of them.
func Outcomes() []Outcome { return []Outcome{Made, MadeLate, Overspent, Forbidden, TakenBack} }

// outcomeOf says how an attempt has ended that might have had clients wait for so long.
func outcomeOf(r Report, maxStall time.Duration, err error) Outcome {
	var refused *Refused
	switch {
	case err == nil && r.Held > ms(maxStall):
		return MadeLate
	case err == nil:
		return Made
	case errors.Is(err, errStall):
		return Overspent
	case errors.As(err, &refused):
		return Forbidden
	}
	return TakenBack
}

// switches counts attempts since the start of the process.
type switches struct {
	mu     sync.Mutex
	counts [2]map[Outcome]int64 // by the side that was to be left
}

func (s *switches) add(from router.Side, o Outcome) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts[from] == nil {
		s.counts[from] = make(map[Outcome]int64)
	}
	s.counts[from][o]++
}

// all has every outcome of both verbs, those too that were none yet.
func (s *switches) all() map[string]map[Outcome]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]map[Outcome]int64)
	for side, counts := range s.counts {
		of := make(map[Outcome]int64)
		for _, o := range Outcomes() {
			of[o] = 0
		}
		maps.Copy(of, counts)
		out[verbOf(router.Side(side))] = of
	}
	return out
}
