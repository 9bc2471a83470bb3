package value

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// Kind says in which respect two keys differ.
type Kind string

// The kinds, as they appear in reports. Same is the zero value.
const (
	Same    Kind = ""
	Missing Kind = "missing" // a has the key, b has not
	Extra   Kind = "extra"   // b has the key, a has not
	Type    Kind = "type"
	Value   Kind = "value"
	Expiry  Kind = "expiry"
	Group   Kind = "group"  // a stream's group, consumer or pending entries
	Unsure  Kind = "unsure" // the payloads differ, and nothing else can be asked about the type
)

// Diff is the first difference found between two keys.
type Diff struct {
	Kind  Kind
	Words string // what differs, without any value; "" when nothing does
	Gone  bool   // neither side has the key
	Big   bool   // it was compared in chunks, so there are no prints
	Torn  bool   // it changed while it was read, so the difference proves nothing
	Bytes int64  // of payload read from a
	// Follows is a stream of which the rest was never the same, see Elements.
	Follows bool

	// PrintA and PrintB stand for the sides' states: one that differs from an
	// earlier one of the same Comparer means that the side changed, and two that
	// are the same mean the same value and expiry on whichever sides. 0 means
	// not known, which is so for big keys.
	PrintA, PrintB uint64
}

// Equal reports whether the keys are equal.
func (d Diff) Equal() bool { return d.Kind == Same }

// Absent is the print of a key that is not there.
const Absent uint64 = 1

func differ(k Kind, format string, args ...any) Diff {
	return Diff{Kind: k, Words: fmt.Sprintf(format, args...)}
}

// Comparer compares keys of two servers, always the same two, any of their
// databases. Safe for concurrent use; the zero value is ready. Set the fields
// before first use.
type Comparer struct {
	// Tolerance is by how much absolute expiries (and delivery times of
	// pending entries) may differ; 0 means 5 ms.
	Tolerance time.Duration
	// Big is the size in bytes, as MEMORY USAGE estimates it, from which a
	// key is compared in chunks instead of by DUMP; 0 means 1 MiB. Where a server
	// forbids DUMP, what is not small is, see readTyped.
	Big int64
	// Small says that the keys are known to be smaller than Big: their sizes are not
	// asked for, which saves a round trip.
	Small bool
	// Bound is about how many bytes are held at a time by one call and side;
	// 0 means 16 MiB.
	Bound int64
	// NoFieldExpiries takes hashes for equal of which one side knows no expiry of
	// fields, whatever those of the other are.
	NoFieldExpiries bool
	// Strict takes nothing for equal that a copy would change: expiries must be the same
	// to the millisecond, and in values that are read in chunks a cached HyperLogLog
	// count is a part of the value, and -0 is another score than 0.
	Strict bool
	// Pace is called while a key is read in chunks, with the bytes read of each. It may
	// wait; its error ends the comparison. nil: nobody paces it.
	Pace func(ctx context.Context, bytes int64) error

	sides [2]reader
	pace  pace
	once  sync.Once
	seed  maphash.Seed
}

// Equal compares keyA on a with keyB on b with a Comparer's defaults. Encodings
// and the order of sets, hashes and sorted sets of equal content do not matter;
// consumers' idle times do not either. An error means that the keys could not
// be compared.
func Equal(ctx context.Context, a, b *redis.Client, keyA, keyB string) (Diff, error) {
	ds, err := new(Comparer).compare(ctx, a, b, []string{keyA}, []string{keyB})
	if err != nil {
		return Diff{}, err
	}
	return ds[0], nil
}

// Compare compares keys of the same names on a and b and returns one Diff a key,
// in order.
func (c *Comparer) Compare(ctx context.Context, a, b *redis.Client, keys []string) ([]Diff, error) {
	const most = 256
	out := make([]Diff, 0, len(keys))
	for len(keys) > 0 {
		n := min(c.pace.next(most), len(keys))
		ds, err := c.compare(ctx, a, b, keys[:n], keys[:n])
		if err != nil {
			return out, err
		}
		var bytes int64
		for _, d := range ds {
			bytes += d.Bytes
		}
		c.pace.saw(n, bytes, orDefault(c.Bound, 16<<20), most)
		out = append(out, ds...)
		keys = keys[n:]
	}
	return out, nil
}

func (c *Comparer) compare(ctx context.Context, a, b *redis.Client, keysA, keysB []string) ([]Diff, error) {
	c.once.Do(c.plant)
	weight, err := c.weigh(ctx, a, b, keysA, keysB)
	if err != nil {
		return nil, err
	}
	limit := orDefault(c.Big, 1<<20)
	var seenA, seenB []sight
	if !c.mute() {
		seenA, seenB, err = both(
			func() ([]sight, error) { return c.sides[0].read(ctx, a, keysA, weight, limit) },
			func() ([]sight, error) { return c.sides[1].read(ctx, b, keysB, weight, limit) })
	}
	if c.mute() {
		seenA, seenB, err = both(
			func() ([]sight, error) { return c.sides[0].readTyped(ctx, a, keysA, weight, limit) },
			func() ([]sight, error) { return c.sides[1].readTyped(ctx, b, keysB, weight, limit) })
	}
	if err != nil {
		return nil, err
	}
	out := make([]Diff, len(keysA))
	for i := range out {
		big := weight[i] >= limit || seenA[i].unread || seenB[i].unread
		if out[i], err = c.one(ctx, a, b, keysA[i], keysB[i], seenA[i], seenB[i], big); err != nil {
			return nil, fmt.Errorf("comparing key %q on %s with %q on %s: %w", keysA[i], at(a), keysB[i], at(b), err)
		}
		out[i].Big = big
		seenA[i], seenB[i] = sight{}, sight{} // the payloads may go
	}
	return out, nil
}

