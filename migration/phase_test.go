package migration

import (
	"slices"
	"strings"
	"testing"
)

var allPhases = []Phase{
	Idle, Preflight, Copying, Tailing, Resync, Prepared, Holding, SoftFenced, HardFenced, Verifying,
	Committing, Committed, ReverseTailing, ReverseLost, RolledBack, Aborting, Cancelled, Completed,
}

func TestPhaseTableIsWhole(t *testing.T) {
	if len(moves) != len(allPhases) {
		t.Errorf("the table has %d phases, there are %d", len(moves), len(allPhases))
	}
	reached := map[Phase]bool{Idle: true}
	for _, p := range allPhases {
		next, ok := moves[p]
		if !ok {
			t.Errorf("%s is not in the table", p)
		}
		if (len(next) == 0) != p.Ended() {
			t.Errorf("%s has %d moves, ended: %v", p, len(next), p.Ended())
		}
		for i, n := range next {
			reached[n] = true
			if !slices.Contains(allPhases, n) {
				t.Errorf("%s leads to %q, which is no phase", p, n)
			}
			if n == p || slices.Contains(next[:i], n) {
				t.Errorf("%s leads to %s twice, or to itself", p, n)
			}
			if !p.May(n) || p.mustMay(n) != nil {
				t.Errorf("%s may not go to %s, but the table says so", p, n)
			}
		}
	}
	for _, p := range allPhases {
		if !reached[p] {
			t.Errorf("nothing leads to %s", p)
		}
	}
}

func TestPhaseMoves(t *testing.T) {
	for _, p := range allPhases {
		if err := p.mustMay(p); err != nil {
			t.Errorf("staying in %s: %v", p, err)
		}
		for _, n := range allPhases {
			err := p.mustMay(n)
			if legal := p == n || slices.Contains(moves[p], n); (err == nil) != legal {
				t.Errorf("%s to %s: %v", p, n, err)
			}
			if err != nil && (!strings.Contains(err.Error(), string(p)) || !strings.Contains(err.Error(), string(n))) {
				t.Errorf("the error does not name the phases: %v", err)
			}
		}
	}
	if Idle.May("NONSENSE") || Phase("NONSENSE").May(Idle) {
		t.Error("an unknown phase may move")
	}
}

// PROTOCOL §6: after the journal there is only forward; an abort leads nowhere
// but out; nobody commits without having verified behind the hard fence.
func TestPhaseOrderOfASwitch(t *testing.T) {
	var from []Phase
	for _, p := range allPhases {
		if p.May(Committing) {
			from = append(from, p)
		}
	}
	if !slices.Equal(from, []Phase{Verifying}) {
		t.Errorf("COMMITTING is entered from %v", from)
	}
	for p, only := range map[Phase][]Phase{
		Committing: {Committed, Aborting},
		HardFenced: {Verifying, Aborting},
		Verifying:  {Committing, Aborting},
	} {
		if !slices.Equal(moves[p], only) {
			t.Errorf("%s leads to %v, want %v only", p, moves[p], only)
		}
	}
	for _, p := range allPhases {
		if p.May(Committed) && p != Committing {
			t.Errorf("%s leads to COMMITTED without a journal", p)
		}
		if p.May(Verifying) && p != HardFenced {
			t.Errorf("%s leads to VERIFYING without the hard fence", p)
		}
	}
	if Committed.May(Aborting) || Committed.May(Tailing) || Aborting.May(Committing) || Aborting.May(Committed) {
		t.Error("a decision can be taken back, or an abort be taken for a commit")
	}
	for _, p := range moves[Aborting] {
		if p.Switching() || p.Ended() {
			t.Errorf("an abort leads to %s", p)
		}
	}
}

func TestPhaseSwitching(t *testing.T) {
	undecided := []Phase{Prepared, Holding, SoftFenced, HardFenced, Verifying, Aborting}
	for _, p := range allPhases {
		if p.Switching() != slices.Contains(undecided, p) {
			t.Errorf("%s.Switching() = %v", p, p.Switching())
		}
		// What recovery takes back must have a way out that is no commit.
		if p.Switching() && p != Aborting && !p.May(Aborting) {
			t.Errorf("a switch in %s cannot be taken back", p)
		}
	}
}
