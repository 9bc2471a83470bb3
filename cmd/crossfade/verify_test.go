package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/sync/verify"
)

// fillVerified writes the same keys to databases of two servers.
func fillVerified(t *testing.T, source, target *redistest.Server, from, to, n int) {
	t.Helper()
	for i := range n {
		for s, db := range map[*redistest.Server]int{source: from, target: to} {
			if err := s.Client(db).Set(t.Context(), fmt.Sprint("k", i), i, 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestVerifyTwoServers compares two servers without a sidecar.
func TestVerifyTwoServers(t *testing.T) {
	source, target := redistest.Start(t, redistest.WithPassword("sesame")), redistest.Start(t)
	fillVerified(t, source, target, 0, 0, 100)
	fillVerified(t, source, target, 3, 5, 100)
	dir := shortDir(t)
	servers := []string{"verify", "--source", url(source), "--target", url(target), "--map", "0=0,3=5"}
	with := func(more ...string) []string { return append(append([]string{}, servers...), more...) }

	if r := must(t, dir, 0, servers...); !strings.Contains(r.stdout, "No difference.") || !strings.Contains(r.stdout, "3 → 5") {
		t.Errorf("equal ones: %s", r.stdout)
	}
	ctx := t.Context()
	five := target.Client(5)
	five.Set(ctx, "k7", "x", 0)
	five.Del(ctx, "k8")
	five.Set(ctx, "more", 1, 0)
	r := must(t, dir, 3, with("--report", "found")...)
	for _, want := range []string{`value   "k7"`, `missing "k8"`, `extra   "more"`, "3 keys differ."} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in\n%s", want, r.stdout)
		}
	}
	for line := range strings.Lines(r.stdout) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	if found, ok, err := verify.Read(filepath.Join(dir, "found")); !ok || err != nil || found.Differing != 3 || found.By != "stand-alone" || found.Stale {
		t.Errorf("the report: %+v, %v", found, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "found.txt")); err != nil || !strings.Contains(string(text), "3 keys differ.") || strings.Contains(string(text), "sesame") {
		t.Errorf("the report: %s, %v", text, err)
	}
	if r := must(t, dir, 0, with("--repair")...); !strings.Contains(r.stdout, "3 keys differed, are mended and equal now.") {
		t.Errorf("--repair: %s", r.stdout)
	}
	var report verify.Report
	if err := json.Unmarshal([]byte(must(t, dir, 0, with("--json", "--sample", "0.5")...).stdout), &report); err != nil || !report.OK() || report.Keys == 0 || report.Keys >= 200 {
		t.Errorf("--json: %+v, %v", report, err)
	}

	// The servers may come from the configuration.
	config := filepath.Join(dir, "crossfade.yaml")
	text := fmt.Sprintf("source: %s\ntarget: %s\ndatabases: {0: 0, 3: 5}\n", url(source), url(target))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, dir, 0, "verify", "--direct", "--config", config)

	for _, wrong := range [][]string{
		{"verify", "--map", "0=0"}, with("--last"), {"verify", "--last", "--repair"}, with("--sample", "0"), {"verify", "--source", url(source)},
	} {
		if r := call(t, dir, nil, wrong...); r.code != 2 {
			t.Errorf("%v: exit status %d\n%s%s", wrong, r.code, r.stdout, r.stderr)
		}
	}
	if err := target.Close(); err != nil {
		t.Fatal(err)
	}
	must(t, dir, 1, with("--proxy.dial_timeout", "100ms")...)
}

// TestVerifyBesideTheCopy: the sidecar finds what the copy cannot know of, by the
// verb and by itself.
func TestVerifyBesideTheCopy(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	fillVerified(t, source, source, 0, 0, 50)
	ctx := t.Context()
	cf := startSidecar(t, source, target, "--verify.rate", "0", "--verify.gate", "passed", "--databases", "0=0")
	redistest.Eventually(t, 15*time.Second, func() bool { return cf.status(t).Phase == migration.Tailing }, "the copy")
	if st := cf.status(t); st.Ready || !strings.Contains(fmt.Sprint(st.Reasons), "no verification has looked at all keys") {
		t.Errorf("ready %v without a verification: %v", st.Ready, st.Reasons)
	}
	must(t, cf.dir, 3, "cutover", "--dry-run")
	if r := must(t, cf.dir, 1, "verify", "--last"); !strings.Contains(r.stderr, "no verification has come to its end") {
		t.Errorf("--last: %s", r.stderr)
	}
	must(t, cf.dir, 0, "verify")
	must(t, cf.dir, 0, "cutover", "--dry-run")

	target.Client(0).Set(ctx, "k7", "x", 0)
	if r := must(t, cf.dir, 3, "verify"); !strings.Contains(r.stdout, `value   "k7"`) {
		t.Errorf("verify: %s", r.stdout)
	}
	if r := must(t, cf.dir, 3, "cutover", "--dry-run"); !strings.Contains(r.stderr, "1 keys that differ") {
		t.Errorf("a cutover with a known difference: %s", r.stderr)
	}
	if r := must(t, cf.dir, 0, "verify", "--repair"); !strings.Contains(r.stdout, "1 key differed, is mended and equal now.") {
		t.Errorf("--repair: %s", r.stdout)
	}
	if got := target.Client(0).Get(ctx, "k7").Val(); got != "7" {
		t.Errorf("mended to %q", got)
	}
	if r, ok, err := verify.Read(filepath.Join(cf.dir, "crossfade.state.verify")); !ok || err != nil || r.Repaired != 1 {
		t.Errorf("the report beside the state: %+v, %v", r, err)
	}
	must(t, cf.dir, 0, "cutover", "--dry-run")
	if r := must(t, cf.dir, 0, "verify", "--last"); strings.Contains(r.stdout, "Since it began") {
		t.Errorf("stale without a write: %s", r.stdout)
	}
	source.Client(0).Set(ctx, "k9", "new", 0)
	redistest.Eventually(t, 5*time.Second, func() bool {
		return strings.Contains(must(t, cf.dir, 0, "verify", "--last").stdout, "1 change was seen")
	}, "the report is stale")
	redistest.Eventually(t, 5*time.Second, func() bool {
		r, ok, err := verify.Read(filepath.Join(cf.dir, "crossfade.state.verify"))
		return ok && err == nil && r.Stale && r.Changes > 0
	}, "its file says so")
	if text := strings.Join(strings.Fields(must(t, cf.dir, 0, "status").stdout), " "); !strings.Contains(text, "1 mended") || !strings.Contains(text, "what was written since was followed") {
		t.Errorf("status:\n%s", text)
	}
	// After a cutover the target is what counts.
	must(t, cf.dir, 0, "cutover")
	redistest.Eventually(t, 15*time.Second, func() bool { return cf.status(t).Phase == migration.ReverseTailing }, "the way back")
	if st := cf.status(t); st.Ready || !strings.Contains(fmt.Sprint(st.Reasons), "before the restart or the switch") {
		t.Errorf("ready %v for a rollback without a verification: %v", st.Ready, st.Reasons)
	}
	if r := must(t, cf.dir, 0, "verify"); !strings.Contains(r.stdout, "No difference.") {
		t.Errorf("verify: %s", r.stdout)
	}
	cf.awaitReady(t)
	if r, ok, err := verify.Read(filepath.Join(cf.dir, "crossfade.state.verify")); !ok || err != nil || !r.OK() || r.By != "operator" {
		t.Errorf("the report beside the state: %+v, %v", r, err)
	}
}

// TestVerifyRemembersWhatDiffers: what one comparison has found is not undone by a sample
// that does not meet it. The keys' names are of bytes.
func TestVerifyRemembersWhatDiffers(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	fillVerified(t, source, source, 0, 0, 200)
	for _, key := range []string{"\xff\x01", "\xfe\x01"} {
		source.Client(0).Set(t.Context(), key, "right", 0)
	}
	cf := startSidecar(t, source, target, "--verify.rate", "0", "--databases", "0=0")
	cf.awaitReady(t)
	there := target.Client(0)
	for _, key := range []string{"\xff\x01", "\xfe\x01"} {
		there.Set(t.Context(), key, "wrong", 0)
	}
	r := must(t, cf.dir, 3, "verify", "--json")
	var report verify.Report
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || report.Differing != 2 {
		t.Fatalf("%s, %v", r.stdout, err)
	}
	for _, e := range report.Databases[0].Examples {
		if got := there.Get(t.Context(), string(e.Key)).Val(); got != "wrong" {
			t.Errorf("it names %q, which is %q on the target", string(e.Key), got)
		}
	}
	if r := must(t, cf.dir, 3, "verify"); !strings.Contains(r.stdout, `value   "\xff\x01"`) || !strings.Contains(r.stdout, `value   "\xfe\x01"`) {
		t.Errorf("verify: %s", r.stdout)
	}
	refused := func(what string) {
		t.Helper()
		if r := must(t, cf.dir, 3, "cutover", "--dry-run"); !strings.Contains(r.stderr, "2 keys that differ") {
			t.Errorf("%s: %s", what, r.stderr)
		}
	}
	refused("a cutover with known differences")
	for {
		if r := call(t, cf.dir, nil, "verify", "--sample", "0.001"); r.code == 0 {
			break // it has not met them
		}
	}
	refused("behind a sample")
	must(t, cf.dir, 0, "verify", "--repair")
	must(t, cf.dir, 0, "cutover", "--dry-run")
}

func TestVerifyInTheBackground(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	fillVerified(t, source, source, 0, 0, 50)
	ctx := t.Context()
	cf := startSidecar(t, source, target, "--verify.interval", "100ms", "--databases", "0=0")
	redistest.Eventually(t, 20*time.Second, func() bool { return cf.status(t).Verify.Background.Walks > 0 }, "a walk")
	v := cf.status(t).Verify
	if b := v.Background; b.Alarms != 0 || b.Last == nil || b.Last.Verdict != verify.Equal || b.Last.Keys < 50 || !b.Last.Holds {
		t.Errorf("%+v, %+v", b, b.Last)
	}
	target.Client(0).Set(ctx, "k7", "x", 0)
	target.Client(0).Set(ctx, "more", 1, 0)
	redistest.Eventually(t, 20*time.Second, func() error {
		if n := cf.status(t).Verify.Background.Alarms; n != 2 {
			return fmt.Errorf("%d alarms", n)
		}
		if got := target.Client(0).Get(ctx, "k7").Val(); got != "7" || target.Client(0).Exists(ctx, "more").Val() != 0 {
			return fmt.Errorf("not mended: %q", got)
		}
		return nil
	}, "two alarms")
	if text := strings.Join(strings.Fields(must(t, cf.dir, 0, "status").stdout), " "); !strings.Contains(text, "ALARM: 2 keys differed although the copy was live") {
		t.Errorf("status:\n%s", text)
	}
	if log := cf.stderr.String(); !strings.Contains(log, "differed although the copy was live (extra)") {
		t.Error("nothing in the log")
	}
	cf.awaitReady(t)
}

// TestVerifyProgressFits: one line of a terminal.
func TestVerifyProgressFits(t *testing.T) {
	text := progressText(verify.Progress{Source: 1000, Target: 1000, Step: "settle", Done: 99_999_999, Total: 999_999_999, Differing: 9_999_999}, time.Millisecond)
	if n := len([]rune(text)); n > 79 {
		t.Errorf("%d columns: %s", n, text)
	}
	text = progressText(verify.Progress{Source: 10, Target: 10, Step: "compare", Done: 99_999_999, Total: 999_999_999, Differing: 99_999}, time.Hour)
	if n := len([]rune(text)); n > 79 {
		t.Errorf("%d columns: %s", n, text)
	}
}
