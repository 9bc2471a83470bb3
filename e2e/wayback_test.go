package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// volume is how many writes are made on the target between a cutover and a rollback;
// E2E_VOLUME asks for another number.
func volume() int {
	if n, err := strconv.Atoi(os.Getenv("E2E_VOLUME")); err == nil {
		return n
	}
	if testing.Short() {
		return 10_000
	}
	return 60_000
}

// pour makes n writes of many kinds in pipelines, through the proxy, on a tenth as many
// keys.
func pour(ctx context.Context, addr string, n, round int) error {
	const pipes, batch = 4, 250
	errs := make([]error, pipes)
	var busy sync.WaitGroup
	for p := range pipes {
		busy.Go(func() {
			c := redis.NewClient(redistest.Options(addr, 0))
			defer func() { _ = c.Close() }()
			for i := 0; i < n/pipes && errs[p] == nil; i += batch {
				pipe := c.Pipeline()
				for j := i; j < i+batch; j++ {
					key := fmt.Sprintf("pour:%d:%d", p, j%(n/pipes/10+1))
					switch j % 5 {
					case 0:
						pipe.Set(ctx, key+":s", round*n+j, time.Hour)
					case 1:
						pipe.HSet(ctx, key+":h", strconv.Itoa(j%100), round*n+j)
					case 2:
						pipe.RPush(ctx, key+":l", j)
					case 3:
						pipe.ZIncrBy(ctx, key+":z", float64(round), strconv.Itoa(j%100))
					default:
						pipe.Incr(ctx, key+":n")
					}
				}
				_, errs[p] = pipe.Exec(ctx)
			}
		})
	}
	busy.Wait()
	return errors.Join(errs...)
}

// TestRollbackAfterVolume: however much was written on the target, the way back has
// carried it by then, and a rollback holds clients for no longer than a cutover does.
// Before each cutover some is written on the source, so that both leave a server that has
// just been busy.
func TestRollbackAfterVolume(t *testing.T) {
	// What the machine does beside it only makes a switch longer, and may do so to one kind
	// only: where the test has the machine for itself, little is allowed for that.
	rounds, noise := 5, 3.0
	if os.Getenv("E2E_VOLUME") != "" {
		rounds, noise = 3, 1.5
	}
	const noiseMS = 4
	src, dst := redistest.Start(t), redistest.Start(t)
	// Held for as long as it takes: how long that is is what is compared.
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0", extra: []string{"--cutover.max_stall", "20s", "--cutover.max_lag", "5s"}})
	c.start("")
	c.awaitReady()
	l := startLoad(t, history.Config{Addr: c.addr, Writers: 4, Prefix: "app", MaxRate: 300})
	var there, back []float64
	written := 0
	for i := range rounds {
		if err := pour(t.Context(), c.addr, min(volume(), 60_000), 2*i+1); err != nil {
			t.Fatal(err)
		}
		c.awaitReady()
		r, err := c.cutover()
		if err != nil {
			t.Fatal(err)
		}
		there = append(there, r.Held)
		began := time.Now()
		if err := pour(t.Context(), c.addr, volume(), 2*i+2); err != nil {
			t.Fatal(err)
		}
		written += volume()
		poured := time.Since(began)
		c.awaitReady()
		caught := time.Since(began) - poured
		if r, err = c.rollback(); err != nil {
			t.Fatal(err)
		}
		back = append(back, r.Held)
		t.Logf("held %.1f ms there; %d writes in %v, ready again after %v; held %.1f ms back (stall max %.1f ms)",
			there[i], volume(), poured.Round(time.Millisecond), caught.Round(time.Millisecond), r.Held, r.Stall.Max)
	}
	report := l.mustHold(t, src.Addr(), mapping("0=0"))
	if report.Stats.Errors > 0 {
		t.Errorf("clients saw %d errors, the last: %s", report.Stats.Errors, report.Stats.LastError)
	}
	c.end(true)
	equalSides(t, src, dst, "0=0")
	a, b := quantile(there, 50), quantile(back, 50)
	t.Logf("%d writes; the median held there %.1f ms, back %.1f ms", written, a, b)
	if b > noise*a+noiseMS && !raceDetector {
		t.Errorf("a rollback after %d writes holds clients for %.1f ms, a cutover for %.1f ms", volume(), b, a)
	}
}

// quantile returns the value that so many of a hundred are not above.
func quantile(values []float64, percent int) float64 {
	s := slices.Sorted(slices.Values(values))
	return s[(len(s)*percent+99)/100-1]
}

