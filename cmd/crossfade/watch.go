package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"golang.org/x/term"

	"github.com/crossfade/crossfade/admin"
)

const (
	watchPatience = 5 * time.Second // for one answer
	watchPoints   = 300             // of the charts: five minutes
)

// watcher is the full screen of `crossfade status --watch`. It is bubbletea's model: its
// methods are called from one goroutine.
type watcher struct {
	look func() (admin.StatusReply, error)

	width, height int
	status        admin.StatusReply
	at            time.Time // of the status
	lost          error     // why the newest look failed, nil if it did not
	past          []admin.Point
	top           int // the first line of the body that is shown
	stopped       bool
}

// looked is what a look has found.
type looked struct {
	status admin.StatusReply
	at     time.Time
	err    error
}

// due says that it is time for the next look.
type due struct{}

// fullScreen reports whether the screen can be drawn on as a whole.
func fullScreen(s *session) bool {
	for _, v := range s.environ {
		if v == "TERM=dumb" {
			return false
		}
	}
	return isTerminal(s.stdout)
}

// watchScreen shows the status until the operator has seen enough, or ctx ends. Whatever
// ends it, the terminal is left as it was.
func watchScreen(ctx context.Context, door *admin.Client, s *session) error {
	ctx, stop := untilHangup(ctx)
	defer stop()
	first, err := door.Overview(ctx)
	if err != nil {
		return err
	}
	w := &watcher{look: func() (admin.StatusReply, error) {
		one, cancel := context.WithTimeout(ctx, watchPatience)
		defer cancel()
		return door.Overview(one)
	}}
	w.keep(looked{status: first, at: time.Now()})
	options := []tea.ProgramOption{tea.WithContext(ctx), tea.WithOutput(s.stdout), tea.WithEnvironment(s.environ), tea.WithoutSignalHandler(), tea.WithInput(nil)}
	if f, is := s.stdin.(*os.File); is && term.IsTerminal(int(f.Fd())) {
		options = append(options, tea.WithInput(f))
	}
	_, err = tea.NewProgram(w, options...).Run()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("drawing on the terminal: %w", err)
	case w.stopped:
		return &signalError{syscall.SIGINT}
	}
	return nil
}

// untilHangup is a context that ends with SIGHUP and SIGQUIT too, which otherwise end a
// process with the terminal as it is.
func untilHangup(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		select {
		case s := <-signals:
			number, _ := s.(syscall.Signal)
			cancel(&signalError{number})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		cancel(nil)
	}
}

// Init implements tea.Model.
func (w *watcher) Init() tea.Cmd { return w.later() }

// later has the next look made in a while. Looks follow one another: one that waits for an
// answer is the only one.
func (w *watcher) later() tea.Cmd {
	return tea.Tick(watchInterval, func(time.Time) tea.Msg { return due{} })
}

// Update implements tea.Model.
func (w *watcher) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		w.width, w.height = msg.Width, msg.Height
	case due:
		return w, func() tea.Msg {
			st, err := w.look()
			return looked{status: st, at: time.Now(), err: err}
		}
	case looked:
		w.keep(msg)
		return w, w.later()
	case tea.KeyPressMsg:
		return w, w.key(msg.String())
	}
	return w, nil
}

// keep takes what a look has found.
func (w *watcher) keep(l looked) {
	if w.lost = l.err; l.err != nil {
		return
	}
	w.status, w.at = l.status, l.at
	if w.past = append(w.past, admin.PointOf(l.status)); len(w.past) > watchPoints {
		w.past = w.past[1:]
	}
}

// key does what a key is for.
func (w *watcher) key(name string) tea.Cmd {
	page := max(1, w.room()-1)
	switch name {
	case "q":
		return tea.Quit
	case "ctrl+c":
		w.stopped = true
		return tea.Quit
	case "ctrl+z":
		return tea.Suspend
	case "up", "k":
		w.top--
	case "down", "j":
		w.top++
	case "pgup":
		w.top -= page
	case "pgdown", "space":
		w.top += page
	case "home", "g":
		w.top = 0
	case "end", "G":
		w.top = 1 << 20
	}
	return nil // View keeps it within what there is
}

// View implements tea.Model.
func (w *watcher) View() tea.View {
	v := tea.NewView(strings.Join(w.lines(), "\n"))
	v.AltScreen = true
	return v
}
