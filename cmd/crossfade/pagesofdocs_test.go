package main

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
)

// TestTopologies: each example of the page is a whole configuration, and is of what its
// heading says.
func TestTopologies(t *testing.T) {
	page := pagesOfDocs(t)["docs/topologies.md"]
	read := func(heading string, n int) []config.Config {
		t.Helper()
		examples := yamlOf(section(t, page, heading))
		if len(examples) != n {
			t.Fatalf("%s has %d examples, not %d: %q", heading, len(examples), n, examples)
		}
		var all []config.Config
		for _, text := range examples {
			c, err := load(t, nil, nil, []byte(text))
			if err == nil {
				err = c.ValidateServers()
			}
			if err != nil {
				t.Fatalf("%s: %v\n%s", heading, err, text)
			}
			all = append(all, c)
		}
		return all
	}
	ends := func(c config.Config) (source, target config.Endpoint) {
		t.Helper()
		source, err := c.Source.Endpoint()
		if err != nil {
			t.Fatal(err)
		}
		target, err = c.Target.Endpoint()
		if err != nil {
			t.Fatal(err)
		}
		return source, target
	}
	one := read("One server to another", 1)[0]
	if source, target := ends(one); source.TLS != nil || target.TLS == nil || target.Username != "crossfade-migrator" || len(one.Databases) > 0 {
		t.Errorf("one server to another: %v, %v, %v", source, target, one.Databases)
	}
	source, target := ends(read("Sentinels", 1)[0])
	if source.Watched == nil || source.Watched.Name != "mymaster" || len(source.Watched.Sentinels) != 3 || source.Watched.Password == "" ||
		target.Watched == nil || target.Watched.Name != "newmaster" || target.Watched.Password != "" {
		t.Errorf("sentinels: %+v, %+v", source.Watched, target.Watched)
	}
	cluster := read("A cluster as the target", 1)[0]
	if source, target = ends(cluster); source.Cluster != nil || target.Cluster == nil || len(target.Cluster.Seeds) != 3 {
		t.Errorf("a cluster: %v, %v", source, target)
	}
	many := read("Many databases into one", 1)[0]
	want := map[int]config.Place{0: {DB: 0, Prefix: "c0:"}, 3: {DB: 0, Prefix: "c3:"}, 5: {DB: 1}}
	if !maps.Equal(many.Databases, want) || !slices.Equal(many.LeaveOut, []int{7}) {
		t.Errorf("many databases: %v, %v", many.Databases, many.LeaveOut)
	}
	flags := regexp.MustCompile("`(--map \\S+ --leave-out \\d+)`").FindStringSubmatch(page)
	if flags == nil {
		t.Fatal("the page has no map on a command line")
	}
	same, err := load(t, strings.Fields(flags[1]), nil, nil)
	if err != nil || !maps.Equal(same.Databases, want) || !slices.Equal(same.LeaveOut, many.LeaveOut) {
		t.Errorf("%s: %v, %v, %v", flags[1], same.Databases, same.LeaveOut, err)
	}
	both := read("Several sidecars", 2)
	if both[0].Role != "full" || both[1].Role != "proxy" || both[0].Source.URL != both[1].Source.URL || both[0].Target.URL != both[1].Target.URL || !both[0].Cutover.CreateUser {
		t.Errorf("several sidecars: %+v", both)
	}
	if part := read("A copy, and no switch", 1)[0]; len(part.Sync.Match) != 2 {
		t.Errorf("a copy: %q", part.Sync.Match)
	}
	if left := len(yamlOf(page)); left != 7 {
		t.Errorf("the page has %d examples, and 7 were looked at", left)
	}
}

// TestExamplesOfTheDocs: every piece of a configuration on any page is taken as it stands.
func TestExamplesOfTheDocs(t *testing.T) {
	pair := redistest.NewAuthority(t, "ours").Issue("127.0.0.1")
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	files := strings.NewReplacer("/etc/crossfade/door.pem", pair.CertFile, "/etc/crossfade/door-key.pem", pair.KeyFile,
		"/run/sentinel-password", password, "/run/app-old", password, "/run/app-new", password)
	n := 0
	for name, page := range pagesOfDocs(t) {
		for _, text := range yamlOf(page) {
			n++
			c, err := load(t, nil, nil, []byte(files.Replace(text)))
			if err == nil && c.Source.URL != "" && c.Target.URL != "" {
				err = c.ValidateServers()
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, text)
			}
		}
	}
	if n < 13 {
		t.Errorf("only %d examples were found", n)
	}
}

// yamlOf are the code blocks of a page that are configurations: those that begin with a key.
func yamlOf(text string) (list []string) {
	var block strings.Builder
	end := func() {
		if body := strings.TrimRight(block.String(), "\n"); regexp.MustCompile(`^[a-z_]+:\s`).MatchString(body) {
			list = append(list, body+"\n")
		}
		block.Reset()
	}
	fence, fenced := "", false // what stands before a fence stands before its lines
	for line := range strings.Lines(text) {
		if before, _, is := strings.Cut(line, "```"); is && strings.TrimSpace(before) == "" {
			end()
			fence, fenced = before, !fenced
			continue
		}
		code, inside := strings.TrimPrefix(line, fence), true
		if !fenced {
			code, inside = strings.CutPrefix(line, "    ")
		}
		switch blank := strings.TrimSpace(line) == ""; {
		case inside:
			block.WriteString(code)
		case blank && block.Len() > 0:
			block.WriteString("\n")
		case !blank:
			end()
		}
	}
	end()
	return list
}

// TestMessagesOfTheFAQ: what the page says that the program says is in its sources, piece by
// piece between the places where something is filled in.
func TestMessagesOfTheFAQ(t *testing.T) {
	sources := sourceText(t)
	rows := 0
	for line := range strings.Lines(pagesOfDocs(t)["docs/faq.md"]) {
		cells := strings.Split(line, " | ")
		if !strings.HasPrefix(line, "| `") || len(cells) != 3 {
			continue
		}
		rows++
		for _, message := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[0], -1) {
			for piece := range strings.SplitSeq(message[1], "…") {
				if piece = strings.TrimSpace(piece); len(piece) > 2 && !strings.Contains(sources, piece) {
					t.Errorf("nothing says %q (of %q)", piece, message[1])
				}
			}
		}
	}
	if rows < 60 {
		t.Errorf("only %d messages were found", rows)
	}
}

// sourceText is all of the program's sources, with strings that are made of several as one.
func sourceText(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, room := range []string{"admin", "cmd", "config", "internal", "migration", "proxy", "router", "sync"} {
		err := filepath.WalkDir(filepath.Join("../..", room), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	joined := regexp.MustCompile(`" \+\n\s*"`).ReplaceAllString(all.String(), "")
	return strings.ReplaceAll(joined, `\"`, `"`)
}
