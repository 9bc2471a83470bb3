package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

const crashMap = "0=1,3=0"

// stage is two servers, a sidecar and writers.
type stage struct {
	t        *testing.T
	src, dst *redistest.Server
	c        *sidecar
	feeds    [2]*redistest.Link // the notification connections go through these
	through  *load
	direct   *load
}

func newStage(t *testing.T, failpoints string) *stage {
	t.Helper()
	s := &stage{t: t, src: redistest.Start(t, redistest.WithAOF()), dst: redistest.Start(t, redistest.WithAOF())}
	for side, server := range []*redistest.Server{s.src, s.dst} {
		s.feeds[side] = redistest.NewLink(t, server.Addr())
		failpoints += fmt.Sprintf(",mirror.feed.%s=%s", router.Side(side), s.feeds[side].Addr())
	}
	s.c = newSidecar(t, setup{source: s.src.URL(0), target: s.dst.URL(0), dbmap: crashMap})
	s.c.start(failpoints)
	s.c.awaitReady()
	s.through = startLoad(t, history.Config{Addr: s.c.addr, Databases: []int{0, 3}, Writers: 4, MaxRate: 300, OpTimeout: 20 * time.Second})
	s.direct = startLoad(t, history.Config{Addr: s.src.Addr(), Databases: []int{0, 3}, Writers: 1, MaxRate: 200, OpTimeout: 20 * time.Second})
	s.goOn(200)
	return s
}

// goOn waits until the writers had n more writes acknowledged.
func (s *stage) goOn(n uint64) {
	s.t.Helper()
	before := s.through.h.Stats().Acked
	redistest.Eventually(s.t, 30*time.Second, func() error {
		if now := s.through.h.Stats().Acked; now < before+n {
			return fmt.Errorf("%d writes acknowledged since, want %d; last error: %s", now-before, n, s.through.h.Stats().LastError)
		}
		return nil
	}, "the writers go on")
}

// switchOnce asks for a switch away from side; the process may die meanwhile.
func (s *stage) switchOnce(from router.Side) error {
	var err error
	if from == router.Source {
		_, err = s.c.cutover()
	} else {
		_, err = s.c.rollback()
	}
	return err
}

// settle checks that everything acknowledged is where the applications are, that
// a switch works, and again.
func (s *stage) settle(want router.Side) {
	s.t.Helper()
	s.goOn(100)
	st := s.c.awaitReady()
	if st.Side != want {
		s.t.Fatalf("the applications are on the %s, want the %s (phase %s)", st.Side, want, st.Phase)
	}
	if err := s.switchOnce(want); err != nil {
		s.t.Fatalf("another switch after the fault: %v", err)
	}
	s.goOn(100)
	side := s.c.awaitReady().Side
	if side != want.Other() {
		s.t.Fatalf("the applications are on the %s after another switch, want the %s", side, want.Other())
	}
	server, m := s.src, func(db int) int { return db }
	if side == router.Target {
		server, m = s.dst, mapping(crashMap)
	}
	s.through.mustHold(s.t, server.Addr(), m)
	s.direct.mustHold(s.t, server.Addr(), m)
	s.c.end(side == router.Source)
	equalSides(s.t, s.src, s.dst, crashMap)
}

// committed reports whether a crash at that point leads to the other side.
func committed(step, point string) bool {
	i := slices.Index(migration.StepNames(), step)
	j := slices.Index(migration.StepNames(), "journal")
	return i > j || i == j && point == "after"
}

func verbOf(from router.Side) string {
	if from == router.Source {
		return "cutover"
	}
	return "rollback"
}

// eachPoint runs f as a parallel subtest for every failpoint of both verbs.
func eachPoint(t *testing.T, f func(t *testing.T, from router.Side, step, point string)) {
	t.Helper()
	for _, from := range []router.Side{router.Source, router.Target} {
		for _, step := range migration.StepNames() {
			for _, point := range []string{"before", "after"} {
				t.Run(verbOf(from)+"."+step+":"+point, func(t *testing.T) {
					if testing.Short() && step != "hard-fence" && step != "journal" {
						t.Skip("the whole matrix is for the full run")
					}
					t.Parallel()
					f(t, from, step, point)
				})
			}
		}
	}
}

