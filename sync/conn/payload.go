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
	at, end := len(b), len(b)+int(n)
	b = slices.Grow(b, int(n)+2)[:end+2]
	_ = w.nc.SetReadDeadline(time.Now().Add(w.timeout))
	if _, err := io.ReadFull(w.r, b[at:]); err != nil {
		return b[:at], false, fmt.Errorf("reading from %s: %w", w, err)
	}
	return b[:end], true, nil
}
