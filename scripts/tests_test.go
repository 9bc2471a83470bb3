package scripts

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSecondTry runs tests.sh on packages that fail in every way: only a single
// test's failure is forgiven, and only when the test passes by itself.
func TestSecondTry(t *testing.T) {
	script, err := filepath.Abs("tests.sh")
	if err != nil {
		t.Fatal(err)
	}
	const once = `func Test%s(t *testing.T) {
	if _, err := os.Stat("%s"); err != nil {
		_ = os.WriteFile("%s", nil, 0o600)
		t.Fatal("the first time")
	}
}
`
	flaky := func(name string) string { return strings.ReplaceAll(once, "%s", name) }
	const head = "package p\n\nimport (\n\t\"flag\"\n\t\"os\"\n\t\"strings\"\n\t\"testing\"\n)\n\nvar _ = strings.Join(os.Args, \"\")\n\nvar times int\n\nfunc init() {\n\tflag.Uint64(\"seed\", 0, \"\")\n\tflag.Uint64(\"from\", 0, \"\")\n}\n\nfunc again() int { times++; return times }\n\nfunc TestGood(*testing.T) {}\n\n"
	// seeded is a test that fails and names its seed, unless it is given that.
	seeded := func(seed, given string) string {
		return "func TestA(t *testing.T) {\n\tif !(" + given + ") {\n\t\tt.Fatal(\"wrong (" + seed + ")\")\n\t}\n}\n"
	}
	for _, c := range []struct {
		name, text string
		args       []string
		fails      bool
		says       string
	}{
		{name: "all pass"},
		{name: "one by itself", text: flaky("A"), says: "FAILED BESIDE OTHERS, passed by itself: TestA of p"},
		{name: "three by themselves", text: flaky("A") + flaky("B") + flaky("C"), says: "passed by itself: TestC of p"},
		{name: "four", text: flaky("A") + flaky("B") + flaky("C") + flaky("D"), fails: true, says: "no second try for more than three"},
		{name: "twice", text: "func TestA(t *testing.T) { t.Error() }\n", fails: true, says: "TestA of p failed twice"},
		{name: "a subtest", text: "func TestA(t *testing.T) {\n\tt.Run(\"x\", func(t *testing.T) { t.Error() })\n}\n", fails: true, says: "TestA of p failed twice"},
		{name: "the end of a package", text: "func TestMain(m *testing.M) {\n\tif m.Run() == 0 {\n\t\tos.Exit(3)\n\t}\n}\n", fails: true, says: "a package failed as a whole"},
		{name: "a panic", text: "func TestA(*testing.T) { panic(1) }\n", fails: true, says: "no second try after"},
		{name: "no build", text: "func TestA(*testing.T) { x }\n", fails: true, says: "a package failed as a whole"},
		{name: "words behind -args", text: "func TestA(*testing.T) {\n\tif os.Args[len(os.Args)-1] != \"word\" {\n\t\tpanic(os.Args)\n\t}\n}\n" + flaky("B"), args: []string{"-args", "word"}, says: "passed by itself: TestB of p"},
		{name: "a seed of the environment", text: seeded("E2E_SEED=17", `os.Getenv("E2E_SEED") == "17"`), says: "TestA of p, E2E_SEED=17"},
		{name: "a seed behind -args", text: seeded("-seed 17", `strings.HasSuffix(strings.Join(os.Args, " "), "word -seed 17")`), args: []string{"-args", "word"}, says: "TestA of p, -seed 17"},
		{name: "a seed and no -args", text: seeded("-from 17", `strings.HasSuffix(strings.Join(os.Args, " "), "-from 17")`), says: "passed by itself: TestA of p"},
		{name: "chances that fail in the end", text: seeded("-from 17", `strings.HasSuffix(strings.Join(os.Args, " "), "-from 17") && again() < 4`), fails: true, says: "TestA of p failed twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for name, text := range map[string]string{"go.mod": "module p\n\ngo 1.24\n", "p_test.go": head + c.text} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), script, append([]string{"-p", "1", "./..."}, c.args...)...)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if (err != nil) != c.fails || !strings.Contains(string(out), c.says) || (c.says == "" && strings.Contains(string(out), "tests:")) {
				t.Errorf("%v:\n%s", err, out)
			}
		})
	}
}

// TestRemovedPackages: what was removed and has left its configuration behind is missing.
func TestRemovedPackages(t *testing.T) {
	if _, err := exec.LookPath("dpkg-query"); err != nil {
		t.Skip("there is no dpkg-query")
	}
	text, err := os.ReadFile("deps.sh")
	if err != nil {
		t.Fatal(err)
	}
	asks := regexp.MustCompile(`(?m)^installed\(\) \{.*\}$`).FindString(string(text))
	db := t.TempDir()
	known := "Package: here\nStatus: install ok installed\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.com>\nDescription: a\n\n" +
		"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.com>\nDescription: a\n"
	for name, text := range map[string]string{"status": known, "available": ""} {
		if err := os.WriteFile(filepath.Join(db, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]bool{"here": true, "gone": false, "never": false} {
		cmd := exec.CommandContext(t.Context(), "/bin/sh", "-euc", asks+"\ninstalled "+name)
		cmd.Env = append(os.Environ(), "DPKG_ADMINDIR="+db)
		if out, err := cmd.CombinedOutput(); (err == nil) != want {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
