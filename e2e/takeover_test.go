package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// What becomes of two sidecars of one migration. Each has a state file of its own, so that
// no lock keeps them apart.

// newFronted is newStage with a link before the sidecar, so that the writers can be led to
// another one.
func newFronted(t *testing.T, failpoints string, extra ...string) *stage {
	t.Helper()
	s := newServers(t, replicable, replicable)
	s.c = s.sidecar(extra...)
	s.c.start(failpoints + s.ledApart())
	s.c.awaitReady()
	s.front = redistest.NewLink(t, s.c.addr)
	s.load(s.front.Addr())
	return s
}

// takeOver starts another sidecar, to which the writers go from now on, and returns the
// old one.
func (s *stage) takeOver(extra ...string) (old *sidecar) {
	s.t.Helper()
	old, s.c = s.c, s.sidecar(extra...)
	s.c.start("")
	s.lead()
	s.c.awaitReady()
	return old
}

// lead leads the writers to the present sidecar.
func (s *stage) lead() {
	s.front.SetUpstream(s.c.addr)
	s.front.Cut()
}

// mustEnd fails unless the process ends by itself, because another one has taken over.
func (c *sidecar) mustEnd() {
	c.tb.Helper()
	var exit *exec.ExitError
	if err := c.awaitExit(time.Minute); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		c.tb.Errorf("the sidecar that was superseded ended with: %v, want status 3", err)
	}
}

// oneEnds waits until one of two sidecars has ended, and returns the other one first.
func oneEnds(t *testing.T, one, other *sidecar) (alive, ended *sidecar) {
	t.Helper()
	redistest.Eventually(t, time.Minute, func() error {
		if one.running() && other.running() {
			return errors.New("both run")
		}
		return nil
	}, "one of two sidecars ends")
	if one.running() {
		return one, other
	}
	return other, one
}

