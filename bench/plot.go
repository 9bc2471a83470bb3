package main

import (
	"fmt"
	"html"
	"io"
	"math"
)

// panel is one of the plot's columns: a figure of each way, divided by the direct
// way's.
type panel struct {
	title string
	of    func(figures) float64
	log   bool
}

var panels = []panel{
	{"requests a second", rateOf, false},
	{"p99 latency", p99Of, true},
	{"server CPU a request", serverOf, false},
}

// The plot's measures, in pixels.
const (
	labelWidth = 132
	panelWidth = 250
	panelGap   = 40
	rowHeight  = 22
	topHeight  = 92
	footHeight = 34
	markRadius = 5
)

// mark is how a way is drawn: by colour (told apart by the colour-blind too) and
// by shape.
type mark struct{ colour, shape string }

var marks = map[string]mark{
	shared:      {"#d55e00", "circle"},
	pinned:      {"#e69f00", "diamond"},
	"haproxy":   {"#0072b2", "square"},
	"twemproxy": {"#009e73", "up"},
	"predixy":   {"#cc79a7", "down"},
}

// drawn is the order of drawing: what comes later lies on top.
var drawn = []string{"predixy", "twemproxy", "haproxy", pinned, shared}

// plot writes an SVG: a row a cell, a mark a way.
func plot(out io.Writer, m machine, rs results) {
	width := labelWidth + len(panels)*(panelWidth+panelGap)
	bottom := topHeight + rowHeight*len(rs)
	s := svg{out}
	s.f(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`,
		width, bottom+footHeight, width, bottom+footHeight)
	s.f(`<rect width="100%%" height="100%%" fill="#ffffff"/>`)
	s.text(12, 22, "start", `font-size="15" font-weight="bold"`, "What a hop costs: each way divided by direct")
	s.text(width-panelGap, 22, "end", `fill="#666666"`, fmt.Sprintf("%s, %d CPUs, %s", m.processor, m.cpus, m.date[:min(10, len(m.date))]))
	s.legend(rs)
	for i, r := range rs {
		y := topHeight + i*rowHeight
		if i%2 == 0 {
			s.f(`<rect x="0" y="%d" width="%d" height="%d" fill="#f5f5f5"/>`, y, width, rowHeight)
		}
		s.text(labelWidth-12, y+rowHeight/2+4, "end", "", r.cell.name)
	}
	for i, p := range panels {
		s.panel(p, labelWidth+i*(panelWidth+panelGap), bottom, rs)
	}
	s.f(`</svg>`)
}

// svg writes elements, one a line.
type svg struct{ out io.Writer }

func (s svg) f(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format+"\n", args...) }

func (s svg) text(x, y int, anchor, style, text string) {
	s.f(`<text x="%d" y="%d" text-anchor="%s" %s>%s</text>`, x, y, anchor, style, html.EscapeString(text))
}

// legend names the marks that occur.
func (s svg) legend(rs results) {
	x := labelWidth
	for i := len(drawn) - 1; i >= 0; i-- {
		for _, r := range rs {
			if r.has(drawn[i]) {
				s.mark(marks[drawn[i]], float64(x), 44)
				s.text(x+12, 48, "start", "", drawn[i])
				x += 110
				break
			}
		}
	}
	s.f(`<line x1="%d" y1="44" x2="%d" y2="44" stroke="#333333" stroke-width="1.5"/>`, x-6, x+8)
	s.text(x+14, 48, "start", "", direct)
}

func (s svg) mark(m mark, x, y float64) {
	const r = float64(markRadius)
	style := fmt.Sprintf(`fill="%s" fill-opacity="0.85" stroke="#ffffff" stroke-width="0.8"`, m.colour)
	points := func(p ...float64) {
		s.f(`<polygon points="%.1f,%.1f %.1f,%.1f %.1f,%.1f %.1f,%.1f" %s/>`,
			x+p[0]*r, y+p[1]*r, x+p[2]*r, y+p[3]*r, x+p[4]*r, y+p[5]*r, x+p[6]*r, y+p[7]*r, style)
	}
	switch m.shape {
	case "circle":
		s.f(`<circle cx="%.1f" cy="%.1f" r="%.1f" %s/>`, x, y, r, style)
	case "square":
		points(-.85, -.85, .85, -.85, .85, .85, -.85, .85)
	case "diamond":
		points(0, -1.15, 1.15, 0, 0, 1.15, -1.15, 0)
	case "up":
		points(0, -1.1, 1.1, .9, -1.1, .9, 0, -1.1)
	case "down":
		points(0, 1.1, 1.1, -.9, -1.1, -.9, 0, 1.1)
	}
}

// panel draws a scale and the marks on it.
func (s svg) panel(p panel, left, bottom int, rs results) {
	a := p.axis(rs)
	place := func(v float64) float64 { return float64(left) + a.share(v)*panelWidth }
	s.text(left+panelWidth/2, topHeight-22, "middle", `font-weight="bold"`, p.title)
	for _, t := range a.ticks {
		colour, wide := "#dddddd", 1.0
		if t == 1 {
			colour, wide = "#333333", 1.5
		}
		s.f(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="%g"/>`, place(t), topHeight-4, place(t), bottom+4, colour, wide)
		for _, y := range []int{topHeight - 8, bottom + 18} {
			s.text(int(math.Round(place(t))), y, "middle", `font-size="10" fill="#666666"`, fmt.Sprintf("%g", t))
		}
	}
	for i, r := range rs {
		y := float64(topHeight+i*rowHeight) + rowHeight/2
		for _, way := range drawn {
			if v := r.ratio(way, direct, p.of); v > 0 {
				s.mark(marks[way], place(v), y)
			}
		}
	}
}

// axis goes from low to high.
type axis struct {
	low, high float64
	log       bool
	ticks     []float64
}

// axis spans all marks and the direct way's 1.
func (p panel) axis(rs results) axis {
	low, high := 1.0, 1.0
	for _, r := range rs {
		for _, way := range drawn {
			if v := r.ratio(way, direct, p.of); v > 0 {
				low, high = min(low, v), max(high, v)
			}
		}
	}
	a := axis{log: p.log}
	if p.log {
		a.low, a.high = math.Pow(2, math.Floor(math.Log2(low)-.1)), math.Pow(2, math.Ceil(math.Log2(high)+.1))
		for t := a.low; t <= a.high; t *= 2 {
			a.ticks = append(a.ticks, t)
		}
		return a
	}
	step := 0.25
	for high/step > 8 {
		step *= 2
	}
	a.high = step * math.Ceil(high/step+.2)
	for i := range int(a.high/step) + 1 {
		a.ticks = append(a.ticks, float64(i)*step)
	}
	return a
}

// share is where v lies between low (0) and high (1).
func (a axis) share(v float64) float64 {
	if a.log {
		return math.Log(v/a.low) / math.Log(a.high/a.low)
	}
	return (v - a.low) / (a.high - a.low)
}
