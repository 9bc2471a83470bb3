package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/throttle"
)

func jsonLine(value any) ([]byte, error) {
	text, err := json.Marshal(value)
	return append(text, '\n'), err
}

// withMaster adds where a server is that sentinels watch.
func withMaster(url, master string) string {
	switch {
	case master != "":
		return url + " (the master is " + master + ")"
	case strings.Contains(url, "+sentinel://"):
		return url + " (where the master is, is not known)"
	}
	return url
}

// renderStatus is the status for people, in at most width columns.
func renderStatus(st admin.StatusReply, width int) string {
	var b strings.Builder
	line := func(name, text string) {
		for i, part := range wrap(text, width-10) {
			if i > 0 {
				name = ""
			}
			fmt.Fprintf(&b, "%-9s %s\n", name, part)
		}
	}
	line("phase", string(st.Phase))
	line("clients", "on the "+st.Side.String())
	if st.Role != "" {
		line("role", st.Role+", "+st.State)
	}
	line("source", withMaster(st.Source, st.SourceMaster))
	line("target", withMaster(st.Target, st.TargetMaster))
	for i, text := range nodeLines(st.TargetNodes) {
		name := "masters"
		if i > 0 {
			name = ""
		}
		line(name, text)
	}
	switch verb := nextSwitch(st.Side); {
	case st.Ready:
		line("ready", "yes, for a "+verb)
	case st.Phase.Ended():
		line("ready", "no")
	default:
		for i, reason := range st.Reasons {
			name := ""
			if i == 0 {
				name = "not ready"
			}
			line(name, reason)
		}
	}
	for i, text := range waitingLines(st.Status) {
		name := "waiting"
		if i > 0 {
			name = ""
		}
		line(name, text)
	}
	if st.NoWayBack != "" {
		line("way back", "none: "+st.NoWayBack)
	}
	if st.Fence != "" {
		line("fence", "up on the server that is not in use: "+fenceWords(migration.FenceLevel(st.Fence)))
	}
	for i, r := range st.Replicas {
		name := ""
		if i == 0 {
			name = "replicas"
		}
		line(name, replicaLine(r))
	}
	for i, who := range st.Strays {
		name := ""
		if i == 0 {
			name = "strays"
			who = "refused on the server that is not in use, past the proxy: " + who
		}
		line(name, who)
	}
	for i, text := range memberLines(st.Members, st.Side) {
		name := "fleet"
		if i > 0 {
			name = ""
		}
		line(name, text)
	}
	if !st.Phase.Ended() && st.Role == "" {
		line("lag", lagLine(st.Status))
	}
	if t := st.Throttle; t != (throttle.Status{}) && scanning(st.Databases) {
		line("throttle", throttleText(t))
	}
	if p := st.Proxy; p != nil {
		line("traffic", trafficLine(p))
		if p.Recent.PerSecond > 0 {
			line("latency", latencyLine(p.Recent))
		}
	}
	for i, text := range viewLines(st.Views) {
		name := ""
		if i == 0 {
			name = "views"
		}
		line(name, text)
	}
	if st.Gaps > 0 {
		text := fmt.Sprintf("%d since the start", st.Gaps)
		if st.Resync != "" {
			text += "; scanning again: " + st.Resync
		}
		line("gaps", text)
	}
	for i, text := range verifyLines(st.Verify) {
		name := "verify"
		if i > 0 {
			name = ""
		}
		line(name, text)
	}
	for i, text := range shadowLines(st.Shadow) {
		name := "shadow"
		if i > 0 {
			name = ""
		}
		line(name, text)
	}
	if len(st.LeaveOut) > 0 {
		line("left out", "databases "+strings.Trim(fmt.Sprint(st.LeaveOut), "[]"))
	}
	if st.Only != "" {
		line("filter", "only these keys are copied: "+st.Only)
	}
	if len(st.Databases) > 0 {
		b.WriteString("\n")
		writeDatabases(&b, st.Databases)
	}
	for i, k := range st.Big {
		if i == 0 {
			b.WriteString("\n")
		}
		if i == bigShown {
			line("", fmt.Sprintf("and %d more", len(st.Big)-i))
			break
		}
		line("big key", bigLine(k))
	}
	for i, text := range lossLines(st.Status) {
		if i == 0 {
			b.WriteString("\n")
		}
		line("uncopied", text)
	}
	if r := st.LastCutover; r != nil {
		b.WriteString("\n")
		line("last", lastSwitch(*r))
		line("", stepLine(r.Steps))
	}
	if len(st.Errors) > 0 {
		b.WriteString("\n")
		for _, e := range st.Errors {
			line("error", fmt.Sprintf("%s, %d times, last %s: %s", e.Kind, e.Count, e.Last.Local().Format(time.TimeOnly), e.Text))
		}
	}
	return b.String()
}

