package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/verify"
)

// How often the line of a terminal is renewed, and a line written elsewhere.
const (
	lineEvery = 200 * time.Millisecond
	logEvery  = 10 * time.Second
)

// progressLine shows where a comparison is: one line that is renewed on a terminal,
// and now and then a line elsewhere. Used by one goroutine at a time.
type progressLine struct {
	w        io.Writer
	quiet    bool
	terminal bool
	shown    time.Time
	open     bool // a line is to be cleared
	step     string
	db       int
	began    time.Time // of the step
}

func newProgressLine(w io.Writer, quiet bool) *progressLine {
	return &progressLine{w: w, quiet: quiet, terminal: isTerminal(w), shown: time.Now()}
}

func (l *progressLine) progress(p verify.Progress) {
	now := time.Now()
	if p.Step != l.step || p.Source != l.db {
		l.step, l.db, l.began = p.Step, p.Source, now
	}
	every := logEvery
	if l.terminal {
		every = lineEvery
	}
	if l.quiet && !l.terminal || now.Sub(l.shown) < every {
		return
	}
	l.shown = now
	text := progressText(p, now.Sub(l.began))
	if l.terminal {
		l.open = true
		_, _ = fmt.Fprintf(l.w, "\r\x1b[K%s", text)
		return
	}
	_, _ = fmt.Fprintln(l.w, text)
}

// end leaves an empty line behind.
func (l *progressLine) end() {
	if l.open {
		l.open = false
		_, _ = io.WriteString(l.w, "\r\x1b[K")
	}
}

// stepWords are in the order of a walk.
var stepWords = map[string]string{"compare": "comparing", "extras": "other way", "settle": "looking again"}

// progressText is at most 79 columns.
func progressText(p verify.Progress, took time.Duration) string {
	percent, rate, left := 0.0, 0.0, ""
	if p.Total > 0 {
		percent = min(100, 100*float64(p.Done)/float64(p.Total))
	}
	if took > 0 {
		rate = float64(p.Done) / took.Seconds()
	}
	if rate > 0 && p.Step != "settle" {
		left = ", " + clock(float64(max(0, p.Total-p.Done))/rate) + " left"
	}
	text := fmt.Sprintf("%d→%s %s %s%5.1f%% of %s, %s/s%s", p.Source, router.Place{DB: p.Target, Prefix: p.Prefix}, stepWords[p.Step], bar(percent), percent, count(p.Total), count(int64(rate)), left)
	if p.Differing > 0 {
		text += fmt.Sprintf(", %s differ", count(p.Differing))
	}
	return text
}

// watchVerify shows where the sidecar's comparison is until stop is called, which
// waits. Trouble with it is none of the comparison's.
func watchVerify(ctx context.Context, c config.Config, line *progressLine) (stop func()) {
	door, err := client(c) // a connection of its own
	if err != nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer door.Close()
		defer line.end()
		tick := time.NewTicker(lineEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if st, err := door.Status(ctx); err == nil && st.Verify.Running != nil {
				line.progress(*st.Verify.Running)
			}
		}
	}()
	return func() { cancel(); <-ended }
}
