package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

// row is a line of the table: a word and a figure of each way to switch.
type row struct {
	name   string
	figure func(*switched) string
}

func stallOf(w switching) float64 { return w.stall }

var switchRows = []row{
	{"switches", func(s *switched) string {
		if s.name == aloneSwitch {
			return "–"
		}
		return fmt.Sprint(len(s.list))
	}},
	{"operations/s", func(s *switched) string { return fmt.Sprintf("%.0f", s.rate) }},
	{"of the machine's processors in use", func(s *switched) string { return fmt.Sprintf("%.0f %%", s.busy) }},
	{"client errors", func(s *switched) string { return s.each(s.account.Errors) }},
	{"reconnects", func(s *switched) string { return s.each(s.account.Reconnects) }},
	{"writes lost", func(s *switched) string { return s.each(int64(s.account.Lost)) }},
	{"writes doubled", func(s *switched) string { return s.each(int64(s.account.Doubled)) }},
	{"writes reordered", func(s *switched) string { return s.each(int64(s.account.Reordered)) }},
	{"stale reads", func(s *switched) string { return s.each(int64(s.account.Stale)) }},
	{"pub/sub messages lost", func(s *switched) string { return s.each(int64(s.account.MessagesLost)) }},
	{"pub/sub messages doubled", func(s *switched) string { return s.each(int64(s.account.MessagesDoubled)) }},
	{"longest wait of a client, ms: median", func(s *switched) string { return fmt.Sprintf("%.1f", quantile(s.of(stallOf), .5)) }},
	{"… p99", func(s *switched) string { return fmt.Sprintf("%.1f", quantile(s.of(stallOf), .99)) }},
	{"… most", func(s *switched) string { return fmt.Sprintf("%.1f", quantile(s.of(stallOf), 1)) }},
	{"… without a switch, median", func(s *switched) string {
		return fmt.Sprintf("%.1f", quantile(s.of(func(w switching) float64 { return w.calm }), .5))
	}},
}

// each is a number in all, and how many that are a switch.
func (s *switched) each(n int64) string {
	if n == 0 || len(s.list) == 0 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%d (%.1f a switch)", n, float64(n)/float64(len(s.list)))
}

// switchTable compares the ways.
func switchTable(out io.Writer, all []*switched) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) }
	p("| |")
	for _, s := range all {
		p(" %s |", s.name)
	}
	p("\n|---|%s\n", strings.Repeat("--:|", len(all)))
	for _, r := range switchRows {
		p("| %s |", r.name)
		for _, s := range all {
			p(" %s |", r.figure(s))
		}
		p("\n")
	}
}

// stepTable says where the time goes.
func (s *switched) stepTable(out io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) }
	p("| step | median | p99 | most |\n|---|--:|--:|--:|\n")
	line := func(name string, values []float64) {
		p("| %s | %.2f | %.2f | %.2f |\n", name, quantile(values, .5), quantile(values, .99), quantile(values, 1))
	}
	for _, name := range heldSteps() {
		line(name, s.of(func(w switching) float64 { return w.steps[name] }))
	}
	line("**from the hold to the release**", s.of(func(w switching) float64 { return w.held }))
	line("longest wait of a session, in the proxy", s.of(func(w switching) float64 { return w.session }))
	line("longest wait of a client", s.of(stallOf))
	line("longest wait of a client, without a switch", s.of(func(w switching) float64 { return w.calm }))
}

// switchPage writes the report.
func switchPage(out io.Writer, m machine, all []*switched, claims []claim) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) }
	p("# What a switch costs clients\n\nMade by `make switches`; do not edit.\n\n![The stall of each switch](switches.svg)\n\n")
	p("- machine: %s, %d CPUs, %s; Linux %s\n", m.processor, m.cpus, m.memory, m.kernel)
	p("- versions: %s\n- date: %s\n- command: `%s`\n", strings.Join(m.versions, "; "), m.date, m.command)
	p(`- load: go-redis clients, RESP2 and RESP3, at an even rate: registers, counters, lists,
  sorted sets, streams, transactions and scripts in two databases, each sent once the one
  before is answered (a third of all operations); pipelines of sixteen (half); WATCH and
  MULTI; workers in BLPOP; publishers and subscribers; consumer groups and XREAD. Nothing is
  sent again. Load, proxy and both servers share the machine. The last column is the load by
  itself, directly at one server.
- each client keeps account of what was acknowledged to it, and all of it is compared with
  what is there in the end
- promotion: the new server is a replica of the old one, clients come through haproxy; at
  the switch REPLICAOF NO ONE, and haproxy leads to the new server and closes the
  connections to the old one. Writes paused: CLIENT PAUSE WRITE before, until the replica
  has everything
`)
	p("\n")
	switchTable(out, all)
	p("\n## Where the time goes\n\nMilliseconds, of the %d switches with Crossfade; what the steps are is in\n[operating.md](../docs/operating.md#the-steps-of-a-switch).\n\n", len(all[0].list))
	all[0].stepTable(out)
	p("\n## Claims\n\n")
	for _, c := range claims {
		p("- %s\n", c)
	}
}

