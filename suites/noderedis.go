package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// nodeRedisSuite is the suite of the JavaScript client. It starts its servers with
// docker; what it finds under that name is this program, see docker.go.
var nodeRedisSuite = suite{
	name: "noderedis", title: "node-redis' own suite, what needs one server",
	least: 1050,
	limit: 15 * time.Minute,
	fetch: fetchNodeRedis,
	run: func(ctx context.Context, dir string, w *way, _ []string) (*results, error) {
		bin, err := w.docker(ctx)
		if err != nil {
			return nil, err
		}
		report := filepath.Join(w.dir, "report.json")
		client := filepath.Join(dir, "packages", "client")
		env := map[string]string{"PATH": bin + ":" + os.Getenv("PATH"), dockerSocket: filepath.Join(bin, "socket")}
		_, err = command(ctx, client, w.logOf(dir), env, "../../node_modules/.bin/mocha",
			"-r", "source-map-support/register", "-r", "ts-node/register", "./lib/**/*.spec.ts", "--redis-version", "7.0",
			"--timeout", "20000", "--exit", "--grep", "[Cc]luster", "--invert", "--reporter", "json", "--reporter-option", "output="+report)
		if err := ran(err); err != nil {
			return nil, err
		}
		return readMocha(client, report)
	},
}

// fetchNodeRedis takes the client and what its tests need; the workspaces for
// modules, and the tools for releases, stay out.
func fetchNodeRedis(ctx context.Context, dir string) error {
	if err := debian(ctx, dir, "node-redis", false, "sid", "trixie"); err != nil {
		return err
	}
	for _, name := range []string{"bloom", "graph", "json", "search", "time-series"} {
		if err := os.RemoveAll(filepath.Join(dir, "packages", name)); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(dir, "package-lock.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(nodePackage), 0o644); err != nil {
		return err
	}
	for _, name := range []string{"client", "test-utils"} {
		if err := withoutDevelopment(filepath.Join(dir, "packages", name, "package.json")); err != nil {
			return err
		}
	}
	out, err := command(ctx, dir, "", nil, "npm", "install", "--ignore-scripts", "--no-audit", "--no-fund")
	if err != nil {
		return explain(err, out)
	}
	for _, name := range []string{"client", "test-utils"} {
		pkg := filepath.Join(dir, "packages", name)
		out, err := command(ctx, pkg, "", nil, "../../node_modules/.bin/tsc", "--types", "node,mocha")
		if _, missing := os.Stat(filepath.Join(pkg, "dist")); missing != nil {
			return explain(errors.Join(err, missing), out)
		}
	}
	return nil
}

const nodePackage = `{
  "name": "redis-suite", "private": true,
  "workspaces": ["packages/client", "packages/test-utils"],
  "devDependencies": {
    "@tsconfig/node14": "^14.1.0", "typescript": "~5.4.0", "mocha": "^10.2.0", "ts-node": "^10.9.1",
    "source-map-support": "^0.5.21", "sinon": "^16.0.0", "yargs": "^17.7.2", "@types/mocha": "^10.0.1",
    "@types/node": "^20.6.2", "@types/sinon": "^10.0.16", "@types/yallist": "^4.0.1", "@types/yargs": "^17.0.24"
  }
}
`

// withoutDevelopment takes the tools of a package's developers away.
func withoutDevelopment(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var pkg map[string]any
	if err := json.Unmarshal(text, &pkg); err != nil {
		return fmt.Errorf("reading %s: %w", file, err)
	}
	delete(pkg, "devDependencies")
	delete(pkg, "peerDependencies")
	if text, err = json.MarshalIndent(pkg, "", "  "); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// readMocha reads the report of mocha; a group is a file below lib.
func readMocha(client, file string) (*results, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the suite did not run: %w", err)
	}
	type test struct {
		FullTitle, File string
		Err             struct{ Message string }
	}
	var report struct{ Tests, Pending, Failures []test }
	if err := json.Unmarshal(text, &report); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	key := func(t test) string { return t.File + "\x00" + t.FullTitle }
	ended := make(map[string]outcome)
	for _, t := range report.Pending {
		ended[key(t)] = skipped
	}
	why := make(map[string]string)
	for _, t := range report.Failures {
		ended[key(t)], why[key(t)] = failed, t.Err.Message
	}
	r := &results{}
	for _, t := range report.Tests {
		how := ended[key(t)]
		if how == missing {
			how = passed
		}
		group := strings.TrimPrefix(strings.TrimPrefix(t.File, client), "/lib/")
		r.add(group, t.FullTitle, how, why[key(t)])
	}
	return r, nil
}
