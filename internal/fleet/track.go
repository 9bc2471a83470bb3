package fleet

import (
	"bytes"
	"slices"

	"github.com/crossfade/crossfade/internal/resp"
)

// CLIENT TRACKING of a client that speaks RESP3. Each node remembers what was read of it on
// each connection, so every connection is told to track, before anything is read on it; with
// BCAST, which is not about what was read, one connection to each master is, and there always
// is one. What the nodes say has changed goes to the client behind the replies that came
// before it: if it overtook them, the client would keep for ever what is stale already. Where
// a connection that tracks is lost, or slots have gone elsewhere, nobody says any more what
// changes, so the client is told that everything has.

const (
	noTracking = "ERR Crossfade: where the server is a Redis Cluster, CLIENT TRACKING needs RESP3: say HELLO 3 before it"
	noRedirect = "ERR Crossfade: where the server is a Redis Cluster, CLIENT TRACKING cannot redirect to another connection; with RESP3 it needs none"
	untracked  = "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
	noOptIn    = "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."
	noOptOut   = "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."
	noSyntax   = "ERR syntax error"
)

// laterMost is how many bytes may wait of what has changed; where it is more, all has.
const laterMost = 1 << 20

// tracking is what stands of CLIENT TRACKING. It does not change once it is made.
type tracking struct {
	lines                [][]byte // what a node is told: with BCAST prefixes add up
	bcast, optin, optout bool
}

// with is the tracking after one more CLIENT TRACKING ON, which a node has obeyed.
func (t *tracking) with(args [][]byte, raw []byte) *tracking {
	now := new(tracking)
	for i := 3; i < len(args); i++ {
		switch {
		case is(args[i], "prefix"):
			i++
		case is(args[i], "bcast"):
			now.bcast = true
		case is(args[i], "optin"):
			now.optin = true
		case is(args[i], "optout"):
			now.optout = true
		}
	}
	if t != nil && now.bcast {
		now.lines = slices.DeleteFunc(slices.Clone(t.lines), func(line []byte) bool { return bytes.Equal(line, raw) })
	}
	now.lines = append(now.lines, bytes.Clone(raw))
	return now
}

// delayed is what the client is told once so many of its commands are answered.
type delayed struct {
	at uint64
	el []byte
}

var everything = []byte(">2\r\n$10\r\ninvalidate\r\n_\r\n")

// track is CLIENT TRACKING.
func (c *conn) track(args [][]byte, raw []byte) bool {
	on := len(args) > 2 && is(args[2], "on")
	if !on && (len(args) != 3 || !is(args[2], "off")) {
		return c.toAny(args, raw) // which says what is wrong with it
	}
	for i := 3; on && i < len(args); i++ {
		switch {
		case is(args[i], "redirect"):
			return c.local(errorOf(noRedirect))
		case is(args[i], "prefix"):
			i++
		}
	}
	if on && c.me.proto != 3 {
		return c.local(errorOf(noTracking))
	}
	home, reply, done, ok := c.toHome(raw)
	if done {
		return ok
	}
	if resp.IsError(reply) {
		return c.local(reply)
	}
	if !on {
		c.become(func(me *identity) { me.track = nil })
	} else {
		c.become(func(me *identity) { me.track = me.track.with(args, raw) })
	}
	if refusal, err := c.trackOthers(home, raw); refusal != nil || err != nil {
		// Some nodes may track and some not: it is as if it had not been said.
		c.become(func(me *identity) { me.track = nil })
		c.renew(nil, nil)
		if c.isClosed() {
			return false
		}
		if refusal != nil {
			return c.local(refusal)
		}
		return c.failed(err)
	}
	return c.local(reply)
}

// trackOthers has the other nodes do what the home has done. refusal is what one of them has
// said instead.
func (c *conn) trackOthers(home *node, raw []byte) (refusal []byte, err error) {
	c.mu.Lock()
	now := c.me.track
	home.tracks = now != nil
	var list, idle []*node
	for n := range c.all {
		switch {
		case n == home, n.messages:
		case now != nil && now.bcast && c.nodes[n.address] != n:
			idle = append(idle, n)
		default:
			list = append(list, n)
		}
	}
	c.mu.Unlock()
	for _, n := range list {
		replies, err := c.ask(n, raw)
		if err != nil {
			n.close() // the next one is told
			continue
		}
		if _, is := isError(replies[0]); is {
			return replies[0], nil
		}
		c.mu.Lock()
		n.tracks = now != nil
		c.mu.Unlock()
	}
	if now == nil || !now.bcast {
		return nil, nil
	}
	for _, n := range idle {
		if c.spare[n.address] == n { // one that is watched on stays: it tracks nothing
			delete(c.spare, n.address)
			n.close()
		}
	}
	_, err = c.listenForAll()
	return nil, err
}

