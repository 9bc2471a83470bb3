package admin

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// TestMetricsHoldTheConventions asks what promtool check metrics asks.
func TestMetricsHoldTheConventions(t *testing.T) {
	s := New(Options{Operator: &full{}, Meter: fullGauge{}, Serving: func() bool { return true }}, nil)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(scrape{s})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(families) < 60 {
		t.Fatalf("%d metrics: %v", len(families), err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestMetricsAreThereFromTheStart: of what has not happened yet there is a 0, or else who
// watches for an increase would not see the first one.
func TestMetricsAreThereFromTheStart(t *testing.T) {
	s := New(Options{Operator: &full{}, Meter: fullGauge{}, Serving: func() bool { return true }}, nil)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(scrape{s})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]int{}
	for _, f := range families {
		series[f.GetName()] = len(f.GetMetric())
	}
	for name, want := range map[string]int{"crossfade_phase": 18, "crossfade_sync_errors_total": 14, "crossfade_upstream_failures_total": 2,
		"crossfade_fence_lost_total": 1, "crossfade_gaps_total": 1, "crossfade_verify_alarms_total": 1, "crossfade_verify_background": 3} {
		if series[name] != want {
			t.Errorf("%s has %d series, want %d", name, series[name], want)
		}
	}
}
