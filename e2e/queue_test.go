package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// queueSwitches is how many switches a queue library sees; E2E_QUEUES asks for another
// number.
func queueSwitches() int {
	if n, err := strconv.Atoi(os.Getenv("E2E_QUEUES")); err == nil {
		return n
	}
	if testing.Short() {
		return 2
	}
	return 8
}

// longestStall is what a switch may take, or it is given up.
const longestStall = 2 * time.Second

// jobs is the load of a queue library.
type jobs interface {
	// done returns how many jobs are finished, and what has gone wrong so far.
	done() (int, []string)
	// end adds no more jobs, waits until none is left, and fails the test unless each
	// was done exactly once, by the library's own account too. It returns what it found.
	end() string
}

// acrossSwitches makes cutovers and rollbacks in turn under a load of jobs, which go on
// before and after each, and are held up for a short time only. A switch that was given up
// because it would have taken too long counts as a stall as long as one may be.
func acrossSwitches(t *testing.T, start func(addr string) jobs) {
	t.Helper()
	const dbmap = "0=5"
	src, dst := redistest.Start(t), redistest.Start(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: dbmap, extra: []string{"--cutover.max_stall", longestStall.String()}})
	c.start("")
	c.awaitReady()
	load := start(c.addr)
	goOn := func(when string, i int) {
		t.Helper()
		before, _ := load.done()
		redistest.Eventually(t, time.Minute, func() error {
			now, trouble := load.done()
			if len(trouble) > 0 {
				t.Fatalf("%s switch %d: %d troubles, the first: %s", when, i, len(trouble), trouble[0])
			}
			if now < before+20 {
				return fmt.Errorf("%d jobs done since", now-before)
			}
			return nil
		}, "jobs go on %s switch %d", when, i)
	}
	var stalls []float64
	side := router.Source
	n := queueSwitches()
	for i := range n {
		c.awaitReady()
		goOn("before", i)
		var r migration.Report
		redistest.Eventually(t, time.Minute, func() (err error) {
			if side == router.Source {
				r, err = c.cutover()
			} else {
				r, err = c.rollback()
			}
			if err != nil && !outOfTime(err) {
				t.Fatalf("switch %d: %v", i, err)
			}
			if err != nil { // clients have waited for nothing, and for as long as they ever do
				stalls = append(stalls, float64(longestStall.Milliseconds()))
			}
			return err
		}, "switch %d", i)
		side = side.Other()
		stalls = append(stalls, r.Stall.Max)
		goOn("after", i)
	}
	t.Logf("%d switches: %s", n, load.end())
	mustBeShort(t, stalls)
	c.end(side == router.Source)
	equalSides(t, src, dst, dbmap)
}

// mustBeShort fails when the longest stalls of switches are too long. The bounds are for
// who has the machine for himself and makes many switches; else ten times as much is allowed.
func mustBeShort(t *testing.T, stalls []float64) {
	t.Helper()
	median, p99, most := quantile(stalls, 50), quantile(stalls, 99), slices.Max(stalls)
	t.Logf("longest stall of a session per switch: median %.1f ms, p99 %.1f ms, max %.1f ms", median, p99, most)
	allowed := 1.0
	switch {
	case raceDetector:
		return
	case len(stalls) < 50:
		allowed = 10
	}
	if median >= 10*allowed || p99 >= 50*allowed {
		t.Errorf("the longest stall of a switch has a median of %.1f ms, want less than %.0f, and a p99 of %.1f ms, want less than %.0f",
			median, 10*allowed, p99, 50*allowed)
	}
}

// errMore is what a job that is still under way is to Eventually.
var errMore = errors.New("there are jobs left")
