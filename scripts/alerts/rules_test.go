// Package alerts checks the rules of deploy/prometheus and the dashboard of deploy/grafana
// with Prometheus' own parser and engine: they name what a running sidecar shows, and each
// alert fires in the trouble that it is for and clears after it.
// It is a module of its own, so that Crossfade does not depend on Prometheus.
package alerts

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
)

const rulesFile = "../../deploy/prometheus/alerts.yml"

var exprs = parser.NewParser(parser.Options{})

// rule is one alert.
type rule struct {
	name, expr  string
	holds       time.Duration
	annotations []string
}

// rules reads the file as promtool check rules does.
func rules(t *testing.T) (all []rule) {
	t.Helper()
	groups, errs := rulefmt.ParseFile(rulesFile, false, model.UTF8Validation, exprs, nil)
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			one := rule{name: r.Alert, expr: r.Expr, holds: time.Duration(r.For)}
			for _, name := range []string{"summary", "description", "runbook_url"} {
				if strings.TrimSpace(r.Annotations[name]) == "" {
					t.Errorf("%s has no %s", r.Alert, name)
				}
				one.annotations = append(one.annotations, r.Annotations[name])
			}
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
				t.Errorf("%s has the severity %q", r.Alert, r.Labels["severity"])
			}
			all = append(all, one)
		}
	}
	return all
}

// shortened is the rule with shorter times.
func (r rule) shortened(t *testing.T) rule {
	t.Helper()
	e, err := exprs.ParseExpr(r.expr)
	if err != nil {
		t.Fatalf("%s: %v", r.name, err)
	}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		switch n := n.(type) {
		case *parser.MatrixSelector:
			n.Range = min(n.Range, longestRange)
		case *parser.NumberLiteral:
			if n.Val >= 3600 {
				n.Val = longestAge
			}
		}
		return nil
	})
	r.expr, r.holds = e.String(), min(r.holds, longestFor)
	return r
}

// metricsIn lists those that an expression names.
func metricsIn(t *testing.T, expr string) (names []string) {
	t.Helper()
	e, err := exprs.ParseExpr(expr)
	if err != nil {
		t.Errorf("%s: %v", expr, err)
		return nil
	}
	parser.Inspect(e, func(n parser.Node, _ []parser.Node) error {
		if s, is := n.(*parser.VectorSelector); is {
			names = append(names, s.Name)
		}
		return nil
	})
	return names
}

// TestShortened: the test's own rules say the same but for the times.
func TestShortened(t *testing.T) {
	r := rule{expr: `increase(crossfade_gaps_total[10m]) > 0 and on () vector(time()) > 86400`, holds: time.Hour}.shortened(t)
	if r.expr != `increase(crossfade_gaps_total[5s]) > 0 and on () vector(time()) > 5` || r.holds != longestFor {
		t.Errorf("%+v", r)
	}
}

// TestEveryAlertIsTried: nobody adds one that has no test.
func TestEveryAlertIsTried(t *testing.T) {
	text, err := os.ReadFile("fire_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules(t) {
		if !strings.Contains(string(text), `"`+r.name+`"`) {
			t.Errorf("no test makes %s fire", r.name)
		}
	}
}

func TestAnnotationsExpand(t *testing.T) {
	for _, r := range rules(t) {
		for _, text := range r.annotations {
			s := promql.Sample{Metric: labels.FromStrings("instance", "here:1", "kind", "copy", "verb", "cutover", "side", "source"), F: 3}
			said, err := expand(t.Context(), text, s)
			if err != nil || strings.Contains(said, "no value") || strings.Contains(said, "{{") {
				t.Errorf("%s says %q: %v", r.name, said, err)
			}
		}
	}
}
