package keyspec

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// row is what a server says of a command, in the form of RESP2.
func row(name string, flags []any, specs ...any) []any {
	return []any{name, int64(-2), flags, int64(1), int64(1), int64(1), []any{}, []any{}, specs, []any{}}
}

func TestParseRefuses(t *testing.T) {
	old := row("get", nil)[:7] // 6.2
	for _, reply := range [][]any{{old}, {"get"}, {[]any{}}, {append([]any{int64(1)}, row("get", nil)[1:]...)}, {row("get", nil, "no spec")}} {
		if list, err := Parse(reply); err == nil {
			t.Errorf("%v is taken for %+v", reply, list)
		}
	}
	sub := row("get", nil)
	sub[9] = []any{row("set|x", nil)}
	if _, err := Parse([]any{sub}); err == nil {
		t.Error("SET has become a subcommand of GET")
	}
	if list, err := Parse([]any{nil, nil}); err != nil || len(list) != 0 {
		t.Errorf("%v, %v of commands that the server has not", list, err)
	}
}

// TestParseOfModules reads commands of the kinds that modules have.
func TestParseOfModules(t *testing.T) {
	index := []any{"type", "index", "spec", []any{"index", int64(1)}}
	upTo := []any{"type", "range", "spec", []any{"lastkey", int64(-1), "keystep", int64(2), "limit", int64(0)}}
	unknown := []any{"type", "unknown", "spec", []any{}}
	spec := func(begin, find any, flags ...any) []any {
		return []any{"flags", flags, "begin_search", begin, "find_keys", find}
	}
	for _, test := range []struct {
		row   []any
		want  Command
		exact bool
	}{
		{row("Odd.Set", []any{"write", "module"}, spec(index, upTo, "RW", "variable_flags", "of tomorrow")),
			Command{Name: "odd.set", Arity: -2, Flags: "module write", Specs: []Spec{{RW | VariableFlags, Begin{At: 1}, Find{Step: 2, Last: -1}}}}, true},
		{row("own", []any{"movablekeys"}, spec(index, upTo, "RO")), Command{Name: "own", Arity: -2, Flags: "movablekeys", Specs: []Spec{{RO, Begin{At: 1}, Find{Step: 2, Last: -1}}}}, false},
		{row("dark", nil, spec(unknown, unknown, "OW")), Command{Name: "dark", Arity: -2, Specs: []Spec{{Use: OW}}}, false},
		{row("more", nil, spec(index, upTo, "RO", "incomplete")), Command{Name: "more", Arity: -2, Specs: []Spec{{RO | Incomplete, Begin{At: 1}, Find{Step: 2, Last: -1}}}}, false},
		{row("none", nil), Command{Name: "none", Arity: -2}, true},
	} {
		list, err := Parse([]any{test.row})
		if err != nil || len(list) != 1 {
			t.Fatalf("%v: %v, %v", test.row, list, err)
		}
		if diff := cmp.Diff(test.want, list[0], cmpopts.IgnoreUnexported(Command{})); diff != "" {
			t.Errorf("%v is read otherwise: %s", test.row, diff)
		}
		if got := list[0].Exact(); got != test.exact {
			t.Errorf("%s is exact: %v", list[0].Name, got)
		}
		if keys := list[0].Keys(nil, words("x a b c")); test.exact != (len(keys) == 2) && test.want.Name != "none" && test.want.Name != "own" {
			t.Errorf("%s has the keys %v", list[0].Name, keys)
		}
	}
}
