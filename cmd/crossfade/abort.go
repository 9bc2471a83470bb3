package main

import (
	"context"
	"fmt"
	"io"
	"strings"
)

func abortVerb() *verb {
	return &verb{name: "abort", short: "take back a cutover or rollback that is under way, or waits", run: abort, long: `
Ends the waiting of a switch that was asked for with --when-ready or --at, or that
a postpone file holds. One that is under way is taken back: possible until the switch is decided; everything is then as before, and the copy
goes on. Afterwards crossfade rollback is the way back.`}
}

func abort(ctx context.Context, s *session) error {
	f := s.flagsOf(doorFlags...)
	c, err := f.parse()
	if err != nil {
		return err
	}
	door, err := client(c)
	if err != nil {
		return err
	}
	defer door.Close()
	done, err := door.Abort(ctx)
	if err != nil {
		return err
	}
	return printDone(s.stdout, done)
}

func printDone(w io.Writer, done []string) error {
	_, err := fmt.Fprintln(w, strings.Join(done, "\n"))
	return err
}
