package model

import "testing"

// What can never end is found among states that can.
func TestHopeless(t *testing.T) {
	end := New(Bounds{Writes: 0}).start()
	if !end.settled() {
		t.Fatalf("the quiet beginning is no end: %+v", end)
	}
	open := end
	open.write[writeA] = atSource
	if open.settled() {
		t.Fatal("a write is under way, and that is an end")
	}
	states := []State{open, end, open, open}
	moves := [][2]int32{{0, 1}, {0, 2}, {2, 3}, {3, 2}}
	if got := hopeless(states, moves); got != 2 {
		t.Errorf("the first without a way out is 2, found %d", got)
	}
	if got := hopeless(states, append(moves, [2]int32{3, 0})); got != -1 {
		t.Errorf("all have a way out, found %d", got)
	}
}

func TestList(t *testing.T) {
	var l list
	for _, w := range []int{writeB, writeA, writeX, writeB} {
		l = l.add(w)
	}
	if l.String() != "baxb" || list(0).String() != "-" {
		t.Errorf("%s, %s", l, list(0))
	}
	for w, want := range map[int][2]int{writeA: {1, 1}, writeB: {2, 0}, writeC: {0, -1}, writeX: {1, 2}} {
		if n, at := l.find(w); n != want[0] || at != want[1] {
			t.Errorf("%s in %s: %d, at %d", letters[w:w+1], l, n, at)
		}
	}
}
