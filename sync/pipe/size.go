package pipe

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

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

// askFrom is from how many keys on a job asks whether any key of its database expires
// at all: the question costs the source what some ten answers of PEXPIRETIME do.
const askFrom = 64

// mortal finds out whether the keys of j must be asked for their expiries. They need
// not where no key of the database has one. The keys were in hand before the source
// said so: one that gets an expiry later is marked by that, and copied again.
func (p *Pipe) mortal(j *Job) error {
	if !j.info {
		return nil
	}
	text, err := p.src.Text()
	if errors.As(err, new(conn.Refusal)) {
		p.ways.noInfo.Store(true)
		return nil
	}
	j.none = err == nil && noneExpires(text, p.src.DB())
	return err
}

// noneExpires reads INFO keyspace: "db0:keys=7,expires=0,avg_ttl=0" and so on.
func noneExpires(info string, db int) bool {
	prefix := "db" + strconv.Itoa(db) + ":"
	for line := range strings.Lines(info) {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			return strings.Contains(rest, ",expires=0,")
		}
	}
	return false
}

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
