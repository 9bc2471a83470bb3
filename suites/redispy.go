package main

import (
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// redisPySuite is the suite of the Python client, with both protocols. It runs on
// Debian's Python; what needs a cluster, sentinels, modules or TLS is left out.
var redisPySuite = suite{
	name: "redispy", title: "redis-py's own suite, what needs one server",
	least: 3500,
	limit: 20 * time.Minute,
	fetch: func(ctx context.Context, dir string) error {
		if err := debian(ctx, dir, "python-redis", false, "sid", "trixie"); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "crossfade.ini"), []byte(pytestIni), 0o644)
	},
	run: func(ctx context.Context, dir string, w *way, groups []string) (*results, error) {
		r := &results{}
		for _, protocol := range []string{"2", "3"} {
			if err := runPytest(ctx, r, dir, w, protocol, groups); err != nil {
				return nil, err
			}
		}
		return r, nil
	},
}

// pytestIni stands in for the suite's own, which asks for plugins that it does not need.
const pytestIni = `[pytest]
asyncio_mode = auto
timeout = 60
markers =
    redismod
    pipeline
    onlycluster
    onlynoncluster
    ssl
    asyncio
    replica
    experimental
    cp_integration
`

var redisPyFiles = strings.Fields(`
	tests/test_cache.py tests/test_commands.py tests/test_connect.py tests/test_connection.py tests/test_connection_pool.py
	tests/test_encoding.py tests/test_function.py tests/test_hash.py tests/test_lock.py tests/test_max_connections_error.py
	tests/test_monitor.py tests/test_multiprocessing.py tests/test_pipeline.py tests/test_pubsub.py tests/test_retry.py
	tests/test_scripting.py tests/test_asyncio/test_commands.py tests/test_asyncio/test_connect.py
	tests/test_asyncio/test_connection.py tests/test_asyncio/test_connection_pool.py tests/test_asyncio/test_cwe_404.py
	tests/test_asyncio/test_encoding.py tests/test_asyncio/test_hash.py tests/test_asyncio/test_lock.py
	tests/test_asyncio/test_monitor.py tests/test_asyncio/test_pipeline.py tests/test_asyncio/test_pubsub.py
	tests/test_asyncio/test_retry.py tests/test_asyncio/test_scripting.py`)

// runPytest adds the tests of one protocol, whose groups are "RESP2 tests/file.py".
func runPytest(ctx context.Context, r *results, dir string, w *way, protocol string, groups []string) error {
	prefix := "RESP" + protocol + " "
	files := redisPyFiles
	if len(groups) > 0 {
		files = nil
		for _, g := range groups {
			if file, ok := strings.CutPrefix(g, prefix); ok {
				files = append(files, file)
			}
		}
		if files == nil {
			return nil
		}
	}
	report := filepath.Join(w.dir, "report"+protocol+".xml")
	args := []string{"-m", "pytest", "-c", "crossfade.ini", "--rootdir", ".", "-q", "-p", "no:cacheprovider", "-p", "no:randomly",
		"-m", "not onlycluster and not redismod and not ssl and not replica and not cp_integration and not experimental",
		"--redis-url", "redis://" + w.addr + "/0", "--protocol", protocol, "--junit-xml", report}
	log := strings.TrimSuffix(w.logOf(dir), ".log") + protocol + ".log"
	_, err := command(ctx, dir, log, map[string]string{"PYTHONDONTWRITEBYTECODE": "1"}, "/usr/bin/python3", append(args, files...)...)
	if err := ran(err); err != nil {
		return err
	}
	return readJunit(r, prefix, report)
}

// readJunit reads a report of pytest.
func readJunit(r *results, prefix, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("the suite did not run: %w", err)
	}
	type told struct {
		Message string `xml:"message,attr"`
	}
	var report struct {
		Cases []struct {
			Class   string `xml:"classname,attr"`
			Name    string `xml:"name,attr"`
			Failure *told  `xml:"failure"`
			Error   *told  `xml:"error"`
			Skipped *told  `xml:"skipped"`
		} `xml:"testsuite>testcase"`
	}
	if err := xml.Unmarshal(text, &report); err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	for _, c := range report.Cases {
		group, class := splitClass(c.Class)
		name := strings.TrimPrefix(class+"::"+c.Name, "::")
		switch {
		case c.Failure != nil:
			r.add(prefix+group, name, failed, firstLine(c.Failure.Message))
		case c.Error != nil:
			r.add(prefix+group, name, failed, firstLine(c.Error.Message))
		case c.Skipped != nil:
			r.add(prefix+group, name, skipped, "")
		default:
			r.add(prefix+group, name, passed, "")
		}
	}
	return nil
}

// splitClass makes a file and a class of "tests.test_file.TestClass".
func splitClass(name string) (file, class string) {
	words := strings.Split(name, ".")
	n := 0
	for i, w := range words {
		if strings.HasPrefix(w, "test_") {
			n = i
		}
	}
	return strings.Join(words[:n+1], "/") + ".py", strings.Join(words[n+1:], ".")
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return strconv.QuoteToGraphic(s[:min(len(s), 200)])
}
