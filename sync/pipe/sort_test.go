package pipe

import (
	"errors"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestTypeThatChangesOnTheWay has keys become of a type that is not copied, or go, after
// they were asked for it: nothing may be written then, as it could not be told later from
// what is the target's own.
func TestTypeThatChangesOnTheWay(t *testing.T) {
	r := newRig(t, 1<<20, redistest.WithRenamed("UNLINK", ""))
	r.ways.Takes = func(_, kind string) bool { return kind == "list" }
	keys := []string{"stays", "other", "gone", "outside"}
	for _, k := range keys[:3] {
		do(t, r.src, "RPUSH "+k+" 1 2 3")
	}
	do(t, r.src, "SET outside v")
	do(t, r.dst, "SET other mine")
	job := NewJob(keys, nil)
	if _, err := r.pipe.Step(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	do(t, r.src, "SET other v")
	do(t, r.src, "DEL gone")
	for !r.pipe.Idle() {
		if _, err := r.pipe.Step(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	for i, k := range keys {
		o := job.Outcomes[i]
		if o.Copied != (k == "stays") || k != "stays" && k != "outside" && !errors.Is(o.Err, ErrChanged) {
			t.Errorf("%s: %+v", k, o)
		}
	}
	if n := do(t, r.dst, "DBSIZE"); n != int64(2) {
		t.Errorf("%v keys are on the target", n)
	}
	if v := do(t, r.dst, "GET other"); v != "mine" {
		t.Errorf("the target's own is %v", v)
	}
}
