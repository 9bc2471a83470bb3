package redistest

import (
	"context"
	"fmt"
	"time"
)

// TB is the part of testing.TB that the harness needs. It is an interface of
// our own so that programs outside tests do not link package testing.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
	Logf(format string, args ...any)
	TempDir() string
}

// Start starts a server in the test's own folder and ends it with the test.
// The test fails at once when there is no redis-server or it does not start.
func Start(tb TB, opts ...Option) *Server {
	tb.Helper()
	cfg := Config{Dir: tb.TempDir()}
	for _, o := range opts {
		o(&cfg)
	}
	s, err := Launch(context.Background(), cfg)
	if err != nil {
		tb.Fatalf("%v", err)
		return nil
	}
	tb.Cleanup(func() {
		if f, ok := tb.(interface{ Failed() bool }); ok && f.Failed() {
			tb.Logf("redis-server at %s, the end of its log:\n%s", s.Addr(), s.LogTail())
		}
		if err := s.Close(); err != nil {
			tb.Logf("%v", err)
		}
	})
	return s
}

// NewLink opens a link in front of the server at upstream and closes it with
// the test.
func NewLink(tb TB, upstream string) *Link {
	tb.Helper()
	l, err := OpenLink(upstream)
	if err != nil {
		tb.Fatalf("%v", err)
		return nil
	}
	tb.Cleanup(l.Close)
	return l
}

// Eventually waits until cond holds (returns true, or nil), asking at short
// intervals, and fails the test after timeout with the message and, where cond
// returns errors, the last one.
func Eventually[C func() bool | func() error](tb TB, timeout time.Duration, cond C, msg string, args ...any) {
	tb.Helper()
	if err := Within(timeout, cond); err != nil {
		tb.Fatalf("%s: %v after %v", fmt.Sprintf(msg, args...), err, timeout)
	}
}

// Within waits until cond holds, at most timeout, and returns what cond said last: nil once
// it holds.
func Within[C func() bool | func() error](timeout time.Duration, cond C) error {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	pause := time.Millisecond
	for {
		err := ask(cond)
		if err == nil {
			return nil
		}
		select {
		case <-deadline.C:
			return err
		case <-time.After(pause):
			pause = min(2*pause, 20*time.Millisecond)
		}
	}
}

func ask[C func() bool | func() error](cond C) error {
	switch f := any(cond).(type) {
	case func() bool:
		if f() {
			return nil
		}
		return errNotYet
	case func() error:
		return f()
	}
	return nil
}
