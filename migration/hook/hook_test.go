package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/redistest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// logged is a log that may be read while it is written.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// begin runs hooks until the test ends or stop is called.
func begin(t *testing.T, list ...config.Told) (h *Hooks, log *logged, stop func()) {
	t.Helper()
	log = &logged{}
	for i := range list {
		if list[i].Timeout == 0 {
			list[i].Timeout = 10 * time.Second
		}
	}
	h = New(list, slog.New(slog.NewTextHandler(log, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = h.Run(ctx) }()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return h, log, stop
}

// script writes a program of the shell.
func script(t *testing.T, text string) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return []string{path}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

func TestProgramsAreToldInOrder(t *testing.T) {
	t.Setenv("CROSSFADE_TARGET_PASSWORD", "hidden")
	file := filepath.Join(t.TempDir(), "told")
	h, _, stop := begin(t, config.Told{On: []string{"committed", "holding"}, Run: append(script(t, `env >> "$1.env"; cat >> "$1"`), file)})
	for i := range 20 {
		h.Tell(Event{Name: "holding", Token: uint64(i)})
		h.Tell(Event{Name: "tailing"})
	}
	h.Tell(Event{Name: "committed", Report: map[string]int{"checked": 5}})
	stop() // what is left is delivered
	lines := strings.Split(strings.TrimSpace(read(t, file)), "\n")
	if len(lines) != 21 || !strings.Contains(lines[20], `"report":{"checked":5}`) {
		t.Fatalf("%d lines: %v", len(lines), lines)
	}
	for i, line := range lines {
		var e Event
		if err := json.Unmarshal([]byte(line), &e); err != nil || i < 20 && (e.Name != "holding" || e.Token != uint64(i)) {
			t.Errorf("line %d: %s, %v", i, line, err)
		}
	}
	if env := read(t, file+".env"); strings.Contains(env, "hidden") || !strings.Contains(env, "PATH=") {
		t.Errorf("the environment: %s", env)
	}
}

func TestServersAreTold(t *testing.T) {
	got := make(chan string, 10)
	var code atomic.Int32
	code.Store(http.StatusOK)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type") + " " + string(body)
		w.WriteHeader(int(code.Load()))
		_, _ = io.WriteString(w, "because\nof that")
	}))
	defer server.Close()
	h, log, stop := begin(t, config.Told{On: []string{"committed"}, URL: config.Secret(server.URL + "/hidden")})
	h.Tell(Event{Name: "committed", Side: "target"})
	if text := <-got; !strings.HasPrefix(text, "POST /hidden application/json {") || !strings.Contains(text, `"side":"target"`) {
		t.Error(text)
	}
	code.Store(http.StatusTeapot)
	h.Tell(Event{Name: "committed"})
	<-got
	redistest.Eventually(t, 10*time.Second, func() bool { return strings.Contains(log.String(), "418") }, "a refusal in the log")
	stop()
	server.Close()
	if err := h.list[0].call(t.Context(), []byte("{}")); err == nil || strings.Contains(err.Error(), "hidden") {
		t.Errorf("a server that is gone: %v", err)
	}
	if text := log.String(); strings.Contains(text, "hidden") || !strings.Contains(text, "because of that") {
		t.Errorf("the log: %s", text)
	}
	client.CloseIdleConnections()
}

func TestVeto(t *testing.T) {
	answer := filepath.Join(t.TempDir(), "answer")
	ask := append(script(t, `cat > "$1.told"; echo not now; exit $(cat "$1")`), answer)
	h, _, _ := begin(t, config.Told{On: []string{"prepared"}, Run: ask, Veto: true},
		config.Told{On: []string{"prepared"}, Run: script(t, "exit 1")})
	for text, want := range map[string]bool{"0": true, "3": false} {
		if err := os.WriteFile(answer, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := h.Ask(t.Context(), Event{Name: "prepared", Verb: "cutover"})
		if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "hook 1 (hook): exit status 3: not now") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if told := read(t, answer+".told"); !strings.Contains(told, `"veto":true`) {
		t.Errorf("told: %s", told)
	}
	if err := h.Ask(t.Context(), Event{Name: "committed"}); err != nil {
		t.Errorf("at another event: %v", err)
	}
	if err := os.Remove(ask[0]); err != nil {
		t.Fatal(err)
	}
	if err := h.Ask(t.Context(), Event{Name: "prepared"}); err == nil {
		t.Error("a program that is not there agrees")
	}
	var none *Hooks
	none.Tell(Event{})
	if none.Ask(t.Context(), Event{}) != nil {
		t.Error("no hooks at all")
	}
}

// TestHanging: who takes long is killed, with all that it has started, and keeps
// nobody waiting meanwhile.
func TestHanging(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	hang := append(script(t, `sleep 600 & echo $! >> "$1"; wait`), file)
	h, log, stop := begin(t, config.Told{On: []string{"committed"}, Run: hang, Timeout: 300 * time.Millisecond},
		config.Told{On: []string{"prepared"}, Run: hang, Timeout: 300 * time.Millisecond, Veto: true})
	for range 10 * queued {
		h.Tell(Event{Name: "committed"}) // would block here
	}
	redistest.Eventually(t, 20*time.Second, func() error {
		if text := log.String(); !strings.Contains(text, "no answer within 300ms") || !strings.Contains(text, "too slow") {
			return errors.New(text)
		}
		return nil
	}, "the log")
	if err := h.Ask(t.Context(), Event{Name: "prepared"}); err == nil || !strings.Contains(err.Error(), "no answer within 300ms") {
		t.Errorf("no answer is a yes: %v", err)
	}
	redistest.Eventually(t, 10*time.Second, func() error {
		first, _, _ := strings.Cut(read(t, file), "\n") // the others of the queue are started meanwhile
		stat := read(t, "/proc/"+first+"/stat")
		if stat != "" && !strings.Contains(stat, ") Z ") {
			return fmt.Errorf("what it had started is still there: %s", stat)
		}
		return nil
	}, "the end of a child")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("aborted"))
	if err := h.Ask(ctx, Event{Name: "prepared"}); err == nil || err.Error() != "aborted" {
		t.Errorf("an attempt that is aborted: %v", err)
	}
	stop() // does not wait for the whole queue
}
