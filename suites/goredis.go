package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// goRedisSuite is the suite of the Go client, in the version that this project
// uses. It insists on port 6379. Told that it runs against a service, it leaves
// out the clusters and sentinels that it would otherwise need to begin at all.
var goRedisSuite = suite{
	name: "goredis", title: "go-redis' own suite, what needs one server",
	least: 500,
	limit: 15 * time.Minute,
	port:  6379,
	fetch: func(ctx context.Context, dir string) error {
		const module = "github.com/redis/go-redis/v9"
		out, err := command(ctx, ".", "", nil, "go", "mod", "download", "-json", module)
		if err != nil {
			return explain(err, out)
		}
		out, err = command(ctx, ".", "", nil, "go", "list", "-m", "-f", "{{.Dir}}", module)
		if err != nil {
			return explain(err, out)
		}
		src := strings.TrimSpace(string(out))
		out, err = command(ctx, src, "", nil, "go", "test", "-c", "-o", filepath.Join(dir, "go-redis.test"), ".")
		return explain(err, out)
	},
	run: func(ctx context.Context, dir string, w *way, groups []string) (*results, error) {
		files := goRedisFiles
		if len(groups) > 0 {
			files = strings.Join(groups, "|")
		}
		report := filepath.Join(w.dir, "report.json")
		env := map[string]string{"RE_CLUSTER": "true", "REDIS_VERSION": "7.0"}
		_, err := command(ctx, dir, w.logOf(dir), env, "./go-redis.test", "-test.run", "^TestGinkgoSuite$", "-ginkgo.no-color", "-ginkgo.seed", "1",
			"-ginkgo.json-report", report, "-ginkgo.focus-file", "/("+files+")_test.go", "-ginkgo.skip", "cluster")
		if err := ran(err); err != nil {
			return nil, err
		}
		return readGinkgo(report)
	},
}

// goRedisFiles are its files that are about one server without modules.
const goRedisFiles = "acl_commands|autopipeline|bitmap_commands|commands|csc_e2e|error|iterator|monitor|pipeline|pool|pubsub|race|redis|script_server_sha_integration|tx|tx_unwatch"

// readGinkgo reads the report of ginkgo. What its filters have left out is no test.
func readGinkgo(file string) (*results, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var reports []struct {
		SpecReports []struct {
			ContainerHierarchyTexts []string
			LeafNodeText, State     string
			LeafNodeType            string
			LeafNodeLocation        struct{ FileName string }
			Failure                 struct{ Message string }
			StartTime               time.Time
		}
	}
	if err := json.Unmarshal(text, &reports); err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	if len(reports) == 0 {
		return nil, errors.New("reading the report: it is empty")
	}
	r := &results{}
	for _, s := range reports[0].SpecReports {
		if s.LeafNodeType != "It" {
			continue
		}
		how := failed
		switch {
		case s.State == "passed":
			how = passed
		case s.State == "skipped" && s.Failure.Message == "":
			continue
		case s.State == "skipped", s.State == "pending":
			how = skipped
		}
		group := strings.TrimSuffix(filepath.Base(s.LeafNodeLocation.FileName), "_test.go")
		name := strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
		why, _, _ := strings.Cut(s.Failure.Message, "\n\n")
		r.add(group, name, how, why)
	}
	return r, nil
}
