package mirror

import (
	"strings"
	"testing"
)

// Each message is its form (k by key, e by event) and its key.
func TestTwins(t *testing.T) {
	for _, test := range []struct{ messages, second string }{
		{"ka ea kb eb ka ea", " * * *"},
		{"ea ea eb", "   "},
		{"ka ka kb", "   "},
		{"ka ea ea", " * "},
		{"ka eb", "  "},
		{"ka ka ea", "   "},         // it has sent one without the other
		{"ka ea kb ka ea", " *   "}, // … and may do so again
	} {
		var tw twins
		var got strings.Builder
		for m := range strings.FieldsSeq(test.messages) {
			if tw.second(m[0] == 'k', 0, m[1:], []byte("hset")) {
				got.WriteByte('*')
			} else {
				got.WriteByte(' ')
			}
		}
		if got.String() != test.second {
			t.Errorf("%s: %q, want %q", test.messages, got.String(), test.second)
		}
	}
	var tw twins
	tw.second(true, 0, "k", []byte("hset"))
	if tw.second(false, 3, "k", []byte("hset")) {
		t.Error("another database's is taken for the second")
	}
	tw = twins{}
	tw.second(true, 0, "k", []byte("hset"))
	if tw.second(false, 0, "k", []byte("hdel")) {
		t.Error("another event is taken for the second")
	}
}
