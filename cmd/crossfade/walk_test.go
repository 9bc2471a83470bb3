package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// walker runs lines of the docs as a reader would, in a shell.
type walker struct {
	t    *testing.T
	dir  string
	env  []string
	swap *strings.Replacer // the docs' places by those of the test
	cf   *running          // what `crossfade run` has started
}

// shell prepares a line. The program under test is the first crossfade in PATH.
func (w *walker) shell(line string) *exec.Cmd {
	cmd := exec.Command("bash", "-c", "exec env "+w.swap.Replace(line)) // so that signals reach it
	cmd.Dir = w.dir
	cmd.Env = append([]string{"PATH=" + filepath.Dir(binary) + ":" + os.Getenv("PATH"), "HOME=" + w.dir}, w.env...)
	return cmd
}

// do runs a line to its end and returns what it printed.
func (w *walker) do(line string, code int) string {
	w.t.Helper()
	var out bytes.Buffer
	cmd := w.shell(line)
	cmd.Stdout, cmd.Stderr = &out, &out
	timer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	err := cmd.Run()
	timer.Stop()
	if cmd.ProcessState == nil {
		w.t.Fatalf("%s: %v", line, err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		w.t.Errorf("%s: exit status %d, want %d\n%s", line, got, code, out.String())
	}
	return out.String()
}

// run starts a sidecar by a line and waits until it serves.
func (w *walker) run(line string) {
	w.t.Helper()
	w.cf = begin(w.t, w.dir, w.shell(line))
	w.cf.serves(w.t)
}

// shown begins to look by a line, and goes on once a switch could be made.
func (w *walker) shown(line string) {
	w.t.Helper()
	look := begin(w.t, w.dir, w.shell(line))
	w.cf.awaitReady(w.t)
	redistest.Eventually(w.t, 10*time.Second, func() bool { return strings.Contains(look.out.String(), "source") }, "showing the status")
	if code := look.stop(w.t, syscall.SIGINT); code != 130 {
		w.t.Errorf("%s: exit status %d", line, code)
	}
}

func port(addr string) string {
	_, p, _ := net.SplitHostPort(addr)
	return p
}

// TestFiveMinutes follows the README's first steps to the letter: nothing that it does not
// say is done, but for the build, and waiting where a reader would read.
func TestFiveMinutes(t *testing.T) {
	if testing.Short() {
		t.Skip("a whole migration by the binary")
	}
	t.Parallel()
	began := time.Now()
	source, target := redistest.Start(t), redistest.Start(t)
	clients := port(unused(t))
	w := &walker{t: t, dir: shortDir(t), env: []string{"CROSSFADE_LISTEN=127.0.0.1:" + clients, "CROSSFADE_SYNC_HEARTBEAT=100ms"},
		swap: strings.NewReplacer("7001", port(source.Addr()), "7002", port(target.Addr()), "6380", clients)}
	says := map[string]string{ // what the reader sees, by how the line ends
		"incr visits":                      "42",
		"6380 -n 3 get greeting":           "hello",
		"7002 -n 5 get greeting":           "hello from the target",
		"7001 -n 3 get greeting":           "hello from the target",
		"NOPERM: the old server is fenced": "NOPERM",
		"crossfade verify":                 "No difference",
		"crossfade cutover":                "cutover done",
		"crossfade cutover --dry-run":      "can be made now",
		"crossfade rollback":               "rollback done",
		"crossfade complete":               "lowered the fence",
	}
	lines := blockLines(section(t, pagesOfDocs(t)["README.md"], "Five minutes with your own Redis"))
	for _, line := range lines {
		switch {
		case strings.HasPrefix(line, "make build"), strings.HasPrefix(line, "export PATH"):
			continue // the test's own build is used
		case strings.HasPrefix(line, "redis-server "): // the harness has started both
			if p := regexp.MustCompile(`--port (\d+)`).FindStringSubmatch(line); p == nil || p[1] != "7001" && p[1] != "7002" {
				t.Errorf("%s: of which server?", line)
			}
		case strings.HasPrefix(line, "crossfade run "):
			w.run(line)
		case strings.Contains(line, "--watch"):
			w.shown(line)
		default:
			if regexp.MustCompile(`^crossfade (cutover|rollback)`).MatchString(line) {
				w.cf.awaitReady(t)
			}
			out := w.do(line, 0)
			for end, want := range says {
				if strings.HasSuffix(line, end) && !strings.Contains(out, want) {
					t.Errorf("%s: it does not say %q:\n%s", line, want, out)
				}
			}
		}
	}
	if len(lines) < 20 || w.cf == nil {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	if st := w.cf.status(t); st.Phase != migration.Completed {
		t.Errorf("at the end it is %s", st.Phase)
	}
	t.Logf("%d lines in %v", len(lines), time.Since(began).Round(time.Millisecond))
}

// TestCommandsOfTheDocs runs every other command line of the pages: those of crossfade
// against real servers, in the order of the pages; of the others it is looked whether a
// shell takes them, and whether make has what they name.
func TestCommandsOfTheDocs(t *testing.T) {
	manyProcesses(t)
	t.Parallel()
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	ours := 0
	for name, text := range pagesOfDocs(t) {
		if name == "README.md" {
			text = strings.Replace(text, section(t, text, "Five minutes with your own Redis"), "", 1)
		}
		lines := blockLines(text)
		for _, line := range lines {
			if programOf(line) == "crossfade" {
				ours++
			}
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			commandsOf(t, name, lines, makefile)
		})
	}
	if ours < 25 {
		t.Errorf("only %d commands were found", ours)
	}
}

func programOf(line string) string {
	return regexp.MustCompile(`^(?:[A-Z_]+=\S+ )*(\S+)`).FindStringSubmatch(line)[1]
}

func commandsOf(t *testing.T, page string, lines []string, makefile []byte) {
	var s *docScene // begun by the first line that needs it
	for _, line := range lines {
		switch programOf(line) {
		case "crossfade":
			if s == nil {
				s = newDocScene(t)
			}
			s.command(page, line)
		case "make":
			if target := strings.Fields(line)[1]; !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(target) + `:`).Match(makefile) {
				t.Errorf("%s: there is no make %s", page, target)
			}
		default:
			if out, err := exec.Command("bash", "-n", "-c", line).CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %v: %s", page, line, err, out)
			}
		}
	}
	if s != nil {
		s.w.cf.stop(t, syscall.SIGTERM)
	}
}

