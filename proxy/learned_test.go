package proxy

import (
	"slices"
	"testing"

	"github.com/crossfade/crossfade/internal/keyspec"
)

// What was learned of commands that the table has not is known in any case, and what is
// in the table stays as it is.
func TestLearnedCommands(t *testing.T) {
	s := fuzzServer(t)
	one := []keyspec.Spec{{Use: keyspec.RW, Begin: keyspec.Begin{At: 1}, Find: keyspec.Find{Step: 1}}}
	if s.rowOf([]byte("odd.set")) != plainSpec {
		t.Fatal("a command is known that nobody has heard of")
	}
	s.Learn([]keyspec.Command{
		{Name: "odd.set", Arity: 3, Flags: "module write", Specs: one},
		{Name: "odd.get", Arity: 2, Flags: "module readonly", Specs: one},
		{Name: "odd.keys", Arity: -2, Flags: "module movablekeys write", Specs: one},
		{Name: "odd.admin", Arity: -1, Flags: "module write"},
		{Name: "get", Arity: 2, Flags: "module write", Specs: one},
	})
	s.Learn([]keyspec.Command{{Name: "other.del", Arity: -2, Flags: "write", Specs: one}})
	for _, word := range []string{"odd.set", "ODD.Set", "OTHER.DEL"} {
		row := s.rowOf([]byte(word))
		if !row.silent || !row.writes || row.verb != vSilent {
			t.Errorf("%s is %+v", word, row)
		}
	}
	args := [][]byte{[]byte("ODD.SET"), []byte("k"), []byte("v")}
	if keys := s.rowOf(args[0]).keysIn(args, keyspec.Writes); !slices.Equal(keys, []string{"k"}) {
		t.Errorf("ODD.SET writes %q", keys)
	}
	if row := s.rowOf([]byte("odd.get")); row.writes || row.silent || row.mayWrite() || row.verb != plain {
		t.Errorf("odd.get is %+v", row)
	}
	for _, word := range []string{"odd.keys", "odd.admin", "nobody"} {
		if row := s.rowOf([]byte(word)); row != plainSpec || !row.mayWrite() {
			t.Errorf("%s is %+v", word, row)
		}
	}
	if s.rowOf([]byte("get")) != table["get"] {
		t.Error("GET is what somebody says that it is")
	}
	if !s.rowOf([]byte("odd.set")).mayTie([]byte("odd.set")) {
		t.Error("a module's command is thought to leave nothing behind")
	}
}
