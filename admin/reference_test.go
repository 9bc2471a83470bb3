package admin

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/proxy"
	"github.com/crossfade/crossfade/sync/mirror"
)

// full has something of everything.
type full struct{ fake }

func (*full) Status() migration.Status {
	last := migration.VerifySummary{By: "background"}
	return migration.Status{
		Phase: migration.Tailing, Feed: "notifications", Databases: []migration.DatabaseStatus{{}}, Errors: []mirror.Error{{Kind: "copy"}}, Gates: []migration.Gate{{Name: "course", OK: true}},
		Switches:    map[string]map[migration.Outcome]int64{"cutover": {migration.Made: 1}},
		LastCutover: &migration.Report{OK: true, Steps: []migration.StepTime{{Name: "hold", MS: 1}}},
		Views:       mirror.Views{Unannounced: map[string]int64{"set": 1}},
		Verify:      migration.VerifyStatus{Background: migration.BackgroundVerify{Last: &last}},
		Shadow:      migration.ShadowStatus{Families: []migration.ShadowFamily{{Family: "hash"}}},
	}
}

type fullGauge struct{ gauge }

func (g fullGauge) Numbers() proxy.Numbers {
	n := g.gauge.Numbers()
	n.Shadowed.Target.Buckets[3], n.Shadowed.Target.Sum = 1, time.Microsecond
	n.Shadowed.Failed = map[string]int64{"ERR": 1}
	return n
}

// TestMetricsAreAsDescribed: what the reference says is what Prometheus is told.
func TestMetricsAreAsDescribed(t *testing.T) {
	s := New(Options{Operator: &full{}, Meter: fullGauge{}, Serving: func() bool { return true }}, nil)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(scrape{s})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]*dto.MetricFamily{}
	for _, f := range families {
		got[f.GetName()] = f
	}
	known := Metrics()
	for _, m := range known {
		f := got[m.Name]
		if f == nil {
			t.Errorf("%s is described and not there", m.Name)
			continue
		}
		if kind := strings.ToLower(f.GetType().String()); kind != m.Type {
			t.Errorf("%s is a %s, and its name says %s", m.Name, kind, m.Type)
		}
		var labels []string
		for _, pair := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, pair.GetName())
		}
		if want := slices.Sorted(slices.Values(m.Labels)); !slices.Equal(labels, want) || f.GetHelp() != m.Help {
			t.Errorf("%s: labels %v, help %q: want %v, %q", m.Name, labels, f.GetHelp(), want, m.Help)
		}
		delete(got, m.Name)
	}
	for name := range got {
		t.Errorf("%s is there and not described", name)
	}
	if len(known) < 50 || !slices.IsSortedFunc(known, func(x, y Metric) int { return strings.Compare(x.Name, y.Name) }) {
		t.Errorf("%d metrics: %v", len(known), known)
	}
}
