package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
)

// session is what a verb has of the outside.
type session struct {
	verb           *verb
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	environ        []string
	// learn, where it is set, gets the flags of a verb that is asked for its help,
	// which is not printed then.
	learn func(*flags)
}

// verb is one command of the program.
type verb struct {
	name, short string
	long        string
	words       func() []string // that may come first instead of a flag; nil: none
	run         func(context.Context, *session) error
}

// verbs returns the table of verbs, in the order of the help.
func verbs() []*verb {
	return []*verb{
		runVerb(), checkVerb(), statusVerb(), slowlogVerb(), throttleVerb(), auditVerb(), aclVerb(), verifyVerb(), shadowVerb(), cutoverVerb(), abortVerb(),
		rollbackVerb(), completeVerb(), demoVerb(), configVerb(), completionVerb(), manVerb(), versionVerb(), helpVerb(),
	}
}

// run is the program. Its error carries the exit status, see report.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, environ []string) error {
	if len(args) == 0 {
		_, _ = io.WriteString(stderr, overview())
		return &exitError{code: exitUsage, err: errors.New("no verb"), said: true}
	}
	name := args[0]
	switch name {
	case "-h", "-help", "--help":
		name = "help"
	case "-v", "-version", "--version":
		name = "version"
	}
	for _, v := range verbs() {
		if v.name != name {
			continue
		}
		err := v.run(ctx, &session{verb: v, args: args[1:], stdin: stdin, stdout: stdout, stderr: stderr, environ: environ})
		if errors.Is(err, flag.ErrHelp) {
			return nil // printed
		}
		return err
	}
	if strings.HasPrefix(name, "-") {
		return usage(fmt.Errorf("the verb comes first, then its flags: crossfade run %s …; see crossfade help", name))
	}
	return usage(fmt.Errorf("unknown verb %q%s; see crossfade help", shortened(name), didYouMean(name)))
}

func shortened(text string) string {
	if len(text) > 40 {
		return strings.ToValidUTF8(text[:40], "") + "…"
	}
	return text
}

// didYouMean names a verb that begins alike.
func didYouMean(name string) string {
	for n := min(len(name), 8); n >= 2; n-- {
		for _, v := range verbs() {
			if strings.HasPrefix(v.name, strings.ToLower(name[:n])) {
				return ": did you mean " + v.name + "?"
			}
		}
	}
	return ""
}
