package conn

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/internal/endpoint"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// Wire is one connection in one database on which commands are pipelined by hand,
// for bulk work: nothing is kept of a command, and a payload goes from one wire to
// another in pieces, however large it is. Commands are collected until Flush or
// until they are many. After an error that is no Refusal the wire is of no use
// any more. Not for concurrent use, but for Close and Closed.
type Wire struct {
	nc      net.Conn
	r       *bufio.Reader
	out     []byte
	timeout time.Duration
	server  string
	node    string // of a cluster: where it is
	place   router.Place
	rtt     time.Duration
	closed  atomic.Bool
}

const (
	wireIn  = 64 << 10 // bytes read at a time
	wireOut = 64 << 10 // bytes collected before they are written
)

// Refusal is an error reply: the server's answer to one command, which it did not run.
type Refusal string

func (r Refusal) Error() string { return string(r) }

// RedisError makes a Refusal a redis.Error, as those of the other clients are.
func (Refusal) RedisError() {}

// Wire connects, as the pool's identity and under its name, and selects database
// db. The caller owns the wire. ctx bounds the connecting only.
func (p *Pool) Wire(ctx context.Context, db int) (*Wire, error) {
	return p.WireAt(ctx, router.Place{DB: db})
}

// WireAt is Wire for a place: what is given to Key and About are names of keys there,
// without the prefix that they have on the server. To a cluster there is none: see Bundle.
func (p *Pool) WireAt(ctx context.Context, place router.Place) (*Wire, error) {
	if p.endpoint.Cluster != nil {
		return nil, fmt.Errorf("connecting to %s: it is a cluster, and one connection leads to one of its nodes only", p)
	}
	nc, err := endpoint.Dial(ctx, p.endpoint, p.timeout)
	if err != nil {
		return nil, err
	}
	w := &Wire{nc: nc, r: bufio.NewReaderSize(nc, wireIn), timeout: p.timeout, server: p.String(), place: place}
	if p.of != nil {
		w.node = p.endpoint.Address
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	guard := p.guard.Load()
	if p.of == nil {
		err = w.greet(p, guard)
	} else if err = w.greet(p, nil); err == nil && guard != nil { // its key is at another node
		err = p.of.admitElsewhere(ctx, guard)
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = nc.Close()
		return nil, fmt.Errorf("connecting to %s database %d: %w", p, place.DB, err)
	}
	return w, nil
}

// greet says who we are, and asks the guard, where there is one.
func (w *Wire) greet(p *Pool, guard *Guard) error {
	e := p.endpoint
	must := 1
	switch {
	case e.Password != "" && e.Username != "":
		w.Command("AUTH", e.Username, e.Password)
		must++
	case e.Password != "":
		w.Command("AUTH", e.Password)
		must++
	}
	// By its name a connection is found and closed whose last write was not answered:
	// without one that write could arrive late.
	w.Command("CLIENT", "SETNAME", p.name)
	asked := must // the answers before the guard's
	if guard != nil {
		w.Command("GET", guard.Key)
	}
	if w.place.DB != 0 {
		w.Command("SELECT", strconv.Itoa(w.place.DB))
		must++
	}
	w.Command("CLIENT", "NO-TOUCH", "ON") // what we read is no use of the key (7.2)
	began := time.Now()
	if err := w.Flush(); err != nil {
		return err
	}
	var refused error
	for i := range must + 1 {
		if i == asked && guard != nil {
			if err := w.admit(guard); refused == nil && err != nil {
				return err
			}
		}
		err := w.Status()
		switch {
		case err == nil:
		case !errors.As(err, new(Refusal)):
			return err
		case i < must && refused == nil:
			refused = err
		}
	}
	w.rtt = time.Since(began)
	return refused
}

// admit reads what the guard has asked for, and asks it.
func (w *Wire) admit(g *Guard) error {
	value, err := w.Text()
	if err != nil && !forbidden(err) {
		return err
	}
	return g.Allow(value)
}

// String names the server and the database.
func (w *Wire) String() string { return w.server + " database " + strconv.Itoa(w.place.DB) }

// RTT returns how long the first round trip took.
func (w *Wire) RTT() time.Duration { return w.rtt }

// DB returns the number of the wire's database.
func (w *Wire) DB() int { return w.place.DB }

// Close ends the connection. Whoever waits on it gets an error.
func (w *Wire) Close() {
	w.closed.Store(true)
	_ = w.nc.Close()
}

// Closed reports whether Close was called.
func (w *Wire) Closed() bool { return w.closed.Load() }

// Command collects a command.
func (w *Wire) Command(args ...string) {
	w.Begin(len(args))
	for _, a := range args {
		w.Arg(a)
	}
}

// About collects a command of one word whose first argument is a key.
func (w *Wire) About(command, key string, args ...string) {
	w.Begin(2 + len(args))
	w.Arg(command)
	w.Key(key)
	for _, a := range args {
		w.Arg(a)
	}
}

// Usage collects the question how large a key is in memory.
func (w *Wire) Usage(key string) {
	w.Begin(3)
	w.Arg("MEMORY")
	w.Arg("USAGE")
	w.Key(key)
}

// Begin begins a command of n arguments, its name included: n calls of Arg, Key, Number
// or Relay must follow.
func (w *Wire) Begin(n int) { w.header('*', int64(n)) }

// Arg adds an argument.
func (w *Wire) Arg(a string) {
	w.header('$', int64(len(a)))
	w.out = append(w.out, a...)
	w.out = append(w.out, '\r', '\n')
}

// Key adds an argument that is a key, by its name at the wire's place.
func (w *Wire) Key(key string) { w.Arg(nameAt(w.place, key)) }

// Number adds an argument.
func (w *Wire) Number(n int64) {
	var digits [20]byte
	text := strconv.AppendInt(digits[:0], n, 10)
	w.header('$', int64(len(text)))
	w.out = append(w.out, text...)
	w.out = append(w.out, '\r', '\n')
}

func (w *Wire) header(typ byte, n int64) {
	w.out = append(w.out, typ)
	w.out = strconv.AppendInt(w.out, n, 10)
	w.out = append(w.out, '\r', '\n')
}

// Flush writes what was collected.
func (w *Wire) Flush() error {
	if len(w.out) == 0 {
		return nil
	}
	_ = w.nc.SetDeadline(time.Now().Add(w.timeout))
	_, err := w.nc.Write(w.out)
	if cap(w.out) > 4*wireOut {
		w.out = nil
	}
	w.out = w.out[:0]
	if err != nil {
		return fmt.Errorf("writing to %s: %w", w, err)
	}
	return nil
}

// Full reports whether so much is collected that it is time for Flush.
func (w *Wire) Full() bool { return len(w.out) >= wireOut }

// Relay adds the n bytes that come next on from, and the line end behind them, as
// an argument, whatever they are. When from fails half way, w is of no use either:
// half a command may have been written to it.
func (w *Wire) Relay(from *Wire, n int64) error {
	w.header('$', n)
	for left := n + 2; left > 0; {
		if from.r.Buffered() == 0 {
			_ = from.nc.SetReadDeadline(time.Now().Add(from.timeout))
			if _, err := from.r.Peek(1); err != nil {
				return fmt.Errorf("reading from %s: %w", from, err)
			}
		}
		piece, _ := from.r.Peek(int(min(left, int64(from.r.Buffered()))))
		w.out = append(w.out, piece...)
		left -= int64(len(piece))
		_, _ = from.r.Discard(len(piece))
		if left > 0 && w.Full() {
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// Peek returns the byte that comes next, which stays there.
func (w *Wire) Peek() (byte, error) {
	if w.r.Buffered() == 0 {
		_ = w.nc.SetReadDeadline(time.Now().Add(w.timeout))
	}
	b, err := w.r.Peek(1)
	if err != nil {
		return 0, fmt.Errorf("reading from %s: %w", w, err)
	}
	return b[0], nil
}

// skipPiece is how many bytes are dropped within one time-out.
const skipPiece = 1 << 20

// Skip drops the n bytes that come next, and the line end behind them.
func (w *Wire) Skip(n int64) error {
	for left := n + 2; left > 0; {
		_ = w.nc.SetReadDeadline(time.Now().Add(w.timeout))
		piece := min(left, skipPiece)
		if _, err := w.r.Discard(int(piece)); err != nil {
			return fmt.Errorf("reading from %s: %w", w, err)
		}
		left -= piece
	}
	return nil
}

// Status reads a reply that is a status.
func (w *Wire) Status() error {
	typ, _, err := w.next()
	if err == nil && typ != '+' {
		err = w.unexpected(typ, "a status")
	}
	return err
}

// Int reads a reply that is a number; ok is false where it is nil.
func (w *Wire) Int() (n int64, ok bool, err error) {
	typ, n, err := w.next()
	switch {
	case err != nil:
	case typ == ':':
		return n, true, nil
	case (typ == '$' || typ == '*') && n < 0:
	default:
		err = w.unexpected(typ, "a number")
	}
	return 0, false, err
}

// Bulk reads the header of a reply that is a string and returns its length in
// bytes, -1 where it is nil. Relay or Skip must follow where it is not.
func (w *Wire) Bulk() (n int64, err error) {
	typ, n, err := w.next()
	if err == nil && typ != '$' {
		err = w.unexpected(typ, "a string")
	}
	return n, err
}

// Text reads a reply that is a string, which is held whole.
func (w *Wire) Text() (string, error) {
	n, err := w.Bulk()
	if err != nil || n < 0 {
		return "", err
	}
	text := make([]byte, n+2)
	if _, err := io.ReadFull(w.r, text); err != nil {
		return "", fmt.Errorf("reading from %s: %w", w, err)
	}
	return string(text[:n]), nil
}

// Word reads a reply that is a status and returns it.
func (w *Wire) Word() (string, error) {
	line, err := w.line()
	switch {
	case err != nil:
		return "", err
	case line[0] == '-':
		return "", Refusal(line[1:])
	case line[0] != '+':
		return "", w.unexpected(line[0], "a status")
	}
	return string(line[1:]), nil
}

// Time reads the answer to TIME.
func (w *Wire) Time() (time.Time, error) {
	n, err := w.Array()
	if err == nil && n != 2 {
		err = fmt.Errorf("reading from %s: the answer to TIME has %d elements", w, n)
	}
	if err != nil {
		return time.Time{}, err
	}
	var parts [2]int64
	for i := range parts {
		text, err := w.Text()
		if err == nil {
			parts[i], err = strconv.ParseInt(text, 10, 64)
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("reading the answer to TIME from %s: %w", w, err)
		}
	}
	return time.Unix(parts[0], parts[1]*1000), nil
}

// Array reads the header of an array and returns how many elements follow, -1
// where it is nil.
func (w *Wire) Array() (n int64, err error) {
	typ, n, err := w.next()
	if err == nil && typ != '*' {
		err = w.unexpected(typ, "an array")
	}
	return n, err
}

func (w *Wire) unexpected(typ byte, wanted string) error {
	return fmt.Errorf("reading from %s: the answer begins with %q and is not %s", w, typ, wanted)
}

// line reads the first line of a reply, without its end. It is valid until the next
// read.
func (w *Wire) line() ([]byte, error) {
	if w.r.Buffered() == 0 {
		_ = w.nc.SetReadDeadline(time.Now().Add(w.timeout))
	}
	line, err := w.r.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("reading from %s: %w", w, err)
	}
	if len(line) < 3 {
		return nil, fmt.Errorf("reading from %s: the answer begins with %q", w, line)
	}
	return line[:len(line)-2], nil
}

// next reads the first line of a reply: its type, and the number that stands there.
// The error is a Refusal where the server refused a command.
func (w *Wire) next() (typ byte, n int64, err error) {
	line, err := w.line()
	if err != nil {
		return 0, 0, err
	}
	switch line[0] {
	case '-':
		return '-', 0, Refusal(line[1:])
	case '+':
		return '+', 0, nil
	}
	n, ok := resp.Integer(line[1:])
	if !ok || line[0] != ':' && n > longest {
		return 0, 0, fmt.Errorf("reading from %s: the answer begins with %q", w, line)
	}
	return line[0], n, nil
}

// longest is more than any string has bytes or any array elements, so that what is
// added to a length does not run over.
const longest = 1 << 50