// reach brings the stage to the side that is to be left.
func (s *stage) reach(from router.Side) {
	s.t.Helper()
	if from == router.Target {
		if err := s.switchOnce(router.Source); err != nil {
			s.t.Fatal(err)
		}
		s.c.awaitReady()
		s.goOn(50)
	}
}

// TestKilledAtEveryStep kills the sidecar with SIGKILL at each step of a cutover
// and of a rollback and starts it again.
func TestKilledAtEveryStep(t *testing.T) {
	eachPoint(t, func(t *testing.T, from router.Side, step, point string) {
		s := newStage(t, verbOf(from)+"."+step+":"+point+"=kill")
		s.reach(from)
		if err := s.switchOnce(from); err == nil {
			t.Fatal("the switch went through although the process was to die in it")
		}
		_ = s.c.awaitExit(20 * time.Second)
		s.c.start("")
		want := from
		if committed(step, point) {
			want = from.Other()
		}
		s.settle(want)
	})
}

// TestKilledAndStateFileLost is the same without the state file: the control
// keys on the servers must be enough.
func TestKilledAndStateFileLost(t *testing.T) {
	eachPoint(t, func(t *testing.T, from router.Side, step, point string) {
		if point == "before" && step != "journal" && step != "commit" {
			t.Skip("the same persisted state as after the step before")
		}
		s := newStage(t, verbOf(from)+"."+step+":"+point+"=kill")
		s.reach(from)
		_ = s.switchOnce(from)
		_ = s.c.awaitExit(20 * time.Second)
		if err := os.Remove(s.c.state); err != nil {
			t.Fatal(err)
		}
		s.c.start("")
		want := from
		if committed(step, point) {
			want = from.Other()
		}
		s.settle(want)
	})
}

// faultAt pauses the sidecar at a failpoint, runs fault, and lets it go on.
func (s *stage) faultAt(from router.Side, file string, fault func()) error {
	s.t.Helper()
	return s.faultDuring(func() error { return s.switchOnce(from) }, file, fault)
}

// faultDuring is faultAt for another call.
func (s *stage) faultDuring(call func() error, file string, fault func()) error {
	s.t.Helper()
	result := make(chan error, 1)
	go func() { result <- call() }()
	redistest.Eventually(s.t, 20*time.Second, func() error {
		if _, err := os.Stat(file); err != nil {
			return errors.New("the failpoint was not reached")
		}
		return nil
	}, "failpoint")
	fault()
	if err := os.Remove(file); err != nil {
		s.t.Fatal(err)
	}
	return <-result
}

// TestTargetKilledAtEveryStep kills the target's process at each step and starts
// it again; it keeps its data on disk and forgets its ACL users.
func TestTargetKilledAtEveryStep(t *testing.T) {
	eachPoint(t, func(t *testing.T, from router.Side, step, point string) {
		file := filepath.Join(t.TempDir(), "here")
		s := newStage(t, verbOf(from)+"."+step+":"+point+"#1=wait:"+file)
		s.reach(from)
		err := s.faultAt(from, file, func() {
			s.dst.Kill()
			if err := s.dst.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("the switch ended with: %v", err)
		s.settle(s.c.awaitReady().Side)
	})
}

// TestFeedCutAtEveryStep cuts the notification connections of both servers.
func TestFeedCutAtEveryStep(t *testing.T) {
	eachPoint(t, func(t *testing.T, from router.Side, step, point string) {
		file := filepath.Join(t.TempDir(), "here")
		s := newStage(t, verbOf(from)+"."+step+":"+point+"#1=wait:"+file)
		s.reach(from)
		err := s.faultAt(from, file, func() {
			for _, feed := range s.feeds {
				feed.Cut()
			}
		})
		t.Logf("the switch ended with: %v", err)
		s.settle(s.c.awaitReady().Side)
	})
}