func scanning(list []migration.DatabaseStatus) bool {
	return slices.ContainsFunc(list, func(d migration.DatabaseStatus) bool { return !d.Done })
}

func nextSwitch(side router.Side) string {
	if side == router.Target {
		return "rollback"
	}
	return "cutover"
}

// mapping says where a database goes, in at most so many columns.
func mapping(source int, to router.Place, width int) string {
	text := []rune(fmt.Sprintf("%d → %s", source, to))
	if len(text) > width {
		return string(text[:width-1]) + "…"
	}
	return string(text)
}

const barWidth = 10

func writeDatabases(b *strings.Builder, list []migration.DatabaseStatus) {
	fmt.Fprintf(b, "%-11s %-*s %7s %7s %7s %8s %8s %7s\n", "database", barWidth+7, "scanned", "of keys", "copied", "equal", "dirty", "keys/s", "left")
	empty := 0
	for _, d := range list {
		if d.Done && d.Total == 0 && d.Copied == 0 && d.Equal == 0 && d.Removed == 0 && d.Dirty == 0 {
			empty++
			continue
		}
		percent := d.Percent
		left, rate := clock(d.ETA), count(int64(d.Rate))
		if d.Done {
			percent, left, rate = 100, "-", "-"
		}
		if !d.Done && d.ETA == 0 {
			left = "?"
		}
		fmt.Fprintf(b, "%-11s %s %5.1f%% %7s %7s %7s %8s %8s %7s\n", mapping(d.Source, router.Place{DB: d.Target, Prefix: d.Prefix}, 11),
			bar(percent), percent, count(d.Total), count(d.Copied), count(d.Equal), count(int64(d.Dirty)), rate, left)
	}
	if empty > 0 {
		fmt.Fprintf(b, "and %s without keys\n", plural(empty, "database"))
	}
}

// bigShown is how many big keys are shown to people.
const bigShown = 5

func bigLine(k migration.BigKeyStatus) string {
	text := fmt.Sprintf("%q in database %d, %s, %sB written, %.1f %%", k.Key, k.Database, cmp.Or(k.Type, "?"), count(k.Bytes), k.Percent)
	if k.Wait > 0 {
		text += fmt.Sprintf("; it changes all the time and is copied again in %s", clock(k.Wait))
	}
	return text
}

// bar draws a share of a hundred.
func bar(percent float64) string {
	full := max(0, min(barWidth, int(percent/100*barWidth+0.0001)))
	return strings.Repeat("█", full) + strings.Repeat("░", barWidth-full)
}

// count writes a number in at most seven columns.
func count(n int64) string {
	switch {
	case n < 1_000_000:
		return fmt.Sprint(n)
	case n < 100_000_000:
		return fmt.Sprintf("%.2fM", float64(n)/1e6)
	default:
		return fmt.Sprintf("%.1fG", float64(n)/1e9)
	}
}

