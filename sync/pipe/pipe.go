// Package pipe copies small keys from one server to another, many at a time: short strings by
// GETRANGE and SET, all others by DUMP and RESTORE.
// It owns two wires and what is under way on them: a payload goes through and is never held whole.
// It never chooses keys, never copies a big one, and never sends a write again whose outcome is unknown.
package pipe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// ErrChanged says that a key changed between the two questions about it. Copy it again.
var ErrChanged = errors.New("key changed while it was read")

// Dial connects to one of the servers. The wire is the pipe's then.
type Dial func(context.Context) (*conn.Wire, error)

// Ways is what the pipes between two servers have in common. The fields are set
// before first use.
type Ways struct {
	Source Dial
	// Big is from how many bytes of memory on the source a key is refused as
	// value.ErrTooBig without having been read; 0 means never.
	Big int64
	// Known tells of keys that the target may have a big value of: RESTORE over it
	// would free that at once. They are refused like big ones. nil: none.
	Known func(key string) bool

	// Takes says of which types keys are copied, see value.Manner. nil: of all.
	Takes func(key, kind string) bool

	// Ours are keys of the source's database that may have an expiry, whatever those
	// of the applications have.
	Ours []string

	kinds        kinds
	noExpireTime atomic.Bool // source: before Redis 7.0, or forbidden
	noMemory     atomic.Bool // source: before 4.0, or forbidden
	noInfo       atomic.Bool // source: forbidden
	noUnlink     atomic.Bool // target: before 4.0, or forbidden
	noShort      atomic.Bool // GETRANGE or SET is forbidden, or keys expire and the target knows no PXAT (6.2)
}

// Short reports whether key is thought to be a short string, for which RESTORE is not
// needed. Where types matter nothing is guessed.
func (w *Ways) Short(key string) bool {
	return w.Takes == nil && !w.noShort.Load() && w.kinds.short(key)
}

// Job is a number of keys to be copied, none of which is in another job.
type Job struct {
	Keys []string
	// Outcomes has one element a key once the job has come out of Step.
	Outcomes []value.Outcome
	// Failed says that a wire broke while the job was under way: each outcome carries
	// that error. Unknown says that a write may still arrive on the target.
	Failed, Unknown bool
	// Restored is how many of the keys were taken by RESTORE.
	Restored int
	// Note is the caller's.
	Note any

	ways  []way
	kinds []string // where types matter
	sent  []sent
	asked bool // for its sizes, by MEMORY USAGE
	old   bool // it was asked for without PEXPIRETIME
	info  bool // the source was asked whether any key expires
	none  bool // none did, when these keys were in hand already
}

// way is how a key is read.
type way uint8

const (
	whole way = iota // its size, then DUMP
	short            // GETRANGE: it is thought to be a short string
	late             // it was thought to be one, and is none, or is gone: now as whole
)

// sent is what was asked of the target for a key.
type sent uint8

const (
	nothing sent = iota
	restore
	set
	setPXAT // with an expiry
	unlink
	undone // restore, and unlink behind it
)

// NewJob returns a job for keys, which become the job's.
func NewJob(keys []string, note any) *Job {
	return &Job{Keys: keys, Outcomes: make([]value.Outcome, len(keys)), Note: note, ways: make([]way, len(keys)), sent: make([]sent, len(keys))}
}

// Pipe copies jobs one after the other, in three stages: sizes, payloads, answers.
// While the target works on a job, the source works on the one behind it. Not for
// concurrent use.
type Pipe struct {
	ways     *Ways
	target   Dial
	src, dst *conn.Wire

	sized, read, written *Job // what each stage holds between two steps; read only within one
}

// New returns a pipe that connects when it has something to do.
func New(w *Ways, target Dial) *Pipe { return &Pipe{ways: w, target: target} }

// Idle reports whether nothing is under way.
func (p *Pipe) Idle() bool { return p.sized == nil && p.written == nil }

