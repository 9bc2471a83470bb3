//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// TestWatchWords: the screen says what the dashboard says.
func TestWatchWords(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile("../../admin/web/files/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(text), `\'`, `'`)
	}
	words := read("words.js")
	for _, s := range stations {
		if !strings.Contains(words, "{ id: '"+s.id+"', name: '"+s.name+"', does: ") {
			t.Errorf("the dashboard has no station %+v", s)
		}
	}
	known := regexp.MustCompile(`(?m)^  ([A-Z_]+): \['([a-z]+)', '([^']+)'\],$`).FindAllStringSubmatch(words, -1)
	if len(known) != len(phaseWords) || len(known) != len(migration.Phases()) {
		t.Errorf("the dashboard has words for %d phases, the screen for %d, and there are %d", len(known), len(phaseWords), len(migration.Phases()))
	}
	for _, k := range known {
		if w := phaseWords[migration.Phase(k[1])]; w != (phaseWord{k[2], k[3]}) {
			t.Errorf("of %s the dashboard says %q, the screen %+v", k[1], k[2:], w)
		}
	}
	said := read("line.js") + read("switch.js")
	for _, st := range placesToStand() {
		_, back := backOf(st)
		if st.NoWayBack != "" {
			back = strings.TrimSuffix(back, st.NoWayBack+".")
		}
		for _, text := range []string{back, leadOf(st)} {
			if !strings.Contains(said, "'"+text+"'") {
				t.Errorf("the dashboard never says %q", text)
			}
		}
	}
}

// placesToStand are all that the words for where a migration stands go by.
func placesToStand() (all []migration.Status) {
	for _, phase := range migration.Phases() {
		for _, side := range []router.Side{router.Source, router.Target} {
			for _, fence := range []string{"", "F2"} {
				for _, never := range []string{"", "it cannot be followed"} {
					for _, ready := range []bool{false, true} {
						all = append(all, migration.Status{Phase: phase, Side: side, Fence: fence, NoWayBack: never, Ready: ready})
					}
				}
			}
		}
	}
	return all
}

// TestWatchSaysWhatTheDashboardSays runs the dashboard's own words, where there is a node.
func TestWatchSaysWhatTheDashboardSays(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("../../admin/web/files")); err != nil {
		t.Fatal(err)
	}
	all := placesToStand()
	told, err := json.Marshal(all)
	const script = `import { sentence, back } from './line.js';
import { readFileSync } from 'node:fs';
const all = JSON.parse(readFileSync(new URL('told.json', import.meta.url)));
console.log(JSON.stringify(all.map((st) => ({ sentence: sentence(st), ...back(st) }))));
`
	for name, text := range map[string]string{"package.json": `{"type":"module"}`, "told.json": string(told), "ask.js": script} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	if err != nil {
		t.Fatal(err)
	}
	var said []struct {
		Sentence, Words string
		Open            bool
	}
	if err := json.Unmarshal([]byte(shell(t, "node", filepath.Join(dir, "ask.js"))), &said); err != nil || len(said) != len(all) {
		t.Fatalf("%d answers to %d: %v", len(said), len(all), err)
	}
	for i, st := range all {
		open, words := backOf(st)
		if s := said[i]; s.Sentence != sentenceOf(st) || s.Words != words || s.Open != open {
			t.Errorf("%s, %s, fence %q, %q: the dashboard says %+v, the screen %q, %t, %q", st.Phase, st.Side, st.Fence, st.NoWayBack, s, sentenceOf(st), open, words)
		}
	}
}

// TestWatchOneWay: nothing promises a way back behind a switch that has none.
func TestWatchOneWay(t *testing.T) {
	for _, st := range placesToStand() {
		if st.Side != router.Target || st.NoWayBack == "" && st.Fence == "" || st.Phase != migration.ReverseLost && st.Phase != migration.Committed {
			continue
		}
		open, back := backOf(st)
		if text := sentenceOf(st) + " " + back; open || !strings.Contains(back, "there is none: ") || st.Fence == "" && !strings.Contains(back, st.NoWayBack) ||
			strings.Contains(text, "compared again") || strings.Contains(text, "being opened") || strings.Contains(text, "level again") {
			t.Errorf("%s, fence %q: %t, %q", st.Phase, st.Fence, open, text)
		}
	}
}

