package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, path string, log *slog.Logger) *Log {
	t.Helper()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l, err := Open(path, log)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// lines reads a file whose every line must be an entry.
func lines(t *testing.T, path string) (list []Entry) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var e Entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		list = append(list, e)
	}
	return list
}

func TestEntriesOutliveTheProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, path, nil)
	uid := uint32(7)
	l.AddSynced(Entry{Event: "asked", Verb: "cutover", Who: &Who{UID: &uid, PID: 9}, Asked: json.RawMessage(`{"dry_run":true}`)})
	l.Add(Entry{Event: "phase", From: "TAILING", To: "PREPARED", Why: "a\nb"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}
	l = open(t, path, nil)
	l.Add(Entry{Event: "started"})
	list := l.Last(10)
	if len(list) != 3 || *list[0].Who.UID != 7 || string(list[0].Asked) != `{"dry_run":true}` || list[1].Why != "a\nb" || list[2].Time.IsZero() {
		t.Errorf("%+v", list)
	}
	if got := l.Last(1); len(got) != 1 || got[0].Event != "started" {
		t.Errorf("the last one: %+v", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(lines(t, path)); n != 3 {
		t.Errorf("%d lines", n)
	}
}

// TestTornLine: a crash in the middle of a line costs that line and no other.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	if err := os.WriteFile(path, []byte(`{"event":"started","time":"2026-01-02T03:04:05Z"}`+"\n"+`{"event":"pha`), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path, nil)
	l.Add(Entry{Event: "stopped"})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = open(t, path, nil)
	if list := l.Last(10); len(list) != 2 || list[0].Event != "started" || list[1].Event != "stopped" {
		t.Errorf("%+v", list)
	}
	_ = l.Close()
}

// TestRotation: whoever moves the file away gets a new one, without a signal.
func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, path, nil)
	for i := range 3 {
		l.Add(Entry{Event: "phase", To: fmt.Sprint(i)})
		if err := os.Rename(path, fmt.Sprint(path, i)); err != nil {
			t.Fatal(err)
		}
	}
	l.AddSynced(Entry{Event: "stopped"})
	if n := len(l.Last(10)); n != 4 {
		t.Errorf("%d are remembered", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{path + "0", path + "1", path + "2", path} {
		if list := lines(t, name); len(list) != 1 || i < 3 && list[0].To != fmt.Sprint(i) {
			t.Errorf("%s: %+v", name, list)
		}
	}
}

func TestOnlySoManyAreKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l := open(t, path, nil)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := range Kept {
				l.Add(Entry{Event: "phase", Token: uint64(i), Why: strings.Repeat("x", 500)})
			}
		})
	}
	all.Wait()
	if n := len(l.Last(10 * Kept)); n != Kept {
		t.Errorf("%d are remembered", n)
	}
	_ = l.Close()
	if n := len(lines(t, path)); n != 4*Kept {
		t.Errorf("%d lines", n)
	}
	l = open(t, path, nil)
	if n := len(l.Last(10 * Kept)); n != Kept {
		t.Errorf("%d are remembered after a restart", n)
	}
	_ = l.Close()
}

// TestDiskThatTakesNothing: it is told once, and nobody is kept from anything.
func TestDiskThatTakesNothing(t *testing.T) {
	var told bytes.Buffer
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit")
	l := open(t, path, slog.New(slog.NewTextHandler(&told, nil)))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		l.Add(Entry{Event: "phase"})
	}
	if n := strings.Count(told.String(), "cannot be written"); n != 1 || len(l.Last(10)) != 5 {
		t.Errorf("told %d times, %d remembered:\n%s", n, len(l.Last(10)), told.String())
	}
	if n := strings.Count(told.String(), `phase`); n != 5 {
		t.Errorf("%d of 5 entries are in the other log:\n%s", n, told.String())
	}
	_ = l.Close()
	if _, err := Open(filepath.Join(dir, "no", "audit"), l.log); err == nil || !strings.Contains(err.Error(), "audit.file") {
		t.Error(err)
	}
	var none *Log
	none.Add(Entry{})
	none.AddSynced(Entry{})
	if len(none.Last(1)) != 0 || none.Close() != nil {
		t.Error("no log at all")
	}
}