// TestASlowCoordinatorWakes: a sidecar is stopped, with a copy in hand or in the middle of
// a switch, for so long that another one takes over and moves the applications to the
// server that the first one was copying to. Then it wakes. It must touch nothing, nor make
// a write of a client that has given up waiting for it and has gone on with the other one.
// E2E_FAILPOINTS=all tries more places.
func TestASlowCoordinatorWakes(t *testing.T) {
	places := []point{
		{router.Source, "mirror.step.source", false},
		{router.Source, "cutover.drain-2:before", false},
		{router.Target, "rollback.commit:before", true},
	}
	if os.Getenv("E2E_FAILPOINTS") == "all" {
		places = []point{{router.Source, "mirror.step.source", false}, {router.Target, "mirror.step.target", false}}
		for _, from := range []router.Side{router.Source, router.Target} {
			for _, at := range points(from) {
				if !strings.HasSuffix(at.name, ".after:after") { // the switch is over, and nothing under way
					places = append(places, at)
				}
			}
		}
	}
	for _, at := range places {
		t.Run(at.name, func(t *testing.T) {
			t.Parallel()
			follows := strings.HasPrefix(at.name, "mirror.")
			now := filepath.Join(t.TempDir(), "now")
			s := newFronted(t, at.name+"=stop:"+now)
			s.reach(at.from)
			left := s.leftovers()
			if err := os.WriteFile(now, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if !follows {
				first := *s
				first.switchLater(at.from, new(atomic.Bool))
			}
			redistest.Eventually(t, time.Minute, s.c.stopped, "the process stops itself")
			left.write("old")
			old := s.takeOver()
			if !at.decided {
				s.mustSwitch(at.from)
			}
			left.goOnAt(s.front.Addr(), "new")
			s.goOn(300)
			old.signal(syscall.SIGCONT)
			old.mustEnd()
			left.mustBe(s.front.Addr(), "new")
			s.goOn(200)
			s.oneWritable(at.from.Other())
			s.settle(at.from.Other())
		})
	}
}

// TestASleeperWakesUnderTraffic is the same where there is no switch: what clients had sent to
// the one that was stopped does not come behind what they have written since by its successor,
// where both lead to the same server.
func TestASleeperWakesUnderTraffic(t *testing.T) {
	for _, at := range []router.Side{router.Source, router.Target} {
		for _, upstream := range []string{"shared", "pinned"} {
			t.Run(at.String()+" "+upstream, func(t *testing.T) {
				t.Parallel()
				s := newFronted(t, "", "--proxy.upstream", upstream)
				s.reach(at)
				left := s.leftovers()
				s.c.signal(syscall.SIGSTOP)
				redistest.Eventually(t, time.Minute, s.c.stopped, "the process is stopped")
				left.write("old")
				old := s.takeOver()
				left.goOnAt(s.front.Addr(), "new")
				s.goOn(300)
				old.signal(syscall.SIGCONT)
				old.mustEnd()
				left.mustBe(s.front.Addr(), "new")
				s.goOn(200)
				s.settle(at)
			})
		}
	}
}

// TestTwoCoordinatorsAtOnce: two sidecars are started at the same moment, between servers
// of which nobody knows anything yet, and where a switch was interrupted. One of them ends
// by itself, whatever the order in which they come.
func TestTwoCoordinatorsAtOnce(t *testing.T) {
	for _, died := range []string{"", "cutover.drain-2:before", "cutover.commit:before"} {
		runs := 1
		if os.Getenv("E2E_FAILPOINTS") == "all" {
			runs = 5
		}
		for run := range runs {
			t.Run(fmt.Sprintf("%s %d", died, run), func(t *testing.T) {
				t.Parallel()
				var s *stage
				want := router.Source
				if died == "" {
					s = newServers(t, keeping, keeping)
					s.c = s.sidecar()
				} else {
					s = newFronted(t, died+"=kill")
					s.dieAt(point{from: router.Source, name: died})
					if died == "cutover.commit:before" {
						want = router.Target
					}
				}
				one, other := s.c, s.sidecar()
				one.start("")
				other.start("")
				// With status 3, or with 1 when its first look was cut off by the other one.
				s.c, _ = oneEnds(t, one, other)
				if s.front == nil {
					s.c.awaitReady()
					s.front = redistest.NewLink(t, s.c.addr)
					s.load(s.front.Addr())
				}
				s.lead()
				st := s.c.await("ready", func(st migration.Status) bool { return st.Ready })
				if st.Side != want {
					t.Fatalf("the applications are on the %s, want the %s", st.Side, want)
				}
				s.oneWritable(st.Side)
				s.settle(st.Side)
			})
		}
	}
}

// mustBeRefused starts a sidecar again, as a supervisor would, and fails unless it ends by
// itself with status 3.
func (c *sidecar) mustBeRefused(why string) {
	c.tb.Helper()
	c.start("")
	c.mustEnd()
	if text := string(must[[]byte](c.tb)(os.ReadFile(c.logs))); !strings.Contains(tail(text, 5), why) {
		c.tb.Errorf("it does not say %q:\n%s", why, tail(text, 5))
	}
}

// TestNoTwoTakeOverFromEachOtherForEver: a supervisor starts the sidecar again that another
// one has superseded. It does not take the place back for as long as that one is there,
// unless it is told to; then the other one is the one that does not.
func TestNoTwoTakeOverFromEachOtherForEver(t *testing.T) {
	t.Parallel()
	s := newFronted(t, "")
	old := s.takeOver()
	old.mustEnd()
	began := must[migration.Status](t)(s.c.status())
	for range 3 {
		old.mustBeRefused("start with --take-over")
	}
	s.goOn(100)
	if st := s.c.awaitReady(); st.Gaps != began.Gaps {
		t.Errorf("the one that serves has %d gaps, and had %d", st.Gaps, began.Gaps)
	}

	// Told to, it does, and the other one is refused in turn.
	args := old.args
	old.args = append(args[:len(args):len(args)], "--take-over")
	younger := s.c
	s.c = old
	s.c.start("")
	younger.mustEnd()
	s.lead()
	s.c.awaitReady()
	s.goOn(100)
	s.c.args = args
	younger.mustBeRefused("start with --take-over")

	// When the one that serves has died, the other one may begin without being told.
	s.c.kill()
	s.c = younger
	s.c.start("")
	s.lead()
	s.settle(router.Source)
}

// TestASleeperWakesAfterTheEnd: a sidecar is stopped, with a copy in hand or with none, until
// another one has taken its place, moved the applications and ended the migration, so that
// no key of ours is left that could tell it. It copies nothing more when it wakes, passes on
// nothing of what clients had sent to it, ends, and is not started again without being told to.
func TestASleeperWakesAfterTheEnd(t *testing.T) {
	for _, at := range []string{"", "mirror.step.source"} {
		t.Run("at "+at, func(t *testing.T) {
			t.Parallel()
			now := filepath.Join(t.TempDir(), "now")
			failpoints := ""
			if at != "" {
				failpoints = at + "=stop:" + now
			}
			s := newFronted(t, failpoints)
			left := s.leftovers()
			if at == "" {
				s.c.signal(syscall.SIGSTOP)
			} else if err := os.WriteFile(now, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			redistest.Eventually(t, time.Minute, s.c.stopped, "the process is stopped")
			left.write("old")
			asleep := time.After(outlasting + 4*time.Second)
			old := s.takeOver()
			s.mustSwitch(router.Source)
			left.goOnAt(s.front.Addr(), "new")
			s.goOn(200)
			if err := s.direct.end(); err != nil {
				t.Fatal(err)
			}
			s.c.end(false)
			s.goOn(200)
			<-asleep // the length is what is tried
			before := obeyed(t, s.dst, "restore")
			asWasAsleep := must[[]byte](t)(os.ReadFile(old.state))
			old.signal(syscall.SIGCONT)
			old.mustEnd()
			left.mustBe(s.src.Addr(), "new")
			s.goOn(200)
			s.through.mustHold(t, s.dst.Addr(), mapping(crashMap))
			for _, server := range []*redistest.Server{s.src, s.dst} {
				mustBeClean(t, server)
				if keys := server.Client(0).Keys(t.Context(), "crossfade:*").Val(); len(keys) > 0 {
					t.Errorf("on %s there is %q", server.Addr(), keys)
				}
			}
			if after := obeyed(t, s.dst, "restore"); after != before || before == 0 {
				t.Errorf("the target has taken %v copies, and had taken %v", after, before)
			}
			old.mustBeRefused("it was ended")
			// Not when it is told to, nor when it was killed while it slept.
			args := old.args
			old.args = append(args[:len(args):len(args)], "--take-over")
			old.mustBeRefused("it was ended")
			for _, list := range [][]string{old.args, args} {
				if err := os.WriteFile(old.state, asWasAsleep, 0o600); err != nil {
					t.Fatal(err)
				}
				old.args = list
				old.mustBeRefused("it was ended")
			}
			if after := obeyed(t, s.dst, "restore"); after != before {
				t.Errorf("the target has taken %v copies, and had taken %v", after, before)
			}
			for _, server := range []*redistest.Server{s.src, s.dst} {
				mustBeClean(t, server)
			}
		})
	}
}

// obeyed says how often a server has obeyed a command.
func obeyed(t *testing.T, s *redistest.Server, command string) float64 {
	t.Helper()
	return calls(must[string](t)(s.Client(0).Info(t.Context(), "commandstats").Result()), "cmdstat_"+command+":calls=")
}
