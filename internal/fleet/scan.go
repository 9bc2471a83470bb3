package fleet

import (
	"bytes"
	"hash/fnv"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/slot"
)

// A cursor of SCAN is a number: which master it is at, that master's own cursor, and some bits
// of a hash of who had which slots. Where the hash is another one, keys may have gone from a
// master that is still to come to one that was before: so the scan begins again, since it may
// say keys twice and must leave none out. It is the same after a restart, and at another
// sidecar, as nothing is remembered but what the cursor says.
//
// A slot that is between two masters has keys at both, and they may go from one that is still
// to come to one that was before, for as long as somebody lets it. So whom slots are opened to
// is looked through once more behind all others.
//
// It is below 2^40, because the proxy marks cursors with the switch that they were made
// behind in the bits above, and some clients take numbers for floats of 53 bits.
const cursorBits = 40

// widths are how many bits the master's own cursor may have: the fewer, the more are left for
// the hash. The lowest two bits say which width it is.
var widths = [...]int{20, 25, 30}

// width is that of a class; the last one is all that is left.
func (o *order) width(class int) int {
	if class < len(widths) {
		return widths[class]
	}
	return cursorBits - 2 - o.index
}

const farText = "ERR Crossfade: the cursor of a node is too large to be passed on"

// order is the masters of a scan, and the hash that says so.
type order struct {
	masters []string
	index   int // bits of the index
	print   uint64
}

func orderOf(m *cluster.Map) order {
	o := order{masters: masters(m)}
	slices.Sort(o.masters)
	o.index = bits.Len(uint(2*len(o.masters) - 1)) // each may come twice
	h := fnv.New64a()
	last := ""
	for s := range uint16(slot.Count) {
		at := ""
		if n := m.Owner(s); n != nil {
			at = n.ID + " " + n.Address
		}
		if at != last {
			_, _ = h.Write(strconv.AppendInt([]byte(at), int64(s), 10))
			last = at
		}
	}
	for _, a := range o.masters {
		_, _ = h.Write([]byte(a))
	}
	o.print = h.Sum64()
	return o
}

// printed is what is left of the hash beside an own cursor of a width; never 0 where that
// is 0 too, so that no cursor of ours is.
func (o *order) printed(width int) uint64 {
	room := cursorBits - 2 - o.index - width
	if room <= 0 {
		return 0
	}
	return 1 + o.print%(1<<room-1)
}

// cursor is false where the own one is too large.
func (o *order) cursor(at int, own uint64) (uint64, bool) {
	for class := range len(widths) + 1 {
		width := o.width(class)
		if own < 1<<width && 2+o.index+width <= cursorBits {
			return ((o.printed(width)<<width|own)<<o.index|uint64(at))<<2 | uint64(class), true
		}
	}
	return 0, false
}

// read takes a cursor apart. What is not of this order begins again.
func (o *order) read(cursor uint64) (at int, own uint64) {
	width := o.width(int(cursor & 3))
	at = int(cursor >> 2 & (1<<o.index - 1))
	own = cursor >> (2 + o.index) & (1<<width - 1)
	if cursor == 0 || cursor>>(2+o.index+width) != o.printed(width) || at >= 2*len(o.masters) {
		return 0, 0
	}
	return at, own
}

// master is the one at a place.
func (o *order) master(at int) string { return o.masters[at%len(o.masters)] }

// scan walks through the keys of one master after the other.
func (c *conn) scan(args [][]byte, raw []byte) bool {
	if len(args) < 2 {
		return c.toAny(args, raw)
	}
	cursor, err := strconv.ParseUint(string(args[1]), 10, 64)
	if err != nil {
		return c.toAny(args, raw)
	}
	if !c.drain() {
		return false
	}
	c.view = c.f.topo.Map()
	o := orderOf(c.view)
	if len(o.masters) == 0 {
		return c.local(errorOf(downText))
	}
	at, own := o.read(cursor)
	for ; ; at, own = at+1, 0 {
		words := append([][]byte(nil), args...)
		words[1] = strconv.AppendUint(nil, own, 10)
		cl := &call{raw: wireOf(words...), slot: -1, at: o.master(at), reads: true, lone: true}
		reply, err := c.perform(c.ctx, cl, c.f.until(cl.at))
		if err != nil {
			return false
		}
		parts := resp.Elements(reply)
		if len(parts) != 2 {
			return c.local(reply)
		}
		text, _, _ := resp.Text(parts[0])
		next, err := strconv.ParseUint(string(text), 10, 64)
		last, fits := at+1 >= len(o.masters), err == nil
		switch _, n, _, _ := resp.Header(parts[1]); {
		case err != nil:
		case next != 0:
			next, fits = o.cursor(at, next)
		case c.hasLost(o.master(at)): // perhaps to one that was before
			_ = c.f.topo.Refresh(c.ctx)
			next, fits = begunAgain(c.f.topo.Map())
		case n == 0 && own == 0 && !last: // it has nothing at all
			continue
		case !last:
			next, fits = o.cursor(at+1, 0)
		default:
			if next, fits, err = c.onceMore(&o, at); err != nil {
				c.f.log.Debug("a scan cannot tell whether it is at its end", "err", err)
				return c.local(errorOf(downText))
			}
		}
		if !fits {
			return c.local(errorOf(farText))
		}
		b := bulk(header(nil, '*', 2), strconv.FormatUint(next, 10))
		return c.local(append(b, parts[1]...))
	}
}

