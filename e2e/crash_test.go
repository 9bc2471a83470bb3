package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/router"
)

const crashMap = "0=1,3=0"

// keeping is a server that keeps what it acknowledged when it is killed: with
// everysec a busy disk makes it answer before it has written.
var keeping = []redistest.Option{redistest.WithAOF(), redistest.WithConfig("appendfsync", "no"), redistest.WithConfig("repl-diskless-sync-delay", "0")}

// replicable is one that replicas can be made of, to look at it through the fence.
var replicable = append([]redistest.Option{redistest.WithACL(replicator + " on >" + password + " +psync +replconf +ping")}, keeping...)

// stage is two servers, a sidecar and writers.
type stage struct {
	t        *testing.T
	src, dst *redistest.Server
	c        *sidecar
	links    [2]*redistest.Link // the sidecar's connections go through these,
	feeds    [2]*redistest.Link // and those for notifications through these
	hasty    bool               // the sidecar's time-outs are shorter than a busy machine may need
	front    *redistest.Link    // the writers of through go through it, where a test has one
	through  *load
	direct   *load
	meets    []string // flags of members: where they meet
}

func newStage(t *testing.T, failpoints string, extra ...string) *stage {
	t.Helper()
	return newStageOn(t, replicable, replicable, failpoints, extra...)
}

// newStageOn is newStage with servers of other kinds.
func newStageOn(t *testing.T, source, target []redistest.Option, failpoints string, extra ...string) *stage {
	t.Helper()
	s := newServers(t, source, target)
	s.c = s.sidecar(extra...)
	s.c.start(failpoints + s.ledApart())
	s.c.awaitReady()
	s.load(s.c.addr)
	return s
}

// newServers makes a stage of two servers and the links to them.
func newServers(t *testing.T, source, target []redistest.Option) *stage {
	t.Helper()
	s := &stage{t: t, src: redistest.Start(t, source...), dst: redistest.Start(t, target...)}
	for side, server := range []*redistest.Server{s.src, s.dst} {
		s.links[side] = redistest.NewLink(t, server.Addr())
		s.feeds[side] = redistest.NewLink(t, server.Addr())
	}
	return s
}

// ledApart are the failpoints that lead the notifications through links of their own.
func (s *stage) ledApart() string {
	var text string
	for side, feed := range s.feeds {
		text += fmt.Sprintf(",mirror.feed.%s=%s", router.Side(side), feed.Addr())
	}
	return text
}

// sidecar makes a sidecar between the servers, with a state file of its own.
func (s *stage) sidecar(extra ...string) *sidecar {
	s.t.Helper()
	return newSidecar(s.t, setup{
		source: "redis://" + s.links[router.Source].Addr(), target: "redis://" + s.links[router.Target].Addr(),
		dbmap: crashMap, extra: extra,
	})
}

// load lets writers loose, on the clients' address and past it.
func (s *stage) load(clients string) {
	s.t.Helper()
	t := s.t
	s.through = startLoad(t, history.Config{Addr: clients, Databases: []int{0, 3}, Writers: 4, MaxRate: 300, OpTimeout: 20 * time.Second})
	s.direct = startLoad(t, history.Config{Addr: s.src.Addr(), Databases: []int{0, 3}, Writers: 1, MaxRate: 200, OpTimeout: 20 * time.Second})
	s.goOn(200)
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

// mustSwitch switches away from side. On a machine that is too busy clients would
// wait for too long: then it is tried again, as an operator would.
func (s *stage) mustSwitch(from router.Side) {
	s.t.Helper()
	redistest.Eventually(s.t, time.Minute, func() error {
		err := s.switchOnce(from)
		late := s.hasty && err != nil && strings.Contains(err.Error(), "i/o timeout")
		if err != nil && !outOfTime(err) && !late {
			s.t.Fatalf("the switch away from the %s: %v", from, err)
		}
		return err
	}, "a switch away from the %s", from)
}

// outOfTime reports whether a switch was given up because clients would have waited
// for too long.
func outOfTime(err error) bool {
	return err != nil && strings.Contains(err.Error(), "cutover.max_stall")
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
	s.mustSwitch(want)
	s.goOn(100)
	side := s.c.awaitReady().Side
	if side != want.Other() {
		s.t.Fatalf("the applications are on the %s after another switch, want the %s", side, want.Other())
	}
	s.mustHoldAt(side)
	s.c.end(side == router.Source)
	equalSides(s.t, s.src, s.dst, crashMap)
}

// mustHoldAt ends the writers and fails unless what was acknowledged is on one side.
func (s *stage) mustHoldAt(side router.Side) {
	s.t.Helper()
	server, m := s.src, func(db int) int { return db }
	if side == router.Target {
		server, m = s.dst, mapping(crashMap)
	}
	s.through.mustHold(s.t, server.Addr(), m)
	s.direct.mustHold(s.t, server.Addr(), m)
}

func verbOf(from router.Side) string {
	if from == router.Source {
		return "cutover"
	}
	return "rollback"
}

// reach brings the stage to the side that is to be left.
func (s *stage) reach(from router.Side) {
	s.t.Helper()
	if from == router.Target {
		s.mustSwitch(router.Source)
		s.c.awaitReady()
		s.goOn(50)
	}
}

// faultAt pauses the sidecar at a failpoint, runs fault, and lets it go on.
func (s *stage) faultAt(from router.Side, file string, fault func()) error {
	s.t.Helper()
	return <-s.heldAt(from, file, fault)
}

// heldAt is faultAt that does not wait for the switch's end.
func (s *stage) heldAt(from router.Side, file string, fault func()) <-chan error {
	s.t.Helper()
	var reached atomic.Bool
	return s.heldDuring(s.switchLater(from, &reached), &reached, file, fault)
}

// faultDuring is faultAt for another call.
func (s *stage) faultDuring(call func() error, file string, fault func()) error {
	s.t.Helper()
	result := make(chan error, 1)
	go func() { result <- call() }()
	return <-s.heldDuring(result, new(atomic.Bool), file, fault)
}

// heldDuring is heldAt for a call that is under way and sends its result. It says when
// the failpoint was reached.
func (s *stage) heldDuring(result <-chan error, reached *atomic.Bool, file string, fault func()) <-chan error {
	s.t.Helper()
	redistest.Eventually(s.t, time.Minute, func() error {
		if _, err := os.Stat(file); err != nil {
			return errors.New("the failpoint was not reached")
		}
		return nil
	}, "failpoint")
	reached.Store(true)
	fault()
	if err := os.Remove(file); err != nil {
		s.t.Fatal(err)
	}
	return result
}

// switchLater asks for a switch and does not wait. One that is out of time before the
// point is reached is asked for again.
func (s *stage) switchLater(from router.Side, reached *atomic.Bool) <-chan error {
	result := make(chan error, 1)
	go func() {
		err := s.switchOnce(from)
		for outOfTime(err) && !reached.Load() {
			err = s.switchOnce(from)
		}
		result <- err
	}()
	return result
}
