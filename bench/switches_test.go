package main

import (
	"strings"
	"testing"

	"github.com/crossfade/crossfade/bench/traffic"
)

// swung is a row of switches with these stalls.
func swung(name string, rate float64, stalls ...float64) *switched {
	s := &switched{name: name, rate: rate}
	for _, stall := range stalls {
		w := switching{calm: 1, stall: stall, held: stall - 1, session: stall - .5, steps: make(map[string]float64)}
		for _, step := range heldSteps() {
			w.steps[step] = (stall - 1) / float64(len(heldSteps()))
		}
		s.list = append(s.list, w)
	}
	return s
}

func TestHeldSteps(t *testing.T) {
	steps := heldSteps()
	if len(steps) != 9 || steps[0] != "hold" || steps[len(steps)-1] != "release" || len(stepColours) < len(steps) {
		t.Errorf("%d colours for %q", len(stepColours), steps)
	}
}

func TestSwitchClaims(t *testing.T) {
	for _, tt := range []struct {
		rate   float64
		stalls []float64
		want   string
	}{
		{10_001, []float64{9, 8, 40}, "PASS PASS PASS"},
		{9_999, []float64{9, 11, 12}, "FAIL PASS FAIL"},
		{10_001, []float64{9, 8, 51}, "PASS FAIL PASS"},
	} {
		var got []string
		for _, c := range swung("x", tt.rate, tt.stalls...).claims() {
			got = append(got, c.String()[:4])
		}
		if text := strings.Join(got, " "); text != tt.want {
			t.Errorf("%v at %g/s: %s, want %s", tt.stalls, tt.rate, text, tt.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{5, 1, 4, 2, 3}
	for q, want := range map[float64]float64{0: 1, .5: 3, .99: 5, 1: 5} {
		if got := quantile(values, q); got != want {
			t.Errorf("%g: %g, want %g", q, got, want)
		}
	}
	if quantile(nil, .5) != 0 || values[0] != 5 {
		t.Error("nothing has a quantile, or the values were moved")
	}
}

func TestSwitchReport(t *testing.T) {
	ours, theirs := swung(oursSwitch, 10_100, 7, 8, 60), swung(pausedSwitch, 9_000, 100, 200)
	theirs.account = traffic.Account{Stats: traffic.Stats{Errors: 110, Reconnects: 138}, MessagesLost: 7}
	m := machine{processor: "A & B", cpus: 2, date: "2026-01-02 03:04 UTC", command: "bench -x"}
	var text, picture strings.Builder
	switchPage(&text, m, []*switched{ours, theirs}, ours.claims())
	for _, want := range []string{
		"| | Crossfade | promotion, writes paused |", "| client errors | 0 | 110 (55.0 a switch) |", "| pub/sub messages lost | 0 | 7 (3.5 a switch) |",
		"| … most | 60.0 | 200.0 |", "A & B, 2 CPUs", "| drain-2 | 0.78 | 6.56 | 6.56 |",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	switchPlot(&picture, m, ours)
	mustParse(t, picture.String())
	if p := picture.String(); strings.Contains(p, "NaN") || strings.Contains(p, "Inf") || strings.Count(p, "<circle") != len(ours.list)+1 || strings.Count(p, "<path") != len(heldSteps()) {
		t.Errorf("the plot has marks at no place, or not all:\n%s", p)
	}
}

func TestLinearAxis(t *testing.T) {
	for _, high := range []float64{10, 12, 54.3, 99, 250} {
		a := linear(high)
		if a.high < high || a.high > 1.5*high || len(a.ticks) < 5 || len(a.ticks) > 14 || a.ticks[len(a.ticks)-1] != a.high {
			t.Errorf("%g: %+v", high, a)
		}
	}
}
