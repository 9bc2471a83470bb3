package migration

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
)

// epochIn is the switch that the state file itself tells of, whatever is beside it.
func (s *stand) epochIn() (uint64, error) {
	text, err := os.ReadFile(s.m.opt.File.Path())
	if err != nil {
		return 0, err
	}
	var e store.Entry
	if err := json.Unmarshal(text, &e); err != nil {
		return 0, err
	}
	r, err := decode(e)
	return r.Epoch, err
}

// switched has the member go to a side by a switch that it was prepared for.
func (s *stand) switched(seq uint64, to router.Side, epoch uint64) {
	s.t.Helper()
	s.say(fleet.Prepare, seq, 6, to, epoch)
	s.did("prepare " + to.String())
	s.say(fleet.Hold, seq+1, 6, to, epoch)
	s.did("hold")
	s.tell(router.Target, store.RecordKey, func(r *Record) { r.Token, r.Side, r.Epoch, r.Phase = 6, to, epoch, Committed })
	s.goes(to, epoch)
}

// TestMemberKeepsBeside: while clients wait the member replaces no file, since that waits for
// the disk; what it saves beside is as good, and the file has it once they wait no more.
func TestMemberKeepsBeside(t *testing.T) {
	s := newStand(t, nil)
	s.follows()
	inTheWay := s.m.opt.File.Path() + ".tmp"
	if err := os.Mkdir(inTheWay, 0o700); err != nil { // the file cannot be replaced
		t.Fatal(err)
	}
	s.switched(1, router.Target, 1)
	e, found, err := s.m.opt.File.Load()
	if err != nil || !found {
		t.Fatalf("the state file: %v, %v", found, err)
	}
	if r, err := decode(e); err != nil || r.Epoch != 1 {
		t.Fatalf("switch %d is kept (%v), want 1", r.Epoch, err)
	}
	if epoch, err := s.epochIn(); err != nil || epoch != 0 {
		t.Fatalf("the file has switch %d (%v), want 0", epoch, err)
	}
	if err := os.Remove(inTheWay); err != nil {
		t.Fatal(err)
	}
	s.switched(3, router.Source, 2)
	redistest.Eventually(t, testTimeout, func() error {
		epoch, err := s.epochIn()
		if err == nil && epoch != 2 {
			err = errors.New(fmt.Sprint("it has switch ", epoch))
		}
		return err
	}, "the file itself has the last switch")
}
