package verify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/sync/value"
)

func TestReportFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report")
	if _, ok, err := Read(path); ok || err != nil {
		t.Fatal(ok, err)
	}
	r := Report{Source: "redis://a", Target: "redis://b", By: "operator", Complete: true, Sample: 1, Stale: true, Changes: 3,
		Databases: []Database{{Target: 5, Keys: 10, Differing: 2, Repaired: 1, Kinds: map[value.Kind]int64{value.Value: 2},
			Examples: []Example{{Key: "k\x00", Kind: value.Value, Words: "differs", Repaired: true}, {Key: "<l>", Kind: value.Value, Words: strings.Repeat("x", 200)}}}}}
	r.finish()
	for range 2 { // the second one replaces the first
		if err := Write(path, r); err != nil {
			t.Fatal(err)
		}
	}
	got, ok, err := Read(path)
	if !ok || err != nil || got.Databases[0].Examples[1].Key != "<l>" || got.Verdict != Different || !got.Stale || got.Left() != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	text, err := os.ReadFile(path + ".txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"redis://a", "different", `"k\x00"`, "mended: differs", "1 key differs; 1 of 2 were mended.", "3 changes were seen"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	for line := range strings.Lines(string(text)) {
		if len([]rune(line)) > 81 {
			t.Errorf("%d columns: %s", len([]rune(line)), line)
		}
	}
	if list, _ := os.ReadDir(filepath.Dir(path)); len(list) != 2 {
		t.Errorf("%d files are left", len(list))
	}
	if err := Write(filepath.Join(path, "nowhere"), r); err == nil {
		t.Error("a report was written into a folder that is not there")
	}
}

// TestLimits compares no more keys a second than it may.
func TestLimits(t *testing.T) {
	s := start(t)
	fill(t, 300, s.src[0], s.dst[0])
	cfg := s.config(map[int]int{0: 0})
	cfg.Batch, cfg.Limits.Keys = 50, 1000
	began := time.Now()
	r, err := Run(t.Context(), cfg)
	if err != nil || !r.OK() || r.Keys == 0 {
		t.Fatalf("%v, %v", r, err)
	}
	if took, least := time.Since(began), time.Duration(r.Keys-50)*time.Millisecond; took < least {
		t.Errorf("%d keys at 1000 a second were compared in %v", r.Keys, took)
	}
}
