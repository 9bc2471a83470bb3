package model_test

import (
	"flag"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/model"
)

var (
	update = flag.Bool("update", false, "write docs/model.md anew")
	deep   = flag.Bool("deep", false, "try the wide bounds, for half an hour")
)

// tried once for all tests.
var tried = sync.OnceValue(func() model.Findings { return model.Try(false) })

func found(t *testing.T) model.Findings {
	t.Helper()
	if testing.Short() {
		t.Skip("some seconds, many times that under the race detector, which has nothing to find here")
	}
	return tried()
}

func TestTheProtocolHolds(t *testing.T) {
	f := found(t)
	if *deep {
		f = model.Try(true)
	}
	for i, r := range f.Whole {
		t.Logf("%s: %d states, %d moves, depth %d, stopped for want of room: %v", model.Scenarios[i].Name, r.States, r.Moves, r.Depth, r.Part)
		if r.Part && !*deep {
			t.Errorf("%s was not tried whole", model.Scenarios[i].Name)
		}
		if r.Why != "" {
			t.Errorf("%s: %s:\n%s", model.Scenarios[i].Name, r.Why, strings.Join(r.Trace, "\n"))
		}
		if r.States < 1000 {
			t.Errorf("%s: only %d states: that tries nothing", model.Scenarios[i].Name, r.States)
		}
	}
}

func TestEveryRuleIsNeeded(t *testing.T) {
	for i, r := range found(t).Without {
		rule := model.Rules[i]
		if r.Why == "" || len(r.Trace) == 0 {
			t.Errorf("nothing breaks without %q in %q, with %d states", rule.Name, rule.In, r.States)
			continue
		}
		t.Logf("without %q: %s, after %d states:\n%s", rule.Name, r.Why, r.States, strings.Join(r.Trace, "\n"))
	}
}

const page = "../../docs/model.md"

func TestThePageIsCurrent(t *testing.T) {
	want := found(t).Page()
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("docs/model.md is out of date: go test ./migration/model -update")
	}
}

var place = regexp.MustCompile("`([a-z/]+\\.go)` `([A-Za-z]+)`")

// The code takes the steps of the model in the model's order.
func TestTheCodeHasTheOrderOfTheModel(t *testing.T) {
	rest := migration.StepNames()
	for _, step := range model.Steps() {
		at := slices.Index(rest, step)
		if at < 0 {
			t.Fatalf("the model takes %q; the code takes %q", model.Steps(), migration.StepNames())
		}
		rest = rest[at+1:]
	}
}

// Where a rule is kept cannot go out of date unnoticed.
func TestTheCodeIsWhereThePageSays(t *testing.T) {
	for _, rule := range model.Rules {
		for _, p := range place.FindAllStringSubmatch(rule.Code, -1) {
			text, err := os.ReadFile("../../" + p[1])
			if err != nil {
				t.Errorf("%s: %v", rule.Name, err)
				continue
			}
			if ok, _ := regexp.Match(`(?m)^func (\([^)]*\) )?`+p[2]+`\(`, text); !ok {
				t.Errorf("%s: %s has no function %s any more", rule.Name, p[1], p[2])
			}
		}
	}
}

// TestTheExplorerSees: without any rule every scenario breaks, and not always in
// the same way.
func TestTheExplorerSees(t *testing.T) {
	f := found(t)
	all := make([]model.Rule, len(model.Rules))
	for i := range all {
		all[i] = model.Rule(i)
	}
	for _, sc := range model.Scenarios {
		r := model.New(sc.Quick, all...).Explore()
		if r.Why == "" {
			t.Errorf("%s: without any rule nothing breaks", sc.Name)
		}
	}
	whys := make(map[string]bool)
	for _, r := range f.Without {
		whys[r.Why] = true
	}
	if len(whys) < 4 {
		t.Errorf("only %v are ever broken", whys)
	}
}
