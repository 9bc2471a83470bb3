package pipe

import (
	"errors"
	"fmt"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// Where types matter, a key is asked for its type with its size, so that what is not
// copied is not read, and once more behind its payload: one that has become another
// meanwhile is not written. It is copied again, as the change has marked it.

// mostHeld is from how many bytes on the memory for a payload is not kept.
const mostHeld = 1 << 20

// askKinds asks for the types of the keys of j.
func (p *Pipe) askKinds(j *Job) {
	if p.ways.Takes == nil {
		return
	}
	for _, k := range j.Keys {
		p.from.For(k).About("TYPE", k)
	}
}

// sort reads the types of the keys of j, and leaves out those that are not copied.
func (p *Pipe) sort(j *Job) error {
	if p.ways.Takes == nil {
		return nil
	}
	j.kinds = make([]string, len(j.Keys))
	for i, k := range j.Keys {
		src := p.from.For(k)
		kind, err := src.Word()
		switch {
		case p.displaced(src, j, i, err):
		case errors.As(err, new(conn.Refusal)):
			j.Outcomes[i].Err = fmt.Errorf("asking %s for the type of key %q: %w", src, k, err)
		case err != nil:
			return err
		case !p.ways.Takes(k, kind):
			j.Outcomes[i].Err = fmt.Errorf("copying key %q from %s: %w", k, src, value.ErrOutside)
		}
		j.kinds[i] = kind
	}
	return nil
}

// relaySorted is relayDump where types matter. The payload is held until it is known
// that the key was of the same type still: one that may not be on the target is not
// written, since nobody could say later whose it is.
func (p *Pipe) relaySorted(src, dst *conn.Wire, j *Job, i int, expire int64, refused error) error {
	k := j.Keys[i]
	if refused != nil && !j.old && value.Lacks(refused) {
		p.unknowable(refused) // for the next job: this one is read as it was asked for
		refused = ErrChanged
	}
	moved := false
	payload := p.held[:0]
	size, err := src.Bulk()
	found := err == nil && size >= 0
	switch {
	case errors.As(err, new(conn.Refusal)):
		if moved = p.displaced(src, j, i, err); refused == nil {
			refused = value.Forbids(err)
		}
	case err != nil:
		return err
	case p.ways.beyond(size):
		if err := src.Skip(size); err != nil {
			return err
		}
	case found:
		if payload, err = src.Take(payload, size); err != nil {
			return err
		}
	}
	if p.held = payload; cap(payload) > mostHeld {
		p.held = nil
	}
	kind, err := src.Word()
	if errors.As(err, new(conn.Refusal)) {
		if refused == nil {
			refused = err
		}
	} else if err != nil {
		return err
	}
	if moved {
		return nil
	}
	if refused == nil && (kind != j.kinds[i] || found == (kind == "none") || found && expire == noKey) {
		refused = ErrChanged
	}
	switch {
	case refused != nil:
		j.Outcomes[i].Err = fmt.Errorf("reading key %q from %s: %w", k, src, refused)
	case !found:
		p.remove(dst, j, i)
	case p.ways.beyond(size):
		j.Outcomes[i].Err = tooBig(k, src, size)
	default:
		j.Outcomes[i].Bytes = int64(len(payload))
		p.beginRestore(dst, j, i, expire)
		dst.Arg(string(payload))
		endRestore(dst)
	}
	return nil
}
