package mirror

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// TestErrorKinds: who watches a kind of trouble must know it before it happens.
func TestErrorKinds(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	used, all := map[string]bool{}, regexp.MustCompile(`errs\.add\(("[a-z]+"|[^",]+),`)
	for _, file := range files {
		if matched, _ := filepath.Match("*_test.go", file); matched {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range all.FindAllSubmatch(text, -1) {
			kind := string(found[1])
			if kind[0] != '"' {
				t.Errorf("%s: the kind %s is no constant", file, kind)
				continue
			}
			used[kind[1:len(kind)-1]] = true
		}
	}
	if got := slices.Sorted(maps.Keys(used)); !slices.Equal(got, ErrorKinds) {
		t.Errorf("the kinds are %q, and ErrorKinds is %q", got, ErrorKinds)
	}
}
