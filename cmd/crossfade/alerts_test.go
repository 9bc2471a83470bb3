package main

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/crossfade/crossfade/admin"
)

// ofOurs finds metrics in expressions.
var ofOurs = regexp.MustCompile(`\bcrossfade_[a-z_]+`)

// mustBeMetrics fails for what the program does not show.
func mustBeMetrics(t *testing.T, where, text string) {
	t.Helper()
	known := map[string]bool{}
	for _, m := range admin.Metrics() {
		known[m.Name] = true
		switch m.Type {
		case "histogram":
			known[m.Name+"_bucket"] = true
			fallthrough
		case "summary":
			known[m.Name+"_sum"], known[m.Name+"_count"] = true, true
		}
	}
	for _, name := range ofOurs.FindAllString(text, -1) {
		if !known[name] {
			t.Errorf("%s: there is no metric %s", where, name)
		}
	}
}

// TestAlertsAreExplained: each has a paragraph, and a row in the table there. That they fire
// is tried by make alerts.
func TestAlertsAreExplained(t *testing.T) {
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(readDeploy(t, "prometheus/alerts.yml"), &file); err != nil {
		t.Fatal(err)
	}
	page := pagesOfDocs(t)["docs/alerts.md"]
	n := 0
	for _, r := range file.Groups[0].Rules {
		n++
		mustBeMetrics(t, r.Alert, r.Expr)
		anchor := strings.ToLower(r.Alert)
		if want := "https://github.com/crossfade/crossfade/blob/main/docs/alerts.md#" + anchor; r.Annotations["runbook_url"] != want {
			t.Errorf("%s leads to %s", r.Alert, r.Annotations["runbook_url"])
		}
		row := fmt.Sprintf("| [%s](#%s) | %s | %s", r.Alert, anchor, r.Labels["severity"], cmp.Or(r.For, "at once"))
		if r.Alert == "CrossfadeVerificationStale" {
			row = fmt.Sprintf("| [%s](#%s) | %s | a day, and %s", r.Alert, anchor, r.Labels["severity"], r.For)
		}
		if !strings.Contains(page, "\n"+row+" |\n") || !strings.Contains(page, "\n## "+r.Alert+"\n") {
			t.Errorf("docs/alerts.md has no paragraph about %s, or not the row %s", r.Alert, row)
		}
	}
	if sections := strings.Count(page, "\n## "); n < 15 || sections != n {
		t.Errorf("%d alerts, and docs/alerts.md is about %d", n, sections)
	}
}

func TestDashboardOfGrafana(t *testing.T) {
	mustBeMetrics(t, "crossfade.json", string(readDeploy(t, "grafana/crossfade.json")))
}
