package elements

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crossfade/crossfade/router"
	"pgregory.net/rapid"
)

// based returns a book whose counting has begun.
func based(t interface{ Fatal(...any) }) *Key {
	k := NewKeys(router.Source).Put(0, "k")
	mark, still := k.Still()
	if !still || !k.Base(mark) {
		t.Fatal("a new book is not still")
	}
	return k
}

func TestVerdicts(t *testing.T) {
	for _, test := range []struct {
		name string
		what string // b: begin, e: end with an event, x: end without, t: told, c: changed
		want Verdict
	}{
		{"nothing", "c", Explained},
		{"one command", "btec", Explained},
		{"its reply first", "betc", Explained},
		{"two at a time", "bbtetec", Explained},
		{"under way", "btc", Open},
		{"answered after the look", "btce", Open},
		{"begun after the look", "btecbt", Open},
		{"nobody's event", "tc", Alien},
		{"nobody's event beside a command", "btetc", Alien},
		{"without proof", "btxc", Alien},
		{"nothing changed", "bxc", Explained},
		{"an event that never came", "bec", Alien},
		{"one that never came, and nobody's", "bebtect", Explained}, // why only certain events may be counted
	} {
		k := based(t)
		var number int64
		for _, what := range test.what {
			switch what {
			case 'b':
				k.Begin()
			case 'e':
				k.End([]string{"f"}, true)
			case 'x':
				k.End(nil, false)
			case 't':
				k.Tell()
			case 'c':
				_, number, _ = k.Changed()
			}
		}
		if got := k.Judge(number); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// TestNothingUnexplainedPasses plays commands and aliens in any order in which they can
// be seen, and looks with a barrier. What is called explained must be.
func TestNothingUnexplainedPasses(t *testing.T) {
	passed := 0
	rapid.Check(t, func(t *rapid.T) {
		k := based(t)
		type command struct{ name string }
		var sent, ran []command // not yet run; run and not yet answered
		untold := 0             // events that the server has sent and nobody has read
		alien, atBase := 0, 0
		dirty := make(map[string]bool) // truly changed since the base, and not looked at
		barrier := func() {
			for ; untold > 0; untold-- {
				k.Tell()
			}
		}
		run := func() {
			if len(sent) > 0 {
				c := sent[0]
				sent, ran, untold = sent[1:], append(ran, c), untold+1
				dirty[c.name] = true
			}
		}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "step") {
			case 0, 1:
				k.Begin()
				sent = append(sent, command{strconv.Itoa(rapid.IntRange(0, 3).Draw(t, "element"))})
			case 2:
				run()
			case 3:
				if len(ran) > 0 {
					k.End([]string{ran[0].name}, true)
					ran = ran[1:]
				}
			case 4:
				if untold > 0 {
					untold--
					k.Tell()
				}
			case 5:
				if rapid.IntRange(0, 2).Draw(t, "alien") == 0 {
					alien++
					untold++
				}
			case 6:
				mark, still := k.Still()
				if !still {
					continue
				}
				if rapid.Bool().Draw(t, "command meanwhile") {
					k.Begin()
					sent = append(sent, command{"0"})
					run()
				}
				barrier()
				before := alien
				if k.Base(mark) {
					atBase = before
					clear(dirty)
				} else {
					atBase = -1
				}
			case 7:
				names, number, known := k.Changed()
				if !known {
					continue
				}
				for range rapid.IntRange(0, 2).Draw(t, "run meanwhile") {
					run()
				}
				barrier()
				verdict := k.Judge(number)
				for _, n := range names {
					delete(dirty, n)
				}
				k.Settle(number)
				if verdict != Explained {
					continue
				}
				passed++
				if alien != atBase || len(dirty) > 0 {
					t.Fatalf("explained, with %d aliens since %d, and %v not looked at", alien, atBase, dirty)
				}
			}
		}
	})
	least := 20
	if testing.Short() { // rapid makes fewer checks then
		least = 1
	}
	if passed < least {
		t.Errorf("something was explained %d times only", passed)
	}
}

func TestChangedUntilSettled(t *testing.T) {
	k := based(t)
	change := func(names ...string) {
		k.Begin()
		k.End(names, true)
	}
	change("a", "b")
	names, number, _ := k.Changed()
	change("b", "c")
	k.Settle(number)
	if slices.Sort(names); !slices.Equal(names, []string{"a", "b"}) {
		t.Errorf("changed are %v", names)
	}
	names, number, _ = k.Changed()
	if slices.Sort(names); !slices.Equal(names, []string{"b", "c"}) {
		t.Errorf("after that, changed are %v", names)
	}
	k.Settle(number)
	if names, _, _ = k.Changed(); len(names) > 0 || k.bytes != 0 || k.held.Load() != 0 {
		t.Errorf("%v are left, %d bytes, %d in all", names, k.bytes, k.held.Load())
	}
}

func TestTooManyElementsAreForgotten(t *testing.T) {
	keys := NewKeys(router.Source)
	k, other := keys.Put(0, "k"), keys.Put(3, "k")
	for _, one := range []*Key{k, other} {
		if mark, _ := one.Still(); !one.Base(mark) {
			t.Fatal("not still")
		}
	}
	other.Begin()
	other.End([]string{"one"}, true)
	large := strings.Repeat("x", 1<<20)
	for i := range 2 * mostBytes >> 20 {
		k.Begin()
		k.End([]string{strconv.Itoa(i) + large}, true)
	}
	if k.Known() || !other.Known() {
		t.Errorf("known: %v, the other's: %v", k.Known(), other.Known())
	}
	if _, number, ok := k.Changed(); ok || k.Judge(number) != Alien {
		t.Error("what was forgotten passes for known")
	}
	mark, _ := k.Still()
	if !k.Base(mark) || !k.Known() {
		t.Error("with a new base nothing is missing")
	}
	keys.Drop(3, "k")
	if n := keys.held.Load(); n != 0 {
		t.Errorf("%d bytes are held of nothing", n)
	}
}

func TestAwaitEndsWhenNothingIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := based(t)
		k.Begin()
		began := time.Now()
		k.Await(t.Context(), time.Second)
		if d := time.Since(began); d != time.Second {
			t.Errorf("waited for %v", d)
		}
		time.AfterFunc(time.Millisecond, func() { k.End(nil, false) })
		k.Await(t.Context(), time.Hour)
		if d := time.Since(began); d != time.Second+time.Millisecond {
			t.Errorf("waited until %v", d)
		}
	})
}

func TestKeysAreOfOneSide(t *testing.T) {
	var none *Keys
	keys := NewKeys(router.Target)
	if none.Any(router.Source) || keys.Any(router.Target) {
		t.Error("there are keys before any was put in")
	}
	k := keys.Put(5, "k")
	if !keys.Any(router.Target) || keys.Any(router.Source) {
		t.Error("the key is of the wrong side")
	}
	if keys.Find(5, []byte("k")) != k || keys.Find(0, []byte("k")) != nil || keys.Find(5, []byte("l")) != nil {
		t.Error("another key was found")
	}
	keys.Drop(5, "k")
	keys.Drop(5, "k")
	if keys.Any(router.Target) || keys.Find(5, []byte("k")) != nil {
		t.Error("a key that was dropped is there")
	}
}
