package pipe

import (
	"errors"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

const (
	noKey    = -2 // PTTL and PEXPIRETIME
	noExpiry = -1
)

// broken returns the first of errs that is no refusal.
func broken(errs ...error) error {
	for _, err := range errs {
		if err != nil && !errors.As(err, new(conn.Refusal)) {
			return err
		}
	}
	return nil
}

// askExpiry asks when a key expires; old is for a server before Redis 7.0.
func askExpiry(w *conn.Wire, key string, old bool) {
	if !old {
		w.About("PEXPIRETIME", key)
		return
	}
	w.Command("MULTI")
	w.About("PTTL", key)
	w.Command("TIME")
	w.Command("EXEC")
}

// expiry reads the answers about one key's expiry: milliseconds since 1970,
// noExpiry or noKey. refused is the server's refusal, after which the wire is well.
func expiry(w *conn.Wire, old bool) (expire int64, refused, err error) {
	if !old {
		n, _, err := w.Int()
		if errors.As(err, new(conn.Refusal)) {
			return 0, err, nil
		}
		return n, nil, err
	}
	if err := w.Status(); errors.As(err, new(conn.Refusal)) {
		_, _, left := w.Int() // without MULTI the others were answered one by one
		_, now := w.Time()
		_, exec := w.Array()
		return 0, err, broken(left, now, exec)
	} else if err != nil {
		return 0, nil, err
	}
	for range 2 { // QUEUED
		if err := w.Status(); errors.As(err, new(conn.Refusal)) {
			refused = errors.Join(refused, err)
		} else if err != nil {
			return 0, nil, err
		}
	}
	if _, err := w.Array(); errors.As(err, new(conn.Refusal)) {
		return 0, errors.Join(refused, err), nil
	} else if err != nil {
		return 0, nil, err
	}
	left, _, err := w.Int()
	if err != nil {
		return 0, nil, err
	}
	now, err := w.Time()
	if err != nil {
		return 0, nil, err
	}
	if left < 0 {
		return left, nil, nil
	}
	return value.ExpiryAfter(now.UnixMilli(), left), nil, nil
}
