package main

import (
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// TestStatusFits: whatever the figures are, a terminal of 80 columns holds them.
func TestStatusFits(t *testing.T) {
	long := strings.Repeat("why it is so, ", 20)
	later := time.Now().Add(time.Hour)
	st := migration.Status{
		Phase: migration.ReverseLost, Side: router.Target, Source: "redis://a:1", Target: "redis://b:2", Fence: "F3",
		Replicas: []migration.ReplicaStatus{{Side: router.Source, Address: "10.0.0.1:7001", Fence: "F3"}, {Side: router.Source, Address: "10.0.0.2:7001", Problem: long}},
		Members: []migration.MemberStatus{{Name: "app-7", Version: "v1.2", State: "open", Side: router.Target, Alive: true, Commands: 12},
			{Name: long, Version: "v1.1", State: "held", AgeMS: 12345}},
		Reasons: []string{long, "short"}, Dirty: 12345678, LagMS: 123456, Gaps: 3, Resync: long, LeaveOut: []int{4, 5},
		Databases: []migration.DatabaseStatus{
			{Source: 0, Target: 0, Total: 123_456_789_012, Copied: 99_999_999, Dirty: 9_999_999, Percent: 99.9, Rate: 999_999, ETA: 359_999},
			{Source: 1000, Target: 9999, Total: 999_999, Done: true},
			{Source: 7, Target: 7, Done: true}, {Source: 8, Target: 8, Done: true},
		},
		LastCutover: &migration.Report{From: router.Target, Started: time.Now(), Finished: time.Now(), Error: long,
			Steps: []migration.StepTime{{Name: "preflight", MS: 12345.6}, {Name: "hold", MS: 1}}},
		Waiting: &migration.WaitingStatus{Verb: "cutover", Since: time.Now(), For: []string{long, "nothing"}, Until: &later, Failed: 2, Retries: 3},
		Dropped: &migration.Dropped{Verb: "rollback", Made: time.Now(), At: time.Now(), Why: long},
		Big:     []migration.BigKeyStatus{{Database: 3, Key: long, Type: "list", Bytes: 1_234_567_890, Size: 1_300_000_000, Percent: 12.34, Wait: 75}},
		Errors:  []mirror.Error{{Kind: "copy", Count: 3, Last: time.Now(), Text: long}},
	}
	crowd := &admin.ProxyStatus{Clients: admin.Clients{Shared: 999_999, Pinned: 1}, InFlight: admin.InFlight{Shared: 99_999_999}, Commands: 999_999_999_999,
		Recent: admin.Recent{Seconds: 5, PerSecond: 9_999_999, Errors: 999_999, UpstreamMS: admin.Times{P50: 99_999, P99: 60_000_000}, TotalMS: admin.Times{P50: 0.123, P99: 99_999}}}
	text := renderStatus(admin.StatusReply{Status: st, Proxy: crowd}, 80)
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{"REVERSE_LOST", "not ready", "short", "F3", "123.5 s", "12345678 keys dirty", "0 → 0", "99.9%", "123.5G",
		"99h59m", "1000 → 9999", "and 2 databases without keys", "10.00M/s, 1000.0G commands, 100.00M in flight", "p50 0.12ms, p99 1m40s", "rollback at", "failed", "after 2 of 4 attempts", "for: nothing", "the rollback of", "preflight 12345.6", "copy, 3 times", "list, 1.2GB written, 12.3 %", "again in 1m15s", "10.0.0.1:7001 of the source: F3", "1 of 2 sidecars that only proxy", "app-7 (v1.2): open on the target", "SILENT for 12 s", "10.0.0.2:7001 of the source: NOT fenced"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log("\n" + text)
	}
}

// TestStatusLines: while work goes on at each interval, else when something has
// changed, and now and then.
func TestStatusLines(t *testing.T) {
	var told progressTold
	busy := migration.Status{Phase: migration.Copying, Databases: []migration.DatabaseStatus{{}}}
	for range 3 {
		if !told.due(busy) {
			t.Error("no line during the copy")
		}
	}
	live := migration.Status{Phase: migration.Tailing, Ready: true, Databases: []migration.DatabaseStatus{{Done: true}}}
	if !told.due(live) {
		t.Error("no line when the copy was done")
	}
	lines := 0
	for range 3 * quietTimes {
		if told.due(live) {
			lines++
		}
	}
	if lines != 3 {
		t.Errorf("%d lines in %d quiet intervals", lines, 3*quietTimes)
	}
	live.Ready, live.Reasons = false, []string{"lag"}
	if !told.due(live) {
		t.Error("no line when it ceased to be ready")
	}
}

// TestSlowLogFits in 80 columns.
func TestSlowLogFits(t *testing.T) {
	text := renderSlow([]admin.SlowCommand{{ID: 1, Time: time.Now(), Client: "255.255.255.255:65535", Database: 15, Command: "zremrangebyscore", Args: 65535,
		Bytes: 512 << 20, UpstreamMS: 0.01, TotalMS: 59_999}, {Command: "get", Client: "127.0.0.1:1", Time: time.Now().Add(-100 * time.Hour), TotalMS: 360_000_000}})
	for line := range strings.Lines(text) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{"zremrange…", "0.5G", "0.01ms", "60.0s", ">4d", "255.255.255.255:65535"} {
		if !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
}
