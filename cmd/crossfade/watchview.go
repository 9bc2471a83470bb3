package main

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/migration"
)

// The screen: a head that is always there, the body of `crossfade status`, which can be
// scrolled, and a foot. A screen that is wide enough has the conditions of the next switch
// and charts beside it. A terminal without colours, or NO_COLOR, loses nothing but colours.

const (
	wideScreen = 130 // columns from which on there is something beside the body
	tallScreen = 30  // lines from which on the head says what leads back
	bodyMost   = 100 // columns of the body beside something
)

var (
	boldStyle  = lipgloss.NewStyle().Bold(true)
	mutedStyle = lipgloss.NewStyle().Faint(true)
	goodStyle  = lipgloss.NewStyle().Foreground(lipgloss.Green)
	warnStyle  = lipgloss.NewStyle().Foreground(lipgloss.Yellow)
	badStyle   = lipgloss.NewStyle().Foreground(lipgloss.Red).Bold(true)
)

// lines are as many as the screen has, each no wider than that.
func (w *watcher) lines() []string {
	if w.width <= 0 || w.height <= 0 {
		return nil // the size comes before anything can be seen
	}
	head, body := w.head(), w.body()
	room := w.height - len(head) - 1
	if room < 1 { // so small that the body alone matters
		head, room = nil, w.height-1
	}
	w.top = max(0, min(w.top, len(body)-room))
	seen := body[w.top:min(len(body), w.top+max(0, room))]
	out := append(head, seen...)
	for len(out) < w.height-1 {
		out = append(out, "")
	}
	out = append(out, w.foot(len(seen), len(body)))
	for i, line := range out {
		out[i] = ansi.Truncate(line, w.width, "…")
	}
	return out
}

// room is how many lines the body has.
func (w *watcher) room() int { return max(1, w.height-len(w.head())-1) }

// head says where the migration stands.
func (w *watcher) head() []string {
	st := w.status.Status
	out := []string{w.title(st), w.line(st)}
	wrapped := func(style lipgloss.Style, text string) {
		for _, part := range wrap(plain(text), w.width) {
			out = append(out, style.Render(part))
		}
	}
	wrapped(lipgloss.NewStyle(), sentenceOf(st))
	if open, words := backOf(st); w.height >= tallScreen {
		style := goodStyle
		if !open {
			style = warnStyle
		}
		wrapped(style, "The way back: "+words)
	}
	switch {
	case w.lost != nil:
		wrapped(badStyle, "The sidecar cannot be reached: "+w.lost.Error()+". What you see is from "+w.at.Format(time.TimeOnly)+". This goes on trying.")
	case st.Ready:
		wrapped(goodStyle, leadOf(st))
	default:
		wrapped(warnStyle, leadOf(st))
	}
	return append(out, mutedStyle.Render(strings.Repeat("─", w.width)))
}

func (w *watcher) title(st migration.Status) string {
	left := boldStyle.Render("Crossfade") + "  " + plain(st.Source) + " → " + plain(st.Target)
	right := goodStyle.Render("live")
	if w.lost != nil {
		right = badStyle.Render("not connected")
	}
	return spread(left, right, w.width)
}

// line is the line of stations, or where one is on it where that does not fit.
func (w *watcher) line(st migration.Status) string {
	now := stationOf(st.Phase)
	var parts []string
	for i, s := range stations {
		name := s.name
		if s.id == "done" && st.Phase == migration.Cancelled {
			name = "Given up"
		}
		switch {
		case i < now || st.Phase.Ended():
			parts = append(parts, goodStyle.Render("✓ "+name))
		case i > now:
			parts = append(parts, mutedStyle.Render("○ "+name))
		case st.Phase == migration.Resync || st.Phase == migration.ReverseLost:
			parts = append(parts, badStyle.Render("● "+name))
		default:
			parts = append(parts, boldStyle.Render("● "+name))
		}
	}
	text := strings.Join(parts, "  ")
	if ansi.StringWidth(text) > w.width {
		return fmt.Sprintf("%s (%d of %d)", parts[now], now+1, len(parts))
	}
	return text
}

// body is what `crossfade status` prints, with what fits beside it.
func (w *watcher) body() []string {
	if w.width < wideScreen {
		return styled(renderStatus(w.status, max(20, w.width)))
	}
	width := min(bodyMost, (w.width-3)/2)
	left, right := styled(renderStatus(w.status, width)), w.beside(w.width-width-3)
	out := make([]string, max(len(left), len(right)))
	for i := range out {
		if i < len(left) {
			out[i] = ansi.Truncate(left[i], width, "…")
		}
		out[i] += strings.Repeat(" ", width-ansi.StringWidth(out[i])) + " " + mutedStyle.Render("│")
		if i < len(right) {
			out[i] += " " + right[i]
		}
	}
	return out
}

