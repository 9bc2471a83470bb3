package value

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// pair is one key on two sides, being compared by type.
type pair struct {
	a, b       *redis.Client
	keyA, keyB string
	tolerance  int64 // milliseconds
	bytes      int64 // read from a
	old        bool  // b cannot be asked for many elements at once
	strict     bool  // see Comparer
	lax        bool  // fields' expiries do not matter where one side knows none
	pace       func(context.Context, int64) error
}

// read counts what was read of a, and waits where somebody paces it.
func (p *pair) read(ctx context.Context, bytes int64) error {
	p.bytes += bytes
	if p.pace == nil {
		return nil
	}
	return p.pace(ctx, bytes)
}

// comparers has one a type. Elements are read in chunks.
var comparers = map[string]func(context.Context, *pair) (Diff, error){
	"string": equalString,
	"list":   equalList,
	"set":    equalSet,
	"zset":   equalZSet,
	"hash":   equalHash,
	"stream": equalStream,
}

// byType compares types, values and expiries with the types' own commands.
func (c *Comparer) byType(ctx context.Context, a, b *redis.Client, keyA, keyB string) (Diff, error) {
	typeA, typeB, err := both(
		func() (string, error) { return a.Type(ctx, keyA).Result() },
		func() (string, error) { return b.Type(ctx, keyB).Result() })
	switch {
	case err != nil:
		return Diff{}, err
	case typeA == "none" && typeB == "none":
		return Diff{Gone: true}, nil
	case typeA == "none":
		return alone(ctx, b, keyB, typeB == "hash", differ(Extra, "key is on the target only"))
	case typeB == "none":
		return alone(ctx, a, keyA, typeA == "hash", differ(Missing, "key is not on the target"))
	case typeA != typeB:
		return differ(Type, "%s on the source, %s on the target", typeA, typeB), nil
	}
	p := &pair{a: a, b: b, keyA: keyA, keyB: keyB, tolerance: c.tolerance(), strict: c.Strict, pace: c.Pace, lax: c.NoFieldExpiries}
	compare, ok := comparers[typeA]
	if !ok {
		return differ(Unsure, "type %s can be compared by DUMP only, and the payloads differ or cannot be had", typeA), nil
	}
	d, err := compare(ctx, p)
	if movedOn(err) {
		d, err = torn("key changed while it was compared"), nil
	}
	if err != nil || !d.Equal() {
		d.Bytes = p.bytes
		return d, err
	}
	at, bt, err := both(
		func() (int64, error) { return expireTime(ctx, a, keyA) },
		func() (int64, error) { return expireTime(ctx, b, keyB) })
	switch {
	case err != nil:
		return Diff{}, err
	case at == noKey && bt == noKey:
		return Diff{Gone: true}, nil
	case at == noKey || bt == noKey:
		return torn("key went away while it was compared"), nil
	}
	d = c.expiries(at, bt)
	d.Bytes = p.bytes
	return d, nil
}

func torn(words string) Diff { return Diff{Kind: Value, Words: words, Torn: true} }

// count compares the sides' numbers of elements.
func (p *pair) count(ctx context.Context, command, of string) (Diff, error) {
	na, nb, err := both(
		func() (int64, error) { return p.a.Do(ctx, command, p.keyA).Int64() },
		func() (int64, error) { return p.b.Do(ctx, command, p.keyB).Int64() })
	if err != nil || na == nb {
		return Diff{}, err
	}
	return differ(Value, "%d %s on the source, %d on the target", na, of, nb), nil
}

func equalString(ctx context.Context, p *pair) (Diff, error) {
	if d, err := p.count(ctx, "STRLEN", "bytes"); err != nil || !d.Equal() {
		return d, err
	}
	for from := int64(0); ; from += chunkBytes {
		x, y, err := both(
			func() (string, error) { return p.a.GetRange(ctx, p.keyA, from, from+chunkBytes-1).Result() },
			func() (string, error) { return p.b.GetRange(ctx, p.keyB, from, from+chunkBytes-1).Result() })
		if err != nil {
			return Diff{}, err
		}
		if err := p.read(ctx, int64(len(x))); err != nil {
			return Diff{}, err
		}
		if from == 0 && !p.strict {
			x, y = uncached(x), uncached(y)
		}
		if x != y {
			return differ(Value, "string differs from byte %d on", from+int64(common(x, y))), nil
		}
		if len(x) < chunkBytes {
			return Diff{}, nil
		}
	}
}

