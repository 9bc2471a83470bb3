package pipe

import (
	"errors"
	"fmt"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// Where types matter, a key is asked for its type with its size, so that what is not
// copied is not read, and once more behind its payload: one that has become another
// meanwhile may have been copied although it should not, and is taken away at once. It
// is copied again, as the change has marked it.

// askKinds asks for the types of the keys of j.
func (p *Pipe) askKinds(j *Job) {
	if p.ways.Takes == nil {
		return
	}
	for _, k := range j.Keys {
		p.src.Command("TYPE", k)
	}
}

// sort reads the types of the keys of j, and leaves out those that are not copied.
func (p *Pipe) sort(j *Job) error {
	if p.ways.Takes == nil {
		return nil
	}
	j.kinds = make([]string, len(j.Keys))
	for i, k := range j.Keys {
		kind, err := p.src.Word()
		switch {
		case errors.As(err, new(conn.Refusal)):
			j.Outcomes[i].Err = fmt.Errorf("asking %s for the type of key %q: %w", p.src, k, err)
		case err != nil:
			return err
		case !p.ways.Takes(k, kind):
			j.Outcomes[i].Err = fmt.Errorf("copying key %q from %s: %w", k, p.src, value.ErrOutside)
		}
		j.kinds[i] = kind
	}
	return nil
}

// sortAgain reads the type that key i has behind its payload.
func (p *Pipe) sortAgain(j *Job, i int) error {
	kind, err := p.src.Word()
	if err != nil && !errors.As(err, new(conn.Refusal)) {
		return err
	}
	if kind == j.kinds[i] || j.sent[i] != restore {
		return nil
	}
	p.remove(j, i)
	j.sent[i] = undone
	return nil
}
