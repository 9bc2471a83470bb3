package migration

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/crossfade/crossfade/sync/conn"
)

// stepsRehearsed are those of stepsHeld that can be taken without a fence: clients of
// the proxy are held and writers past it paused, which ends by itself, so that both
// sides stand still. No user is refused anything, and nothing is decided.
var stepsRehearsed = []step{
	{"hold", (*attempt).hold},
	{"soft-fence", (*attempt).softFence},
	{"drain-1", (*attempt).drainOnce},
	{"drain-2", (*attempt).drainFrozen},
	{"check", (*attempt).rehearseCheck},
}

// rehearseCheck compares where both sides stand still.
func (a *attempt) rehearseCheck(ctx context.Context) error {
	if !a.paused {
		a.report.Findings = append(a.report.Findings, "not compared: CLIENT PAUSE is not possible on "+a.ids[a.from].Pool().String()+", so whoever bypasses the proxy went on writing")
		return nil
	}
	return a.compareFrozen(ctx)
}

// roundTrips of the steps that a rehearsal leaves out, to the server that is left and
// to the one that is entered.
var roundTrips = []struct {
	name       string
	left, into int
}{
	{"hard-fence", 1, 0}, // EXEC
	{"journal", 1, 0},    // EXEC; what is there was asked beside the check
	{"commit", 0, 1},     // EXEC; what is there was asked beside the journal
}

// endRehearsal lets the clients go on where they were, and says what the switch would
// have cost: what was measured, and the round trips of the steps that were left out.
func (a *attempt) endRehearsal(ctx context.Context) error {
	if err := a.undo(ctx, nil); err != nil {
		return err
	}
	left, err := roundTrip(ctx, a.ids[a.from].Pool())
	if err != nil {
		return err
	}
	into, err := roundTrip(ctx, a.ids[a.to].Pool())
	if err != nil {
		return err
	}
	whole := time.Duration(a.report.Held * float64(time.Millisecond))
	for _, s := range roundTrips {
		took := time.Duration(s.left)*left + time.Duration(s.into)*into
		a.report.Steps = append(a.report.Steps, StepTime{Name: s.name, MS: ms(took), Estimated: true})
		whole += took
	}
	a.report.Estimate = ms(whole)
	if whole > a.opt.MaxStall {
		return fmt.Errorf("%w: the switch would take about %.1f ms, and clients may wait for %v (cutover.max_stall)", errStall, a.report.Estimate, a.opt.MaxStall)
	}
	a.log.Info("a switch was rehearsed", "to", a.to, "held_ms", a.report.Held, "estimate_ms", a.report.Estimate)
	return nil
}

// roundTrip is the middle one of five.
func roundTrip(ctx context.Context, p *conn.Pool) (time.Duration, error) {
	var took []time.Duration
	for range 5 {
		began := time.Now()
		if err := p.Control().Ping(ctx).Err(); err != nil {
			return 0, fmt.Errorf("measuring the way to %s: %w", p, err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[len(took)/2], nil
}
