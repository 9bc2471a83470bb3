package fleet

import (
	"fmt"
	"testing"
)

func TestCursors(t *testing.T) {
	for _, masters := range []int{1, 2, 3, 5, 100, 1000} {
		o := order{masters: make([]string, masters), print: 0x123456789abcdef0}
		for o.index = 1; 1<<o.index < masters; o.index++ {
		}
		for _, own := range []uint64{0, 1, 17, 1<<20 - 1, 1 << 20, 1<<25 - 1, 1 << 25, 1 << 27, 1<<28 - 1} {
			for _, at := range []int{0, masters / 2, masters - 1} {
				cursor, ok := o.cursor(at, own)
				if !ok || cursor == 0 || cursor >= 1<<cursorBits {
					t.Fatalf("%d masters: cursor of %d at %d is %d, %v", masters, own, at, cursor, ok)
				}
				if a, b := o.read(cursor); a != at || b != own {
					t.Errorf("%d masters: %d at %d is read as %d at %d", masters, own, at, b, a)
				}
				other := o
				other.print++
				if a, b := other.read(cursor); masters < 50 && own < 1<<25 && (a != 0 || b != 0) {
					t.Errorf("%d masters: a cursor of other masters is read as %d at %d", masters, b, a)
				}
			}
		}
		if _, ok := o.cursor(0, 1<<39); ok {
			t.Error("a cursor that does not fit was taken")
		}
	}
	o := order{masters: []string{""}, index: 1}
	if got := fmt.Sprint(o.read(0)); got != "0 0" {
		t.Error(got)
	}
}
