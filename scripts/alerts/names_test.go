package alerts

import (
	"context"
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
)

// whole is a sidecar with all its parts on that has been through everything that leaves a
// trace in the metrics.
func whole(t *testing.T) *sidecar {
	t.Helper()
	src, dst := redistest.Start(t), redistest.Start(t)
	fill(t, src, 100)
	s := newSidecar(t, src, dst, "--shadow.percent", "100", "--proxy.slow_log_slower_than", "0s")
	s.start()
	s.awaitReady()
	s.awaits("it compares", func(st migration.Status) bool { return st.Verify.Background.Walks > 0 })
	c := client(t, s.addr)
	redistest.Eventually(t, 30*time.Second, func() bool {
		_ = c.Get(t.Context(), "key:1").Err()
		_ = c.LPush(t.Context(), "key:1", "an error").Err()
		st, err := s.door.Shadow(t.Context(), admin.ShadowRequest{})
		return err == nil && st.Asked != nil && st.Asked.Reads > 0
	}, "reads are asked of the target too")
	_, err := s.door.Cutover(t.Context(), admin.SwitchRequest{})
	must(t, err)
	s.awaitReady()
	_, err = s.door.Rollback(t.Context(), admin.SwitchRequest{})
	must(t, err)
	s.awaitReady()
	return s
}

// TestAsPrometheusWantsIt: a real scrape is looked at as promtool check metrics does, and the
// rules and the dashboard name only what is there.
func TestAsPrometheusWantsIt(t *testing.T) {
	s := whole(t)
	families, err := read(t.Context(), s.address)
	must(t, err)
	var list []*dto.MetricFamily
	for _, f := range families {
		if strings.HasPrefix(f.GetName(), "crossfade_") {
			list = append(list, f)
		}
	}
	problems, err := promlint.NewWithMetricFamilies(list).Lint()
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	// What has no series yet needs a trouble that is not here.
	rare := []string{"crossfade_sync_unannounced_writes_total", "crossfade_shadow_failed_total"}
	for _, m := range admin.Metrics() {
		if families[m.Name] == nil && !slices.Contains(rare, m.Name) {
			t.Errorf("a sidecar with all its parts on does not show %s", m.Name)
		}
	}
	there := make(map[string]bool)
	for _, sample := range scrape(t.Context(), s.address) {
		there[sample.labels.Get("__name__")] = true
	}
	for _, name := range rare {
		there[name] = true
	}
	look := func(where, expr string) {
		for _, name := range metricsIn(t, expr) {
			if !there[name] {
				t.Errorf("%s names %q, which nobody shows: %s", where, name, expr)
			}
		}
	}
	for _, r := range rules(t) {
		look("the alert "+r.name, r.expr)
	}
	panels := dashboard(t)
	if len(panels) < 20 {
		t.Errorf("the dashboard has %d panels", len(panels))
	}
	for panel, list := range panels {
		for _, expr := range list {
			look("the panel "+panel, expr)
		}
	}
}

// TestDashboardShowsSomething evaluates each of its expressions over two scrapes of a
// sidecar that serves.
func TestDashboardShowsSomething(t *testing.T) {
	s := whole(t)
	c := client(t, s.addr)
	end := keeps(t, func(ctx context.Context) error { return c.Get(ctx, "key:1").Err() })
	redistest.Eventually(t, 30*time.Second, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.rounds > 15
	}, "some scrapes")
	end()
	// Of what has not happened there is nothing to be shown.
	may := []string{"changes(crossfade_phase"}
	for panel, list := range dashboard(t) {
		for _, expr := range list {
			vector, err := query(t.Context(), s.engine, s.memory, expr, time.Now())
			if err != nil {
				t.Errorf("the panel %s: %v", panel, err)
			}
			if len(vector) == 0 && !slices.ContainsFunc(may, func(name string) bool { return strings.Contains(expr, name) }) {
				t.Errorf("the panel %s shows nothing: %s", panel, expr)
			}
		}
	}
}

var variables = regexp.MustCompile(`\$(__rate_interval|__range|__interval|job|instance)\b`)

// filled has values for the dashboard's variables.
func filled(expr string) string {
	return variables.ReplaceAllStringFunc(expr, func(v string) string {
		if strings.HasPrefix(v, "$__") {
			return "5s"
		}
		return ".*"
	})
}

// dashboard returns the expressions of each panel, with the variables filled in.
func dashboard(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/grafana/crossfade.json")
	must(t, err)
	type panel struct {
		Title   string
		Targets []struct{ Expr string }
		Panels  []json.RawMessage
	}
	var board struct {
		Title, UID  string
		Panels      []json.RawMessage
		Annotations struct{ List []struct{ Name, Expr string } }
	}
	must(t, json.Unmarshal(text, &board))
	out := make(map[string][]string)
	var walk func([]json.RawMessage)
	walk = func(list []json.RawMessage) {
		for _, raw := range list {
			var p panel
			must(t, json.Unmarshal(raw, &p))
			for _, target := range p.Targets {
				out[p.Title] = append(out[p.Title], filled(target.Expr))
			}
			walk(p.Panels)
		}
	}
	walk(board.Panels)
	for _, a := range board.Annotations.List {
		out["annotation "+a.Name] = []string{filled(a.Expr)}
	}
	if board.UID == "" || board.Title == "" {
		t.Error("the dashboard has no name")
	}
	return out
}
