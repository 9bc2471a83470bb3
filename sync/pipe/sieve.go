package pipe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// ErrBlind says that a server does not tell how large its keys are (MEMORY USAGE is
// not there before Redis 4.0, and may be forbidden), so that nothing is read there only
// to be compared.
var ErrBlind = errors.New("server does not tell the sizes of keys")

// Verdict is what a comparison has found.
type Verdict uint8

// The verdicts.
const (
	Unlike Verdict = iota // it differs, or cannot be said to be the same: copy it
	Alike                 // both servers have the same value and expiry, or neither has the key
	Heavy                 // one of the servers has a value too big to be dumped
)

// Lot is a number of keys to be compared, none of which is in another lot and none of
// ours.
type Lot struct {
	Keys []string
	// Verdicts has one element a key once the lot has come out of Step.
	Verdicts []Verdict
	// Bytes is the payload of those that are Alike, as the source has it.
	Bytes int64
	// Note is the caller's.
	Note any

	weights []int64 // in bytes, on the server where it is heavier
	short   []bool  // it is thought to be a short string
	mortal  bool    // the servers were asked whether any key expires
}

// NewLot returns a lot for keys, which become the lot's.
func NewLot(keys []string, note any) *Lot {
	return &Lot{
		Keys: keys, Note: note, Verdicts: make([]Verdict, len(keys)),
		weights: make([]int64, len(keys)), short: make([]bool, len(keys)),
	}
}

// Sieve parts the keys that are the same on two servers from those that are not. It
// reads both, as the pipe reads the source, and writes nothing. While both servers
// answer for a lot they say how large the keys of the next one are. Not for concurrent
// use.
//
// What it says holds for a key that changes on neither server meanwhile: whoever uses
// it has the key in hand and hears of changes.
type Sieve struct {
	ways    *Ways
	ends    [2]end // source, target
	noShort bool   // GETRANGE is forbidden
	sized   *Lot   // to be read at the next step
}

// end is one of the servers.
type end struct {
	dial   Dial
	ours   []string // keys of ours that may have an expiry
	wires  *conn.Bundle
	lines  *conn.Lines // as they are throughout a step
	old    bool        // no PEXPIRETIME: before Redis 7.0
	noInfo bool        // forbidden
	none   [2]bool     // no key but ours has an expiry: of the lot that is read, and of the next

	payload []byte // of the key that is read, or the string itself
	expire  int64  // milliseconds since 1970, noExpiry or noKey
	found   bool   // there is a payload
	refused error
}

// NewSieve returns a sieve for the keys that w is for, which connects when it has
// something to do. A key is Heavy from w.Big on, on either server. ours are keys of the
// target's database that may have an expiry, whatever those of the applications have.
func NewSieve(w *Ways, target Dial, ours []string) *Sieve {
	return &Sieve{ways: w, ends: [2]end{{dial: w.Source, ours: w.Ours}, {dial: target, ours: ours}}}
}

// Idle reports whether nothing is under way.
func (s *Sieve) Idle() bool { return s.sized == nil }

// Step takes next, which may be nil, and returns the lot before it, compared, if there
// was one. With an error both come out, Unlike as far as they were not compared, and
// the wires are closed. ctx bounds connecting only; each round trip is bounded by the
// wires' own time-outs.
func (s *Sieve) Step(ctx context.Context, next *Lot) (out []*Lot, err error) {
	lot := s.sized
	s.sized = nil
	if err := s.step(ctx, lot, next); err != nil {
		for i := range s.ends {
			if b := s.ends[i].wires; b != nil {
				b.Broken()
			}
		}
		s.Close()
		for _, l := range []*Lot{lot, next} {
			if l != nil {
				out = append(out, l)
			}
		}
		return out, err
	}
	if lot != nil {
		out = append(out, lot)
	}
	s.sized = next
	return out, nil
}

// Close closes the wires. Nothing may be under way.
func (s *Sieve) Close() {
	for i := range s.ends {
		if e := &s.ends[i]; e.wires != nil {
			e.wires.Close()
			e.wires = nil
		}
		s.ends[i].none = [2]bool{} // what was asked for lots that are lost says nothing about others
	}
}

