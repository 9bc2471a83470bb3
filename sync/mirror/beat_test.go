package mirror

import "testing"

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