// beside are the conditions of the next switch, and charts.
func (w *watcher) beside(width int) []string {
	out := []string{boldStyle.Render("What a switch needs")}
	for _, g := range w.status.Gates {
		mark := goodStyle.Render("✓")
		if !g.OK {
			mark = badStyle.Render("✗")
		}
		out = append(out, mark+" "+ansi.Truncate(plain(g.What), width-2, "…"))
		for _, why := range g.Why {
			for _, part := range wrap(plain(why), width-4) {
				out = append(out, "    "+warnStyle.Render(part))
			}
		}
	}
	out = append(out, "", boldStyle.Render("The last five minutes"))
	for _, c := range []struct {
		name  string
		value func(admin.Point) float64
		text  func(float64) string
	}{
		{"lag", func(p admin.Point) float64 { return p.LagMS }, millis},
		{"oldest change", func(p admin.Point) float64 { return p.OldestMS }, millis},
		{"dirty keys", func(p admin.Point) float64 { return float64(p.Dirty) }, whole},
		{"commands/s", func(p admin.Point) float64 { return p.PerSecond }, whole},
		{"p50", func(p admin.Point) float64 { return p.P50MS }, brieflyMS},
		{"p99", func(p admin.Point) float64 { return p.P99MS }, brieflyMS},
		{"clients", func(p admin.Point) float64 { return float64(p.Clients) }, whole},
	} {
		values := make([]float64, len(w.past))
		for i, p := range w.past {
			values[i] = c.value(p)
		}
		now := c.text(values[len(values)-1])
		out = append(out, fmt.Sprintf("%-13s %10s %s", c.name, now, sparks(values, width-25)))
	}
	return out
}

func whole(v float64) string { return count(int64(v)) }

// sparks draws the latest values, as many as fit, each in proportion to the largest.
func sparks(values []float64, width int) string {
	if width <= 0 {
		return ""
	}
	values = values[max(0, len(values)-width):]
	most := 0.0
	for _, v := range values {
		most = max(most, v)
	}
	levels := []rune("▁▂▃▄▅▆▇█")
	out := make([]rune, len(values))
	for i, v := range values {
		out[i] = levels[0]
		if most > 0 {
			out[i] = levels[max(0, min(len(levels)-1, int(v/most*float64(len(levels)-1)+0.5)))]
		}
	}
	return string(out)
}

// foot says which keys there are, and how much of the body is seen.
func (w *watcher) foot(seen, all int) string {
	keys, clock := "q ends", "at "+w.at.Format(time.TimeOnly)
	if seen < all {
		keys += "  ↑↓ more"
		clock = fmt.Sprintf("lines %d to %d of %d, %s", w.top+1, w.top+seen, all, clock)
	}
	if len([]rune(keys))+1+len(clock) > w.width {
		clock = ""
	}
	return mutedStyle.Render(spread(keys, clock, w.width))
}

// spread puts two texts at the ends of a line; the left one gives way.
func spread(left, right string, width int) string {
	room := width - ansi.StringWidth(right) - 1
	if room < 1 {
		return right
	}
	left = ansi.Truncate(left, room, "…")
	return left + strings.Repeat(" ", width-ansi.StringWidth(left)-ansi.StringWidth(right)) + right
}

// styles are by the names of the lines of `crossfade status`.
var styles = map[string]lipgloss.Style{
	"ready": goodStyle, "not ready": warnStyle, "strays": warnStyle, "views": warnStyle, "gaps": warnStyle, "error": warnStyle, "uncopied": badStyle,
}

// styled gives the lines of a status their looks.
func styled(text string) []string {
	var out []string
	name := ""
	for line := range strings.Lines(text) {
		line = plain(strings.TrimRight(line, "\n"))
		runes := []rune(line)
		if len(runes) < 10 || runes[9] != ' ' || strings.HasPrefix(line, "database ") {
			name = ""
			out = append(out, line)
			continue
		}
		label, rest := string(runes[:10]), string(runes[10:])
		if named := strings.TrimSpace(label); named != "" {
			name = named
		}
		style, known := styles[name]
		if name == "ready" && strings.HasPrefix(rest, "no") {
			style = warnStyle
		}
		if known {
			rest = style.Render(rest)
		}
		out = append(out, mutedStyle.Render(label)+rest)
	}
	return out
}

// plain has nothing that a terminal would obey.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text)
}
