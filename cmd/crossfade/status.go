package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"time"

	"github.com/crossfade/crossfade/admin"
)

const watchInterval = time.Second

func statusVerb() *verb {
	return &verb{name: "status", short: "say where the migration stands", run: status, long: `
With --json: one JSON object with stable names, or with --watch one a line.
On a terminal --watch draws a screen of its own: q or Ctrl-C ends it, the arrows
show what does not fit, and NO_COLOR is obeyed.`}
}

func status(ctx context.Context, s *session) error {
	f := s.flagsOf(doorFlags...)
	watch := f.set.Bool("watch", false, "again every second, until Ctrl-C or q")
	asJSON := f.set.Bool("json", false, "print JSON")
	c, err := f.parse()
	if err != nil {
		return err
	}
	door, err := client(c)
	if err != nil {
		return err
	}
	defer door.Close()
	if !*watch {
		return showStatus(ctx, door, s.stdout, *asJSON, false, "")
	}
	if !*asJSON && fullScreen(s) {
		return watchScreen(ctx, door, s)
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	before := ""
	for first := true; ; first = false {
		err := showStatus(ctx, door, s.stdout, *asJSON, true, before)
		before = "\n"
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && first:
			return err
		case err != nil: // it may come back: this is what one watches for
			say(s.stderr, err.Error())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// showStatus writes one status in one piece.
func showStatus(ctx context.Context, door *admin.Client, w io.Writer, asJSON, compact bool, before string) error {
	st, err := door.Overview(ctx)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	switch {
	case asJSON && compact:
		text, err := jsonLine(st)
		if err != nil {
			return err
		}
		out.Write(text)
	case asJSON:
		if err := printJSON(&out, st); err != nil {
			return err
		}
	default:
		out.WriteString(before)
		out.WriteString(renderStatus(st, widthOf(w)))
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return fmt.Errorf("printing the status: %w", err)
	}
	return nil
}
