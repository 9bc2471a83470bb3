package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"syscall"
)

// exitStatus is one of those that the program ends with.
type exitStatus struct {
	code int
	text string
}

// exitStatuses are all of them; they are the same for every verb.
var exitStatuses = []exitStatus{
	{0, "done, or what was asked for is so"},
	{exitFailed, "failed: a server or the sidecar cannot be reached, a switch is taken back, verify could not tell"},
	{exitUsage, "wrong usage: unknown verb or flag, or an error in the configuration"},
	{exitRefused, "refused by a check: check found a failure, the migration is not ready, verify found differences. " +
		"Nothing was changed, except by verify --repair and acl apply. Also acl, when it has refused users and copied the others, and run, when another sidecar has taken over its migration."},
	{exitSignal + int(syscall.SIGINT), "stopped by SIGINT (Ctrl-C)"},
	{exitSignal + int(syscall.SIGTERM), "stopped by SIGTERM; also after an orderly stop of run"},
}

// exitCodes is their page.
var exitCodes = func() string {
	var b strings.Builder
	b.WriteString("Exit statuses:\n")
	for _, s := range exitStatuses {
		for i, line := range wrap(s.text, 72) {
			if i == 0 {
				fmt.Fprintf(&b, "  %3d  %s\n", s.code, line)
			} else {
				fmt.Fprintf(&b, "       %s\n", line)
			}
		}
	}
	return b.String()
}()

func helpVerb() *verb {
	return &verb{name: "help", short: "explain a verb: crossfade help VERB; also help exit-codes", words: helpTopics, run: help}
}

func helpTopics() []string {
	topics := []string{"exit-codes"}
	for _, v := range verbs() {
		topics = append(topics, v.name)
	}
	return topics
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
