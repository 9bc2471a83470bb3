package main

import (
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"

	"github.com/crossfade/crossfade/config"
)

// newLogger returns a logger for what the configuration asks for, which is valid.
func newLogger(w io.Writer, c config.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level))
	options := &slog.HandlerOptions{Level: level}
	if c.Format == "text" || c.Format == "auto" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
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
