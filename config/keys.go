package config

import (
	"reflect"
	"strings"
)

// key is one leaf of the tree. Everything that names settings (file, environment,
// flags, dump, errors) is derived from this list, so that a field added to the
// tree is known everywhere.
type key struct {
	path  string // "sync.scan_count"
	index []int  // the field, for reflect's FieldByIndex
	typ   reflect.Type
}

// env is the variable's name. That no two keys have the same one is tested.
func (k key) env() string { return envName(k.path) }

func envName(path string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(path))
}

// shorts are sections that may be given as one plain text, in the file, in the
// environment and as a flag: "source: redis://…" is "source: {url: redis://…}".
var shorts = map[string]string{
	"source": "source.url",
	"target": "target.url",
	"admin":  "admin.address",
}

// aliases are second names of keys, as flags and in the environment.
var aliases = map[string]string{
	"map":        "databases",
	"leave-out":  "leave_out",
	"max-stall":  "cutover.max_stall",
	"take-over":  "take_over",
	"log-level":  "log.level",
	"log-format": "log.format",
}

// tree is the shape of Config.
type tree struct {
	keys     []key // in the order of the fields
	byPath   map[string]key
	sections map[string]bool
}

func newTree() tree {
	t := tree{byPath: map[string]key{}, sections: map[string]bool{}}
	t.walk(reflect.TypeFor[Config](), "", nil)
	return t
}

func (t *tree) walk(typ reflect.Type, prefix string, index []int) {
	for i := range typ.NumField() {
		field := typ.Field(i)
		path := prefix + field.Tag.Get("koanf")
		here := append(append([]int(nil), index...), i)
		if field.Type.Kind() == reflect.Struct {
			t.sections[path] = true
			t.walk(field.Type, path+".", here)
			continue
		}
		k := key{path: path, index: here, typ: field.Type}
		t.keys = append(t.keys, k)
		t.byPath[path] = k
	}
}

// flat gives the values of a configuration by path.
func (t tree) flat(c Config) map[string]any {
	values := make(map[string]any, len(t.keys))
	for _, k := range t.keys {
		values[k.path] = reflect.ValueOf(c).FieldByIndex(k.index).Interface()
	}
	return values
}

// names returns every spelling that a layer takes for a key: own names the key's
// path in that layer, and the short forms and aliases go through it too.
func (t tree) names(own func(path string) string) (byName map[string]key, inOrder []string) {
	byName = map[string]key{}
	add := func(spelling string, k key) {
		name := own(spelling)
		if _, there := byName[name]; !there {
			byName[name] = k
			inOrder = append(inOrder, name)
		}
	}
	for _, k := range t.keys {
		add(k.path, k)
	}
	for _, k := range t.keys {
		for spelling, path := range shorts {
			if path == k.path {
				add(spelling, k)
			}
		}
		for spelling, path := range aliases {
			if path == k.path {
				add(spelling, k)
			}
		}
	}
	return byName, inOrder
}

// nearest returns the candidate most like name: one that ends in it, or the one
// with the fewest letters to change.
func nearest(name string, candidates []string) string {
	best, least := "", int(^uint(0)>>1)
	for _, candidate := range candidates {
		d := distance(name, candidate)
		if strings.HasSuffix(candidate, "."+name) || strings.HasSuffix(candidate, "_"+name) {
			d = min(d, 1)
		}
		if d < least {
			best, least = candidate, d
		}
	}
	return best
}

// distance is Levenshtein's, over the first bytes of names that may be garbage.
func distance(a, b string) int {
	const enough = 64
	a, b = a[:min(len(a), enough)], b[:min(len(b), enough)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := before
			if a[i] != b[j] {
				change++
			}
			before = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
