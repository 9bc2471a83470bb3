package e2e

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// TestLibrariesOfATargetThatRestarts: a target that keeps nothing is restarted under the hold,
// or before it, after function libraries and scripts were carried there. It has them when
// clients come, and the source loses none to what the target had lost.
func TestLibrariesOfATargetThatRestarts(t *testing.T) {
	for _, at := range []string{"cutover.lag-gate:before", "cutover.drain-2:before", "cutover.commit:before"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			// The users outlive the restart: who may not log in any more is another question.
			users := []redistest.Option{redistest.WithACL("mover on >secret ~* &* +@all", "default on nopass ~* &* +@all")}
			s := newServers(t, append(users, keeping...), users)
			do(t, s.src.Client(0), "FUNCTION", "LOAD", oursFirst)
			file := filepath.Join(t.TempDir(), "at")
			s.c = newSidecar(t, setup{
				source: "redis://mover:secret@" + s.src.Addr(), target: "redis://mover:secret@" + s.dst.Addr(), dbmap: crashMap,
				extra: []string{"--cutover.max_stall", "60s", "--cutover.create_user=false", "--sync.accept_loss"}, // the way back asks no questions first
			})
			s.c.start(at + "#1=wait:" + file)
			s.c.awaitReady()
			s.load(s.c.addr)
			app := redis.NewClient(&redis.Options{Addr: s.c.addr})
			defer func() { _ = app.Close() }()
			hash := app.ScriptLoad(t.Context(), "return 7").Val()
			err := s.faultAt(router.Source, file, func() {
				s.dst.Kill()
				if err := s.dst.Restart(t.Context()); err != nil {
					t.Fatal(err)
				}
				if at == "cutover.lag-gate:before" { // it comes back, and the attempt goes on
					s.c.await("everything copied again, and the way back armed", func(st migration.Status) bool {
						listens, err := s.dst.Client(0).Do(t.Context(), "CLIENT", "LIST", "TYPE", "pubsub").Text()
						return err == nil && listens != "" && st.Gaps > 0 && st.Resync == "" &&
							!slices.ContainsFunc(st.Databases, func(d migration.DatabaseStatus) bool { return !d.Done })
					})
				}
			})
			switch { // before the journal it may be taken back, and is not held up by what waits for the copy
			case err == nil:
			case at == "cutover.commit:before" || errors.Is(err, context.DeadlineExceeded):
				t.Fatalf("the switch: %v", err)
			default:
				s.c.awaitReady()
				s.mustSwitch(router.Source)
			}
			if got, err := app.FCall(t.Context(), "first", nil).Int(); err != nil || got != 1 {
				t.Errorf("FCALL on the target: %d, %v", got, err)
			}
			if got, err := app.EvalSha(t.Context(), hash, nil).Int(); err != nil || got != 7 {
				t.Errorf("EVALSHA on the target: %d, %v", got, err)
			}
			s.goOn(50)
			s.c.awaitReady()
			s.c.end(false) // before, the source is fenced
			for side, server := range []*redistest.Server{s.src, s.dst} {
				if got := names(t, server); got != "first" {
					t.Errorf("the %s has the libraries %q", router.Side(side), got)
				}
			}
		})
	}
}
