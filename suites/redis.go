package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// redisSuite is the server's own suite for a server that runs already. What it
// skips then are tests that start servers of their own. Databases are selected as
// they come, so that MOVE and COPY are tested too.
var redisSuite = suite{
	name: "redis", title: "Redis 7.0's own suite, in its mode for an external server",
	least: 1900,
	limit: time.Hour,
	fetch: func(ctx context.Context, dir string) error {
		if err := debian(ctx, dir, "redis", true, "bookworm"); err != nil {
			return err
		}
		for _, name := range []string{"redis-server", "redis-cli", "redis-benchmark"} {
			path, err := exec.LookPath(name)
			if err != nil {
				return err
			}
			if err := os.Symlink(path, filepath.Join(dir, "src", name)); err != nil {
				return err
			}
		}
		return os.MkdirAll(filepath.Join(dir, "tests", "tmp"), 0o755)
	},
	run: func(ctx context.Context, dir string, w *way, groups []string) (*results, error) {
		host, port := w.hostPort()
		known, err := readExceptions("redis")
		if err != nil {
			return nil, err
		}
		args := append([]string{"--host", host, "--port", port, "--ignore-encoding", "--durable", "--timeout", "900"}, withoutRedis(known.leftOut())...)
		for _, g := range groups {
			args = append(args, "--single", g)
		}
		out, err := command(ctx, dir, w.logOf(dir), nil, "./runtest", args...)
		if err := ran(err); err != nil {
			return nil, fmt.Errorf("%w, after:\n%s", err, lastLines(out, 3))
		}
		return readRedis(out), nil
	},
}

// withoutRedis are the words for runtest that leave out what is listed as such. It knows
// tests by their names alone, without the unit.
func withoutRedis(list []exception) []string {
	var args []string
	for _, e := range list {
		_, name, _ := strings.Cut(e.test, ": ")
		args = append(args, "--skiptest", name)
	}
	return args
}

var (
	color    = regexp.MustCompile("\x1b\\[[0-9;]*m")
	tclTest  = regexp.MustCompile(`^\[(ok|err|skip|ignore)\]: (.*)$`)
	tclTook  = regexp.MustCompile(` \(\d+ ms\)$`)
	tclWhere = regexp.MustCompile(` in tests/\S+\.tcl$`)
)

// readRedis reads the output of runtest, which goes through the units in turn.
func readRedis(out []byte) *results {
	r := &results{}
	unit, name := "", ""
	for lines := bufio.NewScanner(bytes.NewReader(color.ReplaceAll(out, nil))); lines.Scan(); {
		line := lines.Text()
		if u, ok := strings.CutPrefix(line, "Testing unit/"); ok {
			unit = "unit/" + u
		}
		if name != "" { // the line below a failure says what it is
			r.add(unit, name, failed, line)
			name = ""
			continue
		}
		m := tclTest.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		switch m[1] {
		case "ok":
			r.add(unit, tclTook.ReplaceAllString(m[2], ""), passed, "")
		case "err":
			name = tclWhere.ReplaceAllString(m[2], "")
		default:
			r.add(unit, m[2], skipped, "")
		}
	}
	return r
}

func lastLines(out []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(color.ReplaceAll(out, nil))), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