// scene is a status that has something of everything.
func scene(phase migration.Phase) admin.StatusReply {
	then := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	st := migration.Status{
		Phase: phase, Side: router.Source, Source: "redis://10.0.0.1:6379", Target: "redis://10.0.0.2:6379", Feed: "notifications", FeedUp: true,
		Gates: []migration.Gate{{Name: "course", What: "nothing keeps the migration from going on", OK: true}, {Name: "copy", What: "the copy is complete, and no change was missed", OK: true}},
		Databases: []migration.DatabaseStatus{
			{Source: 0, Target: 0, Total: 1_234_567, Scanned: 1_234_567, Copied: 1_300_000, Equal: 12, Bytes: 987_654_321, Percent: 100, Done: true},
			{Source: 3, Target: 5, Total: 40_000, Scanned: 40_000, Copied: 40_123, Dirty: 17, Percent: 100, Done: true},
		},
		LagMS: 3.4, LagP50MS: 2.9, LagP99MS: 11.2, Dirty: 17, OldestMS: 4.5, Ready: true,
	}
	switch phase {
	case migration.Resync:
		why := "the notification connection to 10.0.0.1:6379 was lost (EOF); scanning again: database 3 41.2 %"
		st.Ready, st.Gaps, st.Resync, st.Reasons = false, 2, "the notification connection to 10.0.0.1:6379 was lost (EOF)", []string{why}
		st.Gates[1].OK, st.Gates[1].Why = false, []string{why}
		st.Databases[1] = migration.DatabaseStatus{Source: 3, Target: 5, Total: 40_000, Scanned: 16_480, Copied: 40_123, Dirty: 17, Percent: 41.2, Rate: 2345, ETA: 10}
		st.Errors = []mirror.Error{{Kind: "gap", Count: 2, Last: then, Text: "the notification connection to 10.0.0.1:6379 was lost (EOF)"}, {Kind: "copy", Count: 7, Last: then, Text: "copying 12 keys of database 0 from 10.0.0.1:6379 to 10.0.0.2:6379: EOF"}}
		st.Uncopied = []migration.UncopiedKey{{Database: 0, Key: "evil\x1b[2J", Why: "values of its type are copied by DUMP and RESTORE only, and one of the servers refuses that"}}
		st.Databases[0].Uncopied = 1
		st.Views = mirror.Views{Bypassed: 12, PerSecond: 3, Databases: []int{0}, Keys: []string{"a", "b"}, Clients: []string{"10.0.0.9:4711 name \x1b]0;owned\x07"}}
	case migration.ReverseTailing:
		st.Side, st.Fence = router.Target, "F3"
		st.Strays = []string{`10.0.0.7:50123 name "cron-job" user "default"`}
		st.LastCutover = &migration.Report{From: router.Source, To: router.Target, Started: then, Finished: then.Add(time.Second), OK: true, Sessions: 12, Held: 14.2,
			Stall: migration.StallMS{P50: 6.1, P99: 13.9, Max: 14.1}, Steps: []migration.StepTime{{Name: "preflight", MS: 21}, {Name: "hold", MS: 0.4}, {Name: "drain-1", MS: 3.1}, {Name: "commit", MS: 1.2}}}
	}
	return admin.StatusReply{Status: st, Proxy: &admin.ProxyStatus{
		Clients: admin.Clients{Shared: 210, Pinned: 3}, InFlight: admin.InFlight{Shared: 5}, Commands: 12_345_678,
		Recent: admin.Recent{Seconds: 7, PerSecond: 10_234, UpstreamMS: admin.Times{P50: 0.11, P99: 0.9}, TotalMS: admin.Times{P50: 0.14, P99: 1.2}},
	}}
}

// stage is a door that always answers the same, for as long as it is open.
type stage struct {
	socket string
	status atomic.Pointer[admin.StatusReply]
	server *http.Server
}

func newStage(t *testing.T, st admin.StatusReply) *stage {
	t.Helper()
	s := &stage{socket: filepath.Join(shortDir(t), "s")}
	s.status.Store(&st)
	s.open(t)
	t.Cleanup(s.close)
	return s
}

func (s *stage) open(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	s.server = &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s.status.Load())
	})}
	go func(server *http.Server) { _ = server.Serve(l) }(s.server)
}

