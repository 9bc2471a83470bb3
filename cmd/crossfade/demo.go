package main

import (
	"context"
	"fmt"
	"io"

	"github.com/crossfade/crossfade/internal/demo"
)

const demoHelp = `crossfade demo: show a whole migration on two servers of its own, and check it

It needs redis-server in the PATH and nothing else, takes no flags, and ends in
under 90 seconds: fill, copy under load, cut over, check every acknowledged
write, roll back, check, cut over again, check, complete. The exit status is 1
when anything was lost, doubled or reordered.
`

func demoVerb() *verb {
	return &verb{name: "demo", short: "show a whole migration on two servers of its own, and check it", run: func(ctx context.Context, s *session) error {
		if len(s.args) > 0 && (s.args[0] == "--help" || s.args[0] == "-h" || s.args[0] == "-help") {
			_, err := io.WriteString(s.stdout, demoHelp)
			return err
		}
		if len(s.args) > 0 {
			return usage(fmt.Errorf("demo: %q was not expected: it takes no arguments", shortened(s.args[0])))
		}
		return demo.Run(ctx, demo.Options{Stdout: s.stdout, Stderr: s.stderr})
	}}
}
