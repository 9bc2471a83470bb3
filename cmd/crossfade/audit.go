package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/audit"
)

func auditVerb() *verb {
	return &verb{name: "audit", short: "show who did what when", run: showAudit, long: `
The last operator's verbs and transitions, the oldest first. All of them are in the
file of audit.file, a JSON object a line.`}
}

func showAudit(ctx context.Context, s *session) error {
	f := s.flagsOf(doorFlags...)
	last := f.set.Int("last", 20, fmt.Sprintf("the last `NUMBER` of entries, up to %d", audit.Kept))
	asJSON := f.set.Bool("json", false, "print JSON, an object a line")
	c, err := f.parse()
	if err != nil {
		return err
	}
	if *last < 1 || *last > audit.Kept {
		return usage(fmt.Errorf("audit: --last %d is out of range: give 1 to %d", *last, audit.Kept))
	}
	door, err := client(c)
	if err != nil {
		return err
	}
	defer door.Close()
	list, err := door.Audit(ctx)
	if err != nil {
		return err
	}
	list = list[max(0, len(list)-*last):]
	if !*asJSON {
		_, err = io.WriteString(s.stdout, renderAudit(list, widthOf(s.stdout)))
		return err
	}
	for _, e := range list {
		line, err := jsonLine(e)
		if err == nil {
			_, err = s.stdout.Write(line)
		}
		if err != nil {
			return fmt.Errorf("printing the audit log: %w", err)
		}
	}
	return nil
}

// renderAudit is the log for people, in at most width columns.
func renderAudit(list []audit.Entry, width int) string {
	const stamp = 20 // columns of the time
	var b strings.Builder
	for _, e := range list {
		for i, part := range wrap(auditText(e), width-stamp) {
			at := ""
			if i == 0 {
				at = e.Time.Local().Format(time.DateTime)
			}
			fmt.Fprintf(&b, "%-*s%s\n", stamp, at, part)
		}
	}
	if len(list) == 0 {
		return "nothing was asked for yet\n"
	}
	return b.String()
}

func auditText(e audit.Entry) string {
	var text string
	switch e.Event {
	case "asked":
		text = e.Who.String() + " asks: " + e.Verb
		if len(e.Asked) > 0 && string(e.Asked) != "{}" {
			text += " " + string(e.Asked)
		}
	case "answered":
		text = fmt.Sprintf("%s of %s: %s after %s", e.Verb, e.Who, e.Result, millis(e.MS))
	case "phase":
		text = e.From + " → " + e.To
		if e.Verb != "" {
			text += " (" + e.Verb + ")"
		}
	default:
		text = e.Event
		if e.Verb != "" {
			text += ": " + e.Verb
		}
		if e.Result != "" {
			text += fmt.Sprintf(": %s after %s", e.Result, millis(e.MS))
		}
	}
	if e.Why != "" {
		text += ": " + e.Why
	}
	return text
}
