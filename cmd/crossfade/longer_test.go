package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestLongerNames: a part of the keys goes behind a prefix on the target, and comes back.
func TestLongerNames(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	ctx := t.Context()
	if err := source.Client(0).MSet(ctx, "app1:a", 1, "app1:b", 2, "app2:x", 3).Err(); err != nil {
		t.Fatal(err)
	}
	wanted := []string{"--map", "0=0:svc:", "--sync.match", "app1:*"}
	cf := startSidecar(t, source, target, append(slices.Clone(wanted), "--cutover.allow_partial")...)
	names := func(s *redistest.Server) string {
		keys, err := s.Client(0).Keys(ctx, "*").Result()
		if err != nil {
			t.Fatal(err)
		}
		keys = slices.DeleteFunc(keys, func(k string) bool { return strings.HasPrefix(k, "crossfade:") })
		slices.Sort(keys)
		return strings.Join(keys, " ")
	}
	c := clientOf(t, cf.dir)
	cf.awaitReady(t)
	must(t, cf.dir, 0, append([]string{"verify", "--source", url(source), "--target", url(target)}, wanted...)...)
	must(t, cf.dir, 0, "cutover")
	c.do("SET", "app1:c", "9")
	c.do("DEL", "app1:a")
	if got := names(target); got != "svc:app1:b svc:app1:c" {
		t.Errorf("on the target: %s", got)
	}
	cf.awaitReady(t)
	must(t, cf.dir, 0, "rollback")
	if got := names(source); got != "app1:b app1:c app2:x" {
		t.Errorf("on the source: %s", got)
	}
	if line := c.do("EXISTS", "app1:c"); line != ":1\r\n" {
		t.Errorf("EXISTS: %q", line)
	}
}
