package dirty

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestStoreIsAMap compares a store with a map of Go's, with keys of all lengths that
// come and go.
func TestStoreIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, want := newStore(), map[string]keyState{}
		key := rapid.Custom(func(t *rapid.T) string {
			n := rapid.IntRange(0, 150).Draw(t, "key")
			return strings.Repeat("k", n%7*n) + fmt.Sprint(n)
		})
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				for range rapid.IntRange(1, 100).Draw(t, "times") {
					k := key.Draw(t, "k")
					_, hash, known := s.find(k)
					if _, there := want[k]; known != there {
						t.Fatalf("%q: known %v, there %v", k, known, there)
					}
					if !known {
						s.add(k, hash, stale)
						want[k] = stale
					}
				}
			},
			"remove": func(t *rapid.T) {
				k := key.Draw(t, "k")
				if id, _, known := s.find(k); known {
					s.remove(id)
					delete(want, k)
				}
			},
			"compact": func(*rapid.T) {
				s.compact()
				if s.room > 2*s.bytes+blobSize {
					t.Fatalf("%d bytes for names of %d", s.room, s.bytes)
				}
			},
			"clear": func(*rapid.T) {
				for k := range want {
					id, _, _ := s.find(k)
					s.remove(id)
				}
				clear(want)
			},
			"": func(t *rapid.T) {
				if s.n != len(want) {
					t.Fatalf("%d keys, not %d", s.n, len(want))
				}
				for k := range want {
					if id, _, known := s.find(k); !known || string(s.key(id)) != k || s.at(id).state != stale {
						t.Fatalf("%q is not there", k)
					}
				}
			},
		})
	})
}

// heap is what is held, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestMemory holds the set to about three times the keys' own bytes, and to give
// almost all of that back.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes long under the race detector, and has no goroutines")
	}
	before := heap()
	s := New(0)
	const keys = 250_000
	for i := range keys {
		s.Mark(fmt.Sprintf("bench:key:%010d", i))
	}
	if got := heap() - before; got > 19<<20 {
		t.Errorf("250 000 keys of 20 bytes take %d MiB", got>>20)
	}
	// Keys that come and go in the same order need no more than those that are there.
	for i := range 3 * keys / 500 {
		got := s.TakeNow(500)
		for j := range got {
			s.Mark(fmt.Sprintf("later:key:%010d", 500*i+j))
		}
		s.Done(got)
	}
	if got := heap() - before; got > 20<<20 {
		t.Errorf("after three times as many more they take %d MiB", got>>20)
	}
	for s.Len() > 0 {
		s.Done(s.TakeNow(1000))
	}
	if got := heap() - before; got > 5<<20 {
		t.Errorf("%d MiB are left of an empty set", got>>20)
	}
	runtime.KeepAlive(s)
}

func TestAge(t *testing.T) {
	s, now := New(0), uint32(0)
	s.keys.clock = func() uint32 { return now }
	want := func(seconds int) {
		t.Helper()
		if got := s.Age(); got != time.Duration(seconds)*time.Second {
			t.Errorf("age %v, not %d s", got, seconds)
		}
	}
	want(0)
	s.Mark("a")
	now += 1000
	s.Mark("b")
	want(1)
	got := s.TakeNow(1) // a
	now += 1000
	s.Mark("a")
	want(2) // a's copy is not there yet
	s.Retry(got)
	want(2)
	s.Done(s.TakeNow(1)) // b
	want(2)
	got = s.TakeNow(1) // a
	s.Mark("a")
	now += 1000
	s.Done(got)
	want(1)
	s.Done(s.TakeNow(1))
	want(0)
}

// TestKeysThatStayKeepNoOthersRoom has one key in thousands stay in hand, as a big one does: the
// others leave nothing behind.
func TestKeysThatStayKeepNoOthersRoom(t *testing.T) {
	s := New(0)
	var stays []string
	for i := range 1_000_000 {
		k := fmt.Sprintf("a key like any other:%07d", i)
		mine := s.Claim([]string{k})
		if i%2000 == 0 {
			stays = append(stays, k)
			continue
		}
		s.Done(mine)
	}
	var room int64
	for _, b := range s.keys.blobs {
		room += int64(cap(b.b))
	}
	if room > 6<<20 || room != s.keys.room {
		t.Errorf("%d bytes, counted as %d, are kept for %d names", room, s.keys.room, s.Len())
	}
	s.Done(stays)
	if n := s.Len(); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}
