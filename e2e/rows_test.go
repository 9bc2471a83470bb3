package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// rowSessions is how many clients of each kind, at the least, go through a cutover and a
// rollback, each of them in the state that its row is about at both.
func rowSessions() int {
	if testing.Short() {
		return 60
	}
	return 200
}

// sessionRows are the states that a client's connection can be in when the traffic is moved,
// as docs/operating.md lists them in "Sessions across a switch", and what tries each.
// A line there without one here fails TestEveryRowHasATest.
var sessionRows = []row{
	{state: "pipeline", run: pipelines},
	{state: "MULTI with queued commands", run: transactions, flags: "x"},
	{state: "WATCH", run: watchers},
	{state: "BLPOP, BLMOVE, BLMPOP, BZPOP*, XREADGROUP BLOCK…", run: waiters, flags: "b"},
	{state: "XREAD BLOCK with `$`", run: followers, flags: "b"},
	{state: "SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE", run: listeners, flags: "P"},
	{state: "SCAN, HSCAN, SSCAN, ZSCAN", run: scanners},
	{state: "scripts", run: scripters},
	{state: "CLIENT TRACKING", run: trackers, flags: "t"},
	{state: "SELECT, AUTH, HELLO, SETNAME, SETINFO, NO-EVICT, NO-TOUCH, REPLY", run: stateful},
	{state: "MONITOR, SYNC, PSYNC", run: streams, flags: "OS", alone: true},
}

// TestEveryRowHasATest compares the table with that of the manual.
func TestEveryRowHasATest(t *testing.T) {
	text, err := os.ReadFile("../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "## Sessions across a switch\n")
	if !found {
		t.Fatal("the manual does not say what becomes of sessions")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var listed, tried []string
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			listed = append(listed, strings.TrimSpace(cells[1]))
		}
	}
	listed = listed[min(2, len(listed)):] // the heading and the line below it
	for _, r := range sessionRows {
		tried = append(tried, r.state)
	}
	if !slices.Equal(listed, tried) {
		t.Errorf("the manual lists\n  %s\nand there are tests of\n  %s", strings.Join(listed, "\n  "), strings.Join(tried, "\n  "))
	}
}

// TestSessionRows takes 200 clients in each state of the table, all at the same time,
// through a cutover and a rollback, and looks at every answer. The server that is to be
// left is asked whether they are in it. Those whose state means
// that the server tells them of everything have servers of their own.
func TestSessionRows(t *testing.T) {
	var together, alone []row
	for _, r := range sessionRows {
		if r.alone {
			alone = append(alone, r)
		} else {
			together = append(together, r)
		}
	}
	for _, proto := range []int{2, 3} {
		t.Run(fmt.Sprintf("RESP%d", proto), func(t *testing.T) {
			perform(t, proto, together)
			perform(t, proto, alone)
		})
	}
}

// perform starts two servers and has the rows act on them at once. What is missing on the
// target and what users there are is the same for all.
func perform(t *testing.T, proto int, list []row) {
	const app = "app on >apppass ~* &* +@all"
	sc := &scene{proto: proto}
	sc.src = redistest.Start(t, redistest.WithACL(app), redistest.WithConfig("repl-diskless-sync-delay", "0"))
	sc.dst = redistest.Start(t, redistest.WithACL(app), redistest.WithConfig("repl-diskless-sync-delay", "0"),
		redistest.WithRenamed("LOLWUT", "")) // a command that is queued on the source and not on the target
	// The budget is not what is tried here, and there may be other work for the processor.
	sc.c = newSidecar(t, setup{source: sc.src.URL(0), target: sc.dst.URL(0), dbmap: dbmap, extra: []string{"--cutover.max_stall", "30s"}})
	sc.c.start("")
	sc.c.awaitReady()
	sc.forget(t)

	acts := make([]*act, len(list))
	for i, r := range list {
		acts[i] = sc.enter(r)
	}
	t.Cleanup(sc.close) // also when this test ends early
	for i, s := range []struct {
		name string
		to   func() (migration.Report, error)
		side router.Side
	}{{"cutover", sc.switchTo(router.Target), router.Target}, {"rollback", sc.switchTo(router.Source), router.Source}} {
		sc.steps.awaitAll()
		if i > 0 {
			sc.c.awaitReady()
		}
		sc.mustBeInState(t, list)
		began := time.Now()
		report, err := s.to()
		if err != nil {
			t.Errorf("%s: %v", s.name, err)
			break
		}
		sc.setSide(s.side)
		t.Logf("%s of %d rows took %v: held for %.1f ms, %d sessions waited, the longest %.1f ms; %v",
			s.name, len(list), time.Since(began).Round(time.Millisecond), report.Held, report.Sessions, report.Stall.Max, report.Steps)
		sc.steps.advance()
	}
	sc.steps.awaitAll()
	sc.close()
	for _, a := range acts {
		t.Run(name(a.row.state), func(t *testing.T) {
			for _, problem := range a.problems() {
				t.Error(problem)
			}
		})
	}
	if !t.Failed() {
		sc.c.end(true)
		equalSides(t, sc.src, sc.dst, dbmap)
	}
}

// mustBeInState fails unless the server that the traffic is on says that as many of its
// clients as the rows need are in their states, as far as it tells of them.
func (sc *scene) mustBeInState(t *testing.T, list []row) {
	t.Helper()
	want := make(map[string]int)
	for _, r := range list {
		if r.flags != "" {
			want[r.flags] += rowSessions()
		}
	}
	told := must[string](t)(sc.server().Client(0).ClientList(t.Context()).Result())
	have := make(map[string]int)
	for line := range strings.Lines(told) {
		_, flags, _ := strings.Cut(line, " flags=")
		flags, _, _ = strings.Cut(flags, " ")
		for of := range want {
			if strings.ContainsAny(flags, of) {
				have[of]++
			}
		}
	}
	for of, n := range want {
		if have[of] < n {
			t.Errorf("%d clients have one of the flags %s at the server, want %d", have[of], of, n)
		}
	}
	t.Logf("clients by their flags at the server: %v", have)
}

// name makes a subtest's name of a state.
func name(state string) string {
	state, _, _ = strings.Cut(state, ",")
	return strings.ReplaceAll(strings.TrimSpace(strings.ReplaceAll(state, "`", "")), " ", "_")
}

// switchTo returns what moves the traffic to a side.
func (sc *scene) switchTo(side router.Side) func() (migration.Report, error) {
	return func() (migration.Report, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		if side == router.Target {
			return sc.c.admin.Cutover(ctx, admin.SwitchRequest{})
		}
		return sc.c.admin.Rollback(ctx, admin.SwitchRequest{})
	}
}
