package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// rows has one row a step: whether the switch is decided when it begins. A step
// that has none fails TestEveryStepHasItsRow.
var rows = []struct {
	step    string
	decided bool
}{
	{"preflight", false},
	{"prepare", false},
	{"replicas", false},
	{"lag-gate", false},
	{"hold", false},
	{"soft-fence", false},
	{"drain-1", false},
	{"hard-fence", false},
	{"drain-2", false},
	{"check", false},
	{"journal", false},
	{"commit", true},
	{"release", true},
	{"after", true},
}

func TestEveryStepHasItsRow(t *testing.T) {
	var have []string
	for _, r := range rows {
		have = append(have, r.step)
	}
	if want := migration.StepNames(); !slices.Equal(have, want) {
		t.Fatalf("the matrix has rows for\n%q, but the steps are\n%q: add what is missing, with where a fault there leads", have, want)
	}
}

// point is one place in one of the two switches.
type point struct {
	from    router.Side
	name    string // of the failpoint
	decided bool   // there is only forward from here
}

// points returns the place before each step, and the one behind the last.
func points(from router.Side) []point {
	var all []point
	for _, r := range rows {
		all = append(all, point{from, verbOf(from) + "." + r.step + ":before", r.decided})
	}
	last := rows[len(rows)-1]
	return append(all, point{from, verbOf(from) + "." + last.step + ":after", last.decided})
}

// fault is what happens at a point.
type fault struct {
	name string
	run  func(t *testing.T, at point) (s *stage, err error)
}

// Time-outs for the rows that outlast them: of the connections, of the stall, and
// of the pause, which is twice that and a second.
var (
	shortTimeouts = []string{"--proxy.dial_timeout", "1s", "--cutover.max_stall", "1s"}
	outlasting    = 4 * time.Second
)

var matrix = []fault{
	{"kill", func(t *testing.T, at point) (*stage, error) {
		s := newStage(t, at.name+"=kill")
		s.dieAt(at)
		s.c.start("")
		return s, nil
	}},
	{"kill-state-lost", func(t *testing.T, at point) (*stage, error) {
		s := newStage(t, at.name+"=kill")
		s.dieAt(at)
		if err := os.Remove(s.c.state); err != nil {
			t.Fatal(err)
		}
		s.c.start("")
		return s, nil
	}},
	{"stop", func(t *testing.T, at point) (*stage, error) {
		s := newStage(t, at.name+"#1=stop", shortTimeouts...)
		s.reach(at.from)
		var reached atomic.Bool
		result := s.switchLater(at.from, &reached)
		redistest.Eventually(t, time.Minute, s.c.stopped, "the process stops itself")
		reached.Store(true)
		<-time.After(outlasting) // the length is what is tried
		s.c.signal(syscall.SIGCONT)
		return s, <-result
	}},
	{"cut", whileAt(nil, func(_ *testing.T, s *stage, _ point) {
		for i := range s.links {
			s.links[i].Cut()
			s.feeds[i].Cut()
		}
	})},
	{"feed-cut", whileAt(nil, func(_ *testing.T, s *stage, _ point) {
		for _, feed := range s.feeds {
			feed.Cut()
		}
	})},
	{"reply-lost", func(t *testing.T, at point) (*stage, error) {
		// What the step sends is obeyed, and nobody hears of it.
		var sent [2]int64
		s, result := stopAt(t, at, shortTimeouts, func(s *stage) {
			for i, l := range s.links {
				l.StallDown(true)
				sent[i] = l.BytesUp()
			}
		})
		redistest.Eventually(t, 20*time.Second, func() error {
			for i, l := range s.links {
				if l.BytesUp() > sent[i] {
					return nil
				}
			}
			return errors.New("nothing was sent")
		}, "something is sent")
		for i, server := range []*redistest.Server{s.src, s.dst} {
			// Asked behind what was sent, the server has obeyed that.
			if err := server.Client(0).Ping(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			s.links[i].Cut()
			s.links[i].StallDown(false)
		}
		return s, <-result
	}},
	{"restart-left", whileAt(nil, func(t *testing.T, s *stage, at point) { s.restart(t, at, at.from) })},
	{"restart-entered", whileAt(nil, func(t *testing.T, s *stage, at point) { s.restart(t, at, at.from.Other()) })},
}

// dieAt asks for a switch in which the process kills itself.
func (s *stage) dieAt(at point) {
	s.t.Helper()
	s.reach(at.from)
	redistest.Eventually(s.t, time.Minute, func() error {
		err := s.switchOnce(at.from)
		if err == nil {
			s.t.Fatal("the switch went through although the process was to die in it")
		}
		if outOfTime(err) {
			return err
		}
		return nil
	}, "a switch comes to its point")
	_ = s.c.awaitExit(20 * time.Second)
}

// stopAt begins a switch, waits until it is at the point, runs f and lets it go on.
func stopAt(t *testing.T, at point, extra []string, f func(*stage)) (*stage, <-chan error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "here")
	s := newStage(t, at.name+"#1=wait:"+file, extra...)
	s.reach(at.from)
	return s, s.heldAt(at.from, file, func() { f(s) })
}

// whileAt is a fault that happens while the switch stands still at the point.
func whileAt(extra []string, f func(*testing.T, *stage, point)) func(*testing.T, point) (*stage, error) {
	return func(t *testing.T, at point) (*stage, error) {
		s, result := stopAt(t, at, extra, func(s *stage) { f(t, s, at) })
		return s, <-result
	}
}

