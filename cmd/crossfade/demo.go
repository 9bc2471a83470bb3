package main

import (
	"context"
	"fmt"

	"github.com/crossfade/crossfade/internal/demo"
)

func demoVerb() *verb {
	return &verb{name: "demo", short: "show a whole migration on two servers of its own, and check it", run: func(ctx context.Context, s *session) error {
		if len(s.args) > 0 {
			return usage(fmt.Errorf("demo: %q was not expected: it takes no arguments", shortened(s.args[0])))
		}
		return demo.Run(ctx, demo.Options{Stdout: s.stdout, Stderr: s.stderr})
	}}
}
