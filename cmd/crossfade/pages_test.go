package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/config"
)

// TestPages: they know each verb and each flag that its help shows.
func TestPages(t *testing.T) {
	all := pages()
	if len(all) != len(verbs()) {
		t.Fatalf("%d pages of %d verbs", len(all), len(verbs()))
	}
	for _, p := range all {
		var out bytes.Buffer
		if err := help(t.Context(), &session{args: []string{p.name}, stdout: &out}); err != nil {
			t.Fatal(err)
		}
		var shown, known []string
		for line := range strings.Lines(out.String()) {
			if text, is := strings.CutPrefix(line, "  --"); is && !strings.HasPrefix(text, "-") && (p.own != nil || p.settings != nil) {
				shown = append(shown, strings.Fields(text)[0])
			}
		}
		for _, f := range p.flags() {
			known = append(known, f.name)
		}
		// Indented examples of flags are no list.
		shown = slices.DeleteFunc(shown, func(name string) bool { return !slices.Contains(known, name) })
		if got := slices.Compact(slices.Sorted(slices.Values(shown))); !slices.Equal(got, slices.Sorted(slices.Values(known))) {
			t.Errorf("%s: the help shows %v, the page %v", p.name, got, known)
		}
	}
	run := all[0]
	for _, s := range config.Settings() {
		for _, name := range s.Flags {
			if !slices.ContainsFunc(run.settings, func(f flagPage) bool { return f.name == name }) {
				t.Errorf("run has no --%s", name)
			}
		}
	}
}

