// Package migration moves traffic from one server to the other and back.
// It owns the phases, the record, the fence, the journal and the recovery after a crash.
// It never forwards a command and never copies a key: it tells others when to.
package migration

import (
	"fmt"
	"maps"
	"slices"
)

// Phase is where a migration stands.
//
//	IDLE ─ PREFLIGHT ─ COPYING ─ TAILING ─┬─ PREPARED ─ HOLDING ─ SOFT_FENCED ─ HARD_FENCED
//	                     │  ↑      ↑ ↓    │      └────────┴── ABORTING ──┴───────────┤
//	                     └ RESYNC ─┴─┘    │                                      VERIFYING
//	                                      │                                          │
//	  ROLLED_BACK ────────────────────────┘   COMMITTED ←──── COMMITTING ←───────────┘
//	       ↑ (side: source)                       ↓ (side: target)      journal written:
//	       └───────── the same way back ──── REVERSE_TAILING ⇄ REVERSE_LOST   no way back
//	                                              ↓                      without a rollback
//	                                          COMPLETED
//
// A rollback walks PREPARED … COMMITTED with the sides exchanged.
type Phase string

// The phases of PROTOCOL §6.
const (
	Idle           Phase = "IDLE"
	Preflight      Phase = "PREFLIGHT"
	Copying        Phase = "COPYING"
	Tailing        Phase = "TAILING"
	Resync         Phase = "RESYNC"
	Prepared       Phase = "PREPARED"
	Holding        Phase = "HOLDING"
	SoftFenced     Phase = "SOFT_FENCED"
	HardFenced     Phase = "HARD_FENCED"
	Verifying      Phase = "VERIFYING"
	Committing     Phase = "COMMITTING"
	Committed      Phase = "COMMITTED"
	ReverseTailing Phase = "REVERSE_TAILING"
	ReverseLost    Phase = "REVERSE_LOST"
	RolledBack     Phase = "ROLLED_BACK"
	Aborting       Phase = "ABORTING"
	Cancelled      Phase = "CANCELLED"
	Completed      Phase = "COMPLETED"
)

// moves holds every legal transition. Nothing compares phases by order.
var moves = map[Phase][]Phase{
	Idle:           {Preflight, Cancelled},
	Preflight:      {Copying, Resync, Cancelled},
	Copying:        {Tailing, Resync, Preflight, Cancelled},
	Tailing:        {Resync, Prepared, Preflight, Cancelled},
	Resync:         {Tailing, Preflight, Cancelled},
	Prepared:       {Holding, Aborting},
	Holding:        {SoftFenced, HardFenced, Aborting},
	SoftFenced:     {HardFenced, Aborting},
	HardFenced:     {Verifying, Aborting},
	Verifying:      {Committing, Aborting},
	Committing:     {Committed, Aborting}, // Aborting only when the server refused the journal for certain
	Committed:      {ReverseTailing, ReverseLost, RolledBack, Resync, Completed, Cancelled},
	ReverseTailing: {ReverseLost, Prepared, Completed},
	ReverseLost:    {ReverseTailing, Completed},
	RolledBack:     {Resync, Tailing, Prepared, Preflight, Cancelled},
	Aborting:       {Tailing, Resync, Preflight, ReverseTailing, ReverseLost, RolledBack},
	Cancelled:      {},
	Completed:      {},
}

// May reports whether a migration may go from p to next.
func (p Phase) May(next Phase) bool { return slices.Contains(moves[p], next) }

// Switching reports whether a switch is under way and not yet decided.
func (p Phase) Switching() bool {
	switch p {
	case Prepared, Holding, SoftFenced, HardFenced, Verifying, Aborting:
		return true
	}
	return false
}

// Ended reports whether nothing more will happen.
func (p Phase) Ended() bool { return p == Completed || p == Cancelled }

func (p Phase) mustMay(next Phase) error {
	if p == next || p.May(next) {
		return nil
	}
	return fmt.Errorf("going from %s to %s: that is not a legal move", p, next)
}

// Phases returns all of them, by name.
func Phases() []Phase { return slices.Sorted(maps.Keys(moves)) }
