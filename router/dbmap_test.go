package router

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParseDBMap(t *testing.T) {
	tests := []struct {
		text string
		want map[int]Place
	}{
		{"", map[int]Place{}},
		{" , ", map[int]Place{}},
		{"0=0", map[int]Place{0: {}}},
		{"0=0,3=5", map[int]Place{0: {}, 3: {DB: 5}}},
		{" 3 = 5 ,\t0=1,", map[int]Place{3: {DB: 5}, 0: {DB: 1}}},
		{"3=5,3=5", map[int]Place{3: {DB: 5}}}, // said twice, but the same
		{"3=5,4=5", map[int]Place{3: {DB: 5}, 4: {DB: 5}}},
		{"0=0:c0:, 3=0:{c3}:", map[int]Place{0: {Prefix: "c0:"}, 3: {Prefix: "{c3}:"}}},
		{"3=5::", map[int]Place{3: {DB: 5, Prefix: ":"}}},
	}
	for _, tt := range tests {
		got, err := ParseDBMap(tt.text)
		if err != nil || !maps.Equal(got, tt.want) {
			t.Errorf("ParseDBMap(%q) = %v, %v; want %v", tt.text, got, err, tt.want)
		}
	}
}

func TestParseDBMapRefuses(t *testing.T) {
	tests := []struct{ text, says string }{
		{"0", `"0" is not of the form SOURCE=TARGET`},
		{"=1", `"=1" is not of the form`},
		{"1=", `"1=" is not of the form`},
		{"1=2=3", `"1=2=3" is not of the form`},
		{"a=1", `"a=1" is not of the form`},
		{"-1=1", `"-1=1" is not of the form`},
		{"1=-1", `"1=-1" is not of the form`},
		{"0x1=1", `"0x1=1" is not of the form`},
		{"99999999999999999999=1", "is not of the form"},
		{"3:5", `"3:5" is not of the form`},
		{"3=0:", `"3=0:" is not of the form SOURCE=TARGET or SOURCE=TARGET:PREFIX`},
		{"3=:c3:", `"3=:c3:" is not of the form`},
		{"3=5:a,3=5:b", "source database 3 is mapped twice, to 5:a and to 5:b"},
		{"3=5,3=6", "source database 3 is mapped twice, to 5 and to 6"},
	}
	for _, tt := range tests {
		got, err := ParseDBMap(tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("ParseDBMap(%q) = %v, %v; want an error that says %q", tt.text, got, err, tt.says)
		}
	}
	_, err := ParseDBMap("x=1,0=0,2=y")
	if err == nil || !strings.Contains(err.Error(), `"x=1"`) || !strings.Contains(err.Error(), `"2=y"`) {
		t.Errorf("not every problem is reported at once: %v", err)
	}
}

// A map that merges two databases would let one overwrite the other.
func TestNewDBMapRefusesWhatIsNotInjective(t *testing.T) {
	_, err := NewDBMap(map[int]int{0: 0, 3: 0, 7: 0, -1: 2, 4: -4})
	if err == nil {
		t.Fatal("a map that merges databases is taken")
	}
	for _, says := range []string{
		"source databases 0 and 3 would both go into target database 0",
		"source databases 0 and 7 would both go into target database 0",
		"-1=2: database numbers start at 0",
		"4=-4: database numbers start at 0",
		"give each a target database of its own, or each a prefix",
	} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not say %q:\n%v", says, err)
		}
	}
}

func TestDBMapZeroValue(t *testing.T) {
	var m DBMap
	if _, ok := m.Target(0); ok || m.Len() != 0 || m.String() != "" || len(m.Sources()) != 0 || !m.IsIdentity() {
		t.Errorf("the zero value maps something: %q", m)
	}
	if _, _, ok := m.SourceOf(0, "k"); ok || len(m.Targets()) != 0 || m.Prefixed() {
		t.Errorf("the zero value has a target: %v", m.Targets())
	}
}

func TestDBMapIdentity(t *testing.T) {
	m := Identity(3)
	if m.String() != "0=0,1=1,2=2" || !m.IsIdentity() || m.Len() != 3 {
		t.Errorf("Identity(3) = %q", m)
	}
	if other, _ := NewDBMap(map[int]int{0: 1, 1: 0}); other.IsIdentity() || other.Equal(m) {
		t.Errorf("%q is taken for the identity", other)
	}
}

