package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/internal/redistest"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/hook"
	"github.com/crossfade/crossfade/router"
)

// listener is an HTTP server that notes what it is told.
type listener struct {
	*httptest.Server
	mu   sync.Mutex
	told []hook.Event
}

func listen(t *testing.T) *listener {
	t.Helper()
	l := &listener{}
	l.Server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var e hook.Event
		if err := json.Unmarshal(body, &e); err != nil || strings.Contains(string(body), "sesame") {
			t.Errorf("told %s: %v", body, err)
		}
		l.mu.Lock()
		l.told = append(l.told, e)
		l.mu.Unlock()
	}))
	t.Cleanup(l.Close)
	return l
}

// names returns what was told so far, from the last event of that name on.
func (l *listener) names(from string) (names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.told {
		if e.Name == from {
			names = nil
		}
		names = append(names, e.Name)
	}
	return names
}

func (l *listener) last(name string) hook.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range slices.Backward(l.told) {
		if e.Name == name {
			return e
		}
	}
	return hook.Event{}
}

func program(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestHooks: all transitions are told in order; a veto ends an attempt before clients
// wait; one that hangs holds nothing up.
func TestHooks(t *testing.T) {
	src, dst := redistest.Start(t, redistest.WithPassword("sesame")), redistest.Start(t)
	told, stop := listen(t), filepath.Join(t.TempDir(), "stop")
	hooks := fmt.Sprintf(`[{on: all, url: %q}, {on: prepared, run: [%q, %q], veto: true}, {on: [holding, committed, reverse_tailing], run: [sleep, "5"], timeout: 2s}]`,
		told.URL, program(t, `if test -e "$1"; then echo not today; exit 1; fi`), stop)
	c := newSidecar(t, setup{source: src.URL(0), target: dst.URL(0), dbmap: "0=0", extra: []string{"--hooks", hooks}})
	c.start("")
	c.awaitReady()

	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var answered *admin.Error
	if _, err := c.cutover(); !errors.As(err, &answered) || answered.Code != 409 || !strings.Contains(err.Error(), "vetoed by hook 2 (hook): exit status 1: not today") {
		t.Fatalf("a veto: %v", err)
	}
	want := func(from string, names ...string) {
		t.Helper()
		redistest.Eventually(t, 20*time.Second, func() error {
			if got := told.names(from); !slices.Equal(got, names) {
				return fmt.Errorf("told %v, want %v", got, names)
			}
			return nil
		}, "what is told")
	}
	want("prepared", "prepared", "aborting", "tailing", "aborted")
	if e := told.last("aborted"); e.Verb != "cutover" || !strings.Contains(e.Why, "not today") || e.Report == nil || e.Source == "" {
		t.Errorf("aborted: %+v", e)
	}
	st := c.awaitReady()
	if st.LastCutover.Held != 0 {
		t.Errorf("clients waited for a hook: %+v", st.LastCutover)
	}
	// A veto is but a reason to wait for one that does.
	waits := make(chan error, 1)
	go func() { _, err := c.ask(router.Source, admin.SwitchRequest{WhenReady: true}); waits <- err }()
	c.await("waiting for the hook", func(s migration.Status) bool {
		return s.Waiting != nil && strings.Contains(strings.Join(s.Waiting.For, ""), "not today")
	})
	if err := os.Remove(stop); err != nil {
		t.Fatal(err)
	}
	if err := <-waits; err != nil {
		t.Fatal(err)
	}
	want("prepared", "prepared", "holding", "soft_fenced", "hard_fenced", "verifying", "committing", "committed", "reverse_tailing", "switched")
	if e := told.last("switched"); e.Side != "target" || e.Epoch != 1 || e.Verb != "cutover" {
		t.Errorf("switched: %+v", e)
	}
	c.awaitReady()
	if _, err := c.ask(router.Target, admin.SwitchRequest{Rehearse: true}); err != nil {
		t.Fatal(err)
	}
	want("prepared", "prepared", "holding", "soft_fenced", "aborting", "reverse_tailing", "rehearsed")
	if e := told.last("rehearsed"); !e.Rehearsal || e.Verb != "rollback" {
		t.Errorf("rehearsed: %+v", e)
	}
	c.awaitReady()
	if _, err := c.rollback(); err != nil {
		t.Fatal(err)
	}
	want("prepared", "prepared", "holding", "soft_fenced", "hard_fenced", "verifying", "committing", "committed", "rolled_back", "switched")
}

// TestAudit: who asked is known by the socket, each transition has its reason, and all
// of it survives the sidecar.
func TestAudit(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit")
	p := newPair(t, "", "--audit.file", file)
	if _, err := p.c.ask(router.Source, admin.SwitchRequest{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	p.c.awaitReady()
	p.link.SetDelay(2 * time.Millisecond)
	if _, err := p.c.ask(router.Source, admin.SwitchRequest{MaxStall: "1ms"}); err == nil {
		t.Fatal("it was made")
	}
	p.link.SetDelay(0)
	p.c.awaitReady()
	if _, err := p.c.cutover(); err != nil {
		t.Fatal(err)
	}
	shown := must[[]audit.Entry](t)(p.c.admin.Audit(t.Context()))
	p.c.kill()
	text := must[[]byte](t)(os.ReadFile(file))
	var list []audit.Entry
	for line := range bytes.Lines(text) {
		var e audit.Entry
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		list = append(list, e)
	}
	if len(list) < len(shown) || len(shown) < 20 {
		t.Errorf("%d lines, %d entries were shown", len(list), len(shown))
	}
	me := must[*user.User](t)(user.Current())
	var asked, phases, ends []string
	for _, e := range list {
		switch e.Event {
		case "asked":
			asked = append(asked, string(e.Asked))
			if e.Who == nil || e.Who.User != me.Username || e.Who.UID == nil || fmt.Sprint(*e.Who.UID) != me.Uid || e.Who.PID != int32(os.Getpid()) {
				t.Errorf("asked by %+v", e.Who)
			}
		case "phase":
			phases = append(phases, e.From+" "+e.To)
			if e.To == "ABORTING" && e.Verb == "cutover" && !strings.Contains(e.Why, "the stall budget is used up") {
				t.Errorf("no reason: %+v", e)
			}
		case "aborted", "switched", "rehearsed":
			ends = append(ends, e.Event+" "+e.Verb)
		}
	}
	if !slices.Equal(asked, []string{`{"dry_run":true}`, `{"max_stall":"1ms"}`, `{}`}) {
		t.Errorf("asked: %v", asked)
	}
	if !slices.Equal(ends, []string{"rehearsed cutover --dry-run", "aborted cutover", "switched cutover"}) {
		t.Errorf("the ends: %v", ends)
	}
	i := slices.Index(phases, "VERIFYING COMMITTING")
	if i < 0 || !slices.Contains(phases[i:], "COMMITTED REVERSE_TAILING") {
		t.Errorf("the phases: %v", phases)
	}
	p.c.start("")
	p.c.awaitReady()
	again := must[[]audit.Entry](t)(p.c.admin.Audit(t.Context()))
	if len(again) <= len(list) || again[0].Event != "started" {
		t.Errorf("after a restart %d entries are shown, the file had %d", len(again), len(list))
	}
}
