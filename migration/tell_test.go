package migration

import (
	"strings"
	"testing"

	"github.com/crossfade/crossfade/config"
)

// Each phase that can be entered can be asked for by a hook, under its own name.
func TestHookEventsArePhases(t *testing.T) {
	names := make(map[string]bool)
	for _, name := range config.HookEvents {
		names[name] = true
	}
	for _, p := range allPhases {
		name := strings.ToLower(string(p))
		if p != Idle && !names[name] { // nothing leads to IDLE
			t.Errorf("no hook can be told of %s", p)
		}
		delete(names, name)
	}
	for _, name := range []string{"waiting", "dropped", "switched", "aborted", "rehearsed"} {
		if !names[name] {
			t.Errorf("no hook can be told of %q", name)
		}
		delete(names, name)
	}
	for name := range names {
		t.Errorf("%q never happens", name)
	}
	if config.VetoEvent != strings.ToLower(string(Prepared)) {
		t.Errorf("a veto at %s", config.VetoEvent)
	}
}

// What a rehearsal leaves out is told by its estimates: together they are all the steps
// up to the moment at which clients go on.
func TestRehearsalIsWhole(t *testing.T) {
	told := make(map[string]int)
	for _, s := range stepsRehearsed {
		told[s.name]++
	}
	for _, s := range roundTrips {
		told[s.name]++
	}
	for _, list := range [][]step{stepsHeld, stepsAfter[:2]} {
		for _, s := range list {
			if told[s.name] != 1 {
				t.Errorf("step %s is told %d times by a rehearsal", s.name, told[s.name])
			}
			delete(told, s.name)
		}
	}
	for name := range told {
		t.Errorf("a rehearsal tells of %s, which is no step", name)
	}
}
