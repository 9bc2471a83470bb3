package conn

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// Append reads a reply that is a string and appends it to b, whatever it is; ok is
// false where it is nil. It is for what must be held whole, to be compared.
func (w *Wire) Append(b []byte) (out []byte, ok bool, err error) {
	n, err := w.Bulk()
	if err != nil || n < 0 {
		return b, false, err
	}
	b, err = w.Take(b, n)
	return b, err == nil, err
}

// Take appends the n bytes that come next to b, and drops the line end behind them.
func (w *Wire) Take(b []byte, n int64) ([]byte, error) {
	at, end := len(b), len(b)+int(n)
	b = slices.Grow(b, int(n)+2)[:end+2]
	_ = w.nc.SetReadDeadline(time.Now().Add(w.timeout))
	if _, err := io.ReadFull(w.r, b[at:]); err != nil {
		return b[:at], fmt.Errorf("reading from %s: %w", w, err)
	}
	return b[:end], nil
}
