package config

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestHooksInAFile reads them where people write them.
func TestHooksInAFile(t *testing.T) {
	c, _, err := Load([]string{"--config", write(t, `
hooks:
  - {on: prepared, run: [/bin/ask, --really], timeout: 3s, veto: yes}
  - on: [committed, rolled_back]
    url: "https://user:hidden@host/hidden?hidden"
  - on: all
    run: /bin/tell
`)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []Told{
		{On: []string{"prepared"}, Run: []string{"/bin/ask", "--really"}, Timeout: 3 * time.Second, Veto: true},
		{On: []string{"committed", "rolled_back"}, URL: "https://user:hidden@host/hidden?hidden", Timeout: 5 * time.Second},
		{On: HookEvents, Run: []string{"/bin/tell"}, Timeout: 5 * time.Second},
	}
	got, problems := c.HookList()
	if len(problems) > 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("%v\n got %+v\nwant %+v", problems, got, want)
	}
	var out bytes.Buffer
	if err := c.Dump(&out); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); strings.Contains(text, "hidden") || !strings.Contains(text, "[/bin/ask, --really]") {
		t.Errorf("the dump:\n%s", text)
	}
}

func TestHookMistakes(t *testing.T) {
	run := []string{"/bin/x"}
	for _, tt := range []struct {
		hook Hook
		want string
	}{
		{Hook{Run: run}, "on: missing"},
		{Hook{On: []string{"commited_"}, Run: run}, `on: "commited_" is not known: did you mean "committed"?`},
		{Hook{On: []string{"all"}}, "give either run"},
		{Hook{On: []string{"all"}, Run: run, URL: "http://h/secret"}, "give either run"},
		{Hook{On: []string{"all"}, URL: "h/secret"}, "url: not one of"},
		{Hook{On: []string{"all"}, URL: "ftp://h/secret"}, "url: not one of"},
		{Hook{On: []string{"all"}, Run: run, Timeout: "5"}, "has no unit"},
		{Hook{On: []string{"all"}, Run: run, Timeout: "1h"}, "out of range"},
		{Hook{On: []string{"prepared"}, Run: run, Veto: "maybe"}, "neither true nor false"},
		{Hook{On: []string{"prepared"}, Run: run, Veto: "yes", Timeout: "2m"}, "give 1m at most"},
		{Hook{On: []string{"committed"}, Run: run, Veto: "true"}, "only a hook on [prepared] alone"},
		{Hook{On: []string{"prepared", "holding"}, Run: run, Veto: "true"}, "only a hook on [prepared] alone"},
	} {
		c := Default()
		c.Hooks = []Hook{tt.hook}
		err := c.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), "hooks: entry 1: ") || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v", tt.hook, err)
		}
	}
	for _, text := range []string{"[{on: {a: b}, run: x}]", "[{on: [[a]], run: x}]", "[{on: [null], run: x}]", "[{on: all, timeout: [1s]}]"} {
		if _, err := parseRecords(reflect.TypeFor[[]Hook](), text); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

func TestHookEventsAreDistinct(t *testing.T) {
	list := slices.Sorted(slices.Values(HookEvents))
	if len(slices.Compact(list)) != len(HookEvents) || !slices.Contains(HookEvents, VetoEvent) {
		t.Error(HookEvents)
	}
}
