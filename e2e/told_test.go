package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// What status says that keeps the migration from going on must not be said of what is over.

func saying(text string) func(migration.Status) bool {
	return func(st migration.Status) bool { return strings.Contains(strings.Join(st.Reasons, "\n"), text) }
}

// TestJournalThatTookLong: the source says nothing when the switch is decided, for longer than
// it is waited for, and then goes on.
func TestJournalThatTookLong(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "here")
	p := newPair(t, "cutover.journal:before#1=wait:"+file, "--proxy.dial_timeout", "500ms")
	s := &stage{t: t, c: p.c}
	result := make(chan error, 1)
	go func() { _, err := p.c.ask(router.Source, admin.SwitchRequest{MaxStall: "1m"}); result <- err }()
	held := s.heldDuring(result, new(atomic.Bool), file, func() {
		if err := p.src.Stop(); err != nil {
			t.Fatal(err)
		}
	})
	p.c.await("the journal is waited for", saying("cannot be written yet"))
	if err := p.src.Cont(); err != nil {
		t.Fatal(err)
	}
	if err := <-held; err != nil {
		t.Fatal(err)
	}
	if st := p.c.awaitReady(); st.Side != router.Target {
		t.Errorf("the applications are on the %s", st.Side)
	}
}

// TestPhaseThatCouldNotBeKept: a disk that was full has room again.
func TestPhaseThatCouldNotBeKept(t *testing.T) {
	t.Parallel()
	p := newPair(t, "")
	inTheWay := p.c.state + ".tmp"
	if err := os.Mkdir(inTheWay, 0o700); err != nil {
		t.Fatal(err)
	}
	do(t, p.src.Client(0), "CONFIG", "SET", "notify-keyspace-events", "")
	p.c.await("the state file cannot be written", saying("writing the state file"))
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	p.c.awaitReady()
}
