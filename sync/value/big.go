package value

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Big copies one big key in chunks, as often as it changes, and remembers what
// the target has of it, so that what was added to a list, a string or a stream,
// and elements of a hash or a set that are known to have changed, can follow by
// themselves. Neither server is busy with one command for longer than
// a chunk takes, and no more than a chunk of the value is ever held. Its methods
// are for one goroutine at a time, but for Account.
type Big struct {
	Manner Manner // set before first use

	key     string
	through Through

	temp   *temp  // being built; nil when nothing is
	counts bool   // changes of elements are counted since temp was begun
	behind bool   // … and there were some before its building went on last, after an error
	placed bool   // the target has a value under key of which the rest is told:
	kind   string // its type
	length int64  // its elements or bytes
	last   streamID
	lacks  bool // a stream's groups: what is pending although its entry went during the copy
	pace   pace
	old    bool // the source is asked for one element at a time

	noFields bool // the target knows no expiry of hash fields, and is not to have them
	dropped  int  // expiries of fields that it therefore does not have, at least

	mu   sync.Mutex
	acct Account
}

// Account says how far a copy is. Sizes are of payload, as far as can be told.
type Account struct {
	Kind    string
	Bytes   int64   // written, of all copies
	Size    int64   // what the key takes in the source's memory; where that does not say, a guess
	Percent float64 // of the copy under way
}

// NewBig returns a Big that has copied nothing. through is how it writes.
func NewBig(key string, through Through) *Big { return &Big{key: key, through: through} }

// Account returns how far the copy is. It may be called at any time.
func (b *Big) Account() Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.acct
}

func (b *Big) account(change func(*Account)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.acct)
}

// Placed reports whether Extend may be of use.
func (b *Big) Placed() bool { return b.placed }

// Behind reports whether elements changed while the copy was built that Build has put into
// place last, before an error after which it went on. Who called it then may have heard of no
// change since, and has to call Extend all the same.
func (b *Big) Behind() bool { return b.behind }

// sizes has the command that counts, a type each.
var sizes = map[string]string{
	"string": "STRLEN", "list": "LLEN", "set": "SCARD", "zset": "ZCARD", "hash": "HLEN", "stream": "XLEN",
}

// Build copies the whole value. After an error it goes on where it was, if what
// happened since allows for it. A key that changes meanwhile ends as something
// that may never have been: the caller, who hears of the change as well, calls
// again. Exactness is w's: when nothing came between the call's begin and a
// barrier after its end, the target has the value, unless it is Behind. For what is only
// added to, or only taken from at one end, the same is true with changes.
func (b *Big) Build(ctx context.Context, src *redis.Client, w Watch) (Outcome, error) {
	out, err := b.build(ctx, src, w)
	if errors.Is(err, errChanged) {
		b.Drop(ctx)
	}
	return out, err
}

func (b *Big) build(ctx context.Context, src *redis.Client, w Watch) (Outcome, error) {
	b.behind = false
	kind, size, err := b.look(ctx, src)
	if err != nil {
		return Outcome{}, fmt.Errorf("asking %s for the size of key %q: %w", at(src), b.key, err)
	}
	if b.Manner.outside(b.key, kind) {
		b.Drop(ctx)
		b.placed = false
		return Outcome{}, ErrOutside
	}
	if kind == "none" {
		return b.gone(ctx)
	}
	read, ok := copiers[kind]
	if !ok {
		return Outcome{}, fmt.Errorf("copying key %q from %s: %w: %s", b.key, at(src), ErrType, kind)
	}
	seen, _ := w.Known()
	if b.temp == nil || b.kind != kind || !b.goOn(kind, seen, w) {
		b.Drop(ctx)
		b.begin(kind, seen)
		w.Begin()
		if b.counts, err = b.count(ctx, w); err != nil {
			return Outcome{}, fmt.Errorf("beginning with %s key %q: %w", kind, b.key, err)
		}
	} else {
		b.behind = seen&Element != 0 // since the beginning
		if err := b.temp.resume(ctx, sizes[kind]); err != nil {
			return Outcome{}, fmt.Errorf("going on with %s key %q: %w", kind, b.key, err)
		}
	}
	b.placed = false
	t := b.temp
	wrote := t.bytes
	b.follow(t, size)
	if kind == "string" && t.length == 0 && size > streamFrom {
		err = streamString(ctx, src, b.key, t, size)
	}
	if err == nil {
		err = read(ctx, src, b.key, t)
	}
	if err != nil {
		if movedOn(err) {
			err = fmt.Errorf("%w: %w", errChanged, err)
		}
		return Outcome{}, fmt.Errorf("copying %s key %q from %s: %w", kind, b.key, at(src), classify(err))
	}
	if t.hollow(kind) {
		return b.gone(ctx)
	}
	if err := b.place(ctx, src, w); err != nil {
		b.placed = false // what is there is of before, whatever the last try has found
		return Outcome{}, fmt.Errorf("putting %s key %q into place: %w", kind, b.key, classify(err))
	}
	if b.temp != nil { // it went away while it was read
		b.placed = false
		return b.gone(ctx)
	}
	b.dropped = t.dropped
	b.account(func(a *Account) { a.Size = max(a.Size, t.bytes) }) // where that was guessed
	return Outcome{Copied: true, Bytes: t.bytes - wrote, Dropped: t.dropped}, nil
}

