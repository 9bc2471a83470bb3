package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// TestFenceLostWhileTheDecisionIsWritten: with F2 it is the target that has the decision. While
// that does not answer, the fence on the source is lost, as when it restarts: the switch is
// taken back, and what the source has acknowledged meanwhile is kept.
func TestFenceLostWhileTheDecisionIsWritten(t *testing.T) {
	t.Parallel()
	src := redistest.Start(t, append([]redistest.Option{redistest.WithRenamed("ACL", "")}, keeping...)...)
	dst := redistest.Start(t, keeping...)
	link := redistest.NewLink(t, dst.Addr())
	file := filepath.Join(t.TempDir(), "here")
	s := &stage{t: t, src: src, dst: dst}
	s.c = newSidecar(t, setup{source: src.URL(0), target: "redis://" + link.Addr(), dbmap: crashMap, extra: []string{"--cutover.max_stall", "1m"}})
	s.c.start("cutover.journal:before#1=wait:" + file)
	s.c.awaitReady()
	s.load(s.c.addr)
	result := s.heldAt(router.Source, file, func() { link.Stall(true) })
	s.c.await("the decision is not written", func(st migration.Status) bool {
		return strings.Contains(strings.Join(st.Reasons, "\n"), "cannot be written yet")
	})
	do(t, src.Client(0), "CONFIG", "SET", "min-replicas-to-write", "0")
	do(t, src.Client(0), "SET", "past:us", "v")
	link.Stall(false)
	err := <-result
	t.Logf("the switch: %v", err)
	if err == nil {
		t.Error("the switch went through")
	}
	if st := s.c.awaitReady(); st.Side != router.Source {
		t.Fatalf("the applications are on the %s", st.Side)
	}
	redistest.Eventually(t, 20*time.Second, func() bool {
		return dst.Client(mapping(crashMap)(0)).Get(t.Context(), "past:us").Val() == "v"
	}, "what was written past us is copied")
	s.mustSwitch(router.Source)
	s.goOn(100)
	s.through.mustHold(t, dst.Addr(), mapping(crashMap))
	s.direct.mustHold(t, dst.Addr(), mapping(crashMap))
}
