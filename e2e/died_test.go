package e2e

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// What becomes of a switch when a server dies around its decision, as docs/recovery.md
// tells it. Here the servers differ in what they keep themselves.

// moment is how long after the commit a server dies.
const moment = 50 * time.Millisecond

// syncing are the options of a server with an append-only file.
func syncing(policy string) []redistest.Option {
	return []redistest.Option{
		redistest.WithAOF(), redistest.WithConfig("appendfsync", policy), redistest.WithConfig("repl-diskless-sync-delay", "0"),
	}
}

// awaitWritten waits until the append-only file has all that the server has answered:
// with everysec a busy disk makes it answer first.
func awaitWritten(t *testing.T, s *redistest.Server) {
	t.Helper()
	redistest.Eventually(t, 20*time.Second, func() error {
		text, err := s.Client(0).Info(t.Context(), "persistence").Result()
		if err == nil && !strings.Contains(text, "aof_buffer_length:0\r\n") {
			err = errors.New("some is in its buffer")
		}
		return err
	}, "the append-only file of %s", s.Addr())
}

// rise starts servers again that were killed.
func rise(t *testing.T, servers ...*redistest.Server) {
	t.Helper()
	for _, s := range servers {
		if err := s.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// calm ends the writers of a stage.
func (s *stage) calm() {
	s.t.Helper()
	for _, l := range []*load{s.through, s.direct} {
		if err := l.end(); err != nil {
			s.t.Fatal(err)
		}
	}
}

// tally counts on a server, past everything, until that dies. An append-only file is
// written in order, so a server that comes back with the last count that it acknowledged
// has lost nothing of what came before it.
type tally struct {
	server *redistest.Server
	acked  atomic.Int64
	ended  chan struct{}
}

// Its database is not in the stage's map.
const tallyDB, tallyKey = 9, "tally"

func startTally(t *testing.T, s *redistest.Server) *tally {
	t.Helper()
	c := redis.NewClient(redistest.Options(s.Addr(), tallyDB)) // these try nothing twice
	w := &tally{server: s, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		defer func() { _ = c.Close() }()
		for {
			n, err := c.Incr(context.WithoutCancel(t.Context()), tallyKey).Result()
			if err != nil {
				return
			}
			w.acked.Store(n)
		}
	}()
	return w
}

// last is the last count that the server, which is dead, has acknowledged.
func (w *tally) last() int64 {
	<-w.ended
	return w.acked.Load()
}

// kept is the count that the server came back with; it is removed.
func (w *tally) kept(t *testing.T) int64 {
	t.Helper()
	n, err := w.server.Client(tallyDB).GetDel(t.Context(), tallyKey).Int64()
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	return n
}

// TestTargetDiesAfterTheCommit: the target, or both servers, die 50 ms after the commit
// and come back. The applications go on on the target with all that it has kept, and the
// way back works.
func TestTargetDiesAfterTheCommit(t *testing.T) {
	for _, policy := range []string{"always", "everysec"} {
		for _, both := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s both %v", policy, both), func(t *testing.T) {
				t.Parallel()
				s := newStageOn(t, syncing(policy), syncing(policy), "")
				s.mustSwitch(router.Source)
				w := startTally(t, s.dst)
				<-time.After(moment) // that it is this moment is what is tried
				s.dst.Kill()
				acked := w.last()
				died := []*redistest.Server{s.dst}
				if both {
					s.src.Kill()
					died = append(died, s.src)
				}
				s.calm()
				rise(t, died...)
				had := w.kept(t)
				kept := must[history.Report](t)(s.through.h.Verify(t.Context(), s.dst.Addr(), history.Creds{}, mapping(crashMap)))
				switch {
				case kept.OK():
				case policy == "always":
					t.Fatalf("a target that syncs always has lost something: %s", kept)
				case had >= acked:
					t.Fatalf("the target has kept the last that it acknowledged, so it is we who lost something: %s", kept)
				default:
					t.Skipf("the disk was busy, and the target itself has lost %d writes of %d that it had acknowledged to the test: %s", acked-had, acked, kept)
				}
				s.through.begin()
				s.goOn(100)
				s.c.awaitReady()
				s.oneWritable(router.Target)
				s.settle(router.Target)
			})
		}
	}
}

// TestTargetFailsOverAfterTheCommit: a replica takes the place of a target that died 50 ms
// after the commit. It has all that was acknowledged before the switch, and knows of it.
func TestTargetFailsOverAfterTheCommit(t *testing.T) {
	t.Parallel()
	s := newStage(t, "")
	replica := replicaOf(t, s.dst)
	s.goOn(50)
	s.calm()
	s.c.awaitReady()
	s.mustSwitch(router.Source)
	<-time.After(moment) // that it is this moment is what is tried
	s.dst.Kill()
	do(t, replica.Client(0), "REPLICAOF", "NO", "ONE")
	for _, l := range []*redistest.Link{s.links[router.Target], s.feeds[router.Target]} {
		l.SetUpstream(replica.Addr())
		l.Cut()
	}
	s.dst = replica
	s.through.mustHold(t, replica.Addr(), mapping(crashMap))
	s.direct.mustHold(t, replica.Addr(), mapping(crashMap))
	s.through.begin()
	s.goOn(100)
	s.c.awaitReady()
	s.oneWritable(router.Target)
	s.settle(router.Target)
}

