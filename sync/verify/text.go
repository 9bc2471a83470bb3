package verify

import (
	"fmt"
	"strings"
	"time"

	"github.com/crossfade/crossfade/router"
)

const (
	width       = 80
	namedInText = 10 // examples of one database
)

// String is the report for people, in lines of at most 80 columns.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-12s %12s %12s %10s %8s %8s %9s\n", "database", "keys", "of target", "differing", "moving", "bytes", "seconds")
	empty := 0
	for _, d := range r.Databases {
		if d.Keys+d.TargetKeys == 0 && len(r.Databases) > 1 {
			empty++
			continue
		}
		fmt.Fprintf(&b, "%-12s %12d %12d %10d %8d %8s %9.1f\n",
			clip(fmt.Sprintf("%d → %s", d.Source, router.Place{DB: d.Target, Prefix: d.Prefix}), 12), d.Keys, d.TargetKeys, d.Differing, d.Moving, size(d.Bytes), d.Seconds)
	}
	if empty > 0 {
		fmt.Fprintf(&b, "and %s without keys\n", plural(int64(empty), "database", "databases"))
	}
	for _, d := range r.Databases {
		d.write(&b)
	}
	b.WriteString(r.Words())
	b.WriteString("\n")
	if r.Only != "" {
		fmt.Fprintf(&b, "Only these keys were looked at: %s\n", r.Only)
	}
	if r.Stale {
		fmt.Fprintf(&b, "Since it began (%s) %s.\n", r.Began.Local().Format(time.DateTime), changes(r.Changes))
	}
	return b.String()
}

// Page is the report with a heading: which servers, when and for whom.
func (r Report) Page() string {
	var b strings.Builder
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-9s %s\n", name, clip(text, width-10))
		}
	}
	line("source", r.Source)
	line("target", r.Target)
	line("for", r.By)
	line("filter", r.Only)
	line("began", r.Began.Local().Format(time.DateTime))
	line("ended", r.Ended.Local().Format(time.DateTime))
	line("verdict", string(r.Verdict))
	line("error", r.Error)
	return b.String() + "\n" + r.String()
}

func changes(n int64) string {
	if n <= 0 {
		return "there were changes"
	}
	return plural(n, "change was", "changes were") + " seen"
}

func (d Database) write(b *strings.Builder) {
	for i, e := range d.Examples {
		if i == namedInText {
			fmt.Fprintf(b, "  … and %d more in database %d\n", d.Differing+d.Undecided-namedInText, d.Source)
			break
		}
		words := e.Words
		if e.Repaired {
			words = "mended: " + words
		}
		fmt.Fprintf(b, "  db %-3d %s\n", d.Source, clip(fmt.Sprintf("%-8s%q", e.Kind, e.Key), width-9))
		fmt.Fprintf(b, "      %s\n", clip(words, width-6))
	}
	if d.Trouble != "" {
		fmt.Fprintf(b, "  db %-3d repairing: %s\n", d.Source, clip(d.Trouble, width-20))
	}
}

// Words is the report in one sentence, or a few.
func (r Report) Words() string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !r.Complete {
		say("The comparison did not come to its end.")
	}
	switch {
	case r.Left() > 0 && r.Repaired > 0:
		say("%s; %d of %d were mended.", plural(r.Left(), "key differs", "keys differ"), r.Repaired, r.Differing)
	case r.Left() > 0:
		say("%s.", plural(r.Left(), "key differs", "keys differ"))
	case r.Repaired > 0:
		say("%s and equal now.", plural(r.Repaired, "key differed, is mended", "keys differed, are mended"))
	case !r.Complete:
	case r.Sample < 1:
		say("No difference in a sample of %g %% of the keys.", 100*r.Sample)
	default:
		say("No difference.")
	}
	if r.Undecided > 0 {
		say("About %s nobody can say.", plural(r.Undecided, "key", "keys"))
	}
	if r.Moving > 0 {
		say("%s all the time.", plural(r.Moving, "key changes", "keys change"))
	}
	return strings.Join(out, "\n")
}

func plural(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// clip shortens s to n columns.
func clip(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-1]) + "…"
}

func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.1f%ciB", f, units[i])
}