func (s *stage) close() { _ = s.server.Close() }

// watch runs `crossfade status --watch` there.
func (s *stage) watch(t *testing.T, columns, lines uint16, env ...string) *terminal {
	t.Helper()
	return inTerminal(t, t.TempDir(), columns, lines, env, "status", "--watch", "--admin", "unix:"+s.socket)
}

var (
	aClock   = regexp.MustCompile(`\b\d\d:\d\d:\d\d\b`)
	aHistory = regexp.MustCompile(`[▁▂▃▄▅▆▇█]+$`) // of charts; how long they are is a matter of time
)

// TestWatchScreens compares screens with those of testdata/watch.
func TestWatchScreens(t *testing.T) {
	for _, size := range []struct{ columns, lines uint16 }{{80, 24}, {200, 50}} {
		for _, phase := range []migration.Phase{migration.Tailing, migration.Resync, migration.ReverseTailing} {
			name := fmt.Sprintf("%s-%dx%d", strings.ToLower(string(phase)), size.columns, size.lines)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				x := newStage(t, scene(phase)).watch(t, size.columns, size.lines)
				text := x.awaits("q ends", "redis://10.0.0.2:6379", " at ")
				lines := strings.Split(aClock.ReplaceAllString(text, "hh:mm:ss"), "\n")
				for i, line := range lines {
					lines[i] = aHistory.ReplaceAllString(line, "▁")
				}
				got := strings.Join(lines, "\n")
				x.press("q")
				x.mustEnd(0)
				file := filepath.Join("testdata", "watch", name+".txt")
				if *update {
					if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(got), 0o600)); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil || got != string(want) {
					t.Errorf("%v; -args -update writes it anew. The screen:\n%s\nand not\n%s", err, got, want)
				}
				if strings.Contains(x.raw.String(), "\x1b]0;owned") {
					t.Error("a client's name was obeyed by the terminal")
				}
			})
		}
	}
}

// TestWatchEnds: whatever ends it, the terminal is as it was.
func TestWatchEnds(t *testing.T) {
	s := newStage(t, scene(migration.Tailing))
	for name, test := range map[string]struct {
		end  func(*terminal)
		code int
	}{
		"q":       {func(x *terminal) { x.press("q") }, 0},
		"ctrl-c":  {func(x *terminal) { x.press("\x03") }, 130},
		"sigint":  {func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGINT) }, 130},
		"sigterm": {func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGTERM) }, 143},
		"sighup":  {func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGHUP) }, 129},
		"sigquit": {func(x *terminal) { _ = x.cmd.Process.Signal(syscall.SIGQUIT) }, 131},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := s.watch(t, 100, 30)
			x.awaits("q ends")
			test.end(x)
			x.mustEnd(test.code)
		})
	}
}

// TestWatchSurvivesTheSidecar: it goes away and comes back, and says something else.
func TestWatchSurvivesTheSidecar(t *testing.T) {
	s := newStage(t, scene(migration.Tailing))
	x := s.watch(t, 80, 24)
	x.awaits("live", "A cutover can be made now.")
	s.close()
	x.awaits("not connected", "The sidecar cannot be reached", "What you see is from", "TAILING")
	later := scene(migration.ReverseTailing)
	s.status.Store(&later)
	s.open(t)
	x.awaits("live", "A rollback can be made now.", "REVERSE_TAILING")
	if strings.Contains(x.text(), "not connected") {
		t.Errorf("it still says that it is not connected:\n%s", x.text())
	}
	x.press("q")
	x.mustEnd(0)
}

// TestWatchKeysAndSizes: what does not fit can be scrolled to, and the window may change.
func TestWatchKeysAndSizes(t *testing.T) {
	x := newStage(t, scene(migration.Resync)).watch(t, 80, 24)
	x.awaits("↑↓ more", "lines 1 to")
	if strings.Contains(x.text(), "copying 12 keys") {
		t.Fatalf("all of it fits:\n%s", x.text())
	}
	x.press("\x1b[F") // End
	x.awaits("copying 12 keys")
	x.press("\x1b[H")
	x.awaits("lines 1 to")
	x.resize(200, 50)
	text := x.awaits("What a switch needs", "The last five minutes", "copying 12 keys")
	if strings.Contains(text, "more") {
		t.Errorf("not all of it fits:\n%s", text)
	}
	x.resize(30, 8) // nobody can work like that, and nothing breaks
	x.awaits("q ends")
	x.resize(80, 24)
	x.awaits("RESYNC")
	x.press("q")
	x.mustEnd(0)
}

