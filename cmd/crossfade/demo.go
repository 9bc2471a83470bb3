package main

import (
	"context"
	"fmt"

	"github.com/crossfade/crossfade/internal/demo"
)

func demoVerb() *verb {
	return &verb{name: "demo", short: "show a whole migration on two servers of its own, and check it", run: showDemo, long: `
It needs redis-server in the PATH and nothing else, takes no flags, and ends in
under 90 seconds: fill, copy under load, cut over, check every acknowledged
write, roll back, check, cut over again, check, complete. The exit status is 1
when anything was lost, doubled or reordered.`}
}

func showDemo(ctx context.Context, s *session) error {
	if isHelp(s.args) {
		return s.printHelp()
	}
	if len(s.args) > 0 {
		return usage(fmt.Errorf("demo: %q was not expected: it takes no arguments", shortened(s.args[0])))
	}
	return demo.Run(ctx, demo.Options{Stdout: s.stdout, Stderr: s.stderr})
}
