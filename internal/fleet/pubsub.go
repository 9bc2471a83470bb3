package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/slot"
)

// All who subscribe to channels and patterns do so at one master, the hub, and all who
// publish do so there: so a message reaches everybody in the order in which it would on one
// server, and PUBLISH counts the same. Messages of clients that are elsewhere in the cluster
// come there too. Shard channels are at the masters of their slots. Notifications of keys are
// told by each master for its own keys only, so these are listened to at all of them.

// The sets of subscriptions.
const (
	channels = iota
	patterns
	shards
)

var subscribeVerbs = [...]string{"subscribe", "psubscribe", "ssubscribe"}

// subscriptions are those of one connection. The sets and the nodes are guarded by its mu;
// what takes several steps by its subMu.
type subscriptions struct {
	sets    [3]map[string]*node // by name: of shard channels, the node that has it; nil of others
	hub     *node
	others  map[string]*node // by address: for notifications
	shardAt map[string]*node // by address
	tending bool
}

// classic is how many channels and patterns there are: what a server counts together.
func (s *subscriptions) count(set int) int {
	if set == shards {
		return len(s.sets[shards])
	}
	return len(s.sets[channels]) + len(s.sets[patterns])
}

func (s *subscriptions) any() bool { return s.count(channels)+s.count(shards) > 0 }

// forSubscribers reports whether RESP2 allows a command to who has subscribed.
func forSubscribers(name []byte) bool {
	for _, word := range []string{"subscribe", "unsubscribe", "psubscribe", "punsubscribe", "ssubscribe", "sunsubscribe", "ping", "quit", "reset"} {
		if is(name, word) {
			return true
		}
	}
	return false
}

// isNotification reports whether a channel is one of notifications of keys.
func isNotification(channel string) bool {
	return strings.HasPrefix(channel, "__keyspace@") || strings.HasPrefix(channel, "__keyevent@")
}

