package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
)

var (
	aFlag     = regexp.MustCompile(`(?:^|[\s` + "`" + `(|,\['"])--([a-z][A-Za-z0-9._-]*[A-Za-z0-9])`)
	aVariable = regexp.MustCompile(`CROSSFADE_[A-Z_]*[A-Z]`)
	aMetric   = regexp.MustCompile("`crossfade_[a-z_]+")
	aKey      = regexp.MustCompile("`((?:source|target|admin|proxy|sync|verify|shadow|cutover|audit|log)(?:\\.[a-z_]+)+)(?:`|:)")
	ourVerb   = regexp.MustCompile(`(?:^|[\s` + "`" + `(/])crossfade ([a-z]+)((?:[ =]| \\\n)[^` + "`" + `#]*)?`)
)

// foreign are programs whose flags are not ours. A line that calls one of them is not
// looked at.
var foreign = regexp.MustCompile("(^\\s*(sudo )?|`|\\| )(redis-server|redis-cli|docker|curl|kubectl|systemctl|systemd-analyze|dpkg|apt|apt-get|sha256sum|openssl|npm|cargo|valkey-cli|valkey-server) ")

// foreignFlags are flags of others that the text mentions by themselves, and where.
var foreignFlags = map[string]string{
	"from": "operating.md",     // of a hook's own program
	"host": "compatibility.md", // of a suite's
	"port": "compatibility.md",
	"flag": "reference.md", // stands for any
}

// pagesOfDocs returns README.md and docs/*.md by name.
func pagesOfDocs(t *testing.T) map[string]string {
	t.Helper()
	names, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string]string{}
	for _, name := range append(names, "../../README.md", "../../CHANGELOG.md", "../../deploy/README.md") {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		texts[strings.TrimPrefix(filepath.ToSlash(name), "../../")] = string(data)
	}
	return texts
}

// TestDocsNameWhatThereIs: verbs, flags, variables, keys and metrics that the docs name
// are the program's.
func TestDocsNameWhatThereIs(t *testing.T) {
	all := map[string][]string{} // flags by verb
	every := []string{"help"}
	for _, p := range pages() {
		all[p.name] = []string{"help"}
		for _, f := range p.flags() {
			all[p.name] = append(all[p.name], f.name)
		}
		every = append(every, all[p.name]...)
	}
	keys, variables, metrics := []string{"verify.json", "verify.txt", "crossfade.yaml"}, []string{config.ConfigEnv, "CROSSFADE_SERVERS"}, []string{}
	for _, s := range config.Settings() {
		variables = append(variables, s.Env...)
		keys = append(keys, s.Path)
		for at := strings.LastIndex(s.Path, "."); at > 0; at = strings.LastIndex(s.Path[:at], ".") {
			keys = append(keys, s.Path[:at])
		}
	}
	for _, m := range admin.Metrics() {
		metrics = append(metrics, m.Name)
	}
	for name, text := range pagesOfDocs(t) {
		for line, words := range commandLines(text) {
			if foreign.MatchString(words) && !strings.Contains(words, "crossfade ") {
				continue
			}
			for _, found := range aFlag.FindAllStringSubmatch(words, -1) {
				flag := found[1]
				if slices.Contains(every, flag) || foreignFlags[flag] == filepath.Base(name) || foreign.MatchString(words) {
					continue
				}
				t.Errorf("%s:%d: there is no --%s", name, line, flag)
			}
			for _, found := range ourVerb.FindAllStringSubmatch(words, -1) {
				flags, known := all[found[1]]
				if !known || foreign.MatchString(found[2]) {
					continue // prose
				}
				for _, flag := range aFlag.FindAllStringSubmatch(found[2], -1) {
					if !slices.Contains(flags, flag[1]) {
						t.Errorf("%s:%d: crossfade %s has no --%s", name, line, found[1], flag[1])
					}
				}
			}
			for _, found := range aVariable.FindAllString(words, -1) {
				if !slices.Contains(variables, found) {
					t.Errorf("%s:%d: there is no %s", name, line, found)
				}
			}
			for _, found := range aMetric.FindAllString(words, -1) {
				if !slices.Contains(metrics, found[1:]) {
					t.Errorf("%s:%d: there is no metric %s", name, line, found[1:])
				}
			}
			for _, found := range aKey.FindAllStringSubmatch(words, -1) {
				if !slices.Contains(keys, found[1]) {
					t.Errorf("%s:%d: there is no setting %s", name, line, found[1])
				}
			}
		}
	}
}

// commandLines yields the lines by number, those that end in a backslash with the next.
func commandLines(text string) map[int]string {
	lines := map[int]string{}
	whole := ""
	for i, line := range strings.Split(text, "\n") {
		if before, goesOn := strings.CutSuffix(line, `\`); goesOn {
			whole += before
			continue
		}
		lines[i+1] = whole + line
		whole = ""
	}
	return lines
}

// TestREADMEListsVerbsAndStatuses: it has tables of both.
func TestREADMEListsVerbsAndStatuses(t *testing.T) {
	text := pagesOfDocs(t)["README.md"]
	for _, v := range verbs() {
		if !regexp.MustCompile("(?m)^\\|.*`"+v.name+"`.*\\|").MatchString(text) && v.name != "help" {
			t.Errorf("the README does not list %s", v.name)
		}
	}
	for _, s := range exitStatuses {
		if !strings.Contains(text, fmt.Sprintf("\n| %d |", s.code)) {
			t.Errorf("the README does not list the status %d", s.code)
		}
	}
}

// TestConfigurationForThoseFromRedisShake: the example is one, and the page is linked.
func TestConfigurationForThoseFromRedisShake(t *testing.T) {
	texts := pagesOfDocs(t)
	_, after, found := strings.Cut(texts["docs/redisshake.md"], "is this `crossfade.yaml`:\n")
	if !found {
		t.Fatal("the page has no example")
	}
	var example strings.Builder
	for line := range strings.Lines(after) {
		code, indented := strings.CutPrefix(line, "    ")
		if !indented && strings.TrimSpace(line) != "" {
			break
		}
		example.WriteString(code)
	}
	c, err := load(t, nil, nil, []byte(example.String()))
	if err != nil {
		t.Fatal(err)
	}
	if c.Source.Username != "reader" || c.Target.Username != "writer" {
		t.Errorf("it is read as %+v", c.Source)
	}
	for _, name := range []string{"README.md", "docs/operating.md"} {
		if !strings.Contains(texts[name], "redisshake.md)") {
			t.Errorf("%s does not link the page", name)
		}
	}
}

// TestDocsNameTestsThatAre: what is said to be proved by a test is.
func TestDocsNameTestsThatAre(t *testing.T) {
	known := map[string]bool{}
	aTest := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, found := range aTest.FindAllSubmatch(text, -1) {
			known[string(found[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test[A-Z]\\w+)`")
	for name, text := range pagesOfDocs(t) {
		for _, found := range named.FindAllStringSubmatch(text, -1) {
			if !known[found[1]] {
				t.Errorf("%s: there is no %s", name, found[1])
			}
		}
	}
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	target := regexp.MustCompile("`make ([a-z][a-z0-9-]*)")
	for name, text := range pagesOfDocs(t) {
		for _, found := range target.FindAllStringSubmatch(text, -1) {
			if !regexp.MustCompile(`(?m)^`+found[1]+`:`).Match(makefile) && !strings.HasPrefix(found[1], "suite-") {
				t.Errorf("%s: there is no make %s", name, found[1])
			}
		}
	}
}