// Step takes next, which may be nil, into the first stage, moves what is under way
// by one stage, and returns the job that has come out, if one has. A job comes out
// of the third step after the one that took it, at the latest.
//
// With an error all that was under way comes out, and the wires are closed. The
// outcomes of each carry the error then. ctx bounds connecting only; each round
// trip is bounded by the wires' own time-outs.
func (p *Pipe) Step(ctx context.Context, next *Job) (out []*Job, err error) {
	p.read, p.sized = p.sized, nil
	if err := p.connect(ctx); err != nil {
		return p.fail(next, err), err
	}
	if p.read != nil {
		p.ask(p.read, false)
	}
	if next != nil && len(next.Keys) >= askFrom && !p.ways.noInfo.Load() {
		next.info = true
		askMortal(p.src, p.ways.Ours)
	}
	if next != nil {
		p.askKinds(next)
		p.guess(next)
		p.askSizes(next, whole)
	}
	if err := p.src.Flush(); err != nil {
		return p.fail(next, err), err
	}
	if j := p.written; j != nil {
		if err := p.settle(j); err != nil {
			return p.fail(next, err), err
		}
		p.written = nil
		out = append(out, j)
	}
	belated := false
	if p.read != nil {
		if belated, err = p.relay(p.read, false); err != nil {
			return append(out, p.fail(next, err)...), err
		}
	}
	if next != nil {
		err := p.mortal(next)
		if err == nil {
			err = p.sort(next)
		}
		if err == nil {
			err = p.measure(next, whole)
		}
		if err != nil {
			return append(out, p.fail(next, err)...), err
		}
	}
	if belated { // nothing else is to come from the source now
		if err := p.again(p.read); err != nil {
			return append(out, p.fail(next, err)...), err
		}
	}
	p.read, p.written, p.sized = nil, p.read, next
	return out, nil
}

// RTT returns the round-trip time of the connection that has the longer one.
func (p *Pipe) RTT() (d time.Duration) {
	for _, w := range []*conn.Wire{p.src, p.dst} {
		if w != nil {
			d = max(d, w.RTT())
		}
	}
	return d
}

// Close closes the wires. Nothing may be under way.
func (p *Pipe) Close() {
	if p.src != nil {
		p.src.Close()
	}
	if p.dst != nil {
		p.dst.Close()
	}
	p.src, p.dst = nil, nil
}

func (p *Pipe) connect(ctx context.Context) (err error) {
	if p.src == nil {
		if p.src, err = p.ways.Source(ctx); err != nil {
			p.src = nil
			return err
		}
	}
	if p.dst == nil {
		if p.dst, err = p.target(ctx); err != nil {
			p.dst = nil
			return err
		}
	}
	return nil
}

// fail ends everything that is under way, and next.
func (p *Pipe) fail(next *Job, err error) (out []*Job) {
	p.Close()
	for _, j := range []*Job{p.written, p.read, p.sized, next} {
		if j == nil {
			continue
		}
		j.Failed = true
		for i := range j.Keys {
			j.Unknown = j.Unknown || j.sent[i] != nothing
			j.Outcomes[i] = value.Outcome{Err: err}
		}
		out = append(out, j)
	}
	p.written, p.read, p.sized = nil, nil, nil
	return out
}

// ask asks the source for expiries and payloads.
//
// Expiry and value are two commands, not one transaction: MULTI and EXEC would
// make four of them, and half of what a small key costs the source. When another
// client changes a key in between, the copy has a value and an expiry that never
// were together; but that change is an event that comes behind it, so the key is
// dirty and copied again before anybody may rely on it (PROTOCOL.md, 2).
func (p *Pipe) ask(j *Job, belated bool) {
	j.old = p.ways.noExpireTime.Load()
	for i, k := range j.Keys {
		if j.Outcomes[i].Err != nil || (j.ways[i] == late) != belated {
			continue
		}
		switch {
		case j.none:
		case j.old:
			p.src.Command("MULTI")
			p.src.Command("PTTL", k)
			p.src.Command("TIME")
			p.src.Command("EXEC")
		default:
			p.src.Command("PEXPIRETIME", k)
		}
		if j.ways[i] == short {
			p.src.Command("GETRANGE", k, "0", lastOfShort)
		} else {
			p.src.Command("DUMP", k)
		}
		if j.kinds != nil && j.Outcomes[i].Err == nil {
			p.src.Command("TYPE", k)
		}
	}
}