// TestSourceDiesBeforeTheJournal: the source, or both servers, die between the fence and
// the journal and come back. The switch is taken back, nothing is lost, and the next one
// works.
func TestSourceDiesBeforeTheJournal(t *testing.T) {
	for _, policy := range []string{"always", "everysec"} {
		for _, both := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s both %v", policy, both), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				paused, fenced := filepath.Join(dir, "paused"), filepath.Join(dir, "fenced")
				s := newStageOn(t, syncing(policy), syncing(policy),
					"cutover.hard-fence:before#1=wait:"+paused+",cutover.journal:before#1=wait:"+fenced, "--cutover.max_stall", "1m")
				var reached atomic.Bool
				result := s.switchLater(router.Source, &reached)
				s.heldDuring(result, &reached, paused, func() { awaitWritten(t, s.src) }) // behind the fence nobody may ask
				err := <-s.heldDuring(result, &reached, fenced, func() {
					died := []*redistest.Server{s.src}
					if both {
						awaitWritten(t, s.dst)
						died = append(died, s.dst)
					}
					for _, server := range died {
						server.Kill()
					}
					rise(t, died...)
				})
				if err == nil {
					t.Fatal("the switch went through although the source had forgotten its fence")
				}
				t.Logf("the switch ended with: %v", err)
				s.c.awaitReady()
				s.oneWritable(router.Source)
				s.settle(router.Source)
			})
		}
	}
}

// oldKeys are keys of old, which are there before anything happens.
const oldKeys = 500

