package fleet

import (
	"bytes"
	"strings"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/keyspec"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/slot"
	"github.com/crossfade/crossfade/internal/spread"
)

const (
	crossText  = "CROSSSLOT Keys in request don't hash to the same slot"
	nobodyText = "ERR Crossfade: nobody knows to which nodes of the Redis Cluster this command is to go: the servers name no keys of it"
	untoldText = "ERR Crossfade: the servers of the Redis Cluster do not say which words of this command are keys"
)

// command serves one request: args are its words, raw its bytes, both good until the next one
// is read. False ends the connection.
func (c *conn) command(args [][]byte, raw []byte) bool {
	if c.unsure && !letsIn(args[0]) {
		return c.toAny(args, raw) // which says so
	}
	if c.txn != nil {
		return c.inTransaction(args, raw)
	}
	if c.caching != nil && !is(args[0], "client") {
		c.choice, c.caching = c.caching, nil
		defer c.unopted() // if nothing below sends it
	}
	if c.me.proto == 2 && c.subbed.Load() && !forSubscribers(args[0]) {
		return c.local(errorOf("ERR Can't execute '" + string(bytes.ToLower(args[0])) + "': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"))
	}
	row := spread.Of(args)
	if row.Blocks != spread.Never {
		if at := row.Blocks.Index(args); at > 0 {
			if _, _, ok := row.Blocks.Timeout(args[at]); ok {
				return c.block(row, args, at)
			}
		}
	}
	switch row.Way {
	case spread.Slot:
		if c.f.commandOf(args[0]) == nil {
			return c.unknown(args, raw)
		}
		return c.toSlot(args, raw, c.f.commandOf(args[0]), row)
	case spread.Split:
		return c.toParts(args, raw, row)
	case spread.Masters:
		if is(args[0], "flushall") || is(args[0], "flushdb") {
			return c.empty(raw)
		}
		return c.toMasters(args, raw, row.Merge)
	case spread.Any:
		return c.toAny(args, raw)
	case spread.Hub:
		cl := c.slab.call()
		*cl = call{raw: c.slab.keep(raw), slot: hubSlot}
		return c.send(cl, false)
	case spread.Refused:
		return c.local(errorOf(row.Why))
	case spread.Here:
		return handlers[strings.ToLower(string(args[0]))](c, args, raw)
	}
	return c.unknown(args, raw)
}

// hubSlot stands for the slot of what has none and goes to the hub, see Fleet.hubAddress.
const hubSlot = slot.Count

// letsIn reports whether a command is obeyed of who has yet to authenticate.
func letsIn(name []byte) bool {
	return is(name, "auth") || is(name, "hello") || is(name, "quit") || is(name, "reset")
}

func is(arg []byte, word string) bool {
	return len(arg) == len(word) && strings.EqualFold(string(arg), word)
}

// local answers a command without a node, in its turn.
func (c *conn) local(reply []byte) bool {
	cl := c.slab.call()
	*cl = call{slot: -1, buf: reply}
	c.mu.Lock()
	c.enlist(cl)
	c.held += len(reply)
	c.complete(cl)
	full := len(c.out) > outAtOnce
	c.mu.Unlock()
	if c.unsaid = !full; full {
		c.flush()
	}
	return true
}

// toSlot sends a command to the master that has its keys.
func (c *conn) toSlot(args [][]byte, raw []byte, command *keyspec.Command, row spread.Row) bool {
	c.keys = command.Keys(c.keys[:0], args)
	if len(c.keys) == 0 {
		return c.toAny(args, raw) // which says what is wrong with it
	}
	s, one := slotOf(args, c.keys)
	if !one {
		return c.local(errorOf(crossText))
	}
	cl := c.slab.call()
	*cl = call{raw: c.slab.keep(raw), slot: s, reads: readsOnly(command), scans: scansElements(args[0])}
	if row.Way == spread.Here {
		cl.scripted = true
	}
	return c.send(cl, len(c.keys) > 1)
}

