package value

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// element is what one side has under a name in a set, sorted set or hash.
type element struct {
	has    bool
	text   string // the field's value, or the score's bits
	expire int64  // of a hash's field, or less than 0
	blind  bool   // the server knows no such thing
}

// elementKind says how the elements of a type are found and asked for.
type elementKind struct {
	each func(ctx context.Context, p *pair, chunk func(names []string) error) error      // of p.a
	ask  func(ctx context.Context, p *pair, names []string, all bool) ([]element, error) // of p.b; all: names are those of a chunk
	// rest returns what compares what is no element, time and again; nil: there is nothing.
	// moved says that the follower's, b's where second is false, was another one before.
	rest func(second bool) func(ctx context.Context, p *pair) (same, moved bool, err error)
}

var elementsOf = map[string]elementKind{
	"set":    {each: scanned("SSCAN", false), ask: askMembers},
	"zset":   {each: scanned("ZSCAN", true), ask: askScores},
	"hash":   {each: scanned("HSCAN", true), ask: askFields},
	"stream": {each: eachID, ask: askEntries, rest: restOfStream},
}

// scanned finds elements by a command, which gives something with each name or not.
func scanned(command string, pairs bool) func(context.Context, *pair, func([]string) error) error {
	return func(ctx context.Context, p *pair, chunk func([]string) error) error {
		return eachScan(ctx, p.a, command, p.keyA, func(elems []string) error {
			p.bytes += sum(elems)
			if pairs {
				elems, _ = split(elems)
			}
			return chunk(elems)
		})
	}
}

const (
	oddMost   = 10_000 // elements that are looked at again
	oddRounds = 6
	oddStill  = 2 // times that an element must have stood still to differ
)

// Elements compares a set, sorted set, hash or stream that is big and never stands still: all
// elements both ways, and those that differ again and again, after wait, until they
// are equal or stood still on the truth, which is a or b as second says. decided is
// false when neither became so, and for other types. One that stood still differs if
// wait has said both times that what was written before it has arrived. Of very many that
// are not equal only some are looked at again, which can only show that they differ. Where all
// elements are equal, and the rest of a stream never was while the follower's changed too, d says
// that it Follows.
func (c *Comparer) Elements(ctx context.Context, a, b *redis.Client, second bool, key string, wait func(context.Context) (arrived bool, err error)) (d Diff, decided bool, err error) {
	h := hot{there: &pair{a: a, b: b, keyA: key, keyB: key}, back: &pair{a: b, b: a, keyA: key, keyB: key},
		tolerance: c.tolerance(), second: second, lax: c.NoFieldExpiries}
	d, decided, err = h.compare(ctx, wait)
	if movedOn(err) {
		return torn("key changed while it was compared"), false, nil
	}
	if err != nil {
		return d, false, fmt.Errorf("comparing elements of key %q on %s and %s: %w", key, at(a), at(b), err)
	}
	if decided && d.Equal() {
		var ea, eb int64
		ea, eb, err = both(
			func() (int64, error) { return expireTime(ctx, a, key) },
			func() (int64, error) { return expireTime(ctx, b, key) })
		d = c.expiries(ea, eb)
		decided = err == nil && d.Equal() // an expiry may move as well
	}
	d.Big, d.Bytes = true, h.there.bytes
	return d, decided, err
}

// hot is one key that changes all the time, being compared by elements.
type hot struct {
	there, back *pair // each asks its b
	kind        elementKind
	tolerance   int64
	second      bool
	lax         bool // fields' expiries do not matter where one side knows none
	odd         map[string]*oddity
	more        bool // there are more odd ones, not looked for
}

// oddity is an element that was not equal.
type oddity struct {
	truth element
	still int // looks in a row at which what was written before had arrived, and the truth was as before
}

