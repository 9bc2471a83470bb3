package demo_test

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/crossfade/crossfade/internal/demo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// build makes the program that the demo runs as its sidecar.
func build(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "crossfade")
	out, err := exec.Command("go", "build", "-o", binary, "github.com/crossfade/crossfade/cmd/crossfade").CombinedOutput()
	if err != nil {
		t.Fatalf("building crossfade: %v\n%s", err, out)
	}
	return binary
}

// printed passes what the demo prints on to the test's log.
type printed struct {
	strings.Builder
	t *testing.T
}

func (p *printed) Write(text []byte) (int, error) {
	p.t.Log(strings.TrimRight(string(text), "\n"))
	return p.Builder.Write(text)
}

func TestDemoLosesNothing(t *testing.T) {
	out := &printed{t: t}
	err := demo.Run(t.Context(), demo.Options{
		Stdout: out, Stderr: out, Binary: build(t), Keys: 3000, Writers: 4, Rate: 100, Under: 500 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "lost 0, doubled 0, reordered 0") {
		t.Error("it does not say that nothing was lost")
	}
	for line := range strings.Lines(out.String()) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("a line of %d columns: %s", n, line)
		}
	}
}

func TestDemoStopsWhenAsked(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	asked := errors.New("asked to stop")
	out := &stopper{at: "clients write", stop: func() { cancel(asked) }}
	err := demo.Run(ctx, demo.Options{Stdout: out, Binary: build(t), Keys: 500})
	if !errors.Is(err, asked) {
		t.Fatalf("it ended with %v", err)
	}
}

// stopper stops the demo once it has printed a text.
type stopper struct {
	at   string
	stop func()
}

func (s *stopper) Write(text []byte) (int, error) {
	if strings.Contains(string(text), s.at) {
		s.stop()
	}
	return len(text), nil
}
