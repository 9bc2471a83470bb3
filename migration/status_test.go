package migration

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/verify"
)

var update = flag.Bool("update", false, "write the golden files of this package anew")

// golden compares got with a file: names and units of the status are a promise
// to scripts, and a change of them must be seen in a review.
func golden(t *testing.T, name string, got any) {
	t.Helper()
	text, err := json.MarshalIndent(got, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, '\n')
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test ./migration -update makes it)", err)
	}
	if diff := cmp.Diff(string(want), string(text)); diff != "" {
		t.Errorf("the status has changed (-%s +now):\n%s", path, diff)
	}
}

func TestStatusJSON(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	golden(t, "status_full.json", Status{
		ID: "0011", Phase: ReverseTailing, Side: router.Target, Epoch: 1, Ready: true, Reasons: []string{"why"},
		Gates: []Gate{gate("lag", "it is small", "why"), gate("copy", "it is there")}, Limits: Limits{MaxStallMS: 2000, MaxLagMS: 500},
		Checked: &Checked{From: router.Target, Ended: at, OK: true, Pass: 1, Warn: 2, Fail: 3},
		Source:  "redis://a:1", Target: "redis://b:2", LeaveOut: []int{7}, Dirty: 3, LagMS: 1.5, Gaps: 2, Resync: "a gap",
		Databases: []DatabaseStatus{{
			Source: 3, Target: 5, Total: 10, Scanned: 9, Copied: 8, Removed: 7, Bytes: 6, Dirty: 5,
			Percent: 90, Rate: 1000, ETA: 0.5, Done: true,
		}},
		Fence: string(FenceACL),
		LastCutover: &Report{
			From: router.Source, To: router.Target, DryRun: true, Started: at, Finished: at.Add(time.Second), OK: true, Error: "none",
			Stall: StallMS{P50: 1, P99: 2, Max: 3}, Sessions: 4, Held: 5, Fence: FenceACL,
			Steps: []StepTime{{"hold", 1.25, false}, {"journal", 0.5, true}}, Checked: 6, Findings: []string{"f"}, Rehearsal: true, Estimate: 7,
		},
		Waiting: Appointment{From: router.Target, Made: at, At: at.Add(time.Hour), Until: at.Add(2 * time.Hour), MaxStall: 20 * time.Millisecond, MaxLag: time.Second, Retries: 3, Failed: 1}.status([]string{"a reason"}),
		Dropped: &Dropped{Verb: "cutover", Made: at, At: at, Why: "w"},
		Verify: VerifyStatus{
			Running: &verify.Progress{Source: 3, Target: 5, Step: "extras", Done: 7, Total: 9, Unsettled: 1, Differing: 2, Bytes: 10},
			Last:    &VerifySummary{By: "operator", Ended: at, Age: 1.5, Verdict: verify.Equal, Sample: 1, Keys: 9, Repaired: 2, Moving: 1, Stale: true, Holds: true},
			Background: BackgroundVerify{State: "comparing", Rate: 1000, Progress: &verify.Progress{Step: "settle"}, Walks: 4, Alarms: 2, Alarm: "a", AlarmAt: &at,
				Last: &VerifySummary{By: "background", Ended: at, Verdict: verify.Unknown, Sample: 1, Differing: 1, Undecided: 1}},
		},
		Shadow: ShadowStatus{Percent: 10, State: "waiting", Why: "w", Equal: 9, Clean: 8, Behind: 7, Differing: 6, Unsettled: 5, LeftOut: 4, Open: 3, Keys: 2,
			Families: []ShadowFamily{{Family: "hash", Behind: 7, Differing: 6, Unsettled: 5}},
			Examples: []ShadowExample{{Time: at, Database: 3, Key: "k", Command: "hget", Kind: replyKind, Words: "w"}}},
		Errors: []mirror.Error{{Kind: "k", Count: 1, Last: at, Text: "t"}},
	})
}

// Before anything has happened the lists are empty, never null: scripts walk
// through them.
func TestStatusOfANewMigration(t *testing.T) {
	source := config.Endpoint{Network: "tcp", Address: "a:1", Username: "op", Password: "secret"}
	m := quietMigration(t, source, config.Endpoint{Network: "tcp", Address: "b:2", Password: "secret"}, nil)
	if err := m.useMap(map[int]router.Place{0: {}, 3: {DB: 5}}, nil); err != nil {
		t.Fatal(err)
	}
	golden(t, "status_new.json", m.Status())
	m.setProblems("no way")
	s := m.Status()
	if s.Ready || len(s.Reasons) != 2 || s.Reasons[0] != "no way" {
		t.Errorf("a problem does not show: ready %v, %q", s.Ready, s.Reasons)
	}
	if g := s.Gates[0]; g.OK || g.Why[0] != "no way" || !s.Gates[1].OK || s.Gates[2].OK {
		t.Errorf("the gates do not show it: %+v", s.Gates)
	}
}

// Whoever reads the status during a switch, or after the end, is told so.
func TestStatusReasonsByPhase(t *testing.T) {
	e := config.Endpoint{Network: "tcp", Address: "a:1"}
	m := quietMigration(t, e, e, nil)
	for _, p := range allPhases {
		m.rec.Phase = p
		s := m.Status()
		if s.Ready || len(s.Reasons) == 0 || s.Phase != p {
			t.Errorf("without a copy, %s is ready: %+v", p, s)
		}
	}
}

func TestStatusShowsTheFenceThatIsUp(t *testing.T) {
	e := config.Endpoint{Network: "tcp", Address: "a:1"}
	m := quietMigration(t, e, e, nil)
	m.rec.Servers[router.Source].Fence = &FenceState{Level: FenceACL}
	if got := m.Status().Fence; got != "" {
		t.Errorf("a fence that is prepared shows as %q", got)
	}
	m.rec.Servers[router.Source].Fence.Raised = true
	if got := m.Status().Fence; got != "F3" {
		t.Errorf("a fence that is up shows as %q", got)
	}
}
