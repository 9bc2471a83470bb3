package e2e

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/router"
)

// TestFenceTakenDownByHandBeforeTheJournal: somebody who knows the user that we were given
// lets the others in while a switch is about to be decided. The journal is written in the
// instant in which the fence is looked at, so the switch is taken back, and nothing that was
// acknowledged meanwhile is lost.
func TestFenceTakenDownByHandBeforeTheJournal(t *testing.T) {
	t.Parallel()
	const user = "mover"
	rules := redistest.WithACL(user + " on >secret ~* &* +@all")
	opts := append([]redistest.Option{rules}, keeping...)
	src, dst := redistest.Start(t, opts...), redistest.Start(t, opts...)
	file := filepath.Join(t.TempDir(), "here")
	url := func(s *redistest.Server) string { return fmt.Sprintf("redis://%s:secret@%s", user, s.Addr()) }
	s := &stage{t: t, src: src, dst: dst}
	s.c = newSidecar(t, setup{source: url(src), target: url(dst), dbmap: crashMap, extra: []string{"--cutover.create_user=false", "--cutover.max_stall", "1m"}})
	s.c.start("cutover.journal:before#1=wait:" + file)
	s.c.awaitReady()
	s.load(s.c.addr)
	err := s.faultAt(router.Source, file, func() {
		hand := src.ClientAs(user, "secret", 0)
		do(t, hand, "ACL", "SETUSER", "default", "+@all")
		if err := hand.Close(); err != nil { // nobody but us is to be seen as that user later
			t.Fatal(err)
		}
		do(t, src.Client(0), "SET", "past:us", "v")
	})
	t.Logf("the switch: %v", err)
	if err == nil {
		t.Error("the switch went through")
	}
	if st := s.c.awaitReady(); st.Side != router.Source {
		t.Fatalf("the applications are on the %s", st.Side)
	}
	s.mustSwitch(router.Source)
	look := dst.ClientAs(user, "secret", mapping(crashMap)(0))
	if got := look.Get(t.Context(), "past:us").Val(); got != "v" {
		t.Errorf("what was written past us is %q on the target", got)
	}
	if err := look.Close(); err != nil {
		t.Fatal(err)
	}
	s.settle(router.Target)
}
