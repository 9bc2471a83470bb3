package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/crossfade/crossfade/migration"
)

// waitingLines are of a switch that waits for its moment, or was not made.
func waitingLines(st migration.Status) []string {
	var lines []string
	if w := st.Waiting; w != nil {
		text := "a " + w.Verb + ", since " + w.Since.Local().Format(time.DateTime)
		if w.Until != nil {
			text += ", given up at " + w.Until.Local().Format(time.DateTime)
		}
		if w.Failed > 0 {
			text += fmt.Sprintf(", after %d of %d attempts", w.Failed, w.Retries+1)
		}
		lines = append(lines, text)
		for _, why := range w.For {
			lines = append(lines, "for: "+why)
		}
	}
	if d := st.Dropped; d != nil {
		lines = append(lines, fmt.Sprintf("no more: the %s of %s was dropped at %s: %s", d.Verb, d.Made.Local().Format(time.DateTime), d.At.Local().Format(time.DateTime), d.Why))
	}
	return lines
}

// about stands before the time of a step that was not taken.
func about(s migration.StepTime) string {
	if s.Estimated {
		return "~"
	}
	return ""
}

func estimateLine(r migration.Report) string {
	return fmt.Sprintf("would hold for about %s; clients waited now: %s", millis(r.Estimate), stallLine(r))
}

// renderRehearsal is the summary of a rehearsal that worked.
func renderRehearsal(r migration.Report, name string, again func(verb string) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "rehearsal: a %s would hold the clients for about %s\n", name, millis(r.Estimate))
	fmt.Fprintf(&b, "they are on the %s as before; what was armed was put back\n\n", r.From)
	fmt.Fprintf(&b, "stall     %s\n", stallLine(r))
	fmt.Fprintf(&b, "held      %s\n", millis(r.Held))
	fmt.Fprintf(&b, "fence     %s, not raised\n", fenceWords(r.Fence))
	fmt.Fprintf(&b, "compared  %s while both servers stood still\n", plural(r.Checked, "key"))
	b.WriteString(renderSteps(r))
	b.WriteString("~ was not taken: the time of its round trips\n")
	fmt.Fprintf(&b, "next      %s\n", again(name)+oneWayFlag(r))
	return b.String()
}
