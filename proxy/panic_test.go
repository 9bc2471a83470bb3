package proxy

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestPanicOfAReader: a fault in what reads a server ends the process, with its trace,
// although the session's lock is held.
func TestPanicOfAReader(t *testing.T) {
	const child = "CROSSFADE_TEST_PANIC"
	if os.Getenv(child) != "" {
		ours, server := net.Pipe()
		go func() { _, _ = io.WriteString(server, "+OK\r\n") }()
		s := &session{srv: &Server{}, st: newState()} // without an outbox
		(&reader{s: s, l: &link{conn: ours, done: make(chan struct{})}}).loop()
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestPanicOfAReader$")
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil || err == nil || !strings.Contains(string(out), "nil pointer") || !strings.Contains(string(out), "(*reader).feed") {
		t.Errorf("it ended with %v, %v:\n%s", err, ctx.Err(), out)
	}
}