// uncached blanks a HyperLogLog's cached cardinality (bytes 8 to 15). PFCOUNT
// writes it, although it only reads, and no notification tells of that.
func uncached(s string) string {
	const header = 16
	if len(s) < header || s[:4] != "HYLL" || s[4] > 1 || s[5:8] != "\x00\x00\x00" {
		return s
	}
	return s[:8] + "\x00\x00\x00\x00\x00\x00\x00\x00" + s[header:]
}

// common is the length of the common prefix.
func common(x, y string) int {
	n := min(len(x), len(y))
	for i := range n {
		if x[i] != y[i] {
			return i
		}
	}
	return n
}

func equalList(ctx context.Context, p *pair) (d Diff, err error) {
	if d, err = p.count(ctx, "LLEN", "elements"); err != nil || !d.Equal() {
		return d, err
	}
	err = eachRange(ctx, p.a, p.keyA, func(from int64, x []string) error {
		if err := p.read(ctx, sum(x)); err != nil {
			return err
		}
		y, err := p.b.LRange(ctx, p.keyB, from, from+int64(len(x))-1).Result()
		if err != nil {
			return err
		}
		for i := range x {
			if i >= len(y) || x[i] != y[i] {
				d = differ(Value, "list differs at element %d", from+int64(i))
				return errEnough
			}
		}
		return nil
	})
	return d, enough(err)
}

// ask asks b about elements of one chunk of a and returns the answers in order. One
// command for all of them costs a tenth of one for each, but SMISMEMBER and ZMSCORE
// are not there before Redis 6.2: single is what is asked then.
func (p *pair) ask(ctx context.Context, all, single string, elems []string) ([]any, error) {
	if !p.old {
		reply, err := p.b.Do(ctx, anys(elems, all, p.keyB)...).Slice()
		if err == nil && len(reply) != len(elems) {
			return nil, fmt.Errorf("unexpected answer to %s: %d elements instead of %d", all, len(reply), len(elems))
		}
		if !lacks(err) {
			return reply, err
		}
		p.old = true
	}
	pipe := p.b.Pipeline()
	cmds := make([]*redis.Cmd, len(elems))
	for i, e := range elems {
		cmds[i] = pipe.Do(ctx, single, p.keyB, e)
	}
	if err := exec(ctx, pipe); err != nil {
		return nil, err
	}
	out := make([]any, len(elems))
	for i, c := range cmds {
		if err := c.Err(); err != nil && !errors.Is(err, redis.Nil) {
			return nil, err
		}
		out[i] = c.Val()
	}
	return out, nil
}

// split parts the names from what belongs to them.
func split(pairs []string) (names, values []string) {
	for i := 0; i+1 < len(pairs); i += 2 {
		names, values = append(names, pairs[i]), append(values, pairs[i+1])
	}
	return names, values
}

// As both sides have the same number of elements, they are equal when b has all
// that a has.

func equalSet(ctx context.Context, p *pair) (d Diff, err error) {
	if d, err = p.count(ctx, "SCARD", "members"); err != nil || !d.Equal() {
		return d, err
	}
	err = eachScan(ctx, p.a, "SSCAN", p.keyA, func(elems []string) error {
		if err := p.read(ctx, sum(elems)); err != nil {
			return err
		}
		answers, err := p.ask(ctx, "SMISMEMBER", "SISMEMBER", elems)
		if err != nil {
			return err
		}
		for _, v := range answers {
			if v != int64(1) {
				d = differ(Value, "a member of the set is not on the target")
				return errEnough
			}
		}
		return nil
	})
	return d, enough(err)
}