// The plot's measures, in pixels.
const (
	switchLeft   = 48
	switchWidth  = 640
	switchHeight = 300
	switchTop    = 56
	switchLegend = 210
)

// stepColours are told apart by the colour-blind, from the first step on.
var stepColours = []string{"#999999", "#f0e442", "#e69f00", "#d55e00", "#56b4e9", "#0072b2", "#009e73", "#cc79a7", "#882255", "#44aa99"}

// switchPlot writes an SVG: the steps of each switch on top of each other, and a mark for
// the longest wait of a client.
func switchPlot(out io.Writer, m machine, s *switched) {
	width, bottom := switchLeft+switchWidth+switchLegend, switchTop+switchHeight
	v := svg{out}
	v.f(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`,
		width, bottom+44, width, bottom+44)
	v.f(`<rect width="100%%" height="100%%" fill="#ffffff"/>`)
	v.text(12, 22, "start", `font-size="15" font-weight="bold"`, fmt.Sprintf("The stall of %d switches there and back, ms", len(s.list)))
	v.text(width-12, 22, "end", `fill="#666666"`, fmt.Sprintf("%.0f operations/s; %s, %d CPUs, %s", s.rate, m.processor, m.cpus, m.date[:min(10, len(m.date))]))
	high := 10.0
	for _, w := range s.list {
		sum := 0.0
		for _, name := range heldSteps() {
			sum += w.steps[name]
		}
		high = max(high, w.stall, sum)
	}
	a := linear(high)
	place := func(ms float64) float64 { return float64(bottom) - a.share(ms)*switchHeight }
	for _, t := range a.ticks {
		v.f(`<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#dddddd"/>`, switchLeft, place(t), switchLeft+switchWidth, place(t))
		v.text(switchLeft-6, int(place(t))+4, "end", `font-size="10" fill="#666666"`, fmt.Sprintf("%g", t))
	}
	wide := switchWidth / float64(max(1, len(s.list)))
	at := func(i int) float64 { return switchLeft + float64(i)*wide }
	below := make([]float64, len(s.list))
	names := heldSteps()
	for k, name := range names {
		v.area(s, name, below, stepColours[k%len(stepColours)], at, place)
		for i, w := range s.list {
			below[i] += w.steps[name]
		}
	}
	for i, w := range s.list {
		v.f(`<circle cx="%.1f" cy="%.1f" r="1.8" fill="#000000"/>`, at(i)+wide/2, place(w.stall))
	}
	for _, n := range []int{1, len(s.list)} {
		v.text(int(at(n-1)+wide/2), bottom+16, "middle", `font-size="10" fill="#666666"`, fmt.Sprint(n))
	}
	v.text(switchLeft+switchWidth/2, bottom+32, "middle", `fill="#666666"`, "switch")
	v.switchLegend(s, names)
	v.f(`</svg>`)
}

// area draws one step, on top of what is below it.
func (v svg) area(s *switched, name string, below []float64, colour string, at func(int) float64, place func(float64) float64) {
	var path strings.Builder
	for i, w := range s.list {
		move := "L"
		if i == 0 {
			move = "M"
		}
		fmt.Fprintf(&path, "%s%.1f %.1fH%.1f", move, at(i), place(below[i]+w.steps[name]), at(i+1))
	}
	for i, b := range slices.Backward(below) {
		fmt.Fprintf(&path, "V%.1fH%.1f", place(b), at(i))
	}
	v.f(`<path d="%sZ" fill="%s"/>`, path.String(), colour)
}

// switchLegend names the steps, the last one on top as in the picture, with their medians.
func (v svg) switchLegend(s *switched, names []string) {
	x, y := switchLeft+switchWidth+18, switchTop+10
	stalls := s.of(stallOf)
	v.f(`<circle cx="%d" cy="%d" r="3" fill="#000000"/>`, x+5, y-4)
	v.text(x+16, y, "start", "", fmt.Sprintf("longest wait of a client: %.1f", quantile(stalls, .5)))
	v.text(x+16, y+16, "start", `fill="#666666"`, fmt.Sprintf("(p99 %.1f, most %.1f)", quantile(stalls, .99), quantile(stalls, 1)))
	y += 44
	v.text(x, y, "start", `fill="#666666"`, "steps, and their medians")
	for k, name := range slices.Backward(names) {
		y += 19
		v.f(`<rect x="%d" y="%d" width="11" height="11" fill="%s"/>`, x, y-10, stepColours[k%len(stepColours)])
		v.text(x+16, y, "start", "", fmt.Sprintf("%s %.2f", name, quantile(s.of(func(w switching) float64 { return w.steps[name] }), .5)))
	}
}

// linear goes from 0 to high or a little more.
func linear(high float64) axis {
	step := math.Pow(10, math.Floor(math.Log10(high)))
	for high/step < 5 {
		step /= 2
	}
	a := axis{high: step * math.Ceil(high/step+.05)}
	for i := range int(math.Round(a.high/step)) + 1 {
		a.ticks = append(a.ticks, float64(i)*step)
	}
	return a
}