// send puts a call in the order of the replies and on its way to where its slot is. several
// says that it has more than one key: where its slot is on its way they may be at two nodes,
// and it may be refused while what is sent behind it is done. So nothing is, there.
func (c *conn) send(cl *call, several bool) bool {
	var n *node
	for {
		if !c.look() || !c.room() {
			return false
		}
		address := c.addressIn(c.view, cl.slot)
		if cl.slot == hubSlot && address != c.hubWas { // what was published before is to be there before
			if !c.drain() {
				return false
			}
			c.hubWas = address
		}
		n = c.reach(address)
		c.mu.Lock()
		if !c.settling.Load() {
			break
		}
		c.mu.Unlock() // something was refused meanwhile, which is to be done before
	}
	if c.choice != nil {
		cl.before = c.opted()
	}
	c.enlist(cl)
	c.pass(n, cl)
	full := n != nil && len(n.out) > nodeFlush
	c.mu.Unlock()
	c.soil(n, full)
	if several && c.f.isUnstable(cl.slot) {
		return c.drain()
	}
	return true
}

// addressIn is where a command of a slot goes by a map, "" where that is not known.
func (c *conn) addressIn(m *cluster.Map, at int) string {
	switch {
	case at < 0:
		return c.homeIn(m)
	case at == hubSlot:
		return c.f.hubAddress()
	}
	if owner := m.Owner(uint16(at)); owner != nil {
		return owner.Address
	}
	return ""
}

// reach returns the connection to a node, nil where there is none to be had now.
func (c *conn) reach(address string) *node {
	if address == "" {
		return nil
	}
	n, err := c.main(address)
	if err != nil {
		return nil
	}
	return n
}

// pass gives a call to a node; without one it is tried for as long as may be. mu is held.
func (c *conn) pass(n *node, cl *call) {
	if n == nil || n.dead {
		cl.collect = true
		c.redoLater(cl, nil)
		return
	}
	if cl.before != nil {
		n.append(cl, cl.before)
		return
	}
	n.append(cl)
}

// soil has a node flushed soon, or now.
func (c *conn) soil(n *node, now bool) {
	switch {
	case n == nil:
	case now:
		n.flush()
	case len(c.dirty) == 0 || c.dirty[len(c.dirty)-1] != n:
		c.dirty = append(c.dirty, n)
	}
}

// toAny sends a command to the connection's home.
func (c *conn) toAny(args [][]byte, raw []byte) bool {
	cl := c.slab.call()
	*cl = call{raw: c.slab.keep(raw), slot: -1, reads: harmless(c.f.commandOf(args[0]))}
	return c.send(cl, false)
}

// harmless reports whether a command that has no keys can be sent twice.
func harmless(command *keyspec.Command) bool {
	return command != nil && len(command.Subs) == 0 && !command.Is("write") && !command.Is("admin") && !command.Is("blocking") && !command.Is("noscript")
}

// toParts sends the keys of a command to their masters, those of each slot together.
func (c *conn) toParts(args [][]byte, raw []byte, row spread.Row) bool {
	command := c.f.commandOf(args[0])
	if is(args[0], "mset") && len(args)%2 == 0 { // a node would look at its keys first
		return c.local(errorOf("ERR wrong number of arguments for 'mset' command"))
	}
	c.keys = command.Keys(c.keys[:0], args)
	if _, one := slotOf(args, c.keys); one || len(c.keys) == 0 {
		return c.toSlot(args, raw, command, row)
	}
	step := 1
	if is(args[0], "mset") {
		step = 2
	}
	whole := &call{slot: -1, collect: true}
	f := &fan{call: whole, merge: row.Merge, width: len(c.keys)}
	index := make(map[int]int)
	var parts [][][]byte
	for i, k := range c.keys {
		s := int(slot.Of(args[k.At]))
		p, known := index[s]
		if !known {
			p = len(parts)
			index[s] = p
			parts = append(parts, [][]byte{args[0]})
			f.parts = append(f.parts, &call{slot: s, fan: f, reads: readsOnly(command)})
			f.places = append(f.places, nil)
		}
		parts[p] = append(parts[p], args[k.At:k.At+step]...)
		f.places[p] = append(f.places[p], i)
	}
	f.left = len(f.parts)
	several := false
	opted := c.opted()
	for i, part := range f.parts {
		part.before = opted
		part.raw = wireOf(parts[i]...)
		several = several || len(parts[i]) > 1+step && c.f.isUnstable(part.slot)
	}
	nodes := make([]*node, len(f.parts))
	for sent := false; !sent; sent = c.dispatch(whole, f, nodes) {
		if !c.look() || !c.room() {
			return false
		}
		clear(nodes)
		for i, part := range f.parts {
			if owner := c.view.Owner(uint16(part.slot)); owner != nil {
				nodes[i] = c.reach(owner.Address)
			}
		}
	}
	if several {
		return c.drain()
	}
	return true
}