// plant gives the old keys a value, on the source.
func (s *stage) plant(value string) {
	s.t.Helper()
	pipe := s.src.Client(0).Pipeline()
	for i := range oldKeys {
		pipe.Set(s.t.Context(), fmt.Sprintf("old:%d", i), value, 0)
	}
	if _, err := pipe.Exec(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	redistest.Eventually(s.t, time.Minute, func() error { // on the target, for the writers go on
		keys := make([]string, oldKeys)
		for i := range keys {
			keys[i] = fmt.Sprintf("old:%d", i)
		}
		got, err := s.dst.Client(mapping(crashMap)(0)).MGet(s.t.Context(), keys...).Result()
		if err != nil {
			return err
		}
		for i, v := range got {
			if v != value {
				return fmt.Errorf("%s is %v on the target", keys[i], v)
			}
		}
		return nil
	}, "the old keys are copied")
}

// mustHavePlanted fails unless each old key in a database has one of the values.
func mustHavePlanted(t *testing.T, where *redistest.Server, db int, values ...string) {
	t.Helper()
	pipe := where.Client(db).Pipeline()
	for i := range oldKeys {
		pipe.Get(t.Context(), fmt.Sprintf("old:%d", i))
	}
	got, _ := pipe.Exec(t.Context())
	for i, g := range got {
		if text := fmt.Sprint(g); !strings.HasSuffix(text, ": "+values[0]) && !strings.HasSuffix(text, ": "+values[len(values)-1]) {
			t.Fatalf("old key %d at %s is %q, want one of %q", i, where.Addr(), text, values)
		}
	}
}

// lostTarget is a stage whose target comes back from 50 ms after the commit without what it
// had: empty, or as it was before the last values were planted. All of the writers'
// history is older than the switch.
func lostTarget(t *testing.T, stale bool) *stage {
	t.Helper()
	s := newStageOn(t, nil, nil, "", "--cutover.wait_ready", "200ms")
	s.plant("older")
	if stale {
		if err := s.dst.Client(0).Save(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	s.plant("newer")
	s.goOn(100)
	s.calm()
	s.c.awaitReady()
	s.mustSwitch(router.Source)
	// What is written in those milliseconds is on its way back when the target dies.
	newest := startLoad(t, history.Config{Addr: s.c.addr, Databases: []int{0}, Writers: 2, Prefix: "newest", OpTimeout: 20 * time.Second})
	redistest.Eventually(t, 20*time.Second, func() bool { return newest.h.Stats().Acked > 0 }, "the writers begin")
	<-time.After(moment) // that it is this moment is what is tried
	s.dst.Kill()
	if err := newest.end(); err != nil {
		t.Fatal(err)
	}
	rise(t, s.dst)
	why := "lost its data"
	if stale {
		why = "does not know any more"
	}
	st := s.c.await("the loss is seen", func(st migration.Status) bool {
		return st.Phase == migration.ReverseLost && strings.Contains(strings.Join(st.Reasons, "; "), why)
	})
	if st.Side != router.Target || st.Ready {
		t.Fatalf("side %s, ready %v: the applications stay where they are, and no way leads back", st.Side, st.Ready)
	}
	var answered *admin.Error
	if _, err := s.c.rollback(); !errors.As(err, &answered) || answered.Code != 409 || !strings.Contains(strings.Join(answered.Reasons, "; "), why) {
		t.Fatalf("a rollback: %v", err)
	}
	return s
}

// TestTargetComesBackInAnOlderState: the source, which alone has what was acknowledged
// before the switch, is left as it is, whatever is dirty or due, and can be used again.
func TestTargetComesBackInAnOlderState(t *testing.T) {
	for _, stale := range []bool{false, true} {
		t.Run(fmt.Sprintf("stale %v", stale), func(t *testing.T) {
			t.Parallel()
			s := lostTarget(t, stale)
			// A restart of the sidecar does not make it forget.
			s.c.kill()
			s.c.start("")
			s.c.await("the loss is seen again", func(st migration.Status) bool {
				return st.Phase == migration.ReverseLost && strings.Contains(strings.Join(st.Reasons, "; "), "is left as it is")
			})
			if _, err := s.c.admin.Complete(t.Context(), admin.CompleteRequest{}); err != nil {
				t.Fatal(err)
			}
			s.c.kill()
			mustHavePlanted(t, s.src, 0, "newer")
			s.through.mustHold(t, s.src.Addr(), mapping("0=0,3=3"))
			s.direct.mustHold(t, s.src.Addr(), mapping("0=0,3=3"))

			// As the documentation says: from the source anew.
			if err := s.dst.Client(0).FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			s.anew(crashMap, s.src, s.dst)
		})
	}
}

// TestOlderStateAccepted: with sync.accept_loss the target counts all the same.
func TestOlderStateAccepted(t *testing.T) {
	t.Parallel()
	s := lostTarget(t, true)
	s.c.kill()
	s.c.args = append(s.c.args, "--sync.accept_loss")
	s.c.start("")
	s.c.awaitReady()
	s.mustSwitch(router.Target)
	s.c.end(true)
	mustHavePlanted(t, s.src, 0, "older")
	equalSides(t, s.src, s.dst, crashMap)
}

// TestSourceComesBackEmptyBeforeTheJournal: the target, which has all that was drained,
// is left as it is, and the applications can be sent there.
func TestSourceComesBackEmptyBeforeTheJournal(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "here")
	s := newStageOn(t, nil, nil, "cutover.journal:before#1=wait:"+file, "--cutover.wait_ready", "200ms")
	s.plant("newer")
	s.goOn(100)
	s.calm()
	s.c.awaitReady()
	err := s.faultAt(router.Source, file, func() {
		s.src.Kill()
		rise(t, s.src)
	})
	if err == nil {
		t.Fatal("the switch went through although the source had lost everything")
	}
	st := s.c.await("the loss is seen", func(st migration.Status) bool {
		return st.Phase == migration.Resync && strings.Contains(strings.Join(st.Reasons, "; "), "lost its data")
	})
	if st.Side != router.Source {
		t.Fatalf("the applications are on the %s", st.Side)
	}
	if _, err := s.c.admin.Complete(t.Context(), admin.CompleteRequest{StayOnSource: true}); err != nil {
		t.Fatal(err)
	}
	s.c.kill()
	mustHavePlanted(t, s.dst, 1, "newer")
	s.through.mustHold(t, s.dst.Addr(), mapping(crashMap))
	s.direct.mustHold(t, s.dst.Addr(), mapping(crashMap))

	// As the documentation says: the other way round.
	if err := s.src.Client(0).FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	s.anew("1=0,0=3", s.dst, s.src)
}

// anew begins a migration between the stage's servers and makes a switch.
func (s *stage) anew(dbmap string, from, to *redistest.Server) {
	s.t.Helper()
	c := newSidecar(s.t, setup{source: from.URL(0), target: to.URL(0), dbmap: dbmap})
	c.start("")
	c.awaitReady()
	l := startLoad(s.t, history.Config{Addr: c.addr, Databases: []int{0}, Writers: 2, Prefix: "anew", MaxRate: 300, OpTimeout: 20 * time.Second})
	redistest.Eventually(s.t, 30*time.Second, func() bool { return l.h.Stats().Acked > 100 }, "writers go on")
	if _, err := c.cutover(); err != nil {
		s.t.Fatal(err)
	}
	l.mustHold(s.t, to.Addr(), mapping(dbmap))
	c.end(false)
	equalSides(s.t, from, to, dbmap)
}
