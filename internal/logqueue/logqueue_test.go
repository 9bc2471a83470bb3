package logqueue

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// reader takes what is written to it once it is let.
type reader struct {
	let  chan struct{} // closed: it reads
	took bytes.Buffer
	fail error
}

func (r *reader) Write(p []byte) (int, error) {
	<-r.let
	if r.fail != nil {
		return 0, r.fail
	}
	return r.took.Write(p)
}

func say(w io.Writer, lines int) { _, _ = fmt.Fprintf(w, "dropped %d\n", lines) }

// TestStalledReader: nobody who logs waits for it, it gets what there was room for once it
// reads again, and is told how much there was not.
func TestStalledReader(t *testing.T) {
	r := &reader{let: make(chan struct{})}
	q := New(r, say)
	log := slog.New(slog.NewTextHandler(q, nil))
	const each, writers = 3000, 4
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				log.Info("a line", "writer", w, "number", i, "text", strings.Repeat("x", 200))
			}
		})
	}
	all.Wait() // hangs where a line waits for its reader
	if size := len(q.waiting); size > most {
		t.Errorf("%d bytes wait", size)
	}
	close(r.let)
	if !q.Close(10 * time.Second) {
		t.Fatal("the lines were not written")
	}
	dropped, written := 0, 0
	next := map[string]int{}
	for line := range strings.Lines(r.took.String()) {
		var level, writer string
		var number, n int
		if k, _ := fmt.Sscanf(line, "dropped %d\n", &n); k == 1 {
			dropped += n
			continue
		}
		written++
		if _, err := fmt.Sscanf(line[strings.Index(line, "level="):], "level=%s msg=\"a line\" writer=%s number=%d", &level, &writer, &number); err != nil || !strings.HasSuffix(line, "x\n") {
			t.Fatalf("a line that is not whole: %q: %v", line, err)
		}
		if number < next[writer] {
			t.Fatalf("%s: %d after %d", writer, number, next[writer])
		}
		next[writer] = number + 1
	}
	if dropped == 0 || written == 0 || dropped+written != each*writers {
		t.Errorf("%d written, %d said to be dropped, of %d", written, dropped, each*writers)
	}
}

// TestReaderForEver: the end of the process waits for a reader that stays stalled, but not long.
func TestReaderForEver(t *testing.T) {
	r := &reader{let: make(chan struct{})}
	q := New(r, say)
	_, _ = q.Write([]byte("a line\n"))
	if from := time.Now(); q.Close(20*time.Millisecond) || time.Since(from) > 5*time.Second {
		t.Errorf("closed after %v", time.Since(from))
	}
	if _, err := q.Write([]byte("late\n")); err != nil {
		t.Error(err)
	}
	close(r.let)
	<-q.ended
}

// TestReaderGone: a reader that has closed its end is written to in vain, and no reason to end.
func TestReaderGone(t *testing.T) {
	r := &reader{let: make(chan struct{}), fail: errors.New("broken pipe")}
	close(r.let)
	q := New(r, say)
	for range 3 {
		if n, err := q.Write([]byte("a line\n")); n != 7 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
	}
	if !q.Close(10 * time.Second) {
		t.Error("it did not end")
	}
}

// TestOrder: what was written before the end is there, in its order, and nothing is said to
// be dropped.
func TestOrder(t *testing.T) {
	r := &reader{let: make(chan struct{})}
	close(r.let)
	q := New(r, say)
	var want strings.Builder
	for i := range 1000 {
		_, _ = fmt.Fprintf(q, "%d\n", i)
		_, _ = fmt.Fprintf(&want, "%d\n", i)
	}
	if !q.Close(10*time.Second) || r.took.String() != want.String() {
		t.Errorf("%q", r.took.String())
	}
}