// dispatch passes all parts of a command. False: nothing was passed, since something is to be
// sent again before.
func (c *conn) dispatch(whole *call, f *fan, nodes []*node) bool {
	c.mu.Lock()
	if c.settling.Load() {
		c.mu.Unlock()
		return false
	}
	for _, part := range f.parts {
		whole.size += len(part.raw)
	}
	c.fifo = append(c.fifo, whole)
	c.flying += whole.size
	for i, part := range f.parts {
		c.pass(nodes[i], part)
	}
	c.mu.Unlock()
	for _, n := range nodes {
		c.soil(n, false)
	}
	return true
}

// toMasters sends a command to all masters. Nothing overtakes it, nor does it overtake.
func (c *conn) toMasters(args [][]byte, raw []byte, merge spread.Merge) bool {
	if !c.drain() {
		return false
	}
	c.view = c.f.topo.Map()
	whole := &call{slot: -1, collect: true}
	f := &fan{call: whole, merge: merge}
	if merge == spread.Concat {
		f.stream = new(stream)
	}
	var nodes []*node
	for _, address := range masters(c.view) {
		f.parts = append(f.parts, &call{raw: bytes.Clone(raw), slot: -1, at: address, fan: f, reads: readsOnly(c.f.commandOf(args[0]))})
		nodes = append(nodes, c.reach(address))
	}
	if f.left = len(f.parts); f.left == 0 {
		return c.local(errorOf(downText))
	}
	c.dispatch(whole, f, nodes) // nothing is in flight that could have been refused
	return c.drain()
}

// unknown serves a command that is not in the table.
func (c *conn) unknown(args [][]byte, raw []byte) bool {
	if c.f.commandOf(args[0]) == nil && !c.drain() {
		return false
	}
	command, err := c.learn(args[0])
	switch {
	case err != nil:
		return c.failed(err)
	case command == nil:
		return c.toAny(args, raw) // which does not know it either
	case command.Exact() && len(command.Specs) == 0:
		return c.local(errorOf(nobodyText))
	case command.Exact():
		return c.toSlot(args, raw, command, spread.Row{})
	}
	if !c.drain() {
		return false
	}
	n, err := c.homeNode()
	if err != nil {
		return c.failed(err)
	}
	replies, err := c.ask(n, wireOf(append([][]byte{[]byte("COMMAND"), []byte("GETKEYS")}, args...)...))
	if err != nil {
		return c.failed(err)
	}
	names := resp.Elements(replies[0])
	if text, is := isError(replies[0]); is || len(names) == 0 {
		if prefixed(text, "ERR Invalid number of arguments") || strings.HasPrefix(text, "ERR Invalid arguments") {
			return c.toAny(args, raw)
		}
		return c.local(errorOf(untoldText))
	}
	at := -1
	for _, el := range names {
		name, _, _ := resp.Text(el)
		s := int(slot.Of(name))
		if at >= 0 && s != at {
			return c.local(errorOf(crossText))
		}
		at = s
	}
	cl := &call{raw: bytes.Clone(raw), slot: at}
	return c.send(cl, len(names) > 1)
}

// failed answers a command that could not be done because no node could be asked.
func (c *conn) failed(err error) bool {
	if c.isClosed() {
		return false
	}
	if refused, is := err.(*setupError); is { //nolint:errorlint // connect's own
		return c.local(errorOf(refused.text))
	}
	return c.local(errorOf(downText))
}
