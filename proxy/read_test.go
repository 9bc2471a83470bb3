package proxy

import (
	"testing"
	"time"
)

// TestSameReplies: what a client could tell apart differs, and nothing else.
func TestSameReplies(t *testing.T) {
	const moment = 10 * time.Millisecond
	for _, tt := range []struct {
		how  comparison
		a, b string
		same bool
	}{
		{everyByte, "$1\r\na\r\n", "$1\r\na\r\n", true},
		{everyByte, "$1\r\na\r\n", "$1\r\nb\r\n", false},
		{everyByte, "$-1\r\n", "$0\r\n\r\n", false},
		{everyByte, "*2\r\n:1\r\n:2\r\n", "*2\r\n:2\r\n:1\r\n", false},
		{everyByte, "-WRONGTYPE one text\r\n", "-WRONGTYPE another\r\n", true},
		{everyByte, "-WRONGTYPE one text\r\n", "-NOPERM another\r\n", false},
		{everyByte, "-WRONGTYPE one text\r\n", "$1\r\na\r\n", false},
		{anyOrder, "*2\r\n:1\r\n:2\r\n", "*2\r\n:2\r\n:1\r\n", true},
		{anyOrder, "~2\r\n$1\r\na\r\n:2\r\n", "~2\r\n:2\r\n$1\r\na\r\n", true},
		{anyOrder, "*2\r\n:1\r\n:2\r\n", "*3\r\n:2\r\n:1\r\n:1\r\n", false},
		{anyOrder, "*3\r\n:1\r\n:2\r\n:2\r\n", "*3\r\n:2\r\n:1\r\n:1\r\n", false},
		{anyOrder, "*2\r\n*1\r\n:1\r\n*1\r\n:2\r\n", "*2\r\n*1\r\n:2\r\n*1\r\n:1\r\n", true},
		{anyOrder, "*0\r\n", "*0\r\n", true},
		{anyOrder, "*-1\r\n", "*0\r\n", false},
		{pairsAnyWay, "*4\r\n:1\r\n:2\r\n:3\r\n:4\r\n", "*4\r\n:3\r\n:4\r\n:1\r\n:2\r\n", true},
		{pairsAnyWay, "%2\r\n:1\r\n:2\r\n:3\r\n:4\r\n", "%2\r\n:3\r\n:4\r\n:1\r\n:2\r\n", true},
		{pairsAnyWay, "*4\r\n:1\r\n:2\r\n:3\r\n:4\r\n", "*4\r\n:1\r\n:4\r\n:3\r\n:2\r\n", false},
		{millisLeft, ":5000\r\n", ":4990\r\n", true},
		{millisLeft, ":5000\r\n", ":4900\r\n", false},
		{millisLeft, ":5000\r\n", ":5100\r\n", false},
		{millisLeft, ":-1\r\n", ":5100\r\n", false},
		{millisLeft, ":-1\r\n", ":-2\r\n", false},
		{millisLeft, ":-1\r\n", ":-1\r\n", true},
		{secondsLeft, ":100\r\n", ":99\r\n", true},
		{secondsLeft, ":100\r\n", ":97\r\n", false},
		{dateInMillis, ":4000000000000\r\n", ":4000000000005\r\n", true},
		{dateInMillis, ":4000000000000\r\n", ":4000000000006\r\n", false},
		{dateInSecond, ":4000000000\r\n", ":4000000002\r\n", false},
	} {
		for _, r := range []string{tt.a, tt.b} {
			if elementSize([]byte(r)) != len(r) {
				t.Fatalf("%q is no reply", r)
			}
		}
		a, b := tt.how.shapeOf([]byte(tt.a)), tt.how.shapeOf([]byte(tt.b))
		if got := tt.how.same(a, b, moment); got != tt.same {
			t.Errorf("%d: %q and %q: %v", tt.how, tt.a, tt.b, got)
		}
		if tt.same && !tt.how.same(a, a, 0) {
			t.Errorf("%d: %q is not like itself", tt.how, tt.a)
		}
	}
}

// TestReadsOnlyRead: nothing that could write, wait or give another answer each time is
// asked twice.
func TestReadsOnlyRead(t *testing.T) {
	n := 0
	for name, s := range table {
		if s.read == nil {
			continue
		}
		n++
		if s.writes || !s.share || s.verb != plain || s.row == 0 {
			t.Errorf("%s cannot be asked twice", name)
		}
	}
	if n < 60 {
		t.Errorf("only %d reads", n)
	}
	for how := range reads {
		for _, odd := range []string{"-ERR no\r\n", "$-1\r\n", "_\r\n", "*2\r\n:1\r\n", "*1\r\n", "%1\r\n:1\r\n"} {
			if !how.same(how.shapeOf([]byte(odd)), how.shapeOf([]byte(odd)), 0) {
				t.Errorf("%d: %q is not like itself", how, odd)
			}
		}
	}
	keys := table["zinter"].keysOf(wireOf([]byte("zinter"), []byte("2"), []byte("a"), []byte("b"), []byte("withscores")))
	if len(keys) != 2 || keys[0] != "a" || keys[1] != "b" {
		t.Errorf("the keys of ZINTER: %q", keys)
	}
	if keys := table["mget"].keysOf([]byte("*1\r\n$4\r\nmget\r\n")); len(keys) != 0 {
		t.Errorf("the keys of an MGET without any: %q", keys)
	}
}

// TestReplyReader cuts replies out of pieces of all sizes.
func TestReplyReader(t *testing.T) {
	want := []string{"+OK\r\n", "$3\r\nabc\r\n", "*2\r\n:1\r\n$2\r\nxy\r\n", "_\r\n", ":12345\r\n"}
	var all []byte
	for _, w := range want {
		all = append(all, w...)
	}
	for piece := 1; piece <= len(all); piece++ {
		left := all
		in := replyReader{read: func(b []byte) (int, error) {
			n := copy(b[:min(piece, len(b))], left)
			left = left[n:]
			return n, nil
		}}
		for _, w := range want {
			got, whole, err := in.next()
			if err != nil || !whole || string(got) != w {
				t.Fatalf("in pieces of %d: %q, %v, %v, not %q", piece, got, whole, err, w)
			}
		}
		if _, _, err := in.next(); err == nil {
			t.Fatal("a reply came of nothing")
		}
	}
	// One that is too large is passed over, and the next one is found.
	huge := append([]byte("$3000000\r\n"), make([]byte, 3_000_002)...)
	copy(huge[len(huge)-2:], "\r\n")
	left := append(huge, "+OK\r\n"...)
	in := replyReader{read: func(b []byte) (int, error) {
		n := copy(b, left)
		left = left[n:]
		return n, nil
	}}
	if _, whole, err := in.next(); err != nil || whole {
		t.Errorf("3 MB were taken for whole: %v", err)
	}
	if got, whole, err := in.next(); err != nil || !whole || string(got) != "+OK\r\n" {
		t.Errorf("behind it came %q, %v, %v", got, whole, err)
	}
	if len(in.buf) > 2*mostShaped {
		t.Errorf("%d bytes are held", len(in.buf))
	}
}
