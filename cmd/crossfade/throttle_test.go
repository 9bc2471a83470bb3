package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestThrottle pauses a copy, finds it paused, carries a change all the same, and lets
// it go on.
func TestThrottle(t *testing.T) {
	source, target := redistest.Start(t), redistest.Start(t)
	pipe := source.Client(0).Pipeline()
	for i := range 20_000 {
		pipe.Set(t.Context(), fmt.Sprint("key:", i), i, 0)
	}
	if _, err := pipe.Exec(t.Context()); err != nil {
		t.Fatal(err)
	}
	cf := startSidecar(t, source, target, "--map", "0=0", "--sync.keys_per_second", "1000")
	redistest.Eventually(t, 20*time.Second, func() bool { return len(cf.status(t).Databases) > 0 && cf.status(t).Databases[0].Scanned > 0 }, "a scan")
	if r := must(t, cf.dir, 0, "throttle"); !strings.Contains(r.stdout, "1000 keys/s at most") {
		t.Errorf("throttle: %s", r.stdout)
	}
	if r := must(t, cf.dir, 0, "throttle", "--pause"); !strings.Contains(r.stdout, "paused") {
		t.Errorf("throttle --pause: %s", r.stdout)
	}
	if err := source.Client(0).Set(t.Context(), "new", "v", 0).Err(); err != nil {
		t.Fatal(err)
	}
	redistest.Eventually(t, 10*time.Second, func() bool { return target.Client(0).Get(t.Context(), "new").Val() == "v" }, "a change carried through a pause")
	if text := must(t, cf.dir, 0, "status").stdout; !strings.Contains(text, "the copy is paused: crossfade throttle --resume") {
		t.Errorf("status: %s", text)
	}
	if st := cf.status(t); st.Databases[0].Done || st.Ready || !st.Throttle.Paused {
		t.Errorf("status: %+v", st)
	}
	if why := cf.status(t).Reasons; !strings.Contains(strings.Join(why, "\n"), "(paused: crossfade throttle --resume)") {
		t.Errorf("nobody says that the pause puts off the cutover: %q", why)
	}
	must(t, cf.dir, 2, "throttle", "--pause", "--resume")
	must(t, cf.dir, 1, "throttle", "--keys", "-1")
	if r := must(t, cf.dir, 0, "throttle", "--resume", "--keys", "0", "--bytes", "123456789"); !strings.Contains(r.stdout, "held to") || strings.Contains(r.stdout, "keys/s at most") {
		t.Errorf("throttle --resume: %s", r.stdout)
	}
	must(t, cf.dir, 0, "throttle", "--bytes", "0")
	cf.awaitReady(t)
}
