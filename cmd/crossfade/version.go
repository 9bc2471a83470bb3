package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the build: -ldflags "-X main.version=v1.2.3".
var version string

// buildVersion falls back to what the Go tools noted in the binary.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, changed := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = "+changes"
		}
	}
	if revision == "" {
		return "devel"
	}
	return "devel-" + revision + changed
}

func versionVerb() *verb {
	return &verb{name: "version", short: "print the version", run: func(_ context.Context, s *session) error {
		if isHelp(s.args) {
			return s.printHelp()
		}
		if len(s.args) > 0 {
			return usage(fmt.Errorf("version: %q was not expected: it takes no arguments", shortened(s.args[0])))
		}
		_, err := fmt.Fprintf(s.stdout, "crossfade %s (%s %s/%s)\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	}}
}