// weigh returns the sizes of the keys, of each the larger one.
func (c *Comparer) weigh(ctx context.Context, a, b *redis.Client, keysA, keysB []string) ([]int64, error) {
	if c.Small {
		return make([]int64, len(keysA)), nil
	}
	weight, other, err := both(
		func() ([]int64, error) { return c.sides[0].scale.Weigh(ctx, a, keysA) },
		func() ([]int64, error) { return c.sides[1].scale.Weigh(ctx, b, keysB) })
	if err != nil {
		return nil, err
	}
	for i := range weight {
		weight[i] = max(weight[i], other[i])
	}
	return weight, nil
}

// mute reports whether one of the servers does not let us DUMP.
func (c *Comparer) mute() bool { return c.sides[0].mute.Load() || c.sides[1].mute.Load() }

func (c *Comparer) plant() { c.seed = maphash.MakeSeed() }

// both runs f and g at the same time.
func both[T any](f, g func() (T, error)) (x, y T, err error) {
	var errX, errY error
	var wg sync.WaitGroup
	wg.Go(func() { x, errX = f() })
	y, errY = g()
	wg.Wait()
	return x, y, errors.Join(errX, errY)
}

// IsBig says which keys of a server are compared in chunks.
func (c *Comparer) IsBig(ctx context.Context, on *redis.Client, keys []string) ([]bool, error) {
	weight, err := c.sides[0].scale.Weigh(ctx, on, keys)
	if err != nil {
		return nil, err
	}
	big := make([]bool, len(keys))
	for i, n := range weight {
		big[i] = n >= orDefault(c.Big, 1<<20)
	}
	return big, nil
}

// one compares one key, by its dumps where they tell enough.
func (c *Comparer) one(ctx context.Context, a, b *redis.Client, keyA, keyB string, da, db sight, big bool) (Diff, error) {
	if big {
		return c.byType(ctx, a, b, keyA, keyB)
	}
	d := Diff{}
	var err error
	switch {
	case !da.found && !db.found:
		return Diff{Gone: true}, nil
	case !da.found:
		d, err = alone(ctx, b, keyB, db.expiring(), differ(Extra, "key is on the target only"))
	case !db.found:
		d, err = alone(ctx, a, keyA, da.expiring(), differ(Missing, "key is not on the target"))
	case da.body == db.body:
		d = c.expiries(da.expire, db.expire)
	default:
		// The payloads differ, and one encoding does not prove another value.
		d, err = c.byType(ctx, a, b, keyA, keyB)
	}
	d.Bytes = int64(len(da.body))
	d.PrintA, d.PrintB = c.print(da), c.print(db)
	return d, err
}

// alone returns the difference d of a key that c's side alone has: none where that is a hash
// all of whose fields have expired. may says that it can be one.
func alone(ctx context.Context, c *redis.Client, key string, may bool, d Diff) (Diff, error) {
	if !may {
		return d, nil
	}
	n, err := c.HLen(ctx, key).Result()
	if movedOn(err) || err == nil && n == 0 {
		return d, nil
	}
	if err == nil {
		err = eachScan(ctx, c, "HSCAN", key, func([]string) error { return errEnough })
	}
	switch {
	case errors.Is(err, errEnough), movedOn(err):
		return d, nil
	case err != nil:
		return Diff{}, err
	}
	return Diff{Gone: true}, nil
}

func (c *Comparer) print(d sight) uint64 {
	if !d.found {
		return Absent
	}
	var h maphash.Hash
	h.SetSeed(c.seed)
	_, _ = h.WriteString(d.body)
	maphash.WriteComparable(&h, d.expire)
	return max(Absent+1, h.Sum64())
}

// tolerance is in milliseconds.
func (c *Comparer) tolerance() int64 {
	switch {
	case c.Strict:
		return 0
	case c.Tolerance > 0:
		return c.Tolerance.Milliseconds()
	}
	return 5
}

func (c *Comparer) expiries(a, b int64) Diff {
	switch {
	case a == b:
		return Diff{}
	case a == noExpiry:
		return differ(Expiry, "key expires on the target only")
	case b == noExpiry:
		return differ(Expiry, "key expires on the source only")
	}
	if off := b - a; max(off, -off) > c.tolerance() {
		return differ(Expiry, "key expires %s on the target", lateness(off))
	}
	return Diff{}
}

// near reports whether two expiries, of which a negative one is none, are the same but
// for some milliseconds.
func near(a, b, tolerance int64) bool {
	if a < 0 || b < 0 {
		return a < 0 && b < 0
	}
	off := a - b
	return max(off, -off) <= tolerance
}

func lateness(ms int64) string {
	const most = math.MaxInt64 / int64(time.Millisecond) // some 292 years
	if ms < 0 {
		return fmt.Sprintf("%v earlier", time.Duration(min(-ms, most))*time.Millisecond)
	}
	return fmt.Sprintf("%v later", time.Duration(min(ms, most))*time.Millisecond)
}