// TestWatchWithoutColours: NO_COLOR is obeyed.
func TestWatchWithoutColours(t *testing.T) {
	s := newStage(t, scene(migration.Resync))
	for env, want := range map[string]bool{"NO_COLOR=1": false, "NO_COLOR=": true} {
		x := s.watch(t, 80, 24, env)
		x.awaits("RESYNC", "q ends")
		x.press("q")
		x.mustEnd(0)
		if got := colours.FindString(x.raw.String()); (got != "") != want {
			t.Errorf("%s: colours %q", env, got)
		}
	}
}

// TestWatchWithoutAScreen: lines as ever where there is no terminal, or one that can do nothing.
func TestWatchWithoutAScreen(t *testing.T) {
	s := newStage(t, scene(migration.Tailing))
	r := launch(t, t.TempDir(), "status", "--watch", "--admin", "unix:"+s.socket)
	redistest.Eventually(t, 20*time.Second, func() bool { return strings.Count(r.out.String(), "phase     TAILING") >= 2 }, "two looks")
	if code := r.stop(t, syscall.SIGINT); code != 130 || strings.Contains(r.out.String(), "\x1b") {
		t.Errorf("exit status %d:\n%q", code, r.out.String())
	}
	x := s.watch(t, 80, 24, "TERM=dumb")
	x.awaits("phase     TAILING")
	x.press("\x03")
	x.mustEnd(130)
	if strings.Contains(x.raw.String(), "\x1b") {
		t.Errorf("a terminal that can do nothing was told %q", x.raw.String())
	}
}

// TestWatchRealSidecar: the screen and `crossfade status` say the same of a real one.
func TestWatchRealSidecar(t *testing.T) {
	cf := startSidecar(t, redistest.Start(t), redistest.Start(t))
	cf.awaitReady(t)
	x := inTerminal(t, cf.dir, 100, 40, nil, "status", "--watch")
	text := x.awaits("Following", "A cutover can be made now.", "phase     TAILING", "ready     yes, for a cutover")
	for line := range strings.Lines(must(t, cf.dir, 0, "status").stdout) {
		if line = strings.TrimRight(line, "\n"); strings.HasPrefix(line, "source ") || strings.HasPrefix(line, "target ") || strings.HasPrefix(line, "clients ") {
			if !strings.Contains(text, line) {
				t.Errorf("the screen does not say %q:\n%s", line, text)
			}
		}
	}
	must(t, cf.dir, 0, "cutover")
	x.awaits("On the target", "A rollback can be made now.", "REVERSE_TAILING", "cutover at ")
	if code := cf.stop(t, syscall.SIGTERM); code != 143 {
		t.Errorf("the sidecar ended with %d", code)
	}
	x.awaits("not connected", "The sidecar cannot be reached")
	x.press("q")
	x.mustEnd(0)
}

// TestWatchFits: no screen is too small for it, and no line too wide.
func TestWatchFits(t *testing.T) {
	for _, phase := range []migration.Phase{migration.Tailing, migration.Resync, migration.ReverseTailing, migration.Completed} {
		for width := 1; width < 220; width += 13 {
			for _, height := range []int{1, 2, 9, 24, 60} {
				w := &watcher{}
				w.keep(looked{status: scene(phase), at: time.Now()})
				if width%2 == 0 {
					w.keep(looked{err: errors.New(strings.Repeat("why it is so ", 30))})
				}
				_, _ = w.Update(tea.WindowSizeMsg{Width: width, Height: height})
				for _, key := range []string{"end", "pgup", "up"} {
					w.key(key)
					lines := w.lines()
					if len(lines) != height {
						t.Fatalf("%s, %d×%d: %d lines", phase, width, height, len(lines))
					}
					for _, line := range lines {
						if n := ansi.StringWidth(line); n > width {
							t.Fatalf("%s, %d×%d: %d columns: %q", phase, width, height, n, line)
						}
					}
				}
			}
		}
	}
}
