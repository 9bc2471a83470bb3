package main

import "testing"

func TestGCPercent(t *testing.T) {
	for live, want := range map[uint64]int{0: 300, 1 << 20: 300, 16 << 20: 300, 48 << 20: 100, 64 << 20: 75, 1 << 30: 50} {
		if got := gcPercent(live); got != want {
			t.Errorf("%d MiB: %d, not %d", live>>20, got, want)
		}
	}
}
