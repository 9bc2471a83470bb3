package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/migration"
)

func shadowVerb() *verb {
	return &verb{name: "shadow", short: "have the target answer some reads too, and compare", words: func() []string { return []string{"off", "10%"} }, run: shadow, long: `
  crossfade shadow 10%    ask the target for every tenth plain read too
  crossfade shadow off
  crossfade shadow        say what has come of it

The clients get the source's replies all the same, and wait for nothing of it. A
read that the two answer differently may only have met a change on its way; so
its keys are compared again until it is certain. What is set holds until the
sidecar ends; shadow.percent holds from its start. A switch ends it.`}
}

func shadow(ctx context.Context, s *session) error {
	word := ""
	if len(s.args) > 0 && !strings.HasPrefix(s.args[0], "-") {
		word, s.args = s.args[0], s.args[1:]
	}
	f := s.flagsOf(doorFlags...)
	asJSON := f.set.Bool("json", false, "print JSON")
	c, err := f.parse()
	if err != nil {
		return err
	}
	var request admin.ShadowRequest
	if word != "" {
		percent, err := percentOf(word)
		if err != nil {
			return usage(fmt.Errorf("shadow: %w", err))
		}
		request.Percent = &percent
	}
	door, err := client(c)
	if err != nil {
		return err
	}
	defer door.Close()
	r, err := door.Shadow(ctx, request)
	if err != nil {
		return s.failed(err, *asJSON)
	}
	if *asJSON {
		return printJSON(s.stdout, r)
	}
	if _, err := io.WriteString(s.stdout, renderShadow(r)); err != nil {
		return fmt.Errorf("printing what came of the reads: %w", err)
	}
	return nil
}

// percentOf reads "10%", "10" or "off".
func percentOf(word string) (int, error) {
	if word == "off" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.TrimSuffix(word, "%"))
	if err != nil || n < 0 || n > 100 {
		return 0, errors.New(strconv.Quote(shortened(word)) + " is no share of the reads: write 1% to 100%, or off")
	}
	return n, nil
}

// shadowLines is what the status says about shadow reads.
func shadowLines(st migration.ShadowStatus) []string {
	if st.State == "off" && st.Equal == 0 || st.State == "" {
		return nil
	}
	lines := []string{shadowState(st) + ": " + count(st.Equal) + " the same, " + count(st.Behind) + " behind for a moment, " + count(st.Differing) + " differing"}
	if st.Unsettled > 0 {
		lines[0] += ", " + count(st.Unsettled) + " not settled"
	}
	if len(st.Examples) > 0 {
		lines = append(lines, "DIFFERENCE: "+shadowExample(st.Examples[0]))
	}
	return lines
}

func shadowState(st migration.ShadowStatus) string {
	switch st.State {
	case "on":
		return fmt.Sprintf("%d %% of the reads", st.Percent)
	case "waiting":
		return fmt.Sprintf("%d %% of the reads, but not now: %s", st.Percent, st.Why)
	}
	return "off"
}

func shadowExample(e migration.ShadowExample) string {
	return fmt.Sprintf("%s %.60q in database %d at %s (%s): %s", strings.ToUpper(e.Command), e.Key, e.Database, e.Time.Local().Format(time.DateTime), e.Kind, e.Words)
}

// renderShadow is all of it for people, in 80 columns.
func renderShadow(r admin.ShadowReply) string {
	var b strings.Builder
	line := func(name, text string) {
		for i, part := range wrap(text, 70) {
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(&b, "%-9s %s\n", name, part)
		}
	}
	line("shadow", shadowState(r.ShadowStatus))
	a := r.Asked
	if a == nil || a.Reads+a.Skipped == 0 {
		return b.String()
	}
	line("reads", fmt.Sprintf("%s asked twice, %s of them the same; %s since the last difference", count(a.Reads), count(r.Equal), count(r.Clean)))
	line("others", fmt.Sprintf("%s behind for a moment, %s differing, %s not settled, %d being judged", count(r.Behind), count(r.Differing), count(r.Unsettled), r.Open))
	if a.Failed > 0 {
		var words []string
		for _, kind := range slices.Sorted(maps.Keys(a.FailedWith)) {
			words = append(words, kind+" "+count(a.FailedWith[kind]))
		}
		line("failed", fmt.Sprintf("%s that one server refused: %s", count(a.Failed), strings.Join(words, ", ")))
	}
	if a.Skipped > 0 {
		line("skipped", count(a.Skipped)+" for which there was no time, room or connection")
	}
	if r.LeftOut > 0 {
		line("left out", count(r.LeftOut)+" of keys that are not copied")
	}
	if a.Reads > 0 {
		line("source", timesText(a.SourceMS))
		line("target", timesText(a.TargetMS))
	}
	if len(a.Families) > 0 {
		b.WriteString("\n")
		writeShadowFamilies(&b, r)
	}
	for i, e := range r.Examples {
		if i == 0 {
			b.WriteString("\n")
		}
		line("differs", shadowExample(e))
	}
	return b.String()
}

func timesText(t admin.Times) string {
	return fmt.Sprintf("p50 %s, p99 %s, p99.9 %s", brieflyMS(t.P50), brieflyMS(t.P99), brieflyMS(t.P999))
}

func writeShadowFamilies(b *strings.Builder, r admin.ShadowReply) {
	const row = "%-13s %8s %8s %9s %9s %8s %8s\n"
	fmt.Fprintf(b, row, "family", "same", "behind", "differing", "unsettled", "failed", "skipped")
	judged := make(map[string]migration.ShadowFamily)
	for _, f := range r.Families {
		judged[f.Family] = f
	}
	for _, f := range r.Asked.Families {
		j := judged[f.Family]
		fmt.Fprintf(b, row, f.Family, count(f.Equal), count(j.Behind), count(j.Differing), count(j.Unsettled), count(f.Failed), count(f.Skipped))
	}
}
