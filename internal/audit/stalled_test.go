package audit

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestStalledDisk: a disk that does not come back keeps an entry waiting once and for a
// while only, at whatever it stalls; what was noted meanwhile is in the file afterwards, in
// its order.
func TestStalledDisk(t *testing.T) {
	for _, at := range []string{"write", "sync"} {
		t.Run(at, func(t *testing.T) {
			stalled := make(chan struct{})
			d := disk{(*os.File).Write, (*os.File).Sync}
			if at == "write" {
				d.write = func(f *os.File, b []byte) (int, error) { <-stalled; return f.Write(b) }
			} else {
				d.sync = func(f *os.File) error { <-stalled; return f.Sync() }
			}
			var told bytes.Buffer
			path := filepath.Join(t.TempDir(), "audit")
			l, err := openOn(d, path, slog.New(slog.NewTextHandler(&told, nil)))
			if err != nil {
				t.Fatal(err)
			}
			from := time.Now()
			const n = 300
			for i := range n {
				e := Entry{Event: "phase", To: fmt.Sprint(i)}
				if i%3 == 0 {
					l.AddSynced(e)
				} else {
					l.Add(e)
				}
			}
			if took := time.Since(from); took > 3*syncPatience {
				t.Errorf("%d entries took %v", n, took)
			}
			if got := l.Last(1); len(got) != 1 || got[0].To != fmt.Sprint(n-1) {
				t.Errorf("the last one: %+v", got)
			}
			close(stalled)
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			list := lines(t, path)
			if len(list) != n {
				t.Errorf("%d of %d are in the file", len(list), n)
			}
			for i, e := range list {
				if e.To != fmt.Sprint(i) {
					t.Fatalf("%s at %d", e.To, i)
				}
			}
			if log := told.String(); strings.Count(log, "another place with audit.file") != 1 || strings.Count(log, "takes the audit log again") != 1 {
				t.Errorf("told:\n%s", log)
			}
		})
	}
}

// TestStalledToTheEnd: the end does not wait for ever either; what the file has not is in
// the other log, and memory has a bound.
func TestStalledToTheEnd(t *testing.T) {
	stalled := make(chan struct{})
	var told bytes.Buffer
	l, err := openOn(disk{func(f *os.File, b []byte) (int, error) { <-stalled; return f.Write(b) }, (*os.File).Sync},
		filepath.Join(t.TempDir(), "audit"), slog.New(slog.NewTextHandler(&told, nil)))
	if err != nil {
		t.Fatal(err)
	}
	why := strings.Repeat("x", 1<<20)
	for i := range 6 {
		l.Add(Entry{Event: "phase", To: fmt.Sprint("n", i), Why: why})
	}
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), l.path) {
		t.Error(err)
	}
	for i := range 6 {
		if n := strings.Count(told.String(), fmt.Sprintf(`\"to\":\"n%d\"`, i)); n != 1 {
			t.Errorf("entry %d is in the other log %d times", i, n)
		}
	}
	close(stalled)
	<-l.ended
	_ = l.file.Close()
}
