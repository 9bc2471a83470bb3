package mirror

import (
	"testing"

	"github.com/crossfade/crossfade/sync/value"
)

func TestSettleForgetsOnlyWhatItWasShown(t *testing.T) {
	s := newBigKeys(nil)
	k := &bigKey{of: s, key: "k"}
	s.known["k"] = k
	s.n.Store(1)
	s.note([]string{"k", "other"}, []value.Changes{value.Appended, value.Remade})
	changes, n := k.Known()
	if changes != value.Appended || n != 1 {
		t.Fatal(changes, n)
	}
	s.note([]string{"k"}, []value.Changes{value.Prepended})
	k.Settle(n)
	if changes, n = k.Known(); changes != value.Appended|value.Prepended {
		t.Errorf("%b is left of a change that nobody looked at", changes)
	}
	k.Settle(n)
	if changes, _ = k.Known(); changes != 0 {
		t.Errorf("%b was not forgotten", changes)
	}
	s.doubt()
	if changes, _ = k.Known(); changes&value.Remade == 0 {
		t.Error("in doubt, nothing is said to have happened")
	}
}