// begunAgain is the cursor of a scan's beginning, behind a first page that was shown.
func begunAgain(m *cluster.Map) (cursor uint64, fits bool) {
	o := orderOf(m)
	return o.cursor(0, 0)
}

// openings are the slots that are on their way, and behind that the order of the masters. The
// map is asked for only where a master does not have the slots that it should have by it: two
// questions for it are kept apart, and who scans what is at rest need not wait.
func (c *conn) openings() (map[uint16]cluster.Opening, order, error) {
	open, same, err := c.f.topo.Open(c.ctx)
	if err == nil && !same {
		err = c.f.topo.Refresh(c.ctx)
	}
	return open, orderOf(c.f.topo.Map()), err
}

// onceMore is the cursor of the next master that is to be looked through once more, 0 where
// there is none: at its end a key of a slot that is open is where it was shown, or with whom
// the slot is opened to. The map is asked for behind that, so that a slot that has arrived in
// between is seen to have moved.
func (c *conn) onceMore(o *order, at int) (cursor uint64, fits bool, err error) {
	open, now, err := c.openings()
	if err != nil {
		return 0, false, err
	}
	if now.print != o.print {
		cursor, fits = now.cursor(0, 0)
		return cursor, fits, nil
	}
	takers := make(map[string]bool)
	for _, opening := range open {
		takers[opening.To] = true
	}
	for next := max(at+1, len(o.masters)); next < 2*len(o.masters); next++ {
		if takers[o.master(next)] {
			cursor, fits = o.cursor(next, 0)
			return cursor, fits, nil
		}
	}
	return 0, true, nil
}

// hasLost reports whether a master has not all slots any more that it has by the map: at the
// end of its keys it is asked itself, since the map may be some seconds old.
func (c *conn) hasLost(address string) bool {
	cl := &call{raw: words("CLUSTER", "NODES"), slot: -1, at: address, reads: true, lone: true}
	reply, err := c.perform(c.ctx, cl, c.f.until(address))
	text, _, ok := resp.Text(reply)
	if err != nil || !ok || resp.IsError(reply) { // the client's user may not ask
		before := c.view
		return c.f.topo.Refresh(c.ctx) != nil || len(before.Moved(c.f.topo.Map())) > 0
	}
	var has [slot.Count]bool
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) >= 8 && strings.Contains(fields[2], "myself") {
			for _, span := range fields[8:] {
				first, last, ranged := strings.Cut(span, "-")
				if !ranged {
					last = first
				}
				from, err := strconv.ParseUint(first, 10, 14)
				to, err2 := strconv.ParseUint(last, 10, 14)
				for s := from; err == nil && err2 == nil && s <= to; s++ {
					has[s] = true
				}
			}
		}
	}
	n := c.view.Node(address)
	for s := range uint16(slot.Count) {
		if c.view.Owner(s) == n && n != nil && !has[s] {
			return true
		}
	}
	return false
}

// randomKey asks a master by chance, the more probably the more keys it has.
func (c *conn) randomKey(args [][]byte, raw []byte) bool {
	if len(args) != 1 {
		return c.toAny(args, raw)
	}
	if !c.drain() {
		return false
	}
	c.view = c.f.topo.Map()
	list := masters(c.view)
	sizes := make([]int64, len(list))
	for range 3 { // what had keys may have none by now
		var total int64
		for i, address := range list {
			cl := &call{raw: words("DBSIZE"), slot: -1, at: address, reads: true, lone: true}
			reply, err := c.perform(c.ctx, cl, c.f.until(address))
			if err != nil {
				return false
			}
			if resp.IsError(reply) {
				return c.local(reply)
			}
			sizes[i], _ = number(reply)
			total += sizes[i]
		}
		if total == 0 {
			break
		}
		at := rand.Int64N(total)
		i := 0
		for at >= sizes[i] {
			at -= sizes[i]
			i++
		}
		cl := &call{raw: bytes.Clone(raw), slot: -1, at: list[i], reads: true, lone: true}
		reply, err := c.perform(c.ctx, cl, c.f.until(list[i]))
		if err != nil {
			return false
		}
		if !isNull(reply) {
			return c.local(reply)
		}
	}
	return c.local(c.null())
}

func isNull(reply []byte) bool {
	return string(reply) == "$-1\r\n" || string(reply) == "_\r\n" || string(reply) == "*-1\r\n"
}

// null is that of the client's protocol, for what would be a string.
func (c *conn) null() []byte {
	if c.me.proto == 3 {
		return []byte("_\r\n")
	}
	return []byte("$-1\r\n")
}