func clock(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second)).Round(time.Second)
	switch {
	case d >= 100*time.Hour:
		return ">4d"
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

func millis(ms float64) string {
	if ms >= 10_000 {
		return fmt.Sprintf("%.1f s", ms/1000)
	}
	return fmt.Sprintf("%.1f ms", ms)
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func switchName(r migration.Report) string {
	name := "cutover"
	if r.From == router.Target {
		name = "rollback"
	}
	switch {
	case r.DryRun:
		name = "dry run of a " + name
	case r.Rehearsal:
		name = "rehearsal of a " + name
	}
	return name
}

func lastSwitch(r migration.Report) string {
	text := switchName(r) + " at " + r.Started.Local().Format(time.DateTime)
	switch {
	case r.Finished.IsZero():
		return text + ": under way"
	case r.DryRun && r.OK:
		return text + ": could be made"
	case !r.OK && r.Held > 0:
		return text + ": failed: " + r.Error + "; " + stallLine(r)
	case !r.OK:
		return text + ": failed: " + r.Error
	case r.Rehearsal:
		return text + ": " + estimateLine(r)
	}
	return text + ": done, " + stallLine(r)
}

// replicaLine says of one server whether it is fenced with its master.
func replicaLine(r migration.ReplicaStatus) string {
	text := r.Address + " of the " + r.Side.String()
	switch {
	case r.Problem != "":
		return text + ": NOT fenced, and would take writes as the master: " + r.Problem
	case r.Fence != "":
		return text + ": " + fenceWords(migration.FenceLevel(r.Fence))
	}
	return text + ": to be put back"
}

// fenceWords says what a level of the protocol is made of.
func fenceWords(level migration.FenceLevel) string {
	switch level {
	case migration.FenceACL:
		return string(level) + " (ACL refuses every user but ours)"
	case migration.FenceReplicas:
		return string(level) + " (min-replicas-to-write refuses every write)"
	}
	return string(level)
}

func stallLine(r migration.Report) string {
	if r.Sessions == 0 {
		return fmt.Sprintf("no client waited; held for %s", millis(r.Held))
	}
	return fmt.Sprintf("stall p50 %s, p99 %s, max %s (%s waited)", millis(r.Stall.P50), millis(r.Stall.P99), millis(r.Stall.Max), plural(r.Sessions, "client"))
}

func stepLine(steps []migration.StepTime) string {
	var parts []string
	for _, s := range steps {
		parts = append(parts, fmt.Sprintf("%s %s%.1f", s.Name, about(s), s.MS))
	}
	if len(parts) == 0 {
		return "no steps"
	}
	return "steps (ms): " + strings.Join(parts, ", ")
}

// renderSteps is how far an attempt came that failed.
func renderSteps(r migration.Report) string {
	var b strings.Builder
	for _, finding := range r.Findings {
		fmt.Fprintf(&b, "finding   %s\n", finding)
	}
	if len(r.Steps) > 0 {
		b.WriteString("steps\n")
	}
	for _, s := range r.Steps {
		fmt.Fprintf(&b, "  %-12s %s%9.1f ms\n", s.Name, about(s), s.MS)
	}
	return b.String()
}

// oneWayFlag is what the switch needs that r has tried out.
func oneWayFlag(r migration.Report) string {
	if r.AskOneWay {
		return " --one-way"
	}
	return ""
}

// renderReport is the summary of an attempt that worked. again tells how to call
// another verb.
func renderReport(r migration.Report, name string, again func(verb string) string) string {
	var b strings.Builder
	if r.DryRun {
		fmt.Fprintf(&b, "dry run: a %s can be made now; what it armed was put back\n", name)
		if r.Fence != "" {
			fmt.Fprintf(&b, "fence     %s\n", fenceWords(r.Fence))
		}
		b.WriteString(renderSteps(r))
		fmt.Fprintf(&b, "next      %s\n", again(name)+oneWayFlag(r))
		return b.String()
	}
	if r.Rehearsal {
		return renderRehearsal(r, name, again)
	}
	fmt.Fprintf(&b, "%s done: the clients are on the %s now\n\n", name, r.To)
	fmt.Fprintf(&b, "stall     %s\n", stallLine(r))
	if r.Sessions > 0 {
		fmt.Fprintf(&b, "held      %s\n", millis(r.Held))
	}
	if r.Fleet != nil {
		fmt.Fprintf(&b, "fleet     %s\n", fleetLine(r.Fleet))
	}
	fmt.Fprintf(&b, "fence     %s\n", fenceWords(r.Fence))
	fmt.Fprintf(&b, "compared  %s while both servers stood still\n", plural(r.Checked, "key"))
	b.WriteString(renderSteps(r))
	b.WriteString("\nnext\n")
	if r.To == router.Target {
		if !r.OneWay {
			fmt.Fprintf(&b, "  %s\n      takes the clients back; what they write until then goes with them\n", again("rollback"))
		}
		fmt.Fprintf(&b, "  %s\n      ends the migration: no way back afterwards\n", again("complete"))
	} else {
		fmt.Fprintf(&b, "  %s\n      tries again\n", again("cutover"))
		fmt.Fprintf(&b, "  %s\n      gives the migration up: the clients stay on the source\n", again("complete")+" --stay-on-source")
	}
	return b.String()
}