// A map is whole when scripts that it does not reach cannot leave it.
func TestDBMapIsWhole(t *testing.T) {
	for _, c := range []struct {
		pairs     map[int]int
		databases int
		want      bool
	}{
		{map[int]int{0: 0, 1: 1}, 2, true},
		{map[int]int{0: 0, 1: 1, 2: 2}, 2, true}, // scripts that name the third get the server's error
		{map[int]int{0: 0}, 1, true},
		{map[int]int{0: 0, 1: 1}, 3, false},
		{map[int]int{0: 0, 2: 2}, 3, false},
		{map[int]int{0: 1, 1: 0}, 2, false},
		{map[int]int{0: 0, 1: 1}, 0, false}, // nobody knows
		{nil, 1, false},
	} {
		m, err := NewDBMap(c.pairs)
		if err != nil {
			t.Fatal(err)
		}
		in := m.Within(c.databases)
		if in.IsWhole() != c.want || m.IsWhole() || !in.Equal(m) {
			t.Errorf("%s in %d databases: whole %v, %v without the number; equal %v", m, c.databases, in.IsWhole(), m.IsWhole(), in.Equal(m))
		}
	}
}

func TestDBMapPairsAreACopy(t *testing.T) {
	m, err := NewDBMap(map[int]int{0: 1})
	if err != nil {
		t.Fatal(err)
	}
	m.Pairs()[5] = Place{DB: 5}
	if _, ok := m.Target(5); ok {
		t.Error("a map can be changed through Pairs")
	}
}

// genPairs draws maps of which about half merge databases or are negative.
func genPairs(t *rapid.T) map[int]int {
	return rapid.MapOf(rapid.IntRange(-1, 20), rapid.IntRange(-1, 30)).Draw(t, "pairs")
}

func TestDBMapProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pairs := genPairs(t)
		targets := slices.Collect(maps.Values(pairs))
		slices.Sort(targets)
		legal := len(slices.Compact(targets)) == len(pairs)
		for s, to := range pairs {
			legal = legal && s >= 0 && to >= 0
		}
		m, err := NewDBMap(pairs)
		if (err == nil) != legal {
			t.Fatalf("NewDBMap(%v): %v, but legal is %v", pairs, err, legal)
		}
		if err != nil {
			if m.Len() != 0 {
				t.Fatalf("a refused map maps %q", m)
			}
			return
		}
		checkDBMap(t, m, pairs)
	})
}

// checkDBMap checks a map against the pairs that it was made of.
func checkDBMap(t *rapid.T, m DBMap, pairs map[int]int) {
	for db := range 35 {
		to, ok := m.Target(db)
		want, mapped := pairs[db]
		if ok != mapped || ok && to != want {
			t.Fatalf("Target(%d) = %d, %v; want %d, %v", db, to, ok, want, mapped)
		}
		if ok {
			if back, name, ok := m.SourceOf(to, "k"); !ok || back != db || name != "k" {
				t.Fatalf("%d goes to %d and comes back as %d with key %q, %v", db, to, back, name, ok)
			}
		}
	}
	if m.Len() != len(pairs) || m.Prefixed() {
		t.Fatalf("%q has %d databases, want %v", m, m.Len(), pairs)
	}
	sources := m.Sources()
	if !slices.IsSorted(sources) || len(sources) != len(pairs) {
		t.Fatalf("Sources() = %v of %v", sources, pairs)
	}
	if want := slices.Sorted(maps.Values(pairs)); !slices.Equal(m.Targets(), want) {
		t.Fatalf("Targets() = %v, want %v", m.Targets(), want)
	}
	again, err := ParseDBMap(m.String())
	if err != nil || !maps.Equal(again, m.Pairs()) {
		t.Fatalf("%q reads as %v, %v", m, again, err)
	}
}

func TestRouteDB(t *testing.T) {
	m, err := NewDBMap(map[int]int{0: 0, 3: 5})
	if err != nil {
		t.Fatal(err)
	}
	before, after := Route{Map: m}, Route{Side: Target, Epoch: 1, Map: m}
	for _, tt := range []struct {
		r    Route
		db   int
		want int
		ok   bool
	}{
		{before, 3, 3, true},
		{before, 9, 9, true}, // the source decides itself what it has
		{after, 3, 5, true},
		{after, 0, 0, true},
		{after, 5, 0, false}, // 5 is a number of the target, not of the client
		{after, 9, 0, false},
	} {
		if got, ok := tt.r.DB(tt.db); got != tt.want || ok != tt.ok {
			t.Errorf("on the %s DB(%d) = %d, %v; want %d, %v", tt.r.Side, tt.db, got, ok, tt.want, tt.ok)
		}
	}
	if before.Rewrites() || !after.Rewrites() {
		t.Error("Rewrites is wrong")
	}
}

func TestSideText(t *testing.T) {
	for _, s := range []Side{Source, Target} {
		text, err := s.MarshalText()
		if err != nil || string(text) != s.String() {
			t.Errorf("%v marshals as %q, %v", s, text, err)
		}
		back := s.Other()
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Errorf("%q reads as %v, %v", text, back, err)
		}
		if s.Other() == s || s.Other().Other() != s {
			t.Errorf("the other side of %s is %s", s, s.Other())
		}
	}
	s := Target
	if err := s.UnmarshalText([]byte("Source")); err == nil || s != Target {
		t.Errorf("%q is taken for a side: %v, %v", "Source", s, err)
	}
}