// restart kills a server and starts it again; it keeps its data and forgets its
// users, our fence among them.
func (s *stage) restart(t *testing.T, at point, side router.Side) {
	t.Helper()
	if side == router.Source && (at.decided || at.from == router.Target) {
		// On a server that was left, and whose fence a restart has taken down, what
		// bypasses the proxy is not kept: recovery.md.
		if err := s.direct.end(); err != nil {
			t.Fatal(err)
		}
	}
	server := []*redistest.Server{s.src, s.dst}[side]
	server.Kill()
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestFailpoints is the matrix: every fault at every step of a cutover and of a
// rollback. After each row what was acknowledged is there, exactly one server takes
// writes, both servers are equal, and so they are after another switch. E2E_FAILPOINTS=all runs
// the whole of it; else a sample is taken around the point of no return.
func TestFailpoints(t *testing.T) {
	for _, f := range matrix {
		for _, from := range []router.Side{router.Source, router.Target} {
			for _, at := range points(from) {
				if os.Getenv("E2E_FAILPOINTS") != "all" && !sampled(f.name, at) {
					continue
				}
				t.Run(f.name+"/"+at.name, func(t *testing.T) {
					t.Parallel()
					s, err := f.run(t, at)
					t.Logf("the switch ended with: %v", err)
					st := s.c.awaitReady()
					if at.decided && st.Side == at.from {
						t.Fatalf("the switch was decided, and the applications are on the %s", st.Side)
					}
					if strings.HasPrefix(f.name, "kill") && !at.decided && st.Side != at.from {
						t.Fatalf("the switch was not decided, and the applications are on the %s", st.Side)
					}
					s.oneWritable(st.Side)
					s.mustBeEqual(st.Side)
					s.settle(st.Side)
				})
			}
		}
	}
}

// sampled chooses the rows that are always run: each fault once or twice, where it
// has most to destroy.
func sampled(fault string, at point) bool {
	switch fault {
	case "kill":
		return at.name == "cutover.drain-2:before" || at.name == "rollback.journal:before" || strings.HasSuffix(at.name, ".commit:before")
	case "kill-state-lost":
		return at.name == "cutover.commit:before" || at.name == "rollback.journal:before"
	case "stop", "cut":
		return at.name == "cutover.journal:before" || at.name == "rollback.drain-2:before"
	case "feed-cut":
		return at.name == "cutover.drain-2:before"
	case "reply-lost":
		return at.name == "cutover.journal:before" || at.name == "rollback.commit:before"
	case "restart-left":
		return at.name == "cutover.journal:before"
	case "restart-entered":
		return at.name == "cutover.commit:before" || at.name == "rollback.hard-fence:before"
	}
	return true // a fault that is new
}

// oneWritable fails unless the applications' server takes writes, and the other one
// refuses everybody's. A target that nobody has been on yet has no fence: none of what
// the applications say is obeyed there.
func (s *stage) oneWritable(side router.Side) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	redistest.Eventually(s.t, 20*time.Second, func() error {
		servers := []*redistest.Server{s.src, s.dst}
		if err := servers[side].Client(mapping(crashMap)(0)*int(side)).Set(ctx, "probe", "home", 0).Err(); err != nil {
			return fmt.Errorf("the applications' server refuses a write: %w", err)
		}
		st, err := s.c.status()
		if err != nil || st.Epoch == 0 {
			return err
		}
		if err := servers[side.Other()].Client(0).Set(ctx, "probe", "other", 0).Err(); !redis.HasErrorPrefix(err, "NOPERM") {
			return fmt.Errorf("the %s, which was left, answers a write: %v", side.Other(), err) //nolint:errorlint // nil is wrong too
		}
		return nil
	}, "exactly one server takes writes")
	if must[migration.Status](s.t)(s.c.status()).Epoch > 0 {
		return
	}
	const counted = "incr" // which no copy is made by
	there, here := obeyed(s.t, s.dst, counted), obeyed(s.t, s.src, counted)
	s.goOn(100)
	if obeyed(s.t, s.src, counted) == here {
		s.t.Fatalf("the writers say no %s", counted)
	}
	if now := obeyed(s.t, s.dst, counted); now != there {
		s.t.Fatalf("the target has obeyed %v %s more, a client's", now-there, counted)
	}
}

// mustBeEqual stops the writers, fails unless what was acknowledged is at the applications'
// server and the other one is equal to it, without having been mended, and lets the writers
// go on.
func (s *stage) mustBeEqual(side router.Side) {
	s.t.Helper()
	loads := []*load{s.through}
	if s.direct.stop != nil { // otherwise there is to be none
		loads = append(loads, s.direct)
	}
	s.mustHoldAt(side)
	servers := []*redistest.Server{s.src, s.dst}
	redistest.Eventually(s.t, time.Minute, func() error {
		// The one that was left is behind the fence, and its replica stands still: each try
		// has a new one.
		left, closeAll := look(s.t, servers[side.Other()], redistest.Program{})
		defer closeAll()
		o := redistest.Options(servers[side].Addr(), 0)
		o.Protocol = 2 // as that of the other
		for _, db := range []int{0, 3} {
			here, there := db, mapping(crashMap)(db)
			if side == router.Target {
				here, there = there, here
			}
			o.DB = here
			c := redis.NewClient(o)
			err := databaseDiffers(c, left(there))
			_ = c.Close()
			if err != nil {
				return fmt.Errorf("database %d: %w", db, err)
			}
		}
		return nil
	}, "both servers are equal")
	if st := must[migration.Status](s.t)(s.c.status()); st.Verify.Background.Alarms > 0 {
		s.t.Errorf("they are because %d differences were found and mended: %+v", st.Verify.Background.Alarms, st.Verify.Background)
	}
	for _, l := range loads {
		l.begin()
	}
}