// again asks once more for the keys of j that turned out to be no short strings.
func (p *Pipe) again(j *Job) error {
	p.askSizes(j, late)
	if err := p.src.Flush(); err != nil {
		return err
	}
	if err := p.measure(j, late); err != nil {
		return err
	}
	p.ask(j, true)
	if err := p.src.Flush(); err != nil {
		return err
	}
	_, err := p.relay(j, true)
	return err
}

// relay reads what was asked for, of the keys that are late or of the others, and
// passes it on to the target. more says that some of the others have become late.
func (p *Pipe) relay(j *Job, belated bool) (more bool, err error) {
	for i := range j.Keys {
		if j.Outcomes[i].Err != nil || (j.ways[i] == late) != belated {
			continue
		}
		expire, refused := int64(noExpiry), error(nil)
		if !j.none {
			if expire, refused, err = p.expiry(j.old); err != nil {
				return more, err
			}
		}
		if j.ways[i] == short {
			err = p.relayShort(j, i, expire, refused)
			more = more || j.ways[i] == late
		} else {
			err = p.relayDump(j, i, expire, refused)
		}
		if err == nil && j.kinds != nil {
			err = p.sortAgain(j, i)
		}
		if err == nil && p.dst.Full() {
			err = p.dst.Flush()
		}
		if err != nil {
			return more, err
		}
	}
	return more, p.dst.Flush()
}

// relayShort passes on what GETRANGE has read. Nothing is what it reads of an empty
// string, and where there is no key.
func (p *Pipe) relayShort(j *Job, i int, expire int64, refused error) error {
	k := j.Keys[i]
	size, err := p.src.Bulk()
	if errors.As(err, new(conn.Refusal)) {
		switch {
		case strings.HasPrefix(err.Error(), "WRONGTYPE"):
			p.ways.kinds.learn(k, false)
		case value.Lacks(err):
			p.ways.noShort.Store(true)
		}
		p.unknowable(refused)
		j.ways[i] = late
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case refused == nil && expire != noKey && size > 0 && size < shortString:
		j.sent[i] = set
		j.Outcomes[i].Bytes = size
		if expire < 0 {
			p.dst.Begin(3)
		} else {
			j.sent[i] = setPXAT
			p.dst.Begin(5)
		}
		p.dst.Arg("SET")
		p.dst.Arg(k)
		err := p.dst.Relay(p.src, size)
		if expire >= 0 {
			p.dst.Arg("PXAT")
			p.dst.Number(max(1, expire)) // SET does not take 0, which is as long ago
		}
		return err
	case refused == nil && expire == noKey && size == 0:
		p.remove(j, i)
	default:
		if size >= shortString {
			p.ways.kinds.learn(k, false)
		}
		p.unknowable(refused)
		j.ways[i] = late
	}
	return p.src.Skip(size)
}

// unknowable notes where the source does not know PEXPIRETIME.
func (p *Pipe) unknowable(refused error) {
	if refused != nil && value.Lacks(refused) {
		p.ways.noExpireTime.Store(true)
	}
}

