package proxy

import (
	"strings"
	"testing"
)

func TestLookupFindsEveryRow(t *testing.T) {
	for name, want := range table {
		for _, word := range []string{name, strings.ToUpper(name), strings.ToUpper(name[:1]) + name[1:]} {
			if got := lookup([]byte(word)); got != want {
				t.Errorf("%q is found as %+v", word, got)
			}
		}
	}
}

func TestLookupFindsNothingElse(t *testing.T) {
	for _, word := range []string{"", "g", "gett", "get ", "ge", "\x00get", "get\x00", "client\x00", "a command of more than sixteen bytes", "json.set"} {
		if got := lookup([]byte(word)); got != plainSpec {
			t.Errorf("%q is found as %q", word, got.name)
		}
	}
}

func BenchmarkLookup(b *testing.B) {
	words := [][]byte{[]byte("GET"), []byte("set"), []byte("ZRANGEBYSCORE"), []byte("JSON.SET")}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		lookup(words[i%len(words)])
	}
}
