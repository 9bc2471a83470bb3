package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// TestEnteredServerLosesItsFence: the source, which was left, is restarted while a rollback is
// under way, and forgets its fence, so that a client past the proxy writes there when all has
// been compared. What the applications have is what counts behind the rollback: the fence is
// raised again as long as the attempt waits, and later the attempt ends.
func TestEnteredServerLosesItsFence(t *testing.T) {
	for at, through := range map[string]bool{"rollback.lag-gate:before": true, "rollback.hold:before": false} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			// Who may log in outlives the restart; what we have changed does not.
			users := redistest.WithACL("mover on >secret ~* &* +@all", "default on nopass ~* &* +@all")
			src, dst := redistest.Start(t, append([]redistest.Option{users}, keeping...)...), redistest.Start(t, users)
			url := func(s *redistest.Server) string { return fmt.Sprintf("redis://mover:secret@%s", s.Addr()) }
			file := filepath.Join(t.TempDir(), "here")
			c := newSidecar(t, setup{source: url(src), target: url(dst), dbmap: "0=0", extra: []string{"--cutover.create_user=false", "--cutover.check_sample", "0"}}) // of many keys few are compared
			c.start(at + "#1=wait:" + file)
			c.awaitReady()
			app := redis.NewClient(&redis.Options{Addr: c.addr})
			t.Cleanup(func() { _ = app.Close() })
			if _, err := c.cutover(); err != nil {
				t.Fatal(err)
			}
			do(t, app, "SET", "k", "theirs")
			c.await("all is carried back", func(st migration.Status) bool { return st.Ready && st.Dirty == 0 })
			s := &stage{t: t, c: c, src: src, dst: dst}
			err := s.faultAt(router.Target, file, func() {
				src.Kill()
				rise(t, src)
				c.await("all is compared again", func(st migration.Status) bool {
					return st.Gaps > 0 && st.Resync == "" && !slices.ContainsFunc(st.Databases, func(d migration.DatabaseStatus) bool { return !d.Done })
				})
				do(t, src.Client(0), "SET", "k", "past us")
				do(t, src.Client(0), "SET", "new", "past us")
			})
			t.Logf("the rollback: %v", err)
			if (err == nil) != through {
				t.Errorf("it went through: %v, want %v", err == nil, through)
			}
			if st := c.awaitReady(); st.Side == router.Target {
				if _, err := c.rollback(); err != nil {
					t.Fatal(err)
				}
			}
			if got := app.Get(t.Context(), "k").Val(); got != "theirs" {
				t.Errorf("behind the rollback k is %q, as a client past the proxy had it", got)
			}
			if n := app.Exists(t.Context(), "new").Val(); n != 0 {
				t.Errorf("behind the rollback there is what only the source had")
			}
		})
	}
}

// TestRollbackRightBehindARestart: the source, which was left, has just been restarted when a
// rollback is asked for, and nobody has noticed yet. It takes no write past the proxy while the
// attempt goes on.
func TestRollbackRightBehindARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	before, behind := filepath.Join(dir, "before"), filepath.Join(dir, "behind")
	src, dst := redistest.Start(t, keeping...), redistest.Start(t)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0"})
	c.start("rollback.preflight:before#1=wait:" + before + ",rollback.lag-gate:before#1=wait:" + behind)
	c.awaitReady()
	if _, err := c.cutover(); err != nil {
		t.Fatal(err)
	}
	c.awaitReady()
	s := &stage{t: t, c: c, src: src, dst: dst}
	var reached atomic.Bool
	result := s.switchLater(router.Target, &reached)
	s.heldDuring(result, &reached, before, func() {
		src.Kill()
		rise(t, src)
	})
	err := <-s.heldDuring(result, &reached, behind, func() {
		if err := src.Client(0).Set(t.Context(), "k", "past us", 0).Err(); !redis.HasErrorPrefix(err, "NOPERM") {
			t.Errorf("a write past the proxy to the server that was left: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	do(t, src.Client(0), "SET", "k", "v")
}
