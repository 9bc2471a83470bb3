package main

import (
	"context"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// hiredisSuite is the test program of the C client. Two of its tests want to reach
// hosts that are not this one, so they are taken out.
var hiredisSuite = suite{
	name: "hiredis", title: "hiredis' own suite",
	least: 95,
	limit: 5 * time.Minute,
	fetch: func(ctx context.Context, dir string) error {
		if err := debian(ctx, dir, "hiredis", true, "trixie"); err != nil {
			return err
		}
		if err := edit(filepath.Join(dir, "test.c"),
			"    test_blocking_connection_errors();\n    test_free_null();", "    test_free_null();",
			"static void test_blocking_connection_errors(void) {", "__attribute__((unused)) static void test_blocking_connection_errors(void) {",
			"    if (config.type == CONN_TCP || config.type == CONN_SSL) {\n        /* timeout can only be simulated with network */", "    if (0) {",
			"192.168.254.254", "127.0.0.1",
		); err != nil {
			return err
		}
		out, err := command(ctx, dir, "", nil, "make", "TEST_ASYNC=1", "hiredis-test")
		return explain(err, out)
	},
	run: func(ctx context.Context, dir string, w *way, _ []string) (*results, error) {
		host, port := w.hostPort()
		args := []string{"-o0", "./hiredis-test", "-h", host, "-p", port, "-s", "/nonexistent/socket"}
		out, err := command(ctx, dir, w.logOf(dir), nil, "stdbuf", args...)
		if ctx.Err() != nil {
			return nil, err
		}
		return readHiredis(out), nil // an assertion that fails ends it, and the rest is missing
	},
}

var hiredisTest = regexp.MustCompile(`(?m)^#\d+ (.*?):? (PASSED|FAILED|SKIPPED)`)

func readHiredis(out []byte) *results {
	r := &results{}
	group := "start"
	for line := range strings.Lines(string(color.ReplaceAll(out, nil))) {
		if g, ok := strings.CutPrefix(line, "Testing "); ok {
			group, _, _ = strings.Cut(strings.TrimSpace(g), " (")
			continue
		}
		if m := hiredisTest.FindStringSubmatch(line); m != nil {
			how := map[string]outcome{"PASSED": passed, "FAILED": failed, "SKIPPED": skipped}[m[2]]
			r.add(group, strings.TrimSuffix(m[1], ":"), how, "")
		}
	}
	return r
}
