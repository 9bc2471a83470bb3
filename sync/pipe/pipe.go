// Package pipe copies small keys from one server to another by DUMP and RESTORE, many at a time.
// It owns two wires and what is under way on them: a payload goes through and is never held whole.
// It never chooses keys, never copies a big one, and never sends a write again whose outcome is unknown.
package pipe

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

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

	noExpireTime atomic.Bool // source: before Redis 7.0, or forbidden
	noMemory     atomic.Bool // source: before 4.0, or forbidden
	noInfo       atomic.Bool // source: forbidden
	noUnlink     atomic.Bool // target: before 4.0, or forbidden
}

// Job is a number of keys to be copied, none of which is in another job.
type Job struct {
	Keys []string
	// Outcomes has one element a key once the job has come out of Step.
	Outcomes []value.Outcome
	// Failed says that a wire broke while the job was under way: each outcome carries
	// that error. Unknown says that a write may still arrive on the target.
	Failed, Unknown bool
	// Note is the caller's.
	Note any

	kinds []string // where types matter
	sent  []sent
	asked bool // for its sizes, by MEMORY USAGE
	old   bool // it was asked for without PEXPIRETIME
	info  bool // the source was asked whether any key expires
	none  bool // none did, when these keys were in hand already
}

// sent is what was asked of the target for a key.
type sent uint8

const (
	nothing sent = iota
	restore
	unlink
	undone // restore, and unlink behind it
)

// NewJob returns a job for keys, which become the job's.
func NewJob(keys []string, note any) *Job {
	return &Job{Keys: keys, Outcomes: make([]value.Outcome, len(keys)), Note: note, sent: make([]sent, len(keys))}
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
		p.ask(p.read)
	}
	if next != nil && len(next.Keys) >= askFrom && !p.ways.noInfo.Load() {
		next.info = true
		p.askMortal()
	}
	if next != nil && p.ways.Takes != nil {
		for _, k := range next.Keys {
			p.src.Command("TYPE", k)
		}
	}
	if next != nil && p.measures() {
		next.asked = true
		for _, k := range next.Keys {
			p.src.Command("MEMORY", "USAGE", k)
		}
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
	if j := p.read; j != nil {
		if err := p.relay(j); err != nil {
			return append(out, p.fail(next, err)...), err
		}
		p.read, p.written = nil, j
	}
	if next != nil {
		err := p.mortal(next)
		if err == nil {
			err = p.sort(next)
		}
		if err == nil {
			err = p.measure(next)
		}
		if err != nil {
			return append(out, p.fail(next, err)...), err
		}
		p.sized = next
	}
	return out, nil
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
func (p *Pipe) ask(j *Job) {
	j.old = p.ways.noExpireTime.Load()
	for i, k := range j.Keys {
		switch {
		case j.Outcomes[i].Err != nil:
		case j.none:
			p.src.Command("DUMP", k)
		case j.old:
			p.src.Command("MULTI")
			p.src.Command("PTTL", k)
			p.src.Command("TIME")
			p.src.Command("EXEC")
			p.src.Command("DUMP", k)
		default:
			p.src.Command("PEXPIRETIME", k)
			p.src.Command("DUMP", k)
		}
		if j.kinds != nil && j.Outcomes[i].Err == nil {
			p.src.Command("TYPE", k)
		}
	}
}

// relay reads what was asked for and passes it on to the target.
func (p *Pipe) relay(j *Job) error {
	for i, k := range j.Keys {
		if j.Outcomes[i].Err != nil {
			continue
		}
		expire, refused, err := int64(noExpiry), error(nil), error(nil)
		if !j.none {
			expire, refused, err = p.expiry(j.old)
		}
		if err != nil {
			return err
		}
		if refused != nil && !j.old && value.Lacks(refused) {
			p.ways.noExpireTime.Store(true) // for the next job: this one is read as it was asked for
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
		case size < 0 && j.kinds != nil && j.kinds[i] != "none": // what the target has must be asked for first
			j.Outcomes[i].Err = fmt.Errorf("reading key %q from %s: %w", k, p.src, ErrChanged)
		case size < 0:
			p.remove(j, i)
		case expire == noKey: // it came between the two questions
			err = p.src.Skip(size)
			j.Outcomes[i].Err = fmt.Errorf("reading key %q from %s: %w", k, p.src, ErrChanged)
		default:
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
		}
		if err == nil && j.kinds != nil {
			err = p.sortAgain(j, i)
		}
		if err == nil && p.dst.Full() {
			err = p.dst.Flush()
		}
		if err != nil {
			return err
		}
	}
	return p.dst.Flush()
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

// expiry reads the answers about one key's expiry: milliseconds since 1970,
// noExpiry or noKey. refused is the server's refusal, after which the wire is well.
func (p *Pipe) expiry(old bool) (expire int64, refused, err error) {
	if !old {
		n, _, err := p.src.Int()
		if errors.As(err, new(conn.Refusal)) {
			return 0, err, nil
		}
		return n, nil, err
	}
	for range 3 { // MULTI, QUEUED, QUEUED
		if err := p.src.Status(); errors.As(err, new(conn.Refusal)) {
			refused = errors.Join(refused, err)
		} else if err != nil {
			return 0, nil, err
		}
	}
	if _, err := p.src.Array(); errors.As(err, new(conn.Refusal)) {
		return 0, errors.Join(refused, err), nil
	} else if err != nil {
		return 0, nil, err
	}
	left, _, err := p.src.Int()
	if err != nil {
		return 0, nil, err
	}
	now, err := p.src.Time()
	if err != nil {
		return 0, nil, err
	}
	if left < 0 {
		return left, nil, nil
	}
	return now.UnixMilli() + left, nil, nil
}

// settle reads the target's answers.
func (p *Pipe) settle(j *Job) error {
	for i, k := range j.Keys {
		var err error
		switch j.sent[i] {
		case nothing:
			continue
		case restore:
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
		case err != nil && what != restore && value.Lacks(err):
			p.ways.noUnlink.Store(true)
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("removing key %q on %s: %w", k, p.dst, ErrChanged)}
		case err != nil && what == restore:
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("writing key %q to %s: %w", k, p.dst, value.Forbids(err))}
		case err != nil:
			j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("removing key %q on %s: %w", k, p.dst, value.Classify(err))}
		case what == restore:
			j.Outcomes[i].Copied = true
		default:
			j.Outcomes[i].Removed = true
		}
	}
	return nil
}