// look asks for type, length and memory.
func (b *Big) look(ctx context.Context, src *redis.Client) (kind string, size int64, err error) {
	if kind, err = src.Type(ctx, b.key).Result(); err != nil || sizes[kind] == "" {
		return kind, 0, err
	}
	p := src.Pipeline()
	length := p.Do(ctx, sizes[kind], b.key)
	memory := p.Do(ctx, "MEMORY", "USAGE", b.key, "SAMPLES", 1)
	if err := exec(ctx, p); err != nil {
		return kind, 0, err
	}
	size, err = length.Int64()
	if says(err, "wrongtype") {
		return b.look(ctx, src)
	}
	if err != nil {
		return kind, 0, err
	}
	bytes, err := memory.Int64()
	if err != nil { // not everybody may ask
		if bytes = size; kind != "string" {
			bytes *= guessedBytes
		}
	}
	b.account(func(a *Account) { a.Kind, a.Size = kind, bytes })
	if size > 0 && bytes > 0 && kind != "string" && b.pace.n.Load() == 0 {
		b.pace.n.Store(min(max(1, chunkBytes/2*size/bytes), chunkMost/4))
	}
	return kind, size, nil
}

// guessedBytes is what an element is taken to cost where the source does not say:
// rather too much, so that who was found to be big stays so.
const guessedBytes = 128

// goOn reports whether a copy that was interrupted is still one of the value.
func (b *Big) goOn(kind string, seen Changes, w Watch) bool {
	switch kind {
	case "hash", "set", "zset":
		return seen.only(Grouped) || seen.only(Element|Grouped) && b.counts && w.Elements().Known()
	case "string":
		return seen.only(Appended)
	case "list":
		if b.temp.fromTail {
			return seen.only(Prepended | Grouped)
		}
		return seen.only(Appended | Grouped)
	case "stream":
		return seen.only(Appended|Grouped) && !b.temp.grouped
	}
	return seen == 0
}

func (b *Big) begin(kind string, seen Changes) {
	t := newTemp(b.through, b.Manner, b.key)
	t.swap = true
	// A list that is used at its head stands still when it is counted from its tail.
	t.fromTail = kind == "list" && seen != 0 && seen.only(Prepended|HeadPopped)
	t.pace.n.Store(b.pace.n.Load())
	b.temp, b.kind = t, kind
}

// follow has the account kept.
func (b *Big) follow(t *temp, size int64) {
	counted := t.bytes
	t.after = func() {
		b.account(func(a *Account) {
			a.Bytes += t.bytes - counted
			if size > 0 {
				a.Percent = min(99.9, 100*float64(t.length)/float64(size))
			}
		})
		counted = t.bytes
	}
}

// place settles what came while the value was read, and renames it. When the
// key is gone, the temporary key stays.
func (b *Big) place(ctx context.Context, src *redis.Client, w Watch) error {
	t := b.temp
	settle := func() {}
	for try := 0; ; try++ {
		_, before := w.Known()
		length, expire, err := b.measure(ctx, src)
		if err != nil || expire == noKey {
			return err
		}
		seen, after, err := w.Seen(ctx)
		if err != nil {
			return err
		}
		switch {
		case b.kind == "stream":
			if seen.only(Grouped) { // then it stood still, and was read to its end
				n, err := t.send(ctx, 0, "XLEN", nil)
				if err != nil {
					return err
				}
				if n != length {
					return fmt.Errorf("%w: temporary key has %d entries, not %d", errChanged, n, length)
				}
			}
			b.placed = seen.only(Appended | Trimmed | Deleted | Grouped)
			b.last, b.lacks = t.state.last, t.lacking
		case hasElements(b.kind):
			b.placed = b.counts && seen.only(Element|Grouped)
		default:
			b.placed = b.anchored(seen)
			if b.placed && length > t.length && try < 8 { // more was added
				if err := copiers[b.kind](ctx, src, b.key, t); err != nil {
					return err
				}
				continue
			}
			if length < t.length {
				b.placed = b.placed && seen.only(HeadPopped|TailPopped|Grouped) // Extend takes them away
			}
		}
		b.length = t.length
		if b.placed && b.kind != "stream" && length == t.length && before == after {
			settle = func() { w.Settle(after) }
		}
		if err := t.rename(ctx, b.key, expire); err != nil {
			b.placed = false
			return err
		}
		settle()
		b.temp = nil
		b.account(func(a *Account) { a.Percent = 100 })
		b.pace.n.Store(t.pace.n.Load())
		return nil
	}
}

// anchored reports whether what was read by place in the value, while seen
// happened, is what is there.
func (b *Big) anchored(seen Changes) bool {
	if b.kind == "list" {
		seen &^= Grouped
	}
	if b.kind == "list" && b.temp.fromTail {
		return seen.only(Prepended) || seen.only(HeadPopped)
	}
	return seen.only(Appended) || seen.only(TailPopped)
}

// measure reads length and expiry. Whoever changes the key in between is heard of.
func (b *Big) measure(ctx context.Context, src *redis.Client) (length, expire int64, err error) {
	expire, err = expireTime(ctx, src, b.key)
	if err != nil || expire == noKey {
		return 0, expire, err
	}
	length, err = src.Do(ctx, sizes[b.kind], b.key).Int64()
	return length, expire, err
}

// gone removes the key on the target.
func (b *Big) gone(ctx context.Context) (Outcome, error) {
	b.Drop(ctx)
	b.placed = false
	if b.Manner.outside(b.key, "none") {
		return Outcome{}, ErrOutside
	}
	err := b.through(ctx, func(ctx context.Context, dst *redis.Client) error { return remove(ctx, dst, b.key) })
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{Removed: true}, nil
}

// Drop gives up what is being built. The temporary key is removed, or expires
// when that cannot be done.
func (b *Big) Drop(ctx context.Context) {
	if b.temp != nil {
		b.temp.drop(ctx)
		b.temp = nil
	}
}

// Building reports whether a temporary key may be there.
func (b *Big) Building() bool { return b.temp != nil && b.temp.began && !b.temp.renamed }