func equalZSet(ctx context.Context, p *pair) (d Diff, err error) {
	if d, err = p.count(ctx, "ZCARD", "members"); err != nil || !d.Equal() {
		return d, err
	}
	err = eachScan(ctx, p.a, "ZSCAN", p.keyA, func(pairs []string) error {
		if err := p.read(ctx, sum(pairs)); err != nil {
			return err
		}
		names, scores := split(pairs)
		answers, err := p.ask(ctx, "ZMSCORE", "ZSCORE", names)
		if err != nil {
			return err
		}
		for i, v := range answers {
			if v == nil {
				d = differ(Value, "a member of the sorted set is not on the target")
				return errEnough
			}
			want, err1 := strconv.ParseFloat(scores[i], 64)
			have, err2 := score(v)
			if err := errors.Join(err1, err2); err != nil {
				return fmt.Errorf("unexpected score in an answer to ZSCAN or ZMSCORE")
			}
			if !p.strict {
				want, have = want+0, have+0 // which makes -0 a 0
			}
			if math.Float64bits(want) != math.Float64bits(have) {
				d = differ(Value, "a member of the sorted set has another score")
				return errEnough
			}
		}
		return nil
	})
	return d, enough(err)
}

// score reads an answer to ZSCORE: text in RESP2, a number in RESP3.
func score(v any) (float64, error) {
	if f, ok := v.(float64); ok {
		return f, nil
	}
	return strconv.ParseFloat(text(v), 64)
}

func equalHash(ctx context.Context, p *pair) (d Diff, err error) {
	if d, err = p.count(ctx, "HLEN", "fields"); err != nil {
		return d, err
	}
	if !d.Equal() {
		// HLEN counts fields too that have expired and are still to be removed, each
		// server's in its own time. HSCAN and HGET do not see them.
		n := d
		if d, err = p.back().fieldsAreThere(ctx); err != nil {
			return d, err
		}
		if !d.Equal() {
			return n, nil
		}
	}
	length, err := p.a.HLen(ctx, p.keyA).Result()
	if err != nil {
		return d, err
	}
	known, shown := true, int64(0)
	err = eachScan(ctx, p.a, "HSCAN", p.keyA, func(pairs []string) error {
		shown += int64(len(pairs) / 2)
		if err := p.read(ctx, sum(pairs)); err != nil {
			return err
		}
		names, values := split(pairs)
		answers, err := p.ask(ctx, "HMGET", "HGET", names)
		if err != nil {
			return err
		}
		for i, v := range answers {
			if v == nil {
				d = differ(Value, "a field of the hash is not on the target")
				return errEnough
			}
			if v != values[i] {
				d = differ(Value, "a field of the hash has another value")
				return errEnough
			}
		}
		if !known {
			return nil
		}
		if d, known, err = p.fieldExpiries(ctx, names); err == nil && !d.Equal() {
			err = errEnough
		}
		return err
	})
	if err == nil && shown < length { // some have expired, so an equal length says nothing
		return p.back().fieldsAreThere(ctx)
	}
	return d, enough(err)
}

// errEnough ends the reading of a key that is known to differ.
var errEnough = errors.New("enough was read")

func enough(err error) error {
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// back is the pair the other way round.
func (p *pair) back() *pair {
	return &pair{a: p.b, b: p.a, keyA: p.keyB, keyB: p.keyA, tolerance: p.tolerance, strict: p.strict, pace: p.pace}
}

// fieldsAreThere looks whether b has all fields of a.
func (p *pair) fieldsAreThere(ctx context.Context) (d Diff, err error) {
	err = eachScan(ctx, p.a, "HSCAN", p.keyA, func(pairs []string) error {
		names, _ := split(pairs)
		values, err := p.ask(ctx, "HMGET", "HGET", names)
		if err == nil && slices.Contains(values, nil) {
			d = differ(Value, "a field of the hash is not on the source")
			err = errEnough
		}
		return err
	})
	return d, enough(err)
}

// fieldExpiries compares the expiries of a chunk of a hash's fields; known is
// false when neither server has any.
func (p *pair) fieldExpiries(ctx context.Context, names []string) (Diff, bool, error) {
	x, knownA, err := fieldExpiries(ctx, p.a, p.keyA, names)
	if err != nil {
		return Diff{}, true, err
	}
	y, knownB, err := fieldExpiries(ctx, p.b, p.keyB, names)
	if err != nil {
		return Diff{}, true, err
	}
	if p.lax && knownA != knownB {
		return Diff{}, false, nil
	}
	for i := range names {
		ax, ay := int64(-1), int64(-1)
		if i < len(x) {
			ax = x[i]
		}
		if i < len(y) {
			ay = y[i]
		}
		if !near(ax, ay, p.tolerance) {
			return differ(Expiry, "a field of the hash expires at another time"), true, nil
		}
	}
	return Diff{}, knownA || knownB, nil
}
