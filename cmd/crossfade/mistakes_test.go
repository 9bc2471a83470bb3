package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// unused returns an address on which nobody listens.
func unused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// TestMistakes: what a tired engineer gets wrong gets one message that says what,
// the documented exit status, and never a stack trace or a secret.
func TestMistakes(t *testing.T) {
	manyProcesses(t)
	source := redistest.Start(t, redistest.WithPassword("sesame"))
	target := redistest.Start(t)
	dir := shortDir(t)
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s, tg, nobody := url(source), url(target), unused(t)
	noPassword := "redis://" + source.Addr()
	wrongPassword := "redis://:h1dden@" + source.Addr()
	both := func(source, target string, more ...string) []string {
		return append([]string{"--source", source, "--target", target, "--listen", "127.0.0.1:0"}, more...)
	}
	run := func(args ...string) []string { return append([]string{"run"}, args...) }
	for name, c := range map[string]struct {
		args []string
		env  []string
		code int
		want []string // on standard error, or standard output
	}{
		"nothing":           {nil, nil, 2, []string{"Verbs:"}},
		"unknown verb":      {[]string{"cutovr"}, nil, 2, []string{`crossfade: unknown verb "cutovr": did you mean cutover?`}},
		"flags first":       {[]string{"--source", s, "run"}, nil, 2, []string{"crossfade: the verb comes first"}},
		"unknown flag":      {run("--sorce", s), nil, 2, []string{"crossfade: run: unknown flag --sorce: did you mean --source?"}},
		"extra word":        {[]string{"status", "now"}, nil, 2, []string{`crossfade: status: "now" was not expected`}},
		"useless flag":      {[]string{"cutover", "--target", tg}, nil, 2, []string{"crossfade: cutover: --target means nothing here"}},
		"bad sample":        {[]string{"verify", "--sample", "7"}, nil, 2, []string{"--sample 7 is out of range"}},
		"bad duration":      {[]string{"cutover", "--max-stall", "7"}, nil, 2, []string{`--max-stall: cutover.max_stall: "7" has no unit`}},
		"no servers":        {run(), nil, 2, []string{"crossfade: 2 problems", "source.url: missing", "target.url: missing"}},
		"not a URL":         {run(both("http://"+source.Addr(), tg)...), nil, 2, []string{"source.url", "unknown scheme", "redis://"}},
		"no scheme":         {run(both(source.Addr(), tg)...), nil, 2, []string{"source.url", "redis://"}},
		"a database":        {run(both(s+"/3", tg)...), nil, 2, []string{"names a database", "--map"}},
		"the same twice":    {run(both(tg, tg)...), nil, 2, []string{"target.url", "is the source as well"}},
		"a merging map":     {run(both(s, tg, "--map", "0=1,3=1")...), nil, 2, []string{"crossfade: in the configuration: databases: 0=1 and 3=1 would overwrite each other"}},
		"a garbage map":     {run(both(s, tg, "--map", "zero")...), nil, 2, []string{"--map", "SOURCE=TARGET"}},
		"garbage file":      {run("--config", file("garbage", "\x7fELF\x00\x01\xff")), nil, 2, []string{"garbage:1: not a text"}},
		"bad YAML":          {run("--config", file("bad.yaml", "listen: [1, 2\n")), nil, 2, []string{"bad.yaml:", "not valid YAML"}},
		"unknown key":       {run("--config", file("key.yaml", "lissten: 127.0.0.1:1\n")), nil, 2, []string{"key.yaml:1", "lissten", "listen"}},
		"no file":           {run("--config", filepath.Join(dir, "none.yaml")), nil, 2, []string{"none.yaml", "no such file"}},
		"unknown variable":  {run(both(s, tg)...), []string{"CROSSFADE_SORCE=x"}, 2, []string{"CROSSFADE_SORCE", "CROSSFADE_SOURCE"}},
		"open door":         {run(both(s, tg, "--admin", "0.0.0.0:0")...), nil, 2, []string{"admin.token: missing"}},
		"no password":       {run(both(noPassword, tg)...), nil, 1, []string{"crossfade: ", "source redis://" + source.Addr(), "NOAUTH", "wants a password"}},
		"wrong password":    {run(both(wrongPassword, tg)...), nil, 1, []string{"crossfade: ", source.Addr(), "WRONGPASS", "check user and password"}},
		"unreachable":       {run(both(s, "redis://"+nobody)...), nil, 1, []string{"crossfade: ", "target redis://" + nobody, "refused"}},
		"both unreachable":  {run(both("redis://"+nobody, "redis://"+unused(t))...), nil, 1, []string{"crossfade: ", "source", "target"}},
		"listening twice":   {run("--source", s, "--target", tg, "--listen", source.Addr()), nil, 2, []string{"listen", "is the address of the source"}},
		"no right to state": {run(both(s, tg, "--state", filepath.Join(dir, "no", "where"))...), nil, 1, []string{"state file", "--state"}},
		"check wrong":       {append([]string{"check"}, both(wrongPassword, tg)...), nil, 3, []string{"FAIL reach", "the password is wrong"}},
		"check unreachable": {append([]string{"check"}, both(s, "redis://"+nobody)...), nil, 3, []string{"FAIL reach target", "refused"}},
		"check nothing":     {[]string{"check"}, nil, 2, []string{"source.url: missing"}},
		"nobody there":      {[]string{"status"}, nil, 1, []string{"crossfade: no crossfade is listening on unix:crossfade.sock (no such file", "is `crossfade run` running"}},
		"nobody at a port":  {[]string{"cutover", "--admin", nobody}, nil, 1, []string{"crossfade: no crossfade is listening on " + nobody}},
		"not a crossfade":   {[]string{"status", "--admin", target.Addr()}, nil, 1, []string{"crossfade: ", "sidecar at " + target.Addr()}},
	} {
		t.Run(name, func(t *testing.T) {
			r := call(t, dir, c.env, c.args...)
			if r.code != c.code {
				t.Errorf("exit status %d, want %d", r.code, c.code)
			}
			all := r.stderr + strings.Join(strings.Fields(r.stdout), " ")
			for _, want := range c.want {
				if !strings.Contains(all, want) {
					t.Errorf("it does not say %q", want)
				}
			}
			for _, never := range []string{"goroutine", "panic", ".go:", "h1dden", "sesame"} {
				if strings.Contains(all, never) {
					t.Errorf("it says %q", never)
				}
			}
			if n := strings.Count(r.stderr, "crossfade: "); n > 1 {
				t.Errorf("%d messages", n)
			}
			if t.Failed() {
				t.Logf("crossfade %q wrote:\n%s%s", c.args, r.stdout, r.stderr)
			}
		})
	}
}

