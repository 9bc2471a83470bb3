package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/internal/redistest/history"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// regressStage is a stage whose sidecar sees both servers through links, on
// database 0 only. Its servers keep nothing on disk.
func regressStage(t *testing.T, failpoints string) (s *stage, links [2]*redistest.Link) {
	t.Helper()
	s = &stage{t: t, src: redistest.Start(t), dst: redistest.Start(t)}
	for side, server := range []*redistest.Server{s.src, s.dst} {
		links[side] = redistest.NewLink(t, server.Addr())
	}
	url := func(l *redistest.Link) string { return "redis://" + l.Addr() }
	s.c = newSidecar(t, setup{source: url(links[0]), target: url(links[1]), dbmap: "0=0", extra: []string{"--proxy.dial_timeout", "1s"}})
	s.c.start(failpoints)
	s.c.awaitReady()
	s.through = startLoad(t, history.Config{Addr: s.c.addr, Databases: []int{0}, Writers: 2, MaxRate: 300, OpTimeout: 20 * time.Second})
	s.goOn(50)
	return s, links
}

// away cuts a link and lets no new connection through.
func away(l *redistest.Link, on bool) {
	l.Refuse(on)
	if on {
		l.Cut()
	}
}

// users is the server's ACL LIST without our own user.
func users(t *testing.T, s *redistest.Server) []string {
	t.Helper()
	list := must[[]string](t)(s.Client(0).Do(t.Context(), "ACL", "LIST").StringSlice())
	return slices.DeleteFunc(list, func(u string) bool { return strings.HasPrefix(u, "user "+migration.OwnUser+" ") })
}

// mustStay checks that the applications go on at the source after an attempt
// that failed, also past the proxy.
func (s *stage) mustStay(t *testing.T) {
	t.Helper()
	s.goOn(50)
	if err := s.src.Client(0).Set(t.Context(), "past the proxy", 1, 0).Err(); err != nil {
		t.Errorf("a writer past the proxy is still refused: %v", err)
	}
	if st := s.c.awaitReady(); st.Side != router.Source {
		t.Fatalf("the applications are on the %s, want the source (phase %s)", st.Side, st.Phase)
	}
}

// thereAndBack cuts over, rolls back and checks the writers' history.
func (s *stage) thereAndBack(t *testing.T) {
	t.Helper()
	for _, from := range []router.Side{router.Source, router.Target} {
		if err := s.switchOnce(from); err != nil {
			t.Fatalf("the %s afterwards: %v", verbOf(from), err)
		}
		s.goOn(50)
		s.c.awaitReady()
	}
	s.through.mustHold(t, s.src.Addr(), mapping("0=0"))
}

// TestRegressFenceNotLowered cuts the source off after its fence was raised, so
// that the attempt cannot be taken back yet. Clients must not be released to the
// fenced server, and what the fence took must not be forgotten or saved again as
// if the users had always been so.
func TestRegressFenceNotLowered(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "here")
	s, links := regressStage(t, "cutover.drain-2:before#1=wait:"+file)
	if err := s.src.Client(0).Do(t.Context(), "ACL", "SETUSER", "app", "on", ">secret", "~app:*", "+@read", "+set").Err(); err != nil {
		t.Fatal(err)
	}
	before := users(t, s.src)
	result, cut := make(chan error, 1), make(chan struct{})
	go func() {
		result <- s.faultAt(router.Source, file, func() { away(links[0], true); close(cut) })
	}()
	<-cut
	// The link comes back only after the fence could not be lowered once; an
	// attempt that ended all the same has forgotten it.
	s.c.await("the fence cannot be lowered", func(st migration.Status) bool {
		said := func(reason string) bool { return strings.Contains(reason, "the fence is not lowered yet") }
		return slices.ContainsFunc(st.Reasons, said) || !st.Phase.Switching()
	})
	away(links[0], false)
	if err := <-result; err == nil {
		t.Fatal("the cutover went through although the source was away")
	}
	s.mustStay(t)
	if after := users(t, s.src); !slices.Equal(before, after) {
		t.Errorf("the users after the failed attempt:\n%q\nwant\n%q", after, before)
	}
	s.thereAndBack(t)
	if after := users(t, s.src); !slices.Equal(before, after) {
		t.Errorf("the users after there and back:\n%q\nwant\n%q", after, before)
	}
}

// TestRegressStateFileUnwritable makes the state file impossible to write while
// clients are held, and has no room beside it either: the attempt must be taken back, and
// nobody kept waiting.
func TestRegressStateFileUnwritable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "here")
	s, _ := regressStage(t, "cutover.soft-fence:before#1=wait:"+file)
	inTheWay := s.c.state + ".tmp"
	if err := os.Mkdir(s.c.state+".hold", 0o700); err != nil {
		t.Fatal(err)
	}
	err := s.faultAt(router.Source, file, func() {
		if err := os.Mkdir(inTheWay, 0o700); err != nil {
			t.Fatal(err)
		}
	})
	if err == nil {
		t.Fatal("the cutover went through although the state file cannot be written")
	}
	s.mustStay(t)
	for _, path := range []string{inTheWay, s.c.state + ".hold"} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	s.thereAndBack(t)
}

