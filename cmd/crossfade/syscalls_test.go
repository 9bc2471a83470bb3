package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestSystemCalls: what the unit forbids, the program does not need, over a start, a
// cutover and a stop.
func TestSystemCalls(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a migration under strace")
	}
	shell(t, "strace", "true") // skips where there is none
	filters := regexp.MustCompile(`(?m)^SystemCallFilter=(~?)(.*)$`).FindAllStringSubmatch(string(readDeploy(t, "systemd/crossfade.service")), -1)
	allowed := map[string]bool{}
	for _, f := range filters {
		for _, set := range strings.Fields(f[2]) {
			for name := range systemCalls(t, set) {
				allowed[name] = f[1] == ""
			}
		}
	}
	if !allowed["epoll_pwait"] || allowed["setuid"] {
		t.Fatalf("the filters are %q: %v", filters, allowed)
	}
	used := usedCalls(t)
	for name := range used {
		// Go raises its limit of open files, as systemd has done already.
		if !allowed[name] && name != "prlimit64" && name != "setrlimit" {
			t.Errorf("the program calls %s, which the unit forbids", name)
		}
	}
	if !used["fsync"] && !used["fdatasync"] || !used["connect"] {
		t.Errorf("not much was seen: %v", used)
	}
}

// systemCalls are those of a set of systemd's, and of the sets in it; a single one is itself.
func systemCalls(t *testing.T, set string) map[string]bool {
	t.Helper()
	if !strings.HasPrefix(set, "@") {
		return map[string]bool{set: true}
	}
	all := map[string]bool{}
	for line := range strings.Lines(shell(t, "systemd-analyze", "syscall-filter", "--no-pager", set)) {
		switch name := strings.TrimSpace(line); {
		case !strings.HasPrefix(line, " ") || strings.HasPrefix(name, "#"):
		case strings.HasPrefix(name, "@"):
			for more := range systemCalls(t, name) {
				all[more] = true
			}
		default:
			all[name] = true
		}
	}
	return all
}

// usedCalls runs a migration and returns what the kernel was asked for.
func usedCalls(t *testing.T) map[string]bool {
	t.Helper()
	source, target := redistest.Start(t), redistest.Start(t)
	dir := shortDir(t)
	counts := filepath.Join(dir, "counts")
	// -D: what is started is the program itself, and strace is beside it.
	cmd := exec.Command("strace", "-D", "-f", "-c", "-U", "calls,name", "-o", counts, binary, "run", "--listen", "unix:clients.sock",
		"--source", url(source), "--target", url(target), "--sync.heartbeat", "100ms")
	cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH")}
	r := begin(t, dir, cmd)
	redistest.Eventually(t, time.Minute, func() error {
		if !strings.Contains(r.stderr.String(), `"serving clients"`) {
			return errors.New("it does not serve yet")
		}
		return nil
	}, "starting crossfade under strace")
	c, err := net.Dial("unix", filepath.Join(dir, "clients.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	answer := make([]byte, 5)
	if _, err := fmt.Fprint(c, "SET a b\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(answer); err != nil || string(answer) != "+OK\r\n" {
		t.Fatalf("SET: %q, %v", answer, err)
	}
	r.awaitReady(t)
	must(t, dir, 0, "cutover", "--max-stall", "1m")
	if code := r.stop(t, syscall.SIGTERM); code != 143 {
		t.Errorf("exit status %d", code)
	}
	used := map[string]bool{}
	redistest.Eventually(t, 10*time.Second, func() error {
		data, err := os.ReadFile(counts)
		if err != nil {
			return err
		}
		if !strings.Contains(string(data), "total") {
			return errors.New("no counts yet")
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.Fields(line)
			if len(fields) == 2 && regexp.MustCompile(`^\d+$`).MatchString(fields[0]) && fields[1] != "total" {
				used[fields[1]] = true
			}
		}
		return nil
	}, "strace's counts")
	return used
}
