package main

import (
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestSentinelsWithoutASidecar: check and verify find masters by their sentinels.
func TestSentinelsWithoutASidecar(t *testing.T) {
	g, target := redistest.StartGroup(t, redistest.GroupConfig{Name: "main"}, redistest.WithPassword("sesame")), redistest.Start(t)
	fillVerified(t, g.Servers[0], target, 0, 0, 100)
	dir := shortDir(t)
	servers := []string{"--source", g.URL(), "--target", url(target), "--map", "0=0"}
	if r := must(t, dir, 0, append([]string{"verify"}, servers...)...); !strings.Contains(r.stdout, "No difference.") {
		t.Errorf("verify: %s", r.stdout)
	}
	r := must(t, dir, 3, append([]string{"check"}, servers...)...) // there are keys on the target
	if !strings.Contains(r.stdout, `the master "main" is`) || strings.Contains(r.stdout+r.stderr, "sesame") {
		t.Errorf("check: %s", r.stdout)
	}
	servers[1] = strings.Replace(g.URL(), "/main", "/other", 1)
	for _, verb := range []string{"verify", "check"} {
		r := call(t, dir, nil, append([]string{verb}, servers...)...)
		if r.code == 0 || !strings.Contains(strings.Join(strings.Fields(r.stdout+r.stderr), " "), "but main") {
			t.Errorf("%s with another name: %d, %s%s", verb, r.code, r.stdout, r.stderr)
		}
	}
}
