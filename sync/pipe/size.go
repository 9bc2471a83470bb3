package pipe

import (
	"errors"
	"fmt"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// elementBytes is what an element is taken to cost where only their number can be
// had: about what a small one costs in a hash table or a skip list.
const elementBytes = 100

// lengths has the command that tells how many elements, or bytes, a key has.
var lengths = map[string]string{
	"string": "STRLEN", "list": "LLEN", "set": "SCARD", "zset": "ZCARD", "hash": "HLEN", "stream": "XLEN",
}

// measures reports whether keys are weighed by MEMORY USAGE.
func (p *Pipe) measures() bool { return p.ways.Big > 0 && !p.ways.noMemory.Load() }

// measure refuses the keys of j that are too big to be dumped. The question takes
// the source about a microsecond, however big the key is: it looks at five elements.
func (p *Pipe) measure(j *Job) error {
	if p.ways.Big <= 0 {
		return nil
	}
	if j.asked {
		cannot := false
		for i := range j.Keys {
			size, _, err := p.src.Int()
			if errors.As(err, new(conn.Refusal)) {
				cannot = true
				continue
			}
			if err != nil {
				return err
			}
			p.weigh(j, i, size)
		}
		if !cannot {
			return nil
		}
		p.ways.noMemory.Store(true)
	}
	return p.count(j)
}

// count weighs by the numbers of elements.
func (p *Pipe) count(j *Job) error {
	for _, k := range j.Keys {
		p.src.Command("TYPE", k)
	}
	if err := p.src.Flush(); err != nil {
		return err
	}
	asked := make([]string, len(j.Keys))
	for i := range j.Keys {
		kind, err := p.src.Word()
		if err != nil && !errors.As(err, new(conn.Refusal)) {
			return err
		}
		asked[i] = kind
	}
	for i, k := range j.Keys {
		if command, ok := lengths[asked[i]]; ok {
			p.src.Command(command, k)
		}
	}
	if err := p.src.Flush(); err != nil {
		return err
	}
	for i := range j.Keys {
		if _, ok := lengths[asked[i]]; !ok {
			continue
		}
		n, _, err := p.src.Int()
		if errors.As(err, new(conn.Refusal)) {
			continue // another type by now: it is dirty
		}
		if err != nil {
			return err
		}
		if asked[i] != "string" {
			n *= elementBytes
		}
		p.weigh(j, i, n)
	}
	return nil
}

func (p *Pipe) weigh(j *Job, i int, size int64) {
	if size >= p.ways.Big || p.ways.Known != nil && p.ways.Known(j.Keys[i]) {
		j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("copying key %q from %s: %w: about %d bytes", j.Keys[i], p.src, value.ErrTooBig, size)}
	}
}
