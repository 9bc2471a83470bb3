package store_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/crossfade/crossfade/migration/store"
)

// open opens the state file at path for the length of the test.
func open(t *testing.T, path string) *store.File {
	t.Helper()
	f, err := store.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestFileSaveAndLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	f := open(t, path)
	if f.Path() != path {
		t.Errorf("Path() = %q", f.Path())
	}
	if e, ok, err := f.Load(); ok || err != nil {
		t.Fatalf("there is none yet, but Load returns %+v, %v, %v", e, ok, err)
	}
	for seq, durable := range []bool{true, false, true, false} {
		e := entry("a", 1, uint64(seq))
		if err := f.Save(e, durable); err != nil {
			t.Fatal(err)
		}
		got, ok, err := f.Load()
		var data bytes.Buffer // the file is indented, for human eyes
		if jerr := json.Compact(&data, got.Data); jerr != nil || err != nil || !ok || got.Seq != e.Seq || got.Token != e.Token || got.ID != e.ID || data.String() != string(e.Data) {
			t.Errorf("Load: %+v, %v, %v, %v; want %+v", got, ok, err, jerr, e)
		}
	}
	if _, err := os.Stat(path + ".tmp"); err == nil {
		t.Error("the temporary file is left")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file can be read by others: %v, %v", info.Mode(), err)
	}
}

// Whoever reads while it is written finds the old or the new record as a whole.
func TestFileIsReplacedAsAWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	f := open(t, path)
	big := func(seq uint64) store.Entry {
		return store.Entry{ID: "a", Seq: seq, Data: json.RawMessage(`"` + strings.Repeat("x", int(seq%7)*10_000) + `"`)}
	}
	if err := f.Save(big(0), false); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		defer close(done)
		for seq := range uint64(300) {
			if err := f.Save(big(seq), false); err != nil {
				t.Error(err)
			}
		}
	})
	last := uint64(0)
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		e, ok, err := f.Load()
		if err != nil || !ok || e.Seq < last || string(e.Data) != string(big(e.Seq).Data) {
			t.Fatalf("after %d came %d, %v, %v", last, e.Seq, ok, err)
		}
		last = e.Seq
	}
	wg.Wait()
}

// A crash while writing leaves a torn temporary file: the record is the old one,
// and the next save does not mind.
func TestFileSurvivesATornWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	f := open(t, path)
	if err := f.Save(entry("a", 1, 1), true); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".tmp", []byte(`{"id":"a","tok`), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, ok, err := f.Load(); err != nil || !ok || e.Seq != 1 {
		t.Errorf("Load: %+v, %v, %v", e, ok, err)
	}
	if err := f.Save(entry("a", 1, 2), true); err != nil {
		t.Fatal(err)
	}
	if e, ok, err := f.Load(); err != nil || !ok || e.Seq != 2 {
		t.Errorf("Load: %+v, %v, %v", e, ok, err)
	}
}

func TestFileLockKeepsOthersOut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	first := open(t, path)
	second, err := store.OpenFile(path)
	if err == nil {
		_ = second.Close()
		t.Fatal("two hold the same state file")
	}
	for _, says := range []string{path, "another crossfade is running with it", "--state"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not say %q: %v", says, err)
		}
	}
	if err := first.Save(entry("a", 1, 1), true); err != nil { // which replaces the file, not the lock
		t.Fatal(err)
	}
	if second, err = store.OpenFile(path); err == nil {
		_ = second.Close()
		t.Fatal("the lock is gone after a save")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if e, ok, err := open(t, path).Load(); err != nil || !ok || e.Seq != 1 {
		t.Errorf("the next one loads %+v, %v, %v", e, ok, err)
	}
}

