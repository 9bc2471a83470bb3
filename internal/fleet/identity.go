package fleet

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/cluster"
)

// identity is what every node is told of a client when it is connected to.
type identity struct {
	proto      int
	authed     bool
	user, pass []byte // user nil: AUTH had a password only
	name       []byte
	info       []attribute
	noEvict    bool
	noTouch    bool
	track      *tracking // nil: nothing
}

// attribute is one of CLIENT SETINFO.
type attribute struct{ name, value string }

func (me *identity) setInfo(name, value string) {
	info := slices.Clone(me.info) // others may be reading the old one
	if i := slices.IndexFunc(info, func(a attribute) bool { return strings.EqualFold(a.name, name) }); i >= 0 {
		info[i].value = value
	} else {
		info = append(info, attribute{name, value})
	}
	me.info = info
}

// greeting is what brings a fresh connection to a node there: what must succeed, and what
// need not. tracks says that what is read on it is to be tracked, where the client wants that.
func (me *identity) greeting(tracks bool) (must, may [][]byte) {
	switch {
	case me.proto == 3 && me.authed:
		user := me.user
		if user == nil {
			user = []byte("default")
		}
		must = append(must, wireOf([]byte("HELLO"), []byte("3"), []byte("AUTH"), user, me.pass))
	case me.proto == 3:
		must = append(must, words("HELLO", "3"))
	case me.authed && me.user == nil:
		must = append(must, wireOf([]byte("AUTH"), me.pass))
	case me.authed:
		must = append(must, wireOf([]byte("AUTH"), me.user, me.pass))
	}
	if tracks && me.track != nil {
		must = append(must, me.track.lines...)
	}
	if len(me.name) > 0 {
		may = append(may, wireOf([]byte("CLIENT"), []byte("SETNAME"), me.name))
	}
	for _, a := range me.info {
		may = append(may, words("CLIENT", "SETINFO", a.name, a.value))
	}
	if me.noEvict {
		may = append(may, words("CLIENT", "NO-EVICT", "ON"))
	}
	if me.noTouch {
		may = append(may, words("CLIENT", "NO-TOUCH", "ON"))
	}
	return must, may
}

// connect makes a connection to a node, and introduces the client. tracks says that something
// is to be read on it that the client may remember.
func (c *conn) connect(address string, tracks bool) (*node, error) {
	if c.f.isSilent(address) {
		return nil, fmt.Errorf("node %s: %w", address, errSilent)
	}
	sock, err := c.f.dial(c.ctx, address)
	if err != nil {
		return nil, err
	}
	n, err := c.beginNode(address, sock)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	me := c.me
	n.gen = c.gen
	c.mu.Unlock()
	must, may := me.greeting(tracks)
	if len(must)+len(may) > 0 {
		var replies [][]byte
		err := c.hurried(n, c.f.opts.DialTimeout, func() (err error) {
			replies, err = c.ask(n, append(must, may...)...)
			return err
		})
		if err != nil {
			n.close()
			return nil, err
		}
		for _, reply := range replies[:len(must)] {
			if text, is := isError(reply); is {
				n.close()
				return nil, &setupError{address, text}
			}
		}
	}
	if tracks && me.track != nil {
		c.mu.Lock()
		n.tracks = true
		c.mu.Unlock()
	}
	return n, nil
}

// main returns the connection to a node that plain commands go to. It may dial. The goroutine
// that serves calls it, settle while that waits, and tend.
func (c *conn) main(address string) (*node, error) {
	c.mu.Lock()
	n := c.nodes[address]
	c.mu.Unlock()
	if n != nil {
		return n, nil
	}
	n, err := c.connect(address, true)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.gen != c.gen { // the client has become somebody else meanwhile
		n.fail(errClosed)
	}
	if n.dead {
		return nil, errNodeGone
	}
	if other := c.nodes[address]; other != nil { // settle began while this one was dialled
		n.fail(errClosed)
		return other, nil
	}
	c.nodes[address] = n
	return n, nil
}

// private returns a connection to a node for one use, after which it is given back by
// retire.
func (c *conn) private(address string) (*node, error) {
	if n := c.spare[address]; n != nil {
		delete(c.spare, address)
		if !n.gone() {
			return n, nil
		}
	}
	return c.connect(address, c.me.track != nil && !c.me.track.bcast)
}

// retire keeps a connection that private has returned, and of which the node knows nothing
// that another would not.
func (c *conn) retire(n *node) {
	if n == nil || n.gone() {
		return
	}
	if old := c.spare[n.address]; old != nil && old != n {
		old.close()
	}
	c.spare[n.address] = n
}

// renew closes all connections but keep: the client has become somebody else, and new ones
// are made when they are needed. Those that its messages come from are told as well: raw is
// what it has said. Nothing is in flight.
func (c *conn) renew(keep *node, raw []byte) {
	c.mu.Lock()
	list := make([]*node, 0, len(c.all))
	for n := range c.all {
		if n != keep {
			list = append(list, n)
		}
	}
	c.mu.Unlock()
	for _, n := range list {
		if n.hearsMessages() && raw != nil {
			if _, err := c.ask(n, raw); err == nil {
				continue
			}
		}
		n.close()
	}
	clear(c.spare)
}

// become changes what the nodes are told of the client.
func (c *conn) become(change func(me *identity)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	change(&c.me)
}

// homeNode is the connection to the master that is asked what any could be.
func (c *conn) homeNode() (*node, error) {
	until := time.Now().Add(c.f.opts.Patience)
	for hop := 0; ; hop++ {
		if hop > 0 && !c.pause(hop, until) {
			return nil, errNodeGone
		}
		address := c.homeIn(c.f.topo.Map())
		if address == "" {
			continue
		}
		n, err := c.main(address)
		if err == nil {
			return n, nil
		}
		if _, refused := err.(*setupError); refused || c.ctx.Err() != nil { //nolint:errorlint // connect's own
			return nil, err
		}
		c.leaveHome(address)
	}
}

// leaveHome has another master be asked than one that cannot be reached.
func (c *conn) leaveHome(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.home == address {
		c.home = ""
	}
}

// homeIn returns the home, and chooses another where that is no master of the map.
func (c *conn) homeIn(m *cluster.Map) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := m.Node(c.home); c.home == "" || n == nil || n.Master != "" {
		c.home = anyMaster(m)
	}
	return c.home
}

// shuffled are the addresses of the masters that have slots, in no order, but for those last
// that could do nothing lately.
func (f *Fleet) shuffled(m *cluster.Map) []string {
	var list, last []string
	for _, n := range m.Masters() {
		if n.Failed || f.out(n.Address) {
			last = append(last, n.Address)
		} else {
			list = append(list, n.Address)
		}
	}
	for _, l := range [][]string{list, last} {
		rand.Shuffle(len(l), func(i, j int) { l[i], l[j] = l[j], l[i] })
	}
	return append(list, last...)
}