// mayNotify reports whether a subscription may be one to notifications.
func mayNotify(set int, name string) bool {
	if set == channels {
		return isNotification(name)
	}
	if i := strings.IndexAny(name, `*?[\`); set == patterns && i >= 0 {
		name = name[:i]
	}
	return set == patterns && (isNotification(name) || strings.HasPrefix("__keyspace@", name) || strings.HasPrefix("__keyevent@", name))
}

func (n *node) hearsMessages() bool {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return n.messages
}

// message takes an element that may be said unasked. mu is held.
func (n *node) message(el []byte) {
	c := n.c
	typ, count, rest, ok := resp.Header(el)
	kind, name := "", ""
	if ok && count > 0 && (typ == '>' || typ == '*') {
		text, rest, _ := resp.Text(rest)
		kind = string(text)
		text, _, _ = resp.Text(rest)
		name = string(text)
	}
	switch kind {
	case "invalidate":
		c.invalidated(el)
		return
	case "message", "smessage", "pmessage":
		if n == c.subs.hub || kind == "smessage" || c.hears(kind, name, el) {
			c.push(el)
		}
		return
	case "subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe":
		if n.head < len(n.sent) && n.sent[n.head].confirms == kind {
			break
		}
		if kind == "sunsubscribe" && c.subs.sets[shards][name] == n { // its slot has gone elsewhere
			c.subs.sets[shards][name] = nil
			c.tendSoon()
		}
		return
	}
	if n.head == len(n.sent) {
		return // of what nobody has asked for; it may be said without asking
	}
	cl := n.sent[n.head]
	if cl.confirms != "" && cl.confirms == kind {
		if cl.then != nil {
			cl.then(el)
		}
		if cl.left--; cl.left > 0 {
			return
		}
		cl.then = nil
	}
	cl.buf = append(cl.buf, el...)
	c.held += len(el)
	n.pop()
	c.finish(cl)
}

// hears reports whether what comes from another master than the hub is a notification that
// the client has subscribed to. mu is held.
func (c *conn) hears(kind, name string, el []byte) bool {
	set, channel := channels, name
	if parts := resp.Elements(el); kind == "pmessage" && len(parts) == 4 {
		text, _, _ := resp.Text(parts[2])
		set, channel = patterns, string(text)
	}
	_, confirmed := c.subs.sets[set][name] // it is subscribed to there before
	return confirmed && isNotification(channel)
}

// confirm tells the client of one subscription more or less. mu is held.
func (c *conn) confirm(kind, name string, null bool, count int) {
	typ := byte('*')
	if c.me.proto == 3 {
		typ = '>'
	}
	b := bulk(header(nil, typ, 3), kind)
	switch {
	case null && typ == '>':
		b = append(b, "_\r\n"...)
	case null:
		b = append(b, "$-1\r\n"...)
	default:
		b = bulk(b, name)
	}
	c.push(append(b, integer(int64(count))...))
}

func setOf(verb []byte) int {
	switch {
	case is(verb, "psubscribe"), is(verb, "punsubscribe"):
		return patterns
	case is(verb, "ssubscribe"), is(verb, "sunsubscribe"):
		return shards
	}
	return channels
}

func (c *conn) subscribe(args [][]byte, raw []byte) bool {
	if len(args) < 2 {
		return c.toAny(args, raw)
	}
	if !c.drain() {
		return false
	}
	c.subMu.Lock()
	defer c.subMu.Unlock()
	set, names := setOf(args[0]), args[1:]
	var reply []byte
	var err error
	if slices.ContainsFunc(names, func(name []byte) bool { return mayNotify(set, string(name)) }) {
		// Before the hub confirms it, since the client goes by that. What is refused there
		// the hub refuses as well.
		if err = c.listenEverywhere(set, names); err != nil && !errors.Is(err, errRefused) {
			return c.failed(err)
		}
	}
	if set != shards {
		reply, err = c.subscribeAt(set, names, func() (*node, error) { return c.hub() })
	} else {
		for _, group := range bySlots(names) {
			if reply, err = c.subscribeAt(set, group, func() (*node, error) { return c.shardNode(group[0]) }); err != nil || reply != nil {
				break
			}
		}
	}
	switch {
	case err != nil:
		return c.failed(err)
	case reply != nil:
		return c.local(reply)
	}
	c.flush()
	return true
}

// bySlots divides names, in their order, such that each group has one slot.
func bySlots(names [][]byte) (groups [][][]byte) {
	for _, name := range names {
		if last := len(groups) - 1; last >= 0 && slot.Of(groups[last][0]) == slot.Of(name) {
			groups[last] = append(groups[last], name)
			continue
		}
		groups = append(groups, [][]byte{name})
	}
	return groups
}

// subscribeAt subscribes the client to names of one set, which have one place. reply is the
// error of a node, nil where it went well.
func (c *conn) subscribeAt(set int, names [][]byte, place func() (*node, error)) (reply []byte, err error) {
	verb := subscribeVerbs[set]
	until := c.f.until("")
	for hop := 0; ; hop++ {
		if hop > 0 && !c.pause(hop, until) {
			return nil, errNodeGone
		}
		n, err := place()
		if err != nil {
			if _, refused := err.(*setupError); refused || c.isClosed() { //nolint:errorlint // connect's own
				return nil, err
			}
			continue
		}
		cl := &call{raw: wireOf(append([][]byte{[]byte(verb)}, names...)...), slot: -1, lone: true, confirms: verb, left: len(names)}
		cl.then = func(el []byte) {
			name := secondOf(el)
			if c.subs.sets[set] == nil {
				c.subs.sets[set] = make(map[string]*node)
			}
			c.subs.sets[set][name] = n
			c.subbed.Store(true)
			c.confirm(verb, name, false, c.subs.count(set))
		}
		if err := c.pose(n, cl); err != nil {
			if cl.left < len(names) {
				return nil, err // some were confirmed
			}
			continue
		}
		if cl.confirmed() {
			return nil, nil
		}
		r, ok := c.f.refused(cl, cl.buf)
		if !ok {
			return cl.buf, nil
		}
		if r.to == nil {
			continue
		}
	}
}

// confirmed reports whether a call has had its confirmations, and no error.
func (cl *call) confirmed() bool { return cl.left == 0 }

func secondOf(el []byte) string {
	if parts := resp.Elements(el); len(parts) > 1 {
		text, _, _ := resp.Text(parts[1])
		return string(text)
	}
	return ""
}

// pose sends a call of ours and waits for its end.
func (c *conn) pose(n *node, cl *call) error {
	c.mu.Lock()
	if n.dead {
		c.mu.Unlock()
		return errNodeGone
	}
	n.append(cl)
	c.mu.Unlock()
	n.flush()
	return c.await(cl)
}

// listener makes a connection from which messages come.
func (c *conn) listener(address string) (*node, error) {
	n, err := c.connect(address, false)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	n.messages = true
	c.mu.Unlock()
	return n, nil
}

// hub returns the connection to the master where all subscribe. The caller has subMu.
func (c *conn) hub() (*node, error) {
	c.mu.Lock()
	n := c.subs.hub
	c.mu.Unlock()
	if n != nil && !n.gone() {
		return n, nil
	}
	address, err := c.place(c.ctx, hubSlot, time.Now().Add(c.f.opts.Patience))
	if err != nil {
		return nil, err
	}
	if n, err = c.listener(address); err != nil {
		return nil, err
	}
	c.mu.Lock()
	c.subs.hub = n // before the first message may come
	c.mu.Unlock()
	if err := c.say(n, c.names(channels, nil), c.names(patterns, nil)); err != nil {
		n.close()
		return nil, err
	}
	c.mu.Lock()
	twice := c.subs.others[address] // it says all that the hub says
	delete(c.subs.others, address)
	c.mu.Unlock()
	twice.close()
	return n, nil
}

// cutStray ends a connection to a hub that is none any more, so that the subscriptions go where
// all publish now.
func (c *conn) cutStray(hub string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.subs.hub; n != nil && !n.dead && n.address != hub {
		n.fail(errCut)
	}
}

// names are those of a set of which which is true.
func (c *conn) names(set int, which func(name string) bool) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list [][]byte
	for name := range c.subs.sets[set] {
		if which == nil || which(name) {
			list = append(list, []byte(name))
		}
	}
	return list
}

var errRefused = errors.New("subscribing was refused")

// say subscribes a connection to channels, patterns and shard channels, without a word to the
// client.
func (c *conn) say(n *node, sets ...[][]byte) error {
	for set, names := range sets {
		if len(names) == 0 {
			continue
		}
		verb := subscribeVerbs[set]
		cl := &call{raw: wireOf(append([][]byte{[]byte(verb)}, names...)...), slot: -1, lone: true, confirms: verb, left: len(names)}
		if err := c.pose(n, cl); err != nil {
			return err
		}
		if !cl.confirmed() {
			return fmt.Errorf("%w: the node %s says %s", errRefused, n.address, bytes.TrimSpace(cl.buf))
		}
	}
	return nil
}

// shardNode returns the connection to the master that has a shard channel. The caller has
// subMu.
func (c *conn) shardNode(name []byte) (*node, error) {
	address, err := c.f.topo.Find(c.ctx, slot.Of(name))
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	n := c.subs.shardAt[address]
	c.mu.Unlock()
	if n != nil && !n.gone() {
		return n, nil
	}
	if n, err = c.listener(address); err != nil {
		return nil, err
	}
	c.mu.Lock()
	if c.subs.shardAt == nil {
		c.subs.shardAt = make(map[string]*node)
	}
	c.subs.shardAt[address] = n
	c.mu.Unlock()
	return n, nil
}

// listenEverywhere subscribes to notifications at all masters but the hub. The caller has
// subMu; names are those that are new.
func (c *conn) listenEverywhere(set int, names [][]byte) error {
	var sets [2][][]byte
	for _, name := range names {
		if mayNotify(set, string(name)) {
			sets[set] = append(sets[set], name)
		}
	}
	c.mu.Lock()
	hub := c.subs.hub
	known := make(map[string]*node)
	for address, n := range c.subs.others {
		known[address] = n
	}
	c.mu.Unlock()
	m := c.f.topo.Map()
	at := c.f.hubAddress()
	if hub != nil && !hub.gone() {
		at = hub.address
	}
	for _, address := range masters(m) {
		n := known[address]
		switch {
		case address == at:
			continue
		case n != nil && !n.gone():
			if err := c.say(n, sets[:]...); err != nil {
				return err
			}
			continue
		}
		n, err := c.listener(address)
		if err != nil {
			return err
		}
		known := [][][]byte{c.names(channels, func(name string) bool { return mayNotify(channels, name) }),
			c.names(patterns, func(name string) bool { return mayNotify(patterns, name) })}
		known[set] = append(known[set], sets[set]...)
		if err := c.say(n, known...); err != nil {
			n.close()
			return err
		}
		c.mu.Lock()
		if c.subs.others == nil {
			c.subs.others = make(map[string]*node)
		}
		c.subs.others[address] = n
		c.mu.Unlock()
	}
	return nil
}

func (c *conn) unsubscribe(args [][]byte, _ []byte) bool {
	if !c.drain() {
		return false
	}
	c.subMu.Lock()
	defer c.subMu.Unlock()
	set, names := setOf(args[0]), args[1:]
	verb := string(bytes.ToLower(args[0]))
	if len(names) == 0 {
		names = c.names(set, nil)
		slices.SortFunc(names, bytes.Compare)
	}
	if len(names) == 0 {
		c.mu.Lock()
		c.confirm(verb, "", true, c.subs.count(set))
		c.mu.Unlock()
		c.flush()
		return true
	}
	for _, name := range names {
		c.leave(set, verb, name)
	}
	c.mu.Lock()
	c.subbed.Store(c.subs.any())
	var idle []*node
	if c.subs.count(channels) == 0 {
		idle = append(idle, c.subs.hub)
		for _, n := range c.subs.others {
			idle = append(idle, n)
		}
		c.subs.hub, c.subs.others = nil, nil
	}
	if c.subs.count(shards) == 0 {
		for _, n := range c.subs.shardAt {
			idle = append(idle, n)
		}
		c.subs.shardAt = nil
	}
	c.mu.Unlock()
	for _, n := range idle {
		n.close()
	}
	c.flush()
	return true
}

// leave ends one subscription. Where the node is lost it has ended with that.
func (c *conn) leave(set int, verb string, name []byte) {
	c.mu.Lock()
	n, has := c.subs.sets[set][string(name)]
	var everywhere []*node
	if set != shards {
		n = c.subs.hub
		if mayNotify(set, string(name)) {
			for _, other := range c.subs.others {
				everywhere = append(everywhere, other)
			}
		}
	}
	c.mu.Unlock()
	said := false
	end := func([]byte) {
		said = true
		delete(c.subs.sets[set], string(name))
		c.confirm(verb, string(name), false, c.subs.count(set))
	}
	for i, at := range append(everywhere, n) {
		if !has || at == nil {
			continue
		}
		cl := &call{raw: wireOf([]byte(verb), name), slot: -1, lone: true, confirms: verb, left: 1}
		if i == len(everywhere) {
			cl.then = end
		}
		_ = c.pose(at, cl)
	}
	c.mu.Lock()
	if !said {
		end(nil)
	}
	c.mu.Unlock()
}

// endSubscriptions forgets all of them.
func (c *conn) endSubscriptions() {
	c.subMu.Lock()
	defer c.subMu.Unlock()
	c.mu.Lock()
	list := c.listeners()
	c.subs = subscriptions{tending: c.subs.tending}
	c.subbed.Store(false)
	c.mu.Unlock()
	for _, n := range list {
		n.close()
	}
}

// listeners are all connections from which messages come. mu is held.
func (c *conn) listeners() []*node {
	var list []*node
	if c.subs.hub != nil {
		list = append(list, c.subs.hub)
	}
	for _, nodes := range []map[string]*node{c.subs.others, c.subs.shardAt} {
		for _, n := range nodes {
			list = append(list, n)
		}
	}
	return list
}

// barrier returns when all messages are out that came to the nodes before it.
func (c *conn) barrier() bool {
	c.mu.Lock()
	list := c.listeners()
	c.mu.Unlock()
	for _, n := range list {
		if _, err := c.ask(n, words("PING")); err != nil && c.isClosed() {
			return false
		}
	}
	return true
}

// lostNode is told of each connection that has ended. mu is held.
func (c *conn) lostNode(n *node) {
	if n.messages && c.subs.any() && !c.closed && (n == c.subs.hub || c.subs.others[n.address] == n || c.subs.shardAt[n.address] == n) {
		c.tendSoon()
	}
	if t := c.me.track; n.tracks && t != nil && !c.closed {
		if c.stale(); t.bcast {
			c.tendSoon()
		}
	}
}

// tendSoon has the subscriptions looked after. mu is held.
func (c *conn) tendSoon() {
	if c.subs.tending || c.closed {
		return
	}
	c.subs.tending = true
	c.f.wg.Add(1)
	go func() {
		defer c.f.wg.Done()
		c.tend()
	}()
}

// tend subscribes again what has lost its node. What is published meanwhile is lost, as it is
// with one server that is restarted; where no node can be had, so is the connection.
func (c *conn) tend() {
	c.subMu.Lock()
	defer c.subMu.Unlock()
	c.mu.Lock()
	c.subs.tending = false
	c.mu.Unlock()
	until := c.f.until("")
	for hop := 0; (c.subbed.Load() || c.broadcasts()) && !c.isClosed(); hop++ {
		if hop > 0 && !c.pause(hop, until) {
			c.f.log.Info("closing a connection: its subscriptions have no node any more")
			c.close()
			return
		}
		if err := c.mend(); err == nil {
			return
		}
		_ = c.f.topo.Refresh(c.ctx)
	}
}

// mend makes the connections that are missing. The caller has subMu.
func (c *conn) mend() error {
	if err := c.listenAgain(); err != nil {
		return err
	}
	c.mu.Lock()
	classic := c.subs.count(channels) > 0
	c.mu.Unlock()
	if classic {
		if _, err := c.hub(); err != nil {
			return err
		}
	}
	notify := len(c.names(channels, func(name string) bool { return mayNotify(channels, name) }))+
		len(c.names(patterns, func(name string) bool { return mayNotify(patterns, name) })) > 0
	if notify {
		if err := c.listenEverywhere(channels, nil); err != nil {
			return err
		}
	}
	for _, name := range c.names(shards, nil) {
		c.mu.Lock()
		n := c.subs.sets[shards][string(name)]
		c.mu.Unlock()
		if n != nil && !n.gone() {
			continue
		}
		n, err := c.shardNode(name)
		if err != nil {
			return err
		}
		if err := c.say(n, nil, nil, [][]byte{name}); err != nil {
			return err
		}
		c.mu.Lock()
		c.subs.sets[shards][string(name)] = n
		c.mu.Unlock()
	}
	return nil
}

// heed has the subscriptions follow a new map: a new master tells of its keys itself. moved
// says that slots have other masters by it.
func (c *conn) heed(moved bool) {
	c.mu.Lock()
	t := c.me.track
	if moved {
		c.stale()
	}
	if c.subs.any() || t != nil && t.bcast {
		c.tendSoon()
	}
	c.mu.Unlock()
	if moved && t != nil {
		c.flush()
	}
}