func (h *hot) compare(ctx context.Context, wait func(context.Context) (bool, error)) (Diff, bool, error) {
	name, err := h.there.a.Type(ctx, h.there.keyA).Result()
	if name == "none" {
		name, err = h.there.b.Type(ctx, h.there.keyB).Result()
	}
	if err != nil {
		return Diff{}, false, err
	}
	kind, ok := elementsOf[name]
	if !ok {
		return Diff{}, false, nil
	}
	h.kind, h.odd = kind, make(map[string]*oddity)
	for _, p := range []*pair{h.there, h.back} {
		err := kind.each(ctx, p, func(names []string) error {
			_, err := h.look(ctx, names, false, true)
			if err == nil && len(h.odd) > oddMost {
				h.more, err = true, errEnough
			}
			return err
		})
		if err = enough(err); err != nil {
			return Diff{}, false, err
		}
		if h.more {
			break
		}
	}
	for range oddRounds {
		if len(h.odd) == 0 {
			break
		}
		arrived, err := wait(ctx)
		if err != nil {
			return Diff{}, false, err
		}
		names := make([]string, 0, len(h.odd))
		for n := range h.odd {
			names = append(names, n)
		}
		for chunk := range slices.Chunk(names, chunkMost) {
			if lasting, err := h.look(ctx, chunk, arrived, false); err != nil || lasting {
				return differ(Value, "an element of the %s lastingly differs", name), err == nil, err
			}
		}
	}
	if len(h.odd) > 0 || h.more {
		return Diff{}, false, nil
	}
	if kind.rest == nil {
		return Diff{}, true, nil
	}
	rest, moves := kind.rest(h.second), 0
	for range oddRounds {
		same, moved, err := rest(ctx, h.there)
		if err != nil || same {
			return Diff{}, same, err
		}
		if moved {
			moves++
		}
		if _, err := wait(ctx); err != nil {
			return Diff{}, false, err
		}
	}
	return Diff{Follows: moves >= oddStill}, false, nil
}

// look asks both sides for elements and notes those that are not equal. arrived says that
// what was written before has arrived; all, that the names are one chunk of a side; lasting,
// that one of them stood still.
func (h *hot) look(ctx context.Context, names []string, arrived, all bool) (lasting bool, err error) {
	x, y, err := both(
		func() ([]element, error) { return h.kind.ask(ctx, h.back, names, all) },
		func() ([]element, error) { return h.kind.ask(ctx, h.there, names, all) })
	if err != nil {
		return false, err
	}
	for i, n := range names {
		same := near(x[i].expire, y[i].expire, h.tolerance) || h.lax && x[i].blind != y[i].blind
		if x[i].has == y[i].has && x[i].text == y[i].text && same {
			delete(h.odd, n)
			continue
		}
		truth := x[i]
		if h.second {
			truth = y[i]
		}
		o := h.odd[n]
		if o == nil {
			h.odd[n] = &oddity{truth: truth}
			continue
		}
		if o.still++; o.truth != truth || !arrived {
			o.truth, o.still = truth, 0
		}
		lasting = lasting || o.still >= oddStill
	}
	return lasting, nil
}

func askMembers(ctx context.Context, p *pair, names []string, _ bool) ([]element, error) {
	answers, err := p.ask(ctx, "SMISMEMBER", "SISMEMBER", names)
	out := make([]element, len(answers))
	for i, v := range answers {
		out[i].has = v == int64(1)
	}
	return out, err
}

func askScores(ctx context.Context, p *pair, names []string, _ bool) ([]element, error) {
	answers, err := p.ask(ctx, "ZMSCORE", "ZSCORE", names)
	out := make([]element, len(answers))
	for i, v := range answers {
		if v == nil {
			continue
		}
		f, bad := score(v)
		if bad != nil {
			return nil, fmt.Errorf("unexpected score in an answer to ZMSCORE")
		}
		out[i] = element{has: true, text: strconv.FormatUint(math.Float64bits(f+0), 16)}
	}
	return out, err
}

func askFields(ctx context.Context, p *pair, names []string, _ bool) ([]element, error) {
	answers, err := p.ask(ctx, "HMGET", "HGET", names)
	if err != nil {
		return nil, err
	}
	expire, known, err := fieldExpiries(ctx, p.b, p.keyB, names)
	out := make([]element, len(answers))
	for i, v := range answers {
		s, has := v.(string)
		out[i] = element{has: has, text: s, expire: -1, blind: !known}
		if i < len(expire) && expire[i] > 0 {
			out[i].expire = expire[i]
		}
	}
	return out, err
}