func (s *Sieve) step(ctx context.Context, lot, next *Lot) error {
	for i := range s.ends {
		if err := s.ends[i].connect(ctx); err != nil {
			return err
		}
	}
	if next != nil {
		s.askAbout(next)
	}
	from, to := 0, 0
	if lot != nil {
		to = s.ask(lot, from)
	}
	if err := s.flush(); err != nil {
		return err
	}
	if next != nil {
		if err := s.about(next); err != nil {
			return err
		}
	}
	for lot != nil {
		again, err := s.compare(lot, from, to)
		if err != nil {
			return err
		}
		if !again {
			if from = to; from == len(lot.Keys) {
				break
			}
		}
		to = s.ask(lot, from)
		if err := s.flush(); err != nil {
			return err
		}
	}
	for i := range s.ends {
		e := &s.ends[i]
		e.none[0], e.none[1] = e.none[1], false
	}
	return nil
}

func (s *Sieve) flush() error {
	for i := range s.ends {
		if err := s.ends[i].wires.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// askAbout asks whether any key expires, and how large those of l are that are not
// thought to be short strings.
func (s *Sieve) askAbout(l *Lot) {
	for i, k := range l.Keys {
		l.short[i] = !s.noShort && s.ways.Short(k)
	}
	l.mortal = len(l.Keys) >= askFrom && !s.ends[0].noInfo && !s.ends[1].noInfo && !s.ends[0].wires.Many() && !s.ends[1].wires.Many()
	for i := range s.ends {
		e := &s.ends[i]
		if l.mortal {
			askMortal(e.lines.For(""), e.ours)
		}
		for n, k := range l.Keys {
			if !l.short[n] {
				e.lines.For(k).Usage(k)
			}
		}
	}
}

// about reads the answers.
func (s *Sieve) about(l *Lot) error {
	var blind error
	for i := range s.ends {
		e := &s.ends[i]
		if l.mortal {
			none, refused, err := mortal(e.lines.For(""), e.ours)
			if err != nil {
				return err
			}
			e.none[1], e.noInfo = none, refused
		}
		for n := range l.Keys {
			if l.short[n] {
				continue
			}
			wire := e.lines.For(l.Keys[n])
			size, _, err := wire.Int()
			switch {
			case err != nil && e.wires.Displaced(wire, err): // it is read from elsewhere, or copied
			case errors.As(err, new(conn.Refusal)):
				blind = fmt.Errorf("asking %s for the sizes of %d keys: %w: %w", wire, len(l.Keys), ErrBlind, value.Forbids(err))
			case err != nil:
				return err
			}
			l.weights[n] = max(l.weights[n], size)
			if s.ways.Big > 0 && l.weights[n] >= s.ways.Big {
				l.Verdicts[n] = Heavy
			}
		}
	}
	if blind != nil {
		clear(l.Verdicts)
	}
	return blind
}

// roundBytes is about how many bytes of payload each server is asked for at a time.
const roundBytes = 4 << 20

// ask asks both servers for the keys from from on, as many as may be asked for at once,
// and returns where it has stopped.
func (s *Sieve) ask(l *Lot, from int) (to int) {
	var sum int64
	for to = from; to < len(l.Keys) && (sum == 0 || sum+l.weights[to] <= roundBytes); to++ {
		if l.Verdicts[to] == Heavy {
			continue
		}
		sum += max(1, l.weights[to])
		for i := range s.ends {
			s.ends[i].ask(l.Keys[to], l.short[to])
		}
	}
	return to
}

// compare reads what was asked for. again says that it must be asked for once more.
func (s *Sieve) compare(l *Lot, from, to int) (again bool, err error) {
	source, target := &s.ends[0], &s.ends[1]
	wasOld := [2]bool{source.old, target.old}
	for i := from; i < to; i++ {
		if l.Verdicts[i] == Heavy {
			continue
		}
		for n := range s.ends {
			if err := s.ends[n].read(l.Keys[i], wasOld[n], l.short[i]); err != nil {
				return false, err
			}
		}
		if l.short[i] && s.alikeShort(l.Keys[i]) || !l.short[i] && s.alike(l.Keys[i]) {
			l.Verdicts[i] = Alike
			l.Bytes += int64(len(source.payload))
		}
	}
	return source.old != wasOld[0] || target.old != wasOld[1], nil
}

// oldTolerance is by how many milliseconds the expiry of a key may seem to differ where
// a server tells only how long it has to live: that and the time are read one after
// the other, at each copy and at each comparison.
const oldTolerance = 2

// alike judges what DUMP has answered.
func (s *Sieve) alike(key string) bool {
	a, b := &s.ends[0], &s.ends[1]
	if a.refused != nil || b.refused != nil || a.found != b.found {
		return false
	}
	if !a.found {
		return true
	}
	s.ways.kinds.learn(key, len(a.payload) > 0 && a.payload[0] == typeString && len(a.payload) < shortString)
	return s.sameExpiry() && samePayload(a.payload, b.payload)
}

// alikeShort judges what GETRANGE has answered: nothing where there is no key, and of
// what is no short string not all of it.
func (s *Sieve) alikeShort(key string) bool {
	a, b := &s.ends[0], &s.ends[1]
	for _, e := range []*end{a, b} {
		switch {
		case e.refused == nil:
		case strings.HasPrefix(e.refused.Error(), "WRONGTYPE"):
			s.ways.kinds.learn(key, false)
		case value.Lacks(e.refused):
			s.noShort = !e.old || s.noShort
		}
	}
	if len(a.payload) >= shortString {
		s.ways.kinds.learn(key, false)
	}
	if a.refused != nil || b.refused != nil {
		return false
	}
	if len(a.payload) == 0 && len(b.payload) == 0 {
		return a.expire == noKey && b.expire == noKey
	}
	return len(a.payload) < shortString && a.expire != noKey && b.expire != noKey && s.sameExpiry() && bytes.Equal(a.payload, b.payload)
}

func (s *Sieve) sameExpiry() bool {
	a, b := &s.ends[0], &s.ends[1]
	off := a.expire - b.expire
	return off == 0 || (a.old || b.old) && a.expire >= 0 && b.expire >= 0 && max(off, -off) <= oldTolerance
}

// samePayload reports whether two answers to DUMP are surely of the same value. They
// end with the version of the format and a checksum over both, so they differ between
// servers of other versions that write the same value alike. That counts as the same
// where the kind of encoding, the first byte, was given before Redis and Valkey parted:
// those above may mean one thing here and another there.
func samePayload(a, b []byte) bool {
	const version, checksum = 2, 8
	if len(a) != len(b) || len(a) <= version+checksum {
		return false
	}
	body := len(a) - version - checksum
	if !bytes.Equal(a[:body], b[:body]) && !sameElements(a[:body], b[:body]) {
		return false
	}
	va, vb := binary.LittleEndian.Uint16(a[body:]), binary.LittleEndian.Uint16(b[body:])
	return va == vb || a[0] < firstDisputed
}

// firstDisputed is the first kind of encoding that came after RDB version 11, that of
// Redis 7.2, from which Valkey was made.
const firstDisputed = 22

func (e *end) connect(ctx context.Context) error {
	if err := join(ctx, &e.wires, e.dial); err != nil {
		return err
	}
	e.lines = e.wires.Lines()
	return nil
}

// ask asks for a key's expiry, unless there is none, and value. As in the pipe they are
// two steps: who changes the key in between causes an event, after which it is copied
// in any case.
func (e *end) ask(key string, short bool) {
	wire := e.lines.For(key)
	if !e.none[0] {
		askExpiry(wire, key, e.old)
	}
	if short {
		wire.About("GETRANGE", key, "0", lastOfShort)
	} else {
		wire.About("DUMP", key)
	}
}

// read reads the answers for one key, which was asked for as of an old server or not.
func (e *end) read(key string, old, short bool) (err error) {
	wire := e.lines.For(key)
	e.expire, e.refused = noExpiry, nil
	if !e.none[0] {
		if e.expire, e.refused, err = expiry(wire, old); err != nil {
			return err
		}
		if e.refused != nil && !old && value.Lacks(e.refused) {
			e.old = true // what was asked is asked again
		}
	}
	if cap(e.payload) > roundBytes {
		e.payload = nil
	}
	e.payload, e.found, err = wire.Append(e.payload[:0])
	if errors.As(err, new(conn.Refusal)) {
		_ = e.wires.Displaced(wire, err) // whoever copies it goes where it is
		if e.refused == nil {
			e.refused = err
		}
		err = nil
	}
	if err == nil && !short && !e.none[0] && e.refused == nil && e.found == (e.expire == noKey) {
		e.refused = ErrChanged // it came or went between the two
	}
	return err
}
