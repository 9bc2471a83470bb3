package proxy

import (
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/keyspec"
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

// foreign are commands that only servers of a cluster obey.
var foreign = []string{"clusterscan"}

// TestEveryCommandHasARow: what a server has, the proxy knows.
func TestEveryCommandHasARow(t *testing.T) {
	for c := range keyspec.All() {
		if table[c.Name] == nil && !slices.Contains(foreign, c.Name) {
			t.Errorf("%s is not in the table", c.Name)
		}
	}
}

// TestWritersAreThoseOfTheServers compares what is told of writes with what servers say
// of keys: none is left out, and none has no keys.
func TestWritersAreThoseOfTheServers(t *testing.T) {
	for name, s := range table {
		changes := s.command != nil && s.command.Changes()
		if changes && !s.writes && !s.silent && name != "pfdebug" {
			t.Errorf("nothing is told of what %s writes", name)
		}
		if s.writes && !changes || s.silent && s.command == nil {
			t.Errorf("%s changes keys, and servers know of none", name)
		}
		if s.read != nil && (s.command == nil || s.command.Changes()) {
			t.Errorf("%s is no read", name)
		}
		if s.command != nil && !s.command.Exact() {
			t.Errorf("nobody knows where all keys of %s are", name)
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
