//go:build linux

package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/crossfade/crossfade/internal/redistest"
)

// terminal is a real pseudo-terminal with a program in it, and a screen that shows what the
// program draws.
type terminal struct {
	t           *testing.T
	cmd         *exec.Cmd
	ours, slave *os.File
	was         *term.State // before the program
	raw         buffer      // all that was written
	ended       chan struct{}

	mu     sync.Mutex
	screen *vt.Emulator
}

// inTerminal runs the program in a terminal of a size.
func inTerminal(t *testing.T, dir string, columns, lines uint16, env []string, args ...string) *terminal {
	t.Helper()
	ours, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	x := &terminal{t: t, ours: ours, slave: slave, ended: make(chan struct{}), screen: vt.NewEmulator(int(columns), int(lines))}
	x.resize(columns, lines)
	if x.was, err = term.GetState(int(slave.Fd())); err != nil {
		t.Fatal(err)
	}
	x.cmd = command(context.Background(), dir, append([]string{"TERM=xterm-256color", "TZ=UTC"}, env...), args...)
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(x.ended)
		_ = x.cmd.Wait()
	}()
	read, answered := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		buf := make([]byte, 32<<10)
		for {
			n, err := ours.Read(buf)
			_, _ = x.raw.Write(buf[:n])
			x.mu.Lock()
			_, _ = x.screen.Write(buf[:n])
			x.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	go func() { // what a terminal answers to questions
		defer close(answered)
		_, _ = io.Copy(ours, x.screen)
	}()
	t.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		<-x.ended
		_ = slave.Close()
		_ = ours.Close()
		// Not the screen's own Close, which may not be called beside Read.
		_ = x.screen.InputPipe().(io.Closer).Close()
		<-read
		<-answered
	})
	return x
}

func (x *terminal) resize(columns, lines uint16) {
	x.t.Helper()
	x.mu.Lock()
	x.screen.Resize(int(columns), int(lines))
	x.mu.Unlock()
	if err := pty.Setsize(x.ours, &pty.Winsize{Cols: columns, Rows: lines}); err != nil {
		x.t.Fatal(err)
	}
}

// text is what is on the screen, without blanks at the ends of its lines.
func (x *terminal) text() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	lines := strings.Split(x.screen.String(), "\n")
	for i, line := range lines {
		lines[i] = strings.TrimRight(line, " \r")
	}
	return strings.Join(lines, "\n") + "\n"
}

// awaits waits until the screen shows all of the texts, also where a line ends within one, and
// returns it.
func (x *terminal) awaits(wants ...string) string {
	x.t.Helper()
	text := ""
	if err := redistest.Within(20*time.Second, func() bool {
		text = x.text()
		for _, want := range wants {
			if !strings.Contains(text, want) && !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
				return false
			}
		}
		return true
	}); err != nil {
		x.t.Fatalf("the screen does not show %q:\n%s", wants, text)
	}
	return text
}

// press sends keys.
func (x *terminal) press(keys string) {
	x.t.Helper()
	if _, err := x.ours.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// mustEnd waits for the end of the program, and looks whether the terminal is as it was.
func (x *terminal) mustEnd(code int) {
	x.t.Helper()
	select {
	case <-x.ended:
	case <-time.After(20 * time.Second):
		x.t.Fatalf("it has not ended:\n%s", x.text())
	}
	if got := x.cmd.ProcessState.ExitCode(); got != code {
		x.t.Errorf("exit status %d, want %d: %s", got, code, x.text())
	}
	redistest.Eventually(x.t, 10*time.Second, func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return !x.screen.IsAltScreen() && !x.screen.CursorHidden()
	}, "the screen of before, and its cursor, are back")
	now, err := unix.IoctlGetTermios(int(x.slave.Fd()), unix.TCGETS)
	if err != nil {
		x.t.Fatal(err)
	}
	raw := *now
	if err := term.Restore(int(x.slave.Fd()), x.was); err != nil {
		x.t.Fatal(err)
	}
	was, err := unix.IoctlGetTermios(int(x.slave.Fd()), unix.TCGETS)
	if err != nil || raw != *was {
		x.t.Errorf("the terminal's settings are %+v and were %+v: %v", raw, was, err)
	}
	for _, mode := range []string{"1000", "1002", "1003", "1006", "2004", "1004"} { // mouse, paste, focus
		if on, off := strings.LastIndex(x.raw.String(), "\x1b[?"+mode+"h"), strings.LastIndex(x.raw.String(), "\x1b[?"+mode+"l"); on > off {
			x.t.Errorf("the mode %s is left on", mode)
		}
	}
}

// colours are those that were written, of a terminal's palette or others.
var colours = regexp.MustCompile(`\x1b\[[0-9;:]*\b(3[0-8]|4[0-8]|9[0-7]|10[0-7])[;:m]`)