// gapStage is a stage on the target whose scans are paused, so that a gap in the reverse
// feed stays open until they may go on.
func gapStage(t *testing.T) *stage {
	t.Helper()
	s := newStage(t, "", "--cutover.wait_ready", "300ms", "--proxy.dial_timeout", "1m") // a feed that stands still is not dropped by us
	for i := range 1000 {
		if err := s.src.Client(0).Set(t.Context(), fmt.Sprintf("old:%d", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	s.c.awaitReady()
	paused := true
	if _, err := s.c.admin.Throttle(t.Context(), admin.ThrottleRequest{Paused: &paused}); err != nil {
		t.Fatal(err)
	}
	s.mustSwitch(router.Source)
	s.goOn(50)
	st := s.c.awaitReady()
	if !st.Throttle.Paused {
		t.Error("a switch has taken back what the operator said about scans")
	}
	return s
}

// cli runs the program as an operator does and returns what it says and its status.
func (c *sidecar) cli(args ...string) (said string, status int) {
	c.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	at := slices.Index(c.args, "--admin")
	cmd := exec.CommandContext(ctx, binary, append(args, "--admin", c.args[at+1])...)
	cmd.Env = withoutServers()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.tb.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// TestGapInTheReverseFeed: when changes on the target may have been missed, a rollback is
// refused, with the reason and the status of a refusal, until everything is compared; then
// it goes, and nothing is missing.
func TestGapInTheReverseFeed(t *testing.T) {
	const missed = 200
	for _, gap := range []struct {
		name, why string
		open      func(t *testing.T, s *stage) // until close
		close     func(t *testing.T, s *stage)
	}{
		{
			"the connection is closed", "was lost",
			func(t *testing.T, s *stage) {
				s.feeds[router.Target].Refuse(true)
				do(t, s.dst.Client(0), "CLIENT", "KILL", "TYPE", "pubsub")
			},
			func(_ *testing.T, s *stage) { s.feeds[router.Target].Refuse(false) },
		},
		{
			"the output buffer runs over", "was lost",
			func(t *testing.T, s *stage) {
				do(t, s.dst.Client(0), "CONFIG", "SET", "client-output-buffer-limit", "pubsub 256kb 0 0")
				s.feeds[router.Target].StallDown(true)
				c := redis.NewClient(redistest.Options(s.c.addr, 0))
				defer func() { _ = c.Close() }()
				name := strings.Repeat("k", 400) // of which the events are made
				redistest.Eventually(t, time.Minute, func() error {
					pipe := c.Pipeline()
					for i := range 1000 {
						pipe.Set(t.Context(), fmt.Sprintf("%s:%d", name, i), i, time.Minute)
					}
					if _, err := pipe.Exec(t.Context()); err != nil {
						t.Fatal(err)
					}
					if !strings.Contains(s.dst.LogTail(), "overcoming of output buffer limits") {
						return errors.New("the server holds all of it")
					}
					return nil
				}, "the output buffer runs over")
			},
			func(_ *testing.T, s *stage) { s.feeds[router.Target].StallDown(false) },
		},
		{
			"notifications are switched off", "notif", // the setting, or that none come
			func(t *testing.T, s *stage) {
				do(t, s.dst.Client(0), "CONFIG", "SET", "notify-keyspace-events", "")
			},
			func(*testing.T, *stage) {},
		},
	} {
		t.Run(gap.name, func(t *testing.T) {
			t.Parallel()
			s := gapStage(t)
			gap.open(t, s)
			for i := range missed {
				if err := s.dst.Client(mapping(crashMap)(0)).Set(t.Context(), fmt.Sprintf("missed:%d", i), i, 0).Err(); err != nil {
					t.Fatal(err)
				}
			}
			do(t, s.dst.Client(mapping(crashMap)(0)), "DEL", "old:7")
			gap.close(t, s)
			st := s.c.await("the gap is seen", func(st migration.Status) bool {
				return st.Phase == migration.ReverseLost && !st.Ready && strings.Contains(strings.Join(st.Reasons, "; "), gap.why)
			})
			if st.Side != router.Target || st.Gaps == 0 {
				t.Fatalf("side %s, %d gaps", st.Side, st.Gaps)
			}
			said, status := s.c.cli("rollback")
			if status != 3 || !strings.Contains(said, gap.why) {
				t.Fatalf("a rollback over the gap, status %d:\n%s", status, said)
			}
			s.goOn(50)
			if st := must[migration.Status](t)(s.c.status()); st.Side != router.Target || st.Phase != migration.ReverseLost {
				t.Fatalf("after the refusal: phase %s, side %s", st.Phase, st.Side)
			}
			if said, status := s.c.cli("throttle", "--resume"); status != 0 {
				t.Fatalf("letting the scan go on, status %d:\n%s", status, said)
			}
			s.c.await("the gap is closed", func(st migration.Status) bool { return st.Ready && st.Phase == migration.ReverseTailing })
			redistest.Eventually(t, time.Minute, func() error {
				if said, status := s.c.cli("rollback"); status != 0 {
					if !strings.Contains(said, "max_stall") {
						t.Fatalf("a rollback, status %d:\n%s", status, said)
					}
					return errors.New("clients would have waited for too long")
				}
				return nil
			}, "a rollback")
			for i := range missed {
				if got, err := s.src.Client(0).Get(t.Context(), fmt.Sprintf("missed:%d", i)).Int(); err != nil || got != i {
					t.Fatalf("what was written in the gap is not on the source: key %d is %d, %v", i, got, err)
				}
			}
			if n := must[int64](t)(s.src.Client(0).Exists(t.Context(), "old:7").Result()); n != 0 {
				t.Error("what was removed in the gap is on the source again")
			}
			s.settle(router.Source)
		})
	}
}
