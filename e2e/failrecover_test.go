package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// recoveries has one row a step of each way of a recovery. A step that has none fails
// TestEveryStepOfARecoveryHasItsRow.
var recoveries = map[string]struct {
	after   string // the step of the switch before which the first process dies
	decided bool   // whether that leads forward
	steps   []string
}{
	"back":    {"drain-2", false, []string{"read", "login", "seat", "note", "aborting", "claim", "reopen", "aborted"}},
	"forward": {"commit", true, []string{"read", "login", "seat", "note", "journal", "commit", "let-in", "clear", "finished"}},
	"finish":  {"release", true, []string{"let-in", "clear", "finished"}},
	"begin":   {"hard-fence", false, []string{"begin-seat", "begin-listen", "begin-note", "begin-tell", "begin-follow"}},
}

func TestEveryStepOfARecoveryHasItsRow(t *testing.T) {
	have := make(map[string][]string)
	for way, r := range recoveries {
		have[way] = r.steps
	}
	if want := migration.RecoveryNames(); !reflect.DeepEqual(have, want) {
		t.Fatalf("the matrix of recoveries has rows for\n%q, but the steps are\n%q: add what is missing", have, want)
	}
}

// recovering is one place in the recovery of one of the two switches.
type recovering struct {
	way  string
	died point  // where the first process died
	at   string // the failpoint of the recovery
}

// home is where the applications are in the end.
func (r recovering) home() router.Side {
	if r.died.decided {
		return r.died.from.Other()
	}
	return r.died.from
}

// recoveryPoints returns the place before each step, and the one behind the last of a way.
func recoveryPoints(from router.Side) []recovering {
	var all []recovering
	for _, way := range []string{"back", "forward", "finish", "begin"} {
		r := recoveries[way]
		died := point{from, verbOf(from) + "." + r.after + ":before", r.decided}
		for _, step := range r.steps {
			all = append(all, recovering{way, died, "recover." + step + ":before"})
		}
		all = append(all, recovering{way, died, "recover." + r.steps[len(r.steps)-1] + ":after"})
	}
	return all
}

// recoveryFault is what happens at a place of a recovery. It is begun where no sidecar
// runs, and leaves one running.
type recoveryFault struct {
	name string
	run  func(t *testing.T, s *stage, r recovering)
}

// dozed outlasts every timeout of a recovery, which is soonTimeouts long.
var (
	soonTimeouts = []string{"--proxy.dial_timeout", "2s"}
	dozed        = 5 * time.Second
)

var recoveryMatrix = []recoveryFault{
	{"kill", func(_ *testing.T, s *stage, r recovering) {
		s.c.start(r.at + "=kill" + s.ledApart())
		_ = s.c.awaitExit(time.Minute)
		s.c.start(s.ledApart())
	}},
	{"kill-state-lost", func(t *testing.T, s *stage, r recovering) {
		s.c.start(r.at + "=kill" + s.ledApart())
		_ = s.c.awaitExit(time.Minute)
		if err := os.Remove(s.c.state); err != nil {
			t.Fatal(err)
		}
		s.c.start(s.ledApart())
	}},
	{"stop", func(t *testing.T, s *stage, r recovering) {
		s.c.start(r.at + "#1=stop" + s.ledApart())
		redistest.Eventually(t, time.Minute, s.c.stopped, "the process stops itself")
		<-time.After(dozed) // the length is what is tried
		s.c.signal(syscall.SIGCONT)
	}},
	// Another one takes over while the first recovers, which then wakes.
	{"overtaken", func(t *testing.T, s *stage, r recovering) {
		s.c.start(r.at + "#1=stop" + s.ledApart())
		redistest.Eventually(t, time.Minute, s.c.stopped, "the process stops itself")
		old := s.takeOver()
		s.goOn(50)
		old.signal(syscall.SIGCONT)
		// Whoever was stopped before it knew of anything is the next one to take over.
		s.c, old = oneEnds(t, s.c, old)
		old.mustEnd()
		s.lead()
	}},
	{"cut", whileRecovering(func(_ *testing.T, s *stage, _ recovering) {
		for i := range s.links {
			s.links[i].Cut()
			s.feeds[i].Cut()
		}
	})},
	{"reply-lost", func(t *testing.T, s *stage, r recovering) {
		// What the step sends is obeyed, and nobody hears of it.
		var sent [2]int64
		whileRecovering(func(*testing.T, *stage, recovering) {
			for i, l := range s.links {
				l.StallDown(true)
				sent[i] = l.BytesUp()
			}
		})(t, s, r)
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
	}},
	{"restart-left", whileRecovering(func(t *testing.T, s *stage, r recovering) { s.restart(t, r.died, r.died.from) })},
	{"restart-entered", whileRecovering(func(t *testing.T, s *stage, r recovering) { s.restart(t, r.died, r.died.from.Other()) })},
}

// whileRecovering is a fault that happens while the recovery stands still at its place.
func whileRecovering(f func(*testing.T, *stage, recovering)) func(*testing.T, *stage, recovering) {
	return func(t *testing.T, s *stage, r recovering) {
		file := filepath.Join(t.TempDir(), "here")
		s.c.start(r.at + "#1=wait:" + file + s.ledApart())
		redistest.Eventually(t, time.Minute, func() error {
			if _, err := os.Stat(file); err != nil {
				return errors.New("the failpoint was not reached")
			}
			return nil
		}, "failpoint")
		f(t, s, r)
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFailpointsOfRecoveries is the matrix of recoveries: a process has died in a switch,
// and each fault hits the next one at each step of its recovery. That must end as well,
// where the switch was to lead; after each row what was acknowledged is there, exactly one
// server takes writes, both servers are equal, and so they are after another switch.
// E2E_FAILPOINTS=all runs the whole of it; else a sample is taken.
func TestFailpointsOfRecoveries(t *testing.T) {
	for _, f := range recoveryMatrix {
		for _, from := range []router.Side{router.Source, router.Target} {
			for _, r := range recoveryPoints(from) {
				if os.Getenv("E2E_FAILPOINTS") != "all" && !recoverySampled(f.name, r) {
					continue
				}
				t.Run(f.name+"/"+verbOf(from)+"."+r.way+"/"+strings.TrimPrefix(r.at, "recover."), func(t *testing.T) {
					t.Parallel()
					var extra []string
					if f.name == "stop" {
						extra = soonTimeouts
					}
					s := newFronted(t, r.died.name+"=kill", extra...)
					s.hasty = len(extra) > 0
					s.dieAt(r.died)
					f.run(t, s, r)
					st := s.c.awaitReady()
					if st.Side != r.home() {
						t.Fatalf("the applications are on the %s, want the %s", st.Side, r.home())
					}
					s.oneWritable(st.Side)
					s.mustBeEqual(st.Side)
					s.settle(st.Side)
				})
			}
		}
	}
}

// recoverySampled chooses the rows that are always run.
func recoverySampled(fault string, r recovering) bool {
	row := verbOf(r.died.from) + "." + r.way + "/" + r.at
	switch fault {
	case "kill":
		return row == "cutover.back/recover.reopen:before"
	case "kill-state-lost":
		return row == "rollback.forward/recover.commit:before"
	case "stop", "cut", "restart-entered":
		return false
	case "overtaken":
		return row == "cutover.back/recover.claim:before" || row == "cutover.forward/recover.commit:before"
	case "reply-lost":
		return row == "rollback.back/recover.aborted:before"
	case "restart-left":
		return row == "cutover.forward/recover.journal:before"
	}
	return true // a fault that is new
}
