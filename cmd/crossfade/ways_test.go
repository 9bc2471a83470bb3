package main

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

func TestWaysThatContradict(t *testing.T) {
	dir := shortDir(t)
	for _, args := range [][]string{
		{"cutover", "--dry-run", "--rehearse"},
		{"cutover", "--dry-run", "--when-ready"},
		{"rollback", "--rehearse", "--at", "03:00"},
		{"cutover", "--at", "tomorrow"},
		{"cutover", "--at", "2020-01-01T00:00:00Z"},
		{"cutover", "--when-ready", "--retries", "-1"},
		{"cutover", "--when-ready", "--timeout", "-1s"},
		{"cutover", "--max-lag", "10"},
		{"audit", "--last", "0"},
	} {
		if r := must(t, dir, 2, args...); r.stdout != "" || !strings.HasPrefix(r.stderr, "crossfade: "+args[0]+":") {
			t.Errorf("%v: %s%s", args, r.stdout, r.stderr)
		}
	}
}

// TestWaysByHand: a rehearsal, a cutover that waits when its command has gone, and who
// asked for all that.
func TestWaysByHand(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	dir := shortDir(t)
	cf := startIn(t, dir, source, target, "--cutover.postpone_file", dir+"/postpone")
	cf.awaitReady(t)
	r := must(t, dir, 0, "cutover", "--rehearse")
	for _, want := range []string{"rehearsal: a cutover would hold the clients for about", "they are on the source as before", "drain-2", "journal      ~", "next      crossfade cutover"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("a rehearsal does not say %q:\n%s", want, r.stdout)
		}
	}
	cf.awaitReady(t)
	if text := must(t, dir, 0, "status").stdout; !strings.Contains(text, "rehearsal of a cutover at") || !strings.Contains(text, "would hold for about") {
		t.Errorf("status:\n%s", text)
	}

	if err := os.WriteFile(dir+"/postpone", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	waits := launch(t, dir, "cutover", "--when-ready", "--max-lag", "1s", "--timeout", "10m")
	redistest.Eventually(t, 15*time.Second, func() bool { return strings.Contains(waits.stderr.String(), "waiting: the file ") }, "what it waits for")
	if code := waits.stop(t, syscall.SIGINT); code != 130 || !strings.Contains(waits.stderr.String(), "or waits there") {
		t.Errorf("exit status %d, %s", code, waits.stderr.String())
	}
	text := must(t, dir, 0, "status").stdout
	for _, want := range []string{"waiting   a cutover, since ", "given up at ", "for: the file "} {
		if !strings.Contains(text, want) {
			t.Errorf("status does not say %q:\n%s", want, text)
		}
	}
	must(t, dir, 0, "abort")
	redistest.Eventually(t, 15*time.Second, func() bool {
		return strings.Contains(must(t, dir, 0, "status").stdout, "was dropped")
	}, "saying that it was dropped")
	if err := os.Remove(dir + "/postpone"); err != nil {
		t.Fatal(err)
	}
	must(t, dir, 0, "cutover", "--when-ready")
	if side := cf.status(t).Side; side != router.Target {
		t.Errorf("the clients are on the %s", side)
	}

	text = must(t, dir, 0, "audit").stdout
	for _, want := range []string{` asks: cutover {"when_ready":true}`, "cutover of ", ": ok after ", "VERIFYING → COMMITTING (cutover)", "switched: cutover: ok"} {
		if !strings.Contains(strings.Join(strings.Fields(text), " "), strings.TrimSpace(want)) {
			t.Errorf("audit does not say %q:\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
	var e audit.Entry
	if err := json.Unmarshal([]byte(must(t, dir, 0, "audit", "--json", "--last", "1").stdout), &e); err != nil || e.Event == "" {
		t.Errorf("%+v, %v", e, err)
	}
	if text := must(t, dir, 0, "status", "--json").stdout; !strings.Contains(text, `"audit": [`) {
		t.Errorf("status --json has no audit")
	}
	if _, err := os.Stat(dir + "/crossfade.state.audit"); err != nil {
		t.Error(err)
	}
}
