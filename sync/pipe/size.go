package pipe

import (
	"errors"
	"fmt"
	"slices"
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
// at all: the question costs the source what some twenty answers of PEXPIRETIME do.
const askFrom = 64

// askMortal asks how many keys have an expiry, and which of ours do, in one step.
func askMortal(w *conn.Wire, ours []string) {
	w.Command("MULTI")
	w.Command("INFO", "keyspace")
	for _, k := range ours {
		w.About("PTTL", k)
	}
	w.Command("EXEC")
}

// mortal finds out whether the keys of j must be asked for their expiries. They need
// not where no key of the database has one, but for ours. The keys were in hand before
// the source said so: one that gets an expiry later is marked by that, and copied again.
func (p *Pipe) mortal(j *Job) error {
	if !j.info {
		return nil
	}
	none, refused, err := mortal(p.from.For(""), p.ways.Ours)
	if refused {
		p.ways.noInfo.Store(true)
	}
	j.none = none && !slices.ContainsFunc(j.Keys, func(k string) bool { return slices.Contains(p.ways.Ours, k) })
	return err
}

// mortal reads the answers to askMortal. none says that no key has an expiry but ours,
// refused that the server does not tell.
func mortal(w *conn.Wire, ours []string) (none, refused bool, err error) {
	if err := w.Status(); errors.As(err, new(conn.Refusal)) { // without MULTI the others were answered one by one
		_, text := w.Text()
		errs := []error{text}
		for range ours {
			_, _, err := w.Int()
			errs = append(errs, err)
		}
		_, exec := w.Array()
		return false, true, broken(append(errs, exec)...)
	} else if err != nil {
		return false, false, err
	}
	for range 1 + len(ours) { // QUEUED
		if err := w.Status(); err != nil && !errors.As(err, new(conn.Refusal)) {
			return false, false, err
		}
	}
	n, err := w.Array()
	if errors.As(err, new(conn.Refusal)) {
		return false, true, nil
	}
	if err != nil {
		return false, false, err
	}
	if n != int64(1+len(ours)) {
		return false, false, fmt.Errorf("reading from %s: EXEC answered %d elements", w, n)
	}
	text, err := w.Text()
	sure := err == nil
	if err != nil && !errors.As(err, new(conn.Refusal)) {
		return false, false, err
	}
	expire := 0
	for range ours {
		left, _, err := w.Int()
		switch {
		case errors.As(err, new(conn.Refusal)):
			sure = false
		case err != nil:
			return false, false, err
		case left >= 0:
			expire++
		}
	}
	return sure && expiring(text, w.DB()) == expire, false, nil
}

// expiring reads how many keys of a database have an expiry in INFO keyspace, which
// is lines like "db0:keys=7,expires=0,avg_ttl=0". It returns -1 where they do not tell.
func expiring(info string, db int) int {
	prefix := "db" + strconv.Itoa(db) + ":"
	for line := range strings.Lines(info) {
		rest, ok := strings.CutPrefix(line, prefix)
		if !ok {
			continue
		}
		for field := range strings.SplitSeq(rest, ",") {
			if text, ok := strings.CutPrefix(field, "expires="); ok {
				if n, err := strconv.Atoi(text); err == nil {
					return n
				}
			}
		}
	}
	return -1
}

// guess chooses how each key of j is read.
func (p *Pipe) guess(j *Job) {
	for i, k := range j.Keys {
		if p.ways.Short(k) {
			j.ways[i] = short
		}
	}
}

// askSizes asks how large those keys of j are that are read that way.
func (p *Pipe) askSizes(j *Job, w way) {
	j.asked = p.measures()
	if !j.asked {
		return
	}
	for i, k := range j.Keys {
		if j.ways[i] == w {
			p.from.For(k).Usage(k)
		}
	}
}

// measure refuses those of them that are too big to be dumped. The question takes
// the source about a microsecond, however big the key is: it looks at five elements.
func (p *Pipe) measure(j *Job, w way) error {
	if p.ways.Big <= 0 {
		return nil
	}
	if w == whole {
		for i := range j.Keys {
			if j.ways[i] == short {
				p.weigh(j, i, 0)
			}
		}
	}
	if j.asked {
		blind := false
		for i := range j.Keys {
			if j.ways[i] != w {
				continue
			}
			size, _, err := p.from.For(j.Keys[i]).Int()
			if errors.As(err, new(conn.Refusal)) {
				blind = p.unweighed(j, i, err) || blind
				continue
			}
			if err != nil {
				return err
			}
			p.weigh(j, i, size)
		}
		if !blind {
			return nil
		}
		p.ways.noMemory.Store(true)
	}
	return p.count(j, w)
}

// unweighed takes note that the source has refused to say something about a key's size, and
// reports whether it always will, in whatever words a service says that: then see mostPayload.
// Where it does so for a moment only, as it is busy with a script, say, the key is not read: it
// may be of any size.
func (p *Pipe) unweighed(j *Job, i int, err error) (always bool) {
	src := p.from.For(j.Keys[i])
	switch {
	case p.displaced(src, j, i, err):
		return false
	case !passes(err):
		return true
	}
	if j.Outcomes[i].Err == nil {
		j.Outcomes[i].Err = fmt.Errorf("asking %s for the size of key %q: %w", src, j.Keys[i], err)
	}
	return false
}

// passes reports whether a refusal is one of the moment.
func passes(err error) bool {
	return slices.ContainsFunc([]string{"LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN", "WRONGPASS", "NOAUTH"},
		func(word string) bool { return strings.HasPrefix(err.Error(), word) })
}

// count weighs by the numbers of elements.
func (p *Pipe) count(j *Job, w way) error {
	for i, k := range j.Keys {
		if j.ways[i] == w {
			p.from.For(k).About("TYPE", k)
		}
	}
	if err := p.src.Flush(); err != nil {
		return err
	}
	asked := make([]string, len(j.Keys))
	for i := range j.Keys {
		if j.ways[i] != w {
			continue
		}
		kind, err := p.from.For(j.Keys[i]).Word()
		if errors.As(err, new(conn.Refusal)) {
			p.unweighed(j, i, err)
			continue
		}
		if err != nil {
			return err
		}
		asked[i] = kind
	}
	for i, k := range j.Keys {
		if command, ok := lengths[asked[i]]; ok {
			p.from.For(k).About(command, k)
		}
	}
	if err := p.src.Flush(); err != nil {
		return err
	}
	for i := range j.Keys {
		if _, ok := lengths[asked[i]]; !ok {
			continue
		}
		n, _, err := p.from.For(j.Keys[i]).Int()
		if errors.As(err, new(conn.Refusal)) {
			if !strings.HasPrefix(err.Error(), "WRONGTYPE") { // another type by now: it is dirty
				p.unweighed(j, i, err)
			}
			continue
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
	if j.weights[i] = size; j.Outcomes[i].Err != nil {
		return
	}
	if size >= p.ways.Big || p.ways.Known != nil && p.ways.Known(j.Keys[i]) {
		j.Outcomes[i] = value.Outcome{Err: fmt.Errorf("copying key %q from %s: %w: about %d bytes", j.Keys[i], p.from.For(j.Keys[i]), value.ErrTooBig, size)}
	}
}
