package main

import (
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestSchedule has a copy that may go at no time, unless somebody says otherwise.
func TestSchedule(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	if err := source.Client(0).Set(t.Context(), "k", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	cf := startSidecar(t, source, target, "--map", "0=0", "--sync.time_zone", "UTC", "--sync.schedule", "[{days: Mon-Sun, pause: true}]")
	redistest.Eventually(t, 20*time.Second, func() bool { return len(cf.status(t).Databases) > 0 && cf.status(t).Databases[0].Total > 0 }, "a scan")
	const paused = "the copy is paused (schedule: Mon-Sun 00:00-24:00)"
	if text := must(t, cf.dir, 0, "throttle").stdout; !strings.Contains(text, paused) {
		t.Errorf("throttle: %s", text)
	}
	if st := cf.status(t); !st.Throttle.Paused || !st.Throttle.Scheduled || st.Databases[0].Done || !strings.Contains(must(t, cf.dir, 0, "status").stdout, paused) {
		t.Errorf("status: %+v", st)
	}
	must(t, cf.dir, 2, "throttle", "--scheduled", "--resume")
	if text := must(t, cf.dir, 0, "throttle", "--resume").stdout; !strings.Contains(text, "set by hand; crossfade throttle --scheduled goes back") {
		t.Errorf("throttle --resume: %s", text)
	}
	cf.awaitReady(t)
	if text := must(t, cf.dir, 0, "throttle", "--scheduled").stdout; !strings.Contains(text, paused) {
		t.Errorf("throttle --scheduled: %s", text)
	}
	if st := cf.status(t); !st.Throttle.Paused || st.Throttle.Manual {
		t.Errorf("status: %+v", st.Throttle)
	}
	// Behind a switch a paused scan would be a way back that is lost.
	must(t, cf.dir, 0, "cutover")
	if st := cf.status(t); st.Throttle.Paused || !strings.Contains(st.Throttle.Window, "not for the way back") {
		t.Errorf("behind a switch: %+v", st.Throttle)
	}
	cf.awaitReady(t)
	must(t, cf.dir, 0, "rollback")
	if st := cf.status(t); !st.Throttle.Paused {
		t.Errorf("after a rollback: %+v", st.Throttle)
	}
}