// shell runs a program that may not be there.
func shell(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("there is no %s", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TERM=dumb", "LANG=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func scriptOf(t *testing.T, name string) string {
	t.Helper()
	var out bytes.Buffer
	if err := completion(t.Context(), &session{args: []string{name}, stdout: &out}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "_crossfade")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// completed are lines, and the words that may follow.
var completed = []struct {
	line  string
	words []string
	not   []string
}{
	{"crossfade cut", []string{"cutover"}, []string{"run"}},
	{"crossfade ", []string{"run", "check", "completion", "man", "help"}, []string{"--listen"}},
	{"crossfade cutover --max", []string{"--max-stall", "--max-lag"}, []string{"--dry-run"}},
	{"crossfade status --", []string{"--watch", "--json", "--admin.token_file"}, []string{"--listen", "--source"}},
	{"crossfade run --log.level ", []string{"debug", "info", "warn", "error"}, []string{"--log.level"}},
	{"crossfade run --log-level w", []string{"warn"}, []string{"info"}},
	{"crossfade run --sync.set_n", []string{"--sync.set_notifications=false"}, nil},
	{"crossfade shadow o", []string{"off"}, []string{"10%"}},
	{"crossfade shadow off --j", []string{"--json"}, nil},
	{"crossfade completion ", []string{"bash", "fish", "zsh"}, nil},
	{"crossfade help aud", []string{"audit"}, nil},
	{"crossfade run --sync.workers ", nil, []string{"--sync.workers", "debug"}},
}

// checkCompleted compares the first word of each line with what is expected.
func checkCompleted(t *testing.T, complete func(line string) string) {
	t.Helper()
	for _, c := range completed {
		out := complete(c.line)
		var words []string
		for line := range strings.Lines(out) {
			if fields := strings.Fields(line); len(fields) > 0 {
				words = append(words, fields[0])
			}
		}
		for _, want := range c.words {
			// zsh asks for the value when the name is there.
			if name, _, _ := strings.Cut(want, "="); !slices.Contains(words, want) && !slices.Contains(words, name) {
				t.Errorf("%q: %q is not offered: %q", c.line, want, words)
			}
		}
		for _, never := range c.not {
			if slices.Contains(words, never) {
				t.Errorf("%q: %q is offered: %q", c.line, never, words)
			}
		}
	}
}

func TestBashCompletion(t *testing.T) {
	manyProcesses(t)
	file := scriptOf(t, "bash")
	complete := func(line string) string {
		const call = `source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _crossfade; printf '%s\n' "${COMPREPLY[@]}"`
		return shell(t, "bash", append([]string{"-c", call, "bash", file}, strings.Split(line, " ")...)...)
	}
	checkCompleted(t, complete)
	for line, want := range map[string]string{
		"crossfade run --verify.gate = p":                      "passed\n",
		"crossfade run --verify.gate =":                        "off\nknown\npassed\n",
		"crossfade run --config " + filepath.Dir(file) + "/_c": file + "\n",
		"crossfade run --sync.workers = ":                      "\n",
		"crossfade status --watch --admin.to":                  "--admin.token\n--admin.token_file\n",
	} {
		if got := complete(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestFishCompletion(t *testing.T) {
	manyProcesses(t)
	file := scriptOf(t, "fish")
	checkCompleted(t, func(line string) string {
		return shell(t, "fish", "--private", "-c", `source $argv[1]; complete -C $argv[2]`, file, line)
	})
}

// TestZshCompletion types into a zsh of its own and reads what it lists.
func TestZshCompletion(t *testing.T) {
	manyProcesses(t)
	file := scriptOf(t, "zsh")
	shell(t, "zsh", "-n", file)
	checkCompleted(t, func(line string) string { return shell(t, "zsh", "-f", "testdata/complete.zsh", file, line) })
}

func TestCompletionsNameEverything(t *testing.T) {
	all := pages()
	for name, script := range shells {
		text := script(all)
		for _, p := range all {
			if !strings.Contains(text, p.name) {
				t.Errorf("%s: no verb %s", name, p.name)
			}
			for _, f := range p.flags() {
				if !strings.Contains(text, "--"+f.name) && !strings.Contains(text, "-l "+f.name+" ") {
					t.Errorf("%s: %s has no --%s", name, p.name, f.name)
				}
			}
		}
	}
}

func TestManPage(t *testing.T) {
	settings := config.Settings()
	text := manPage(pages(), settings)
	plain := strings.NewReplacer(`\-`, "-", `\(aq`, "'", `\fB`, "", `\fR`, "", `\fI`, "", `\e`, `\`).Replace(text)
	for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "VERBS", "SETTINGS", "ENVIRONMENT", "FILES", "EXIT STATUS", "SEE ALSO"} {
		if !strings.Contains(text, "\n.SH "+section+"\n") {
			t.Errorf("no section %s", section)
		}
	}
	for _, p := range pages() {
		_, own, found := strings.Cut(plain, "\n.SS \"crossfade "+p.name+"\"\n")
		if !found {
			t.Errorf("no verb %s", p.name)
		}
		own, _, _ = strings.Cut(own, "\n.S")
		for _, f := range p.own {
			if !strings.Contains(own, "\n.TP\n--"+f.name) {
				t.Errorf("%s: no --%s", p.name, f.name)
			}
		}
	}
	for _, s := range settings {
		if !strings.Contains(plain, "\n.TP\n--"+s.Path) || !strings.Contains(plain, s.Text[:min(len(s.Text), 20)]) {
			t.Errorf("no setting %s", s.Path)
		}
	}
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") && !slices.Contains([]string{".TH", ".ad", ".SH", ".SS", ".PP", ".TP", ".RS", ".RE", ".nf", ".fi", ".B", ".I", ".BR", `.\"`}, strings.Fields(line)[0]) {
			t.Errorf("line %d is a request of roff's: %s", i+1, line)
		}
	}
	file := filepath.Join(t.TempDir(), "crossfade.1")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	shell(t, "man", "--version")
	if warnings := shell(t, "bash", "-c", `LC_ALL=C.UTF-8 MANROFFSEQ= MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$1" 2>&1 >/dev/null`, "bash", file); warnings != "" {
		t.Errorf("man warns:\n%s", warnings)
	}
}
