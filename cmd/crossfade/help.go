package main

import (
	"context"
	"fmt"
	"io"
	"strings"
)

const exitCodes = `Exit statuses:
    0  done, or what was asked for is so
    1  failed: a server or the sidecar cannot be reached, a switch is taken
       back, verify could not tell
    2  wrong usage: unknown verb or flag, or an error in the configuration
    3  refused by a check: check found a failure, the migration is not ready,
       verify found differences. Nothing was changed. Also acl, when it has
       refused users and copied the others, and run, when another sidecar has
       taken over its migration.
  130  stopped by SIGINT (Ctrl-C)
  143  stopped by SIGTERM; also after an orderly stop of run
`

func helpVerb() *verb {
	return &verb{name: "help", short: "explain a verb: crossfade help VERB; also help exit-codes", run: help}
}

func help(ctx context.Context, s *session) error {
	if len(s.args) == 0 {
		_, err := io.WriteString(s.stdout, overview())
		return err
	}
	topic := s.args[0]
	switch {
	case topic == "exit-codes":
		_, err := io.WriteString(s.stdout, exitCodes)
		return err
	case topic == "help" || topic == "-h" || topic == "--help":
		_, err := io.WriteString(s.stdout, overview())
		return err
	case strings.HasPrefix(topic, "-"):
		return usage(fmt.Errorf("help: no flag %q: crossfade help VERB", shortened(topic)))
	case topic == "version":
		_, err := io.WriteString(s.stdout, "crossfade version: print the version\n")
		return err
	}
	return run(ctx, []string{topic, "--help"}, s.stdin, s.stdout, s.stderr, s.environ)
}

// overview is the page of all verbs.
func overview() string {
	var b strings.Builder
	b.WriteString(`Crossfade moves a live Redis to another: clients connect to it instead of the
source, it copies everything, and a cutover moves them without losing a write.

  crossfade check --source redis://OLD --target redis://NEW
  crossfade run   --source redis://OLD --target redis://NEW
  crossfade cutover

Verbs:
`)
	for _, v := range verbs() {
		fmt.Fprintf(&b, "  %-10s %s\n", v.name, v.short)
	}
	b.WriteString(`
The verbs that ask a running crossfade find it by --admin or CROSSFADE_ADMIN
(default unix:crossfade.sock in this directory).
crossfade help VERB lists a verb's flags.

`)
	b.WriteString(exitCodes)
	return b.String()
}
