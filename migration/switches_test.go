package migration

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/crossfade/crossfade/router"
)

func TestOutcomes(t *testing.T) {
	for _, test := range []struct {
		held float64 // milliseconds
		err  error
		want Outcome
	}{
		{90, nil, Made},
		{101, nil, MadeLate},
		{120, fmt.Errorf("step drain-1: %w", errStall), Overspent},
		{0, errors.Join(&Refused{[]string{"no"}}, errors.New("and more")), Forbidden},
		{10, errors.New("step hold: gone"), TakenBack},
	} {
		if got := outcomeOf(Report{Held: test.held}, 100*time.Millisecond, test.err); got != test.want {
			t.Errorf("%v, held for %v ms: %s, want %s", test.err, test.held, got, test.want)
		}
	}
	var s switches
	s.add(router.Target, MadeLate)
	s.add(router.Target, MadeLate)
	all := s.all()
	if len(all) != 2 || len(all["cutover"]) != len(Outcomes()) || all["rollback"][MadeLate] != 2 || all["cutover"][MadeLate] != 0 {
		t.Errorf("%v", all)
	}
}

// TestLosses: a fence that cannot be raised for a while is one loss.
func TestLosses(t *testing.T) {
	var l losses
	for _, gone := range []bool{true, true, false, false, true} {
		if gone {
			l.found()
		} else {
			l.over()
		}
	}
	if n := l.count.Load(); n != 2 {
		t.Errorf("%d losses, want 2", n)
	}
}