func TestFileGarbage(t *testing.T) {
	for name, text := range map[string]string{
		"empty":              "",
		"text":               "listen: 127.0.0.1:6380\n",
		"torn":               `{"id":"a","token":1,`,
		"another program's":  `{"version":3}`,
		"wrong types":        `{"id":7}`,
		"not even an object": `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			f := open(t, path)
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			e, ok, err := f.Load()
			if err == nil || ok {
				t.Fatalf("Load: %+v, %v, %v", e, ok, err)
			}
			for _, says := range []string{path, "not one of ours, or damaged", "move it away"} {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("the error does not say %q: %v", says, err)
				}
			}
			if strings.Contains(err.Error(), "%!w") {
				t.Errorf("the error is not for human eyes: %v", err)
			}
		})
	}
}

func TestFileWhereNothingCanBeWritten(t *testing.T) {
	dir := t.TempDir()
	_, err := store.OpenFile(filepath.Join(dir, "no", "such", "state"))
	if err == nil || !strings.Contains(err.Error(), "--state") {
		t.Errorf("in a folder that is not there: %v", err)
	}
	plain := filepath.Join(dir, "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenFile(filepath.Join(plain, "state")); err == nil {
		t.Error("in a file: no error")
	}
	if os.Geteuid() == 0 {
		t.Log("root may write everywhere: the folder without write permission is not tried")
		return
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	if _, err := store.OpenFile(filepath.Join(dir, "state")); err == nil || !strings.Contains(err.Error(), "--state") {
		t.Errorf("in a folder that cannot be written to: %v", err)
	}
}

// The state file's folder may vanish under a running sidecar. The save fails, so
// the transition that it stands for does not happen.
func TestFileSaveFailsLoudly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "state")
	f := open(t, path)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	for _, durable := range []bool{true, false} {
		if err := f.Save(entry("a", 1, 1), durable); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("durable %v: %v", durable, err)
		}
	}
	// A folder in its place: the rename fails, and nothing is reported as saved.
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := f.Save(entry("a", 1, 1), true); err == nil {
		t.Error("saved over a folder")
	}
}

// What is saved behind Settle comes behind it, and what it says is told.
func TestSettle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	f := open(t, path)
	if err := f.Save(entry("a", 1, 1), false); err != nil {
		t.Fatal(err)
	}
	var settled atomic.Bool
	f.Settle(func(err error) {
		if err != nil {
			t.Error(err)
		}
		settled.Store(true)
	})
	if err := f.Save(entry("a", 1, 2), false); err != nil {
		t.Fatal(err)
	}
	if !settled.Load() {
		t.Error("the file was replaced while it was being synced")
	}
	if e, ok, err := f.Load(); err != nil || !ok || e.Seq != 2 {
		t.Errorf("the file holds %+v, %v, %v", e, ok, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	told := make(chan error, 1)
	f.Settle(func(err error) { told <- err })
	if err := <-told; err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that is gone: %v", err)
	}
}

// While clients wait entries go beside the file, and whoever comes next finds the last one.
func TestFileSavesBriskly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	f := open(t, path)
	save := func(e store.Entry, durable bool) {
		t.Helper()
		if err := f.Save(e, durable); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, e store.Entry) {
		t.Helper()
		if got, ok, err := f.Load(); err != nil || !ok || got.ID != e.ID || got.Token != e.Token || got.Seq != e.Seq {
			t.Errorf("%s: %+v, %v, %v; want %+v", when, got, ok, err, e)
		}
	}
	inFile := func() (e store.Entry) {
		t.Helper()
		text, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(text, &e)
		}
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	save(entry("a", 1, 1), true)
	for round := range uint64(3) { // over the lines of the rounds before
		from := 10 * (round + 1)
		if err := f.Brisk(); err != nil {
			t.Fatal(err)
		}
		for seq := from; seq < from+5; seq++ {
			save(entry("a", 1, seq), false)
			want("saved briskly", entry("a", 1, seq))
		}
		if was := inFile(); was.Seq >= from {
			t.Errorf("the file has %d already", was.Seq)
		}
		settled := make(chan error)
		f.Settle(func(err error) { settled <- err })
		if err := <-settled; err != nil {
			t.Error(err)
		}
		save(entry("a", 1, from+5), true)
		want("durably, in between", entry("a", 1, from+5))
		if inFile().Seq != from+5 {
			t.Error("what is to be durable is not in the file")
		}
		save(entry("a", 1, from+6), false)
		f.Calm()
		want("afterwards", entry("a", 1, from+6))
		if round == 1 {
			save(entry("a", 1, from+7), false)
			want("calmly", entry("a", 1, from+7))
		}
	}
	beside, err := os.OpenFile(path+".hold", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := beside.WriteAt([]byte(`00000000 {"id":"a","token":9,"seq":1,"da`), 0); err != nil {
		t.Fatal(err)
	}
	if err := beside.Close(); err != nil {
		t.Fatal(err)
	}
	want("with a line that was torn off", entry("a", 1, 36))
	save(entry("b", 1, 1), false)
	want("of another migration", entry("b", 1, 1))
	if err := f.Brisk(); err != nil {
		t.Fatal(err)
	}
	save(store.Entry{ID: "b", Token: 1, Seq: 2, Data: json.RawMessage(`"` + strings.Repeat("x", 1<<18) + `"`)}, false)
	if inFile().Seq != 2 {
		t.Error("what has no room beside the file is not in it")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if e, ok, err := f.Load(); ok || err != nil {
		t.Errorf("without the file what is beside it counts: %+v, %v", e, err)
	}
}