// listenForAll connects to all masters, each of which is told then what the client tracks. It
// reports whether some were not connected to.
func (c *conn) listenForAll() (fresh bool, err error) {
	for _, address := range masters(c.f.topo.Map()) {
		c.mu.Lock()
		has := c.nodes[address] != nil
		c.mu.Unlock()
		if has {
			continue
		}
		if _, err := c.main(address); err != nil {
			return fresh, err
		}
		fresh = true
	}
	return fresh, nil
}

// broadcasts reports whether the client is told of changes to what it has not read.
func (c *conn) broadcasts() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.me.track != nil && c.me.track.bcast
}

// listenAgain makes the connections that a client needs that is told of all changes. What has
// changed while one was missing nobody has said.
func (c *conn) listenAgain() error {
	if !c.broadcasts() {
		return nil
	}
	fresh, err := c.listenForAll()
	if fresh {
		c.mu.Lock()
		c.stale()
		c.mu.Unlock()
		c.flush()
	}
	return err
}

// caching is CLIENT CACHING, which is about the next command: it is said to whichever node
// that goes to.
func (c *conn) setCaching(args [][]byte, raw []byte) bool {
	t := c.me.track
	switch yes := len(args) == 3 && is(args[2], "yes"); {
	case len(args) != 3:
		return c.toAny(args, raw)
	case t == nil:
		return c.local(errorOf(untracked))
	case yes && !t.optin:
		return c.local(errorOf(noOptIn))
	case !yes && !is(args[2], "no"):
		return c.local(errorOf(noSyntax))
	case !yes && !t.optout:
		return c.local(errorOf(noOptOut))
	}
	c.caching = bytes.Clone(raw)
	return c.local(replyOK)
}

// opted takes what CLIENT CACHING has said of the command that is served now.
func (c *conn) opted() []byte {
	b := c.choice
	c.choice = nil
	return b
}

// unopted is called behind a command: where it was to be tracked, and could not be, it is
// as if what was read had changed.
func (c *conn) unopted() {
	if b := c.opted(); b != nil && c.me.track != nil && c.me.track.optin {
		c.mu.Lock()
		c.stale()
		c.mu.Unlock()
		c.unsaid = true
	}
}

// invalidated passes on what a node says has changed. mu is held.
func (c *conn) invalidated(el []byte) {
	if c.me.track != nil && c.me.proto == 3 {
		c.pushLater(el)
	}
}

// stale tells the client that everything may have changed. mu is held; the caller has it
// written.
func (c *conn) stale() {
	if c.me.track == nil || c.me.proto != 3 {
		return
	}
	if n := len(c.later); n > 0 && &c.later[n-1].el[0] == &everything[0] {
		c.later[n-1].at = c.enlisted() // once is enough
		return
	}
	c.pushLater(everything)
}

// enlisted is how many commands have a place in the order of the replies, from the first on.
func (c *conn) enlisted() uint64 { return c.passed + uint64(len(c.fifo)-c.head) }

// pushLater pushes what may not overtake the replies that are under way. mu is held.
func (c *conn) pushLater(el []byte) {
	if c.head == len(c.fifo) {
		c.push(el)
		return
	}
	if c.laterSize += len(el); c.laterSize > laterMost {
		c.later, c.laterSize = nil, len(everything)
		el = everything
	}
	c.later = append(c.later, delayed{c.enlisted(), el})
}

// pushDue lets out what has waited for long enough. mu is held.
func (c *conn) pushDue() {
	for len(c.later) > 0 && c.later[0].at <= c.passed {
		c.out = append(c.out, c.later[0].el...)
		c.laterSize -= len(c.later[0].el)
		c.later = c.later[1:]
	}
}
