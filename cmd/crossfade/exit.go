package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/migration/store"
)

// The exit statuses. `crossfade help exit-codes` documents them.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
	exitSignal  = 128 // plus the signal's number
)

// exitError gives an error its exit status.
type exitError struct {
	code int
	err  error
	said bool // what is to be said was printed already
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage makes an error one of flags or configuration.
func usage(err error) error { return &exitError{code: exitUsage, err: err} }

// refused is for a check that said no and was printed in full.
func refused(what string) error {
	return &exitError{code: exitRefused, err: errors.New(what), said: true}
}

// signalError is the cause with which the program's context ends.
type signalError struct{ signal syscall.Signal }

func (e *signalError) Error() string { return "stopped by the signal " + e.signal.String() }

// untilSignal returns a context that ends with the first SIGINT or SIGTERM. The
// second one ends the process at once. stop waits until no signal is looked at.
func untilSignal(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for again := false; ; again = true {
			select {
			case s := <-signals:
				number, _ := s.(syscall.Signal)
				if again {
					os.Exit(exitSignal + int(number))
				}
				cancel(&signalError{number})
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		<-ended
		cancel(nil)
	}
}

// report prints an error for people and returns the exit status.
func report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	var s *signalError
	if errors.As(err, &s) {
		return exitSignal + int(s.signal)
	}
	code := exitFailed
	var e *exitError
	var answered *admin.Error
	var no *migration.Refused
	reasons := []string(nil)
	hint := ""
	switch {
	case errors.As(err, &e):
		code = e.code
	case errors.As(err, &answered):
		reasons, hint = answered.Reasons, answered.Hint
		if answered.Code == http.StatusConflict {
			code = exitRefused
		}
	case errors.As(err, &no):
		code, reasons = exitRefused, no.Reasons
	case errors.Is(err, store.ErrSuperseded):
		code = exitRefused // started again at once it would take over in turn
	}
	if e != nil && e.said {
		return code
	}
	text := err.Error()
	if len(reasons) > 1 {
		text = "refused:\n" + strings.Join(reasons, "\n")
	}
	say(w, text)
	if hint != "" {
		_, _ = fmt.Fprintf(w, "  %s\n", hint)
	}
	return code
}

// say prints a message; further lines of it are problems of their own.
func say(w io.Writer, text string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	_, _ = fmt.Fprintf(w, "crossfade: %s\n", lines[0])
	for _, line := range lines[1:] {
		_, _ = fmt.Fprintf(w, "  %s\n", line)
	}
}
