package main

import (
	"fmt"
	"time"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/sync/verify"
)

// verifyLines is what the status says about comparisons.
func verifyLines(v migration.VerifyStatus) (lines []string) {
	if b := v.Background; b.Alarms > 0 && b.AlarmAt != nil {
		lines = append(lines, fmt.Sprintf("ALARM: %s differed although the copy was live, the last one at %s: %s",
			plural(int(b.Alarms), "key"), b.AlarmAt.Local().Format(time.DateTime), b.Alarm))
	}
	if p := v.Running; p != nil {
		lines = append(lines, "under way: "+verifyWhere(*p))
	}
	if v.Last != nil && v.Last.By != "background" {
		lines = append(lines, verifySummary(*v.Last))
	}
	if v.Background.Last != nil {
		lines = append(lines, verifySummary(*v.Background.Last))
	}
	if p := v.Background.Progress; p != nil && v.Background.State == "comparing" && v.Background.Last == nil {
		lines = append(lines, "in the background: "+verifyWhere(*p))
	}
	return lines
}

func verifyWhere(p verify.Progress) string {
	percent := 0.0
	if p.Total > 0 {
		percent = min(100, 100*float64(p.Done)/float64(p.Total))
	}
	return fmt.Sprintf("database %d, %s, %.1f%% of %s keys", p.Source, stepWords[p.Step], percent, count(p.Total))
}

func verifySummary(s migration.VerifySummary) string {
	what := map[verify.Verdict]string{verify.Equal: "no difference", verify.Unknown: "could not tell", verify.Different: "differences"}[s.Verdict]
	if s.Differing > 0 {
		what = plural(int(s.Differing), "key") + " differ"
	}
	text := fmt.Sprintf("%s in %s keys", what, count(s.Keys))
	if s.Sample < 1 {
		text += fmt.Sprintf(" (a sample of %g %%)", 100*s.Sample)
	}
	if s.Repaired > 0 {
		text += fmt.Sprintf(", %d mended", s.Repaired)
	}
	if s.Undecided > 0 {
		text += fmt.Sprintf(", %d undecided", s.Undecided)
	}
	text += fmt.Sprintf(", %s ago", clock(s.Age))
	switch {
	case s.By == "background":
		text += ", in the background"
	case s.Stale && s.Holds:
		text += "; what was written since was followed"
	case s.Stale:
		text += "; stale"
	}
	return text
}
