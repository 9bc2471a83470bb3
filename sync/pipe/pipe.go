// Package pipe copies small keys from one server to another, many at a time: short strings by
// GETRANGE and SET, all others by DUMP and RESTORE.
// It owns the wires to both, to a cluster one for each master, and what is under way on them: a payload goes through and is never held whole.
// It never chooses keys, never copies a big one, and never sends a write again whose outcome is unknown.
package pipe

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// ErrChanged says that a key changed between the two questions about it. Copy it again.
var ErrChanged = errors.New("key changed while it was read")

// Dial connects to one of the servers. The wires are the pipe's then.
type Dial func(context.Context) (*conn.Bundle, error)

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

	bound int64 // bytes of a payload that is passed on; 0: mostPayload. For tests

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

	ways    []way
	weights []int64  // bytes on the source, as far as it was asked
	kinds   []string // where types matter
	sent    []sent
	asked   bool // for its sizes, by MEMORY USAGE
	old     bool // it was asked for without PEXPIRETIME
	to      *conn.Lines
	info    bool // the source was asked whether any key expires
	none    bool // none did, when these keys were in hand already
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
	del // where UNLINK is refused
)

// NewJob returns a job for keys, which become the job's.
func NewJob(keys []string, note any) *Job {
	return &Job{Keys: keys, Outcomes: make([]value.Outcome, len(keys)), Note: note, ways: make([]way, len(keys)), weights: make([]int64, len(keys)), sent: make([]sent, len(keys))}
}

// Pipe copies jobs one after the other, in three stages: sizes, payloads, answers.
// While the target works on a job, the source works on the one behind it. Not for
// concurrent use.
type Pipe struct {
	ways     *Ways
	target   Dial
	src, dst *conn.Bundle
	from     *conn.Lines // of src, as they are throughout a step

	held []byte // a payload, where types matter

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
	asked := 0 // keys of p.read
	if p.read != nil {
		asked = p.ask(p.read, 0, false)
	}
	if next != nil && len(next.Keys) >= askFrom && !p.ways.noInfo.Load() && !p.src.Many() {
		next.info = true
		askMortal(p.from.For(""), p.ways.Ours)
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
		if belated, err = p.relay(p.read, 0, asked, false); err != nil {
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
	if p.read != nil { // nothing else is to come from the source now
		more, err := p.rest(p.read, asked, false)
		if belated = belated || more; err != nil {
			return append(out, p.fail(next, err)...), err
		}
	}
	if belated {
		if err := p.again(p.read); err != nil {
			return append(out, p.fail(next, err)...), err
		}
	}
	p.read, p.written, p.sized = nil, p.read, next
	return out, nil
}

// RTT returns the round-trip time of the connection that has the longer one.
func (p *Pipe) RTT() (d time.Duration) {
	for _, w := range []*conn.Bundle{p.src, p.dst} {
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

// Connect makes the wires before there is anything to do. An error is told again by the Step
// that needs them.
func (p *Pipe) Connect(ctx context.Context) error { return p.connect(ctx) }

func (p *Pipe) connect(ctx context.Context) error {
	if err := join(ctx, &p.src, p.ways.Source); err != nil {
		return err
	}
	p.from = p.src.Lines()
	return join(ctx, &p.dst, p.target)
}

// join connects, or looks whether the servers are the same as before.
func join(ctx context.Context, b **conn.Bundle, dial Dial) (err error) {
	if *b != nil {
		return (*b).Renew(ctx)
	}
	if *b, err = dial(ctx); err != nil {
		*b = nil
	}
	return err
}

// fail ends everything that is under way, and next.
func (p *Pipe) fail(next *Job, err error) (out []*Job) {
	for _, b := range []*conn.Bundle{p.src, p.dst} {
		if b != nil {
			b.Broken()
		}
	}
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
		w := j.to.For(k)
		switch j.sent[i] {
		case restore, set, setPXAT:
			err = w.Status()
		case unlink, del:
			_, _, err = w.Int()
		}
		if err != nil && !errors.As(err, new(conn.Refusal)) {
			return err
		}
		what := j.sent[i]
		j.sent[i] = nothing // the outcome is known
		switch {
		case err != nil && p.dst.Displaced(w, err):
			j.Outcomes[i] = elsewhere(k, w, err)
		case err != nil && what == unlink && value.Lacks(err):
			p.ways.noUnlink.Store(true)
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("removing key %q on %s: %w", k, w, ErrChanged)}
		case err != nil && what == setPXAT && value.Syntax(err), err != nil && (what == set || what == setPXAT) && value.Lacks(err):
			p.ways.noShort.Store(true)
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("writing key %q to %s: %w", k, w, ErrChanged)}
		case err != nil && (what == set || what == setPXAT):
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("writing key %q to %s: %w", k, w, value.Classify(err))}
		case err != nil && what == restore:
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("writing key %q to %s: %w", k, w, value.Forbids(err))}
		case err != nil:
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("removing key %q on %s: %w", k, w, value.Classify(err))}
		case what == unlink || what == del:
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

// elsewhere is the outcome of a key that is not where it was looked for.
func elsewhere(key string, w *conn.Wire, err error) value.Outcome {
	return value.Outcome{Err: fmt.Errorf("copying key %q: %s: %w: %w", key, w, value.ErrElsewhere, err)}
}
