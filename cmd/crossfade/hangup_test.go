package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
)

// TestHangup: SIGHUP is answered in the log and ends nothing.
func TestHangup(t *testing.T) {
	cf := startSidecar(t, redistest.Start(t), redistest.Start(t))
	for n := range 2 {
		if err := cf.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		redistest.Eventually(t, 10*time.Second, func() error {
			select {
			case <-cf.ended:
				t.Fatalf("it ended: %v", cf.ProcessState)
			default:
			}
			if got := strings.Count(cf.stderr.String(), "SIGHUP changes nothing"); got != n+1 {
				return fmt.Errorf("told %d times", got)
			}
			return nil
		}, "an answer in the log")
	}
	clientOf(t, cf.dir).do("PING")
	if code := cf.stop(t, syscall.SIGTERM); code != 143 {
		t.Errorf("exit status %d", code)
	}
}
