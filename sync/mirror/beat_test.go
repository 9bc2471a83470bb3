package mirror

import (
	"testing"
	"time"
)

// TestNoBeatLacksNothing: before the first heartbeat none can be missing.
func TestNoBeatLacksNothing(t *testing.T) {
	var h heartbeat
	if h.lacks(0) {
		t.Error("a beat is missing that was never written")
	}
	seq, _ := h.begin(nil)
	if h.lacks(0) {
		t.Error("a beat is missing whose event may still come")
	}
	if !h.lacks(seq) {
		t.Error("a beat is not missed whose event would be here")
	}
	h.sawEvent()
	if h.lacks(seq) {
		t.Error("a beat is missing whose event came")
	}
}

// TestBeatsWithTheClockSetBack: a beat that is written after the clock was set back arrives as any
// other, and those before it need not any more.
func TestBeatsWithTheClockSetBack(t *testing.T) {
	var h heartbeat
	before, _ := h.begin(nil)
	h.newest.seq = before + int64(time.Hour) // which was later by the clock of then
	h.out[0].seq = h.newest.seq
	seq, _ := h.begin(nil)
	h.arrived(seq, time.Now())
	if h.waiting() {
		t.Errorf("beats %v are still awaited after %d has arrived", h.out, seq)
	}
}