func TestAnswersWithoutServers(t *testing.T) {
	manyProcesses(t)
	dir := shortDir(t)
	if r := must(t, dir, 0, "version"); !strings.HasPrefix(r.stdout, "crossfade v9.9.9-test ") {
		t.Errorf("version: %s", r.stdout)
	}
	if r := must(t, dir, 0, "help", "exit-codes"); r.stdout != exitCodes {
		t.Errorf("exit codes: %s", r.stdout)
	}
	for _, v := range verbs() {
		r := must(t, dir, 0, "help", v.name)
		for line := range strings.Lines(r.stdout) {
			if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 && !strings.HasPrefix(line, "        ") {
				t.Errorf("help %s: a line of %d columns: %s", v.name, n, line)
			}
		}
		if v.name != "help" && v.name != "version" {
			if r := must(t, dir, 0, v.name, "--help"); !strings.HasPrefix(r.stdout, "crossfade "+v.name) {
				t.Errorf("%s --help: %s", v.name, r.stdout)
			}
		}
	}
	if r := must(t, dir, 0, "help", "status"); strings.Contains(r.stdout, "--listen") || !strings.Contains(r.stdout, "--admin.token_file") {
		t.Errorf("help status lists the wrong flags:\n%s", r.stdout)
	}

	r := call(t, dir, []string{"CROSSFADE_SOURCE=redis://u:sesame@h"}, "config", "--map", "3=5", "--sync.batch", "7")
	if r.code != 0 || strings.Contains(r.stdout, "sesame") || !strings.Contains(r.stdout, "redis://u:***@h") || !strings.Contains(r.stdout, "batch: 7") {
		t.Errorf("config: %d %s%s", r.code, r.stdout, r.stderr)
	}
	example := must(t, dir, 0, "config", "--example").stdout
	if err := os.WriteFile(filepath.Join(dir, "example.yaml"), []byte(example), 0o600); err != nil {
		t.Fatal(err)
	}
	if a, b := must(t, dir, 0, "config"), must(t, dir, 0, "config", "--config", "example.yaml"); a.stdout != b.stdout {
		t.Errorf("the example is not the defaults:\n%s\n%s", a.stdout, b.stdout)
	}
}