// docScene is a migration that is under way, for commands of the docs.
type docScene struct {
	w              *walker
	source, target *redistest.Server
}

func newDocScene(t *testing.T) *docScene {
	s := &docScene{source: redistest.Start(t), target: redistest.Start(t)}
	for i := range 100 {
		if err := s.source.Client(0).Set(t.Context(), fmt.Sprint("user:", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	dir := shortDir(t)
	config := fmt.Sprintf("source: redis://%s\ntarget: redis://%s\nlisten: unix:other.sock\n", s.source.Addr(), s.target.Addr())
	if err := os.WriteFile(filepath.Join(dir, "crossfade.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	tomorrow := time.Now().Add(24 * time.Hour).UTC()
	s.w = &walker{t: t, dir: dir, swap: strings.NewReplacer(
		"redis://OLD:6379", url(s.source), "redis://NEW:6379", url(s.target), "redis://OLD", url(s.source), "redis://NEW", url(s.target),
		"redis://A", url(s.source), "rediss://B", url(s.target), "redis://B", url(s.target),
		"/etc/crossfade/crossfade.yaml", "crossfade.yaml", "unix:/run/crossfade/admin.sock", "unix:crossfade.sock",
		"2026-11-26T03:00:00Z", tomorrow.Format(time.RFC3339), "03:00", tomorrow.Add(-time.Hour).Format("15:04"), " …", "",
	)}
	s.w.cf = startIn(t, dir, s.source, s.target, "--map", "0=0,3=5")
	s.w.cf.awaitReady(t)
	return s
}

// command runs a line, and leaves the clients on the source and nothing waiting.
func (s *docScene) command(page, line string) {
	t := s.w.t
	t.Helper()
	verb := regexp.MustCompile(`crossfade (\w+)`).FindStringSubmatch(line)[1]
	switch {
	case verb == "run":
		s.second(page, line)
	case strings.Contains(line, "--at "):
		s.waiting(page, line)
	case strings.Contains(line, "tls://"):
		s.secured(page, line)
	case verb == "check" || verb == "acl":
		// Other maps than the one that is in force are for other servers.
		s.w.do(line, s.code(page, line))
	case verb == "cutover":
		s.w.cf.awaitReady(t)
		s.w.do(line, 0)
		if s.w.cf.status(t).Side.String() == "target" {
			s.w.cf.awaitReady(t)
			s.w.do("crossfade rollback", 0)
			s.w.cf.awaitReady(t)
		}
	case strings.Contains(line, "--watch"):
		s.w.shown(line)
	default:
		s.w.do(line, s.code(page, line))
	}
}

// code is the exit status that the text around a line speaks of.
func (s *docScene) code(page, line string) int {
	if strings.Contains(line, "check --config") {
		return 3 // the target holds keys: those that the scene has copied
	}
	return 0
}

// secured runs a line that asks at an address with TLS, of another sidecar.
func (s *docScene) secured(page, line string) {
	t := s.w.t
	t.Helper()
	ca := redistest.NewAuthority(t, "ours")
	pair := ca.Issue("127.0.0.1")
	at := unused(t)
	startSidecar(t, redistest.Start(t), redistest.Start(t), "--admin", "tls://"+at, "--admin.tls.cert_file", pair.CertFile, "--admin.tls.key_file", pair.KeyFile)
	s.w.do(strings.NewReplacer("10.0.0.9:6381", at, "ca.pem", ca.File).Replace(line), 0)
}

// second starts another sidecar as a line says, between servers of its own.
func (s *docScene) second(page, line string) {
	t := s.w.t
	t.Helper()
	other := *s.w
	other.t, other.dir = t, shortDir(t)
	source, target := redistest.Start(t), redistest.Start(t)
	if strings.Contains(line, "--role proxy") {
		source, target = s.source, s.target // it waits for the one that copies
	}
	places := []string{url(source), url(target)}
	line = regexp.MustCompile(`redis://\S+`).ReplaceAllStringFunc(line, func(string) string {
		place := places[0]
		places = append(places[1:], place)
		return place
	})
	line = strings.Replace(line, "127.0.0.1:6380", unused(t), 1)
	other.env = []string{"CROSSFADE_SOURCE=" + url(source), "CROSSFADE_TARGET=" + url(target), "CROSSFADE_LISTEN=unix:clients.sock"}
	if strings.Contains(line, "--config") {
		text := fmt.Sprintf("source: redis://%s\ntarget: redis://%s\n", source.Addr(), target.Addr())
		if err := os.WriteFile(filepath.Join(other.dir, "crossfade.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other.run(line)
	if code := other.cf.stop(t, syscall.SIGTERM); code != 143 {
		t.Errorf("%s: %s: exit status %d", page, line, code)
	}
}

// waiting begins a switch that waits, looks that it does, and ends it.
func (s *docScene) waiting(page, line string) {
	t := s.w.t
	t.Helper()
	asks := begin(t, s.w.dir, s.w.shell(line))
	redistest.Eventually(t, 10*time.Second, func() error {
		if s.w.cf.status(t).Waiting == nil {
			return fmt.Errorf("%s: %s: nothing waits: %s", page, line, asks.stderr.String())
		}
		return nil
	}, "a switch waits")
	s.w.do("crossfade abort", 0)
	<-asks.ended
	s.w.cf.awaitReady(t)
}

// section is a part of a page, from below its heading to the next one of its kind.
func section(t *testing.T, text, heading string) string {
	t.Helper()
	_, after, found := strings.Cut(text, "\n## "+heading+"\n")
	if !found {
		t.Fatalf("there is no %q", heading)
	}
	part, _, _ := strings.Cut(after, "\n## ")
	return part
}

// blockLines are the lines of the code blocks of a page, without those of YAML and
// pictures: those that begin with a program's name. A line that goes on is one.
func blockLines(text string) (list []string) {
	lines := commandLines(text)
	fenced := false
	for i := range strings.Count(text, "\n") + 1 {
		line, there := lines[i+1]
		if !there {
			continue
		}
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		code, indented := strings.CutPrefix(line, "    ")
		if !fenced && !indented {
			continue
		}
		if fenced {
			code = strings.TrimLeft(line, " ")
		}
		if aCommand.MatchString(code) {
			list = append(list, regexp.MustCompile(` {2,}--`).ReplaceAllString(code, " --"))
		}
	}
	return list
}

var aCommand = regexp.MustCompile(`^(?:[A-Z_]+=\S+ )*(?:crossfade|make|docker|kubectl|systemctl|journalctl|sudo|curl|redis-cli|redis-server|go|ssh|export) [^:]`)

// TestLinksOfTheDocs: what a page links to is there, its headings too. Other sites are not asked.
func TestLinksOfTheDocs(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^()\s]+)\)`)
	anchors := map[string]map[string]bool{}
	of := func(file string) map[string]bool {
		if anchors[file] == nil {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			anchors[file] = headings(string(text))
		}
		return anchors[file]
	}
	n := 0
	for name, text := range pagesOfDocs(t) {
		page := filepath.Join("../..", name)
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(found[1], "://") || strings.HasPrefix(found[1], "mailto:") {
				continue
			}
			n++
			file, anchor, has := strings.Cut(found[1], "#")
			at := page
			if file != "" {
				at = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(at); err != nil {
				t.Errorf("%s links to %s: %v", name, found[1], err)
			} else if has && !of(at)[anchor] {
				t.Errorf("%s links to %s: there is no such heading", name, found[1])
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d links were found", n)
	}
}

// headings are the anchors of a page, as the usual renderers name them.
func headings(text string) map[string]bool {
	all := map[string]bool{}
	fenced := false
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
		}
		title := regexp.MustCompile(`^#{1,6} +(.*)`).FindStringSubmatch(strings.TrimSpace(line))
		if title == nil || fenced {
			continue
		}
		words := regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(strings.ToLower(title[1]), "$1")
		words = regexp.MustCompile(`[^\p{L}\p{N}\- _]`).ReplaceAllString(words, "")
		anchor := strings.ReplaceAll(words, " ", "-")
		for i, base := 1, anchor; all[anchor]; i++ {
			anchor = base + "-" + strconv.Itoa(i)
		}
		all[anchor] = true
	}
	return all
}

// manyProcesses leaves a test out where the program is slow to start.
func manyProcesses(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("some hundred processes, which are slow with the race detector in them")
	}
}
