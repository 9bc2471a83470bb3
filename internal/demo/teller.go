package demo

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// teller prints one line an event, with the seconds since the start.
type teller struct {
	w     io.Writer
	start time.Time
}

const columns = 80

func (t *teller) say(format string, args ...any) {
	text := fmt.Sprintf("%6.1f s  ", time.Since(t.start).Seconds()) + fmt.Sprintf(format, args...)
	_, _ = fmt.Fprintln(t.w, clip(text))
}

// plain prints a line without the time.
func (t *teller) plain(format string, args ...any) {
	_, _ = fmt.Fprintln(t.w, clip(fmt.Sprintf(format, args...)))
}

func clip(text string) string {
	if runes := []rune(text); len(runes) > columns {
		return string(runes[:columns-1]) + "…"
	}
	return text
}

// count writes a number in groups of three digits.
func count[N int | int64 | uint64](n N) string {
	text := strconv.FormatInt(int64(n), 10)
	var b strings.Builder
	for i, digit := range text {
		if i > 0 && (len(text)-i)%3 == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(digit)
	}
	return b.String()
}

// inMS writes a duration in milliseconds.
func inMS(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
