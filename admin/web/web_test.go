package web

import (
	"regexp"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/migration"
)

// TestNothingFromElsewhere: no file names another host, and nothing stands in the page
// that the policy would forbid.
func TestNothingFromElsewhere(t *testing.T) {
	foreign := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9-]+\.[a-z]`)
	inline := regexp.MustCompile(`(?i)<script(?:\s[^>]*)?>[^<]|<style|\sstyle=|\son[a-z]+="|javascript:`)
	unsafe := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function`)
	for path, f := range files {
		text := strings.ReplaceAll(string(f.text), "http://www.w3.org/2000/svg", "")
		if at := foreign.FindString(text); at != "" {
			t.Errorf("%s names another host: %s", path, at)
		}
		if strings.HasSuffix(path, "/") {
			if at := inline.FindString(text); at != "" {
				t.Errorf("%s has something inline: %s", path, at)
			}
		}
		if at := unsafe.FindString(text); at != "" {
			t.Errorf("%s makes markup of text: %s", path, at)
		}
		if f.kind == "" {
			t.Errorf("%s has no type", path)
		}
	}
}

// TestFilesThatAreNamed are there.
func TestFilesThatAreNamed(t *testing.T) {
	named := regexp.MustCompile(`(?:href|src)="(/[^"]*)"|from '\./([^']+)'`)
	for path, f := range files {
		for _, m := range named.FindAllStringSubmatch(string(f.text), -1) {
			at := m[1]
			if at == "" {
				at = prefix + m[2]
			}
			if !Has(at) {
				t.Errorf("%s names %s, which is not there", path, at)
			}
		}
	}
}

// TestIDsThatAreUsed: what the scripts look for by its name is in the page.
func TestIDsThatAreUsed(t *testing.T) {
	page := string(files["/"].text)
	used := regexp.MustCompile(`\$\('([a-z-]+)'\)`)
	for path, f := range files {
		for _, m := range used.FindAllStringSubmatch(string(f.text), -1) {
			if !strings.Contains(page, ` id="`+m[1]+`"`) {
				t.Errorf("%s uses #%s, which is not in the page", path, m[1])
			}
		}
	}
}

// TestWords: there are words for every phase and every step.
func TestWords(t *testing.T) {
	words := string(files[prefix+"words.js"].text)
	for _, p := range migration.Phases() {
		if !regexp.MustCompile(`(?m)^  ` + string(p) + `: \[`).MatchString(words) {
			t.Errorf("no words for %s", p)
		}
	}
	for _, s := range migration.StepNames() {
		if !regexp.MustCompile(`(?m)^  '?` + s + `'?: \[`).MatchString(words) {
			t.Errorf("no words for the step %s", s)
		}
	}
	for _, l := range []migration.FenceLevel{migration.FenceNone, migration.FenceACL, migration.FenceReplicas} {
		if !strings.Contains(words, string(l)+": '") {
			t.Errorf("no words for the fence %s", l)
		}
	}
}
