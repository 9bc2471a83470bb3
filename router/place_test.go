package router

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestNewDBMapRefusesPrefixes(t *testing.T) {
	tests := []struct {
		pairs map[int]Place
		says  string
	}{
		{map[int]Place{0: {Prefix: "c0:"}, 3: {}}, `source database 3 would have target database 0 for itself, and 0 has the prefix "c0:" there`},
		{map[int]Place{0: {}, 3: {Prefix: "c3:"}}, `source database 0 would have target database 0 for itself, and 3 has the prefix "c3:" there`},
		{map[int]Place{0: {Prefix: "c:"}, 3: {Prefix: "c:"}}, `source databases 0 and 3 would both have the prefix "c:" in target database 0`},
		{map[int]Place{0: {Prefix: "c1"}, 3: {Prefix: "c12"}}, `in target database 0 the prefix "c12" of source database 3 begins with "c1", that of 0`},
		{map[int]Place{0: {Prefix: "c12"}, 3: {Prefix: "c1"}}, `the prefix "c12" of source database 0 begins with "c1", that of 3`},
		{map[int]Place{3: {Prefix: "c 3"}}, `databases: 3=0:c 3: a prefix may not contain " "`},
		{map[int]Place{3: {Prefix: "ü"}}, "a prefix may not contain"},
		{map[int]Place{3: {Prefix: "a,b"}}, `a prefix may not contain ","`},
		{map[int]Place{3: {Prefix: "a*:"}}, `a prefix may not contain "*"`},
		{map[int]Place{3: {Prefix: strings.Repeat("x", 101)}}, "a prefix of 101 bytes is too long"},
		{map[int]Place{3: {Prefix: "crossfade:x"}}, `keys that begin with "crossfade:" are kept by the sidecar for itself`},
		{map[int]Place{3: {Prefix: "cross"}}, `keys that begin with "crossfade:" are kept by the sidecar for itself`},
	}
	for _, tt := range tests {
		m, err := NewDBMap(tt.pairs)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("NewDBMap(%v) = %q, %v; want an error that says %q", tt.pairs, m, err, tt.says)
		}
	}
	_, err := NewDBMap(map[int]Place{0: {Prefix: "a"}, 1: {Prefix: "ab"}, 2: {Prefix: "x y"}, -1: {DB: 7}})
	for _, says := range []string{`"ab" of source database 1 begins with "a"`, "2=0:x y", "-1=7"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not say %q: %v", says, err)
		}
	}
	if _, err := NewDBMap(map[int]Place{0: {Prefix: "a"}, 1: {DB: 1, Prefix: "ab"}, 2: {DB: 2}}); err != nil {
		t.Errorf("prefixes in two databases: %v", err)
	}
}

func TestPlaceNames(t *testing.T) {
	p := Place{DB: 0, Prefix: "c3:"}
	if got := p.Add("user:1"); got != "c3:user:1" {
		t.Errorf("Add: %q", got)
	}
	if got := string(p.AppendKey([]byte("x"), []byte("k"))); got != "xc3:k" {
		t.Errorf("AppendKey: %q", got)
	}
	for key, want := range map[string]string{"c3:": "", "c3:k": "k", "c3:c3:k": "c3:k"} {
		if got, ok := p.Cut(key); !ok || got != want {
			t.Errorf("Cut(%q) = %q, %v", key, got, ok)
		}
		if got, ok := p.CutBytes([]byte(key)); !ok || string(got) != want {
			t.Errorf("CutBytes(%q) = %q, %v", key, got, ok)
		}
	}
	for _, key := range []string{"", "c", "c3", "c31:", "C3:k", "xc3:"} {
		if _, ok := p.Cut(key); ok {
			t.Errorf("Cut(%q) finds the prefix", key)
		}
		if _, ok := p.CutBytes([]byte(key)); ok {
			t.Errorf("CutBytes(%q) finds the prefix", key)
		}
	}
	for prefix, want := range map[string]string{"c3:": "c3:u*", "{c3}:": "{c3}:u*", "a*b?[c]": `a\*b\?\[c\]u*`, "": "u*"} {
		if got := (Place{Prefix: prefix}).Pattern("u*"); got != want {
			t.Errorf("the pattern of %q is %q, want %q", prefix, got, want)
		}
	}
}