// TestRegressStateFileFullUnderTheHold: the file cannot be replaced any more while clients
// are held, but there is room beside it. The switch goes through, and a sidecar that is
// killed then knows of it.
func TestRegressStateFileFullUnderTheHold(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "here")
	s, _ := regressStage(t, "cutover.soft-fence:before#1=wait:"+file+",cutover.after:before#1=kill")
	inTheWay := s.c.state + ".tmp"
	_ = s.faultAt(router.Source, file, func() {
		if err := os.Mkdir(inTheWay, 0o700); err != nil {
			t.Fatal(err)
		}
	})
	_ = s.c.awaitExit(20 * time.Second)
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	s.c.start("")
	if st := s.c.awaitReady(); st.Side != router.Target || st.Epoch != 1 {
		t.Errorf("afterwards the applications are on the %s, epoch %d", st.Side, st.Epoch)
	}
}

// TestRegressTargetEmptyAfterJournal restarts the target without its data when
// the switch is decided and not yet committed: it must be filled again before
// clients are let on it, and above all not be copied back to the source.
func TestRegressTargetEmptyAfterJournal(t *testing.T) {
	t.Parallel()
	const keys = 500
	file := filepath.Join(t.TempDir(), "here")
	s, _ := regressStage(t, "cutover.commit:before#1=wait:"+file)
	for i := range keys {
		if err := s.src.Client(0).Set(t.Context(), fmt.Sprintf("old:%d", i), i, 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	err := s.faultAt(router.Source, file, func() {
		s.dst.Kill()
		if err := s.dst.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := must[int64](t)(s.dst.Client(0).DBSize(t.Context()).Result()); n != 0 {
			t.Errorf("the target came back with %d keys, the test wants it empty", n)
		}
	})
	if err != nil {
		t.Fatalf("the cutover past its point of no return: %v", err)
	}
	// Whoever is let on the target must find everything there at once.
	mustHaveOld(t, s.dst, keys)
	s.goOn(50)
	if st := s.c.awaitReady(); st.Side != router.Target {
		t.Fatalf("the applications are on the %s, want the target (phase %s)", st.Side, st.Phase)
	}
	if err := s.switchOnce(router.Target); err != nil {
		t.Fatal(err)
	}
	s.goOn(50)
	mustHaveOld(t, s.src, keys)
	s.through.mustHold(t, s.src.Addr(), mapping("0=0"))
}

func mustHaveOld(t *testing.T, s *redistest.Server, keys int) {
	t.Helper()
	for i := range keys {
		key := fmt.Sprintf("old:%d", i)
		if v, err := s.Client(0).Get(t.Context(), key).Int(); err != nil || v != i {
			t.Fatalf("%s at %s is %d (%v)", key, s.Addr(), v, err)
		}
	}
}

// TestRegressCompleteRepeated completes a migration while the source is away: it
// says so, and a sidecar started later does the rest.
func TestRegressCompleteRepeated(t *testing.T) {
	t.Parallel()
	s, links := regressStage(t, "")
	servers := []*redistest.Server{s.src, s.dst}
	before := [][]string{users(t, s.src), users(t, s.dst)}
	if err := s.switchOnce(router.Source); err != nil {
		t.Fatal(err)
	}
	s.c.awaitReady()
	away(links[router.Source], true)
	if _, err := s.c.admin.Complete(t.Context(), admin.CompleteRequest{}); err == nil {
		t.Fatal("the migration was completed although the source was away")
	}
	s.c.kill()
	away(links[router.Source], false)
	s.c.start("")
	redistest.Eventually(t, 10*time.Second, func() error {
		_, err := s.c.admin.Complete(t.Context(), admin.CompleteRequest{})
		return err
	}, "complete again")
	s.goOn(50)
	if err := s.through.end(); err != nil {
		t.Fatal(err)
	}
	for i, server := range servers {
		if err := server.Client(0).Set(t.Context(), "afterwards", 1, 0).Err(); err != nil {
			t.Errorf("a write at %s: %v", server.Addr(), err)
		}
		list := must[[]string](t)(server.Client(0).Do(t.Context(), "ACL", "LIST").StringSlice())
		if !slices.Equal(list, before[i]) {
			t.Errorf("the users at %s:\n%q\nwant\n%q", server.Addr(), list, before[i])
		}
		if left := must[[]string](t)(server.Client(0).Keys(t.Context(), "crossfade:*").Result()); len(left) > 0 {
			t.Errorf("left at %s: %q", server.Addr(), left)
		}
	}
	s.through.mustHold(t, s.dst.Addr(), mapping("0=0"))
}
