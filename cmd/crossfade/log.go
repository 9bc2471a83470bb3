package main

import (
	"io"
	"log/slog"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/logqueue"
)

// logPatience is how long the end of the process waits for who reads the log.
const logPatience = time.Second

// newLogger returns a logger for what the configuration asks for, which is valid.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	return slog.New(logHandler(w, c, levelOf(c), isTerminal(w)))
}

// queuedLogger is newLogger for a process that must not wait for who reads its log.
func queuedLogger(w io.Writer, c config.Log) (*slog.Logger, *logqueue.Queue) {
	shown := isTerminal(w)
	queue := logqueue.New(w, func(w io.Writer, lines int) { // whatever the level: such lines were among them
		log := slog.New(logHandler(w, c, slog.LevelWarn, shown))
		log.Warn("lines of this log were dropped: who reads it did not keep up", "lines", lines)
	})
	return slog.New(logHandler(queue, c, levelOf(c), shown)), queue
}

func levelOf(c config.Log) (level slog.Level) {
	_ = level.UnmarshalText([]byte(c.Level))
	return level
}

func logHandler(w io.Writer, c config.Log, level slog.Level, terminal bool) slog.Handler {
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "text" || c.Format == "auto" && terminal {
		return slog.NewTextHandler(w, options)
	}
	return slog.NewJSONHandler(w, options)
}

func isTerminal(w io.Writer) bool {
	f, is := w.(*os.File)
	return is && term.IsTerminal(int(f.Fd()))
}

// widthOf returns the columns of a terminal, 80 where there is none.
func widthOf(w io.Writer) int {
	const usual, least, most = 80, 60, 160
	f, is := w.(*os.File)
	if !is {
		return usual
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil || columns <= 0 {
		return usual
	}
	return max(least, min(columns, most))
}