func TestPlaceText(t *testing.T) {
	for _, p := range []Place{{}, {DB: 5}, {DB: 0, Prefix: "c3:"}, {DB: 12, Prefix: "{c3}:"}, {Prefix: ":"}} {
		if got, err := ParsePlace(p.String()); err != nil || got != p {
			t.Errorf("%q reads as %v, %v", p, got, err)
		}
		text, err := json.Marshal(p)
		var back Place
		if err != nil || json.Unmarshal(text, &back) != nil || back != p {
			t.Errorf("%s reads as %v, %v", text, back, err)
		}
	}
	if text, _ := json.Marshal(map[int]Place{3: {DB: 5}}); string(text) != `{"3":5}` {
		t.Errorf("a place without prefix is %s: older records have numbers", text)
	}
	if err := json.Unmarshal([]byte(`"5"`), new(Place)); err == nil {
		t.Error("a text is taken for a place")
	}
}

// reference finds a key's home by trying all.
func reference(pairs map[int]Place, t int, key string) (s int, name string, ok bool) {
	for s, p := range pairs {
		if name, has := strings.CutPrefix(key, p.Prefix); has && p.DB == t {
			return s, name, true
		}
	}
	return 0, "", false
}

func TestDBMapFinds(t *testing.T) {
	word := rapid.StringOfN(rapid.RuneFrom([]rune("ab:")), 0, 4, -1)
	rapid.Check(t, func(t *rapid.T) {
		pairs := make(map[int]Place)
		for s, p := range rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Place {
			return Place{DB: rapid.IntRange(0, 2).Draw(t, "db"), Prefix: word.Draw(t, "prefix")}
		}), 0, 12).Draw(t, "places") {
			pairs[s] = p
		}
		legal := true
		for s, p := range pairs {
			for o, q := range pairs {
				legal = legal && (s == o || p.DB != q.DB || !strings.HasPrefix(p.Prefix, q.Prefix))
			}
		}
		m, err := NewDBMap(pairs)
		if (err == nil) != legal {
			t.Fatalf("NewDBMap(%v): %v, but legal is %v", pairs, err, legal)
		}
		if err != nil {
			return
		}
		if again, err := ParseDBMap(m.String()); err != nil || !maps.Equal(again, pairs) {
			t.Fatalf("%q reads as %v, %v", m, again, err)
		}
		for s, p := range pairs {
			if got, name, ok := m.SourceOf(p.DB, p.Add("key")); !ok || got != s || name != "key" {
				t.Fatalf("%q of %d comes back as %q of %d, %v", p.Add("key"), s, name, got, ok)
			}
			if at, ok := m.At(Target, s); !ok || at != p {
				t.Fatalf("At(Target, %d) = %v, %v", s, at, ok)
			}
			if at, ok := m.At(Source, s); !ok || at != (Place{DB: s}) {
				t.Fatalf("At(Source, %d) = %v, %v", s, at, ok)
			}
			if !slices.Contains(m.SourcesAt(p.DB), s) || m.Shared(p.DB) != (p.Prefix != "") {
				t.Fatalf("target database %d has %v, shared %v", p.DB, m.SourcesAt(p.DB), m.Shared(p.DB))
			}
		}
		for range 20 {
			db, key := rapid.IntRange(0, 3).Draw(t, "db"), word.Draw(t, "key")
			s, name, ok := reference(pairs, db, key)
			got, gotName, gotOK := m.Find(Target, db, key)
			if got != s || gotName != name || gotOK != ok {
				t.Fatalf("in %q key %q of %d is %q of %d, %v; want %q of %d, %v", m, key, db, gotName, got, gotOK, name, s, ok)
			}
			if n, skip, _ := m.Source(db, []byte(key)); n != s || ok && key[skip:] != name {
				t.Fatalf("in %q key %q of %d has %d bytes of prefix, source %d", m, key, db, skip, n)
			}
		}
	})
}
