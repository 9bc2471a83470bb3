package e2e

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
)

const dbmap = "0=0,3=5,7=1"

// switches is how many switches are made in a row, cutovers and rollbacks in
// turn; E2E_SWITCHES asks for another number.
func switches() int {
	if n, err := strconv.Atoi(os.Getenv("E2E_SWITCHES")); err == nil {
		return n
	}
	if testing.Short() {
		return 20
	}
	return 100
}

// TestSwitchesUnderLoad makes cutovers and rollbacks in a row while writers go
// on, through the proxy and past it, and then counts.
func TestSwitchesUnderLoad(t *testing.T) {
	src, dst := redistest.Start(t), redistest.Start(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: dbmap})
	c.start("")
	c.awaitReady()
	through := startLoad(t, history.Config{Addr: c.addr, Databases: []int{0, 3, 7}, Writers: 8, Prefix: "app", MaxRate: 400})
	direct := startLoad(t, history.Config{Addr: src.Addr(), Databases: []int{0, 3}, Writers: 1, Prefix: "direct", MaxRate: 200})

	goOn := func(when string, i int) time.Duration {
		t.Helper()
		before := through.h.Stats().Acked
		redistest.Eventually(t, 20*time.Second, func() error {
			if through.h.Stats().Acked < before+100 {
				return errors.New("the writers do not go on")
			}
			return nil
		}, "writers go on %s switch %d", when, i)
		return through.h.TakeStall()
	}
	var stalls, calm []time.Duration
	for i := range switches() {
		c.awaitReady()
		through.h.TakeStall()
		calm = append(calm, goOn("before", i))
		var r migration.Report
		var err error
		if i%2 == 0 {
			r, err = c.cutover()
		} else {
			r, err = c.rollback()
		}
		if err != nil {
			t.Fatalf("switch %d: %v", i, err)
		}
		stall := goOn("after", i)
		stalls = append(stalls, stall)
		t.Logf("switch %2d %s→%s: longest client stall %v (the tool says %.1f ms, held %.1f ms)", i, r.From, r.To, stall.Round(100*time.Microsecond), r.Stall.Max, r.Held)
	}
	c.awaitReady()
	addr, m := src.Addr(), func(db int) int { return db }
	if switches()%2 == 1 {
		addr, m = dst.Addr(), mapping(dbmap)
	}
	r := through.mustHold(t, addr, m)
	d := direct.mustHold(t, addr, m)
	if r.Stats.Errors > 0 {
		t.Errorf("clients of the proxy saw %d errors, the last: %s", r.Stats.Errors, r.Stats.LastError)
	}
	if d.Stats.Refused == 0 {
		t.Error("the writer that bypasses the proxy was never refused: the fence did nothing")
	}
	slices.Sort(stalls)
	slices.Sort(calm)
	median, usual := stalls[len(stalls)/2], calm[len(calm)/2]
	t.Logf("through the proxy: %s", r)
	t.Logf("past the proxy: %s", d)
	t.Logf("%d switches: longest client stall of each: median %v, max %v; without a switch: median %v", len(stalls),
		median.Round(100*time.Microsecond), stalls[len(stalls)-1].Round(100*time.Microsecond), usual.Round(100*time.Microsecond))
	if median > max(50*time.Millisecond, 5*usual) && !raceDetector {
		t.Errorf("median of the longest client stalls is %v, more than 50 ms, and without a switch %v", median, usual)
	}
	c.end(switches()%2 == 0)
	equalSides(t, src, dst, dbmap)
}