// relayDump passes on what DUMP has read.
func (p *Pipe) relayDump(j *Job, i int, expire int64, refused error) error {
	k := j.Keys[i]
	if refused != nil && !j.old && value.Lacks(refused) {
		p.unknowable(refused) // for the next job: this one is read as it was asked for
		refused = ErrChanged
	}
	size, err := p.src.Bulk()
	if errors.As(err, new(conn.Refusal)) {
		if refused == nil {
			refused = value.Forbids(err)
		}
		size, err = 0, nil
	} else if err != nil {
		return err
	}
	switch {
	case refused != nil:
		if size > 0 {
			err = p.src.Skip(size)
		}
		j.Outcomes[i].Err = fmt.Errorf("reading key %q from %s: %w", k, p.src, refused)
		return err
	case size < 0 && j.kinds != nil && j.kinds[i] != "none": // what the target has must be asked for first
		j.Outcomes[i].Err = fmt.Errorf("reading key %q from %s: %w", k, p.src, ErrChanged)
		return nil
	case size < 0:
		p.remove(j, i)
		return nil
	case expire == noKey: // it came between the two questions
		j.Outcomes[i].Err = fmt.Errorf("reading key %q from %s: %w", k, p.src, ErrChanged)
		return p.src.Skip(size)
	}
	if typ, err := p.src.Peek(); err != nil {
		return err
	} else {
		p.ways.kinds.learn(k, typ == typeString && size < shortString)
	}
	j.sent[i] = restore
	j.Outcomes[i].Bytes = size
	p.dst.Begin(6)
	p.dst.Arg("RESTORE")
	p.dst.Arg(k)
	// 0 is "no expiry" to RESTORE. An expiry already past is right as it
	// is: RESTORE REPLACE then deletes the old value and adds nothing.
	p.dst.Number(max(0, expire))
	err = p.dst.Relay(p.src, size)
	p.dst.Arg("REPLACE")
	p.dst.Arg("ABSTTL")
	return err
}

func (p *Pipe) remove(j *Job, i int) {
	j.sent[i] = unlink
	if p.ways.noUnlink.Load() {
		p.dst.Command("DEL", j.Keys[i])
		return
	}
	p.dst.Command("UNLINK", j.Keys[i])
}

const (
	noKey    = -2 // PTTL and PEXPIRETIME
	noExpiry = -1
)

func (p *Pipe) expiry(old bool) (expire int64, refused, err error) { return expiry(p.src, old) }

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
	for range 3 { // MULTI, QUEUED, QUEUED
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
	return now.UnixMilli() + left, nil, nil
}

// settle reads the target's answers, in the order of what was sent.
func (p *Pipe) settle(j *Job) error {
	if err := p.settleThose(j, false); err != nil {
		return err
	}
	return p.settleThose(j, true)
}

func (p *Pipe) settleThose(j *Job, belated bool) error {
	for i, k := range j.Keys {
		if j.sent[i] == nothing || (j.ways[i] == late) != belated {
			continue
		}
		var err error
		switch j.sent[i] {
		case restore, set, setPXAT:
			err = p.dst.Status()
		case undone:
			if err = p.dst.Status(); err == nil || errors.As(err, new(conn.Refusal)) {
				_, _, err = p.dst.Int()
			}
		case unlink:
			_, _, err = p.dst.Int()
		}
		if err != nil && !errors.As(err, new(conn.Refusal)) {
			return err
		}
		what := j.sent[i]
		j.sent[i] = nothing // the outcome is known
		switch {
		case what == undone && err == nil:
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("reading key %q from %s: %w", k, p.src, ErrChanged)}
		case err != nil && (what == unlink || what == undone) && value.Lacks(err):
			p.ways.noUnlink.Store(true)
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("removing key %q on %s: %w", k, p.dst, ErrChanged)}
		case err != nil && what == setPXAT && value.Syntax(err), err != nil && (what == set || what == setPXAT) && value.Lacks(err):
			p.ways.noShort.Store(true)
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("writing key %q to %s: %w", k, p.dst, ErrChanged)}
		case err != nil && (what == set || what == setPXAT):
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("writing key %q to %s: %w", k, p.dst, value.Classify(err))}
		case err != nil && what == restore:
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("writing key %q to %s: %w", k, p.dst, value.Forbids(err))}
		case err != nil:
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("removing key %q on %s: %w", k, p.dst, value.Classify(err))}
		case what == unlink:
			j.Outcomes[i].Removed = true
		default:
			j.Outcomes[i].Copied = true
			if what == restore {
				j.Restored++
			}
		}
	}
	return nil
}
