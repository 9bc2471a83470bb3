package mirror

import (
	"testing"

	"github.com/crossfade/crossfade/internal/elements"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/dirty"
)

// TestDueOnce: a key that is owed again before it was copied again is due once, however often
// that happens, and of more than can be remembered none is.
func TestDueOnce(t *testing.T) {
	m := &Mirror{order: []int{0}, debts: newDebts(), elements: elements.NewKeys(router.Source)}
	l := &lane{m: m, dirty: dirty.New(0), changed: make(chan struct{})}
	m.lanes = map[int]*lane{0: l}
	l.big = newBigKeys(l)
	q := &l.quiet
	q.l, q.whole = l, true
	q.known, q.fresh = map[string]struct{}{"a": {}, "b": {}}, map[string]struct{}{"b": {}, "c": {}}
	owe := func() {
		t.Helper()
		if err := q.owe(t.Context(), "stream"); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		owe()
	}
	if len(q.due) != 3 {
		t.Errorf("%d keys are due, which are %v", len(q.due), q.due)
	}
	if left := q.pay(2); left != 1 || l.dirty.Len() != 2 {
		t.Errorf("%d are left, %d marked", left, l.dirty.Len())
	}
	owe()
	if got := q.owes([]string{"a", "b", "c", "d"}, false); !got[0] || !got[1] || !got[2] || got[3] {
		t.Errorf("owed are %v", got)
	}
	if left := q.pay(5); left != 0 || l.dirty.Len() != 3 || q.owes([]string{"a"}, false)[0] {
		t.Errorf("%d are left, %d marked", left, l.dirty.Len())
	}
}
