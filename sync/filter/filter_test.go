package filter

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/crossfade/crossfade/internal/redistest"
)

// alphabet has all that means something in a pattern, and few letters, so that random
// patterns match random keys now and then.
var alphabet = []byte("ab*?[]^-\\\x00\xffz")

func word(most int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return string(rapid.SliceOfN(rapid.SampledFrom(alphabet), 0, most).Draw(t, "bytes"))
	})
}

// TestGlobIsTheServers asks a server for its opinion, by KEYS, and by SCAN for what is
// pushed down.
func TestGlobIsTheServers(t *testing.T) {
	c := redistest.Start(t).Client(0)
	keys := rapid.SliceOfNDistinct(word(8), 200, 300, rapid.ID[string]).Example(7)
	keys = append(keys, "", "a", "ab", "aa", "user:1", "user:10:name", "[", "]", "\\", "^", "-", "a-b", strings.Repeat("ab", 300))
	for _, k := range keys {
		if err := c.Set(t.Context(), k, 1, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	rapid.Check(t, func(rt *rapid.T) {
		patterns := rapid.SliceOfN(word(10).Filter(func(s string) bool { return s != "" }), 1, 3).Draw(rt, "patterns")
		f, err := New(patterns, nil)
		if errors.Is(err, errRange) {
			rt.Skip("depends on the machine")
		}
		if err != nil {
			rt.Fatal(err)
		}
		want := map[string]bool{}
		for _, p := range patterns {
			for _, k := range c.Keys(t.Context(), p).Val() {
				want[k] = true
			}
		}
		scanned := map[string]bool{}
		match, _ := f.Scan()
		for _, k := range scan(t, c, match) {
			scanned[k] = true
		}
		for _, k := range keys {
			if f.Name(k) != want[k] {
				rt.Fatalf("patterns %q, key %q: the server says %v, we say %v", patterns, k, want[k], f.Name(k))
			}
			if want[k] && !scanned[k] {
				rt.Fatalf("patterns %q: SCAN MATCH %q does not yield %q", patterns, match, k)
			}
		}
	})
}

func scan(t *testing.T, c *redis.Client, match string) []string {
	keys, cursor, err := c.Scan(t.Context(), 0, match, 10_000).Result()
	if err != nil || cursor != 0 {
		t.Fatal(cursor, err)
	}
	return keys
}

func TestCommonPrefix(t *testing.T) {
	for _, test := range []struct {
		match []string
		scan  string
	}{
		{[]string{"user:*"}, "user:*"},
		{[]string{"user:*", "user:a", "use[r]:?"}, "user:*"},
		{[]string{"us*", "user:*"}, "us*"},
		{[]string{"user:*", "session:*"}, ""},
		{[]string{`a\*b*`, `a\*c*`}, `a\*b*`[:3] + "*"},
		{nil, ""},
	} {
		f, err := New(test.match, []string{"hash"})
		if err != nil {
			t.Fatal(err)
		}
		if match, kind := f.Scan(); match != test.scan || kind != "hash" {
			t.Errorf("%q: MATCH %q, TYPE %q, not %q", test.match, match, kind, test.scan)
		}
	}
}

func TestFilter(t *testing.T) {
	all, err := New(nil, nil)
	if err != nil || all != nil || !all.Name("x") || !all.Type("none") || all.Typed() || all.String() != "" {
		t.Errorf("no filter: %v, %v", all, err)
	}
	f, err := New([]string{"a*", "?"}, []string{"hash", "zset"})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]bool{"a": true, "abc": true, "b": true, "bc": false, "": false} {
		if f.Name(key) != want {
			t.Errorf("%q: %v", key, !want)
		}
	}
	for kind, want := range map[string]bool{"hash": true, "zset": true, "string": false, "none": false} {
		if f.Type(kind) != want {
			t.Errorf("%s: %v", kind, !want)
		}
	}
	if got := f.String(); got != "sync.match: a*, ?; sync.types: hash, zset" {
		t.Error(got)
	}
	if _, err := New([]string{""}, []string{"no type", "none"}); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("wrong ones: %v", err)
	}
}

// TestManyStars is one that costs a careless matcher for ever.
func TestManyStars(t *testing.T) {
	f, err := New([]string{strings.Repeat("a*", 40) + "b"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if f.Name(strings.Repeat("a", 20_000)) {
		t.Error("matches")
	}
}
