package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/resp"
)

// What a node refused, because a slot has moved or the node can do nothing for the moment,
// was not done, and is sent again. That is rare, so it is done slowly: nothing new is sent
// on the connection meanwhile, and one command after the other is.

const (
	hopWait = 5 * time.Millisecond // before the second attempt; then more and more
	hopMost = 200 * time.Millisecond
)

// Errors that a client gets instead of what would tell it of a cluster. All say that the
// command was not done.
const (
	overtakenText = "TRYAGAIN Crossfade: the slot of the key was on its way between two nodes of the cluster, and the command was not done before a later one"
	movingText    = "TRYAGAIN Crossfade: the slot of the key is on its way between two nodes of the cluster"
	changedText   = "TRYAGAIN Crossfade: the masters of the cluster have changed meanwhile"
	downText      = "CLUSTERDOWN Crossfade: a node of the cluster cannot be reached, and no other has taken over its slots"
)

func prefixed(text, word string) bool {
	return strings.HasPrefix(text, word) && (len(text) == len(word) || text[len(word)] == ' ')
}

// refusalOf is what a node's error means.
type refusalOf struct {
	to    *cluster.Redirect
	later bool   // it can be done by and by, where the slot is then
	raw   []byte // it is to be said in other words
}

// refused reports whether a node has refused a command that can be sent again, and notes
// what that says of the cluster. It does not wait.
func (f *Fleet) refused(cl *call, reply []byte) (r refusalOf, ok bool) {
	if cl.node == nil || len(reply) == 0 || reply[0] != '-' {
		return r, false
	}
	text := string(bytes.TrimRight(reply[1:], "\r\n"))
	if to, is := cluster.ParseRedirect(text, cl.node.address); is {
		if cl.scripted && int(to.Slot) != cl.slot {
			return r, false // a script's own words: a node means the slot of the keys
		}
		if to.Ask {
			f.unsettle(int(to.Slot))
		} else {
			f.topo.Moved(to, cl.node.address)
		}
		r.to = &to
		return r, true
	}
	switch {
	case cl.scripted && !plainly(text): // it may be the script that says so
		return r, false
	case cluster.Later(text):
		if prefixed(text, "TRYAGAIN") {
			f.unsettle(cl.slot)
		} else {
			f.down(cl.node.address)
			f.topo.Doubt(cl.node.address)
		}
		r.later = true
		return r, true
	case prefixed(text, "READONLY"), prefixed(text, "UNBLOCKED") && strings.Contains(text, "instance state changed"):
		f.topo.Doubt(cl.node.address)
		r.later = true
		return r, true
	case cl.scripted && prefixed(text, "NOSCRIPT"):
		if r.raw = f.spelled(cl.raw); r.raw != nil {
			return r, true
		}
	}
	return r, false
}

// plainly reports whether an error is a server's own, word for word, and not a script's.
func plainly(text string) bool {
	switch text {
	case "TRYAGAIN Multiple keys request during rehashing of slot", "CLUSTERDOWN The cluster is down", "CLUSTERDOWN Hash slot not served",
		"CLUSTERDOWN The cluster is down and only accepts read commands", "LOADING Redis is loading the dataset in memory",
		"LOADING Valkey is loading the dataset in memory", "NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT No matching script.":
		return true
	}
	return false
}

// spelled returns an EVALSHA with the script itself, nil where that is not known.
func (f *Fleet) spelled(raw []byte) []byte {
	args := parsed(raw)
	if len(args) < 2 || len(args[0]) < len("evalsha") || !strings.EqualFold(string(args[0][:len("evalsha")]), "evalsha") {
		return nil
	}
	body := f.scripts.body(args[1])
	if body == "" {
		return nil
	}
	args[0] = append([]byte("EVAL"), args[0][len("evalsha"):]...)
	args[1] = []byte(body)
	return wireOf(args...)
}

// again takes cl, whose reply is an error, for one that is to be sent again. mu is held.
func (c *conn) again(cl *call) bool {
	r, ok := c.f.refused(cl, cl.buf)
	if !ok {
		return false
	}
	cl.refusal = cl.buf
	c.drop(cl)
	if r.raw != nil {
		cl.raw = r.raw
	}
	c.redoLater(cl, r.to)
	return true
}

// redoLater has cl sent again. mu is held.
func (c *conn) redoLater(cl *call, to *cluster.Redirect) {
	cl.to, cl.overtaken = to, false
	c.redo = append(c.redo, cl)
	c.awaken() // readers that wait must read on now, and settle may wait for this very call
	if c.settling.CompareAndSwap(false, true) {
		c.f.wg.Add(1)
		go c.settle()
	}
}

// settle sends again what was refused, until nothing is left.
func (c *conn) settle() {
	defer c.f.wg.Done()
	c.mu.Lock()
	for len(c.redo) > 0 && !c.closed {
		cl := c.redo[0]
		for c.followed(cl) && !c.closed {
			c.wait()
		}
		overtaken := cl.overtaken
		c.mu.Unlock()
		var reply []byte
		var err error
		if overtaken {
			reply = errorOf(overtakenText)
		} else {
			reply, err = c.perform(c.ctx, cl, c.limit(cl))
		}
		c.mu.Lock()
		c.redo = c.redo[1:]
		cl.buf, cl.lost = reply, err
		c.held += len(reply)
		c.complete(cl)
		c.mu.Unlock()
		c.flush()
		c.mu.Lock()
	}
	c.settling.Store(false)
	c.cond.Broadcast()
	c.mu.Unlock()
}

// followed reports whether commands of the same slot are under way that were sent to the
// node behind cl: they may be done while it was not.
func (c *conn) followed(cl *call) bool {
	if cl.node == nil || cl.slot < 0 {
		return false
	}
	for _, other := range cl.node.sent[cl.node.head:] {
		if other.slot == cl.slot && !other.lone {
			return true
		}
	}
	return false
}

// overtake marks what waits to be sent again, and would change or see what cl, which was
// sent behind it and has been done, has seen or changed. mu is held.
func (c *conn) overtake(cl *call) {
	for _, waits := range c.redo {
		if cl.slot >= 0 && waits.slot == cl.slot && waits.node == cl.node && waits.seq < cl.seq && (!waits.reads || !cl.reads) && c.f.sharesKey(waits, cl) {
			waits.overtaken = true
		}
	}
}

// sharesKey reports whether two commands name the same key.
func (f *Fleet) sharesKey(a, b *call) bool {
	names := make(map[string]bool)
	args := parsed(a.raw)
	for _, k := range f.keysOf(args) {
		names[string(args[k.At])] = true
	}
	args = parsed(b.raw)
	for _, k := range f.keysOf(args) {
		if names[string(args[k.At])] {
			return true
		}
	}
	return false
}

// limit is until when a command may be tried.
func (c *conn) limit(cl *call) time.Time {
	address := cl.at
	if address == "" && cl.slot >= 0 {
		address = c.addressIn(c.f.topo.Map(), cl.slot)
	}
	return c.f.until(address)
}

// perform sends a command again, from one node to the next, until one has done it, or the
// time is over: then the reply is the reason. An error says that nobody knows whether it was
// done. It is tried once at least.
func (c *conn) perform(ctx context.Context, cl *call, until time.Time) ([]byte, error) {
	if cl.txn != nil {
		return c.replay(ctx, cl.txn, until)
	}
	to, refusal := cl.to, cl.refusal
	for hop := 0; ; hop++ {
		if hop > 0 && (to == nil || hop > 3) && !c.pause(hop, until) {
			return c.givenUp(refusal), nil
		}
		address, asking := cl.at, false
		var err error
		switch {
		case address != "":
			if !contains(masters(c.f.topo.Map()), address) {
				return errorOf(changedText), nil
			}
		case to != nil:
			address, asking = to.Address, to.Ask
		default:
			if address, err = c.place(ctx, cl.slot, until); err != nil {
				refusal = nil
				continue
			}
		}
		to = nil
		again, err := c.attempt(cl, address, asking)
		switch {
		case errors.Is(err, errOvertaken):
			return errorOf(overtakenText), nil
		case err != nil && c.isClosed():
			return nil, err
		case err != nil && again.written && !cl.reads:
			return nil, err
		case err != nil:
			var refused *setupError
			if errors.As(err, &refused) {
				return errorOf(refused.text), nil
			}
			if refusal = nil; cl.slot < 0 {
				c.leaveHome(address)
			}
			continue
		}
		r, ok := c.f.refused(again, again.buf)
		if !ok {
			return again.buf, nil
		}
		refusal = again.buf
		if r.later && cl.slot < 0 {
			c.leaveHome(address)
		}
		if to = r.to; r.raw != nil {
			cl.raw = r.raw
		}
	}
}

var errOvertaken = errors.New("what was sent behind it was done before")

// attempt has one node do a command, unless it was overtaken.
func (c *conn) attempt(cl *call, address string, asking bool) (*call, error) {
	again := &call{raw: cl.raw, slot: cl.slot, reads: cl.reads, scripted: cl.scripted, scans: cl.scans, lone: true}
	n, err := c.main(address)
	if err != nil {
		return again, err
	}
	c.mu.Lock()
	switch {
	case cl.overtaken:
		c.mu.Unlock()
		return again, errOvertaken
	case n.dead:
		c.mu.Unlock()
		return again, errNodeGone
	}
	switch {
	case asking:
		if cl.before != nil { // a node forgets the one where the other is said
			c.stale()
		}
		n.append(again, askingWire)
	case cl.before != nil:
		n.append(again, cl.before)
	default:
		n.append(again)
	}
	c.mu.Unlock()
	n.flush()
	err = c.await(again)
	if err == nil {
		c.f.up(address)
	}
	return again, err
}

var askingWire = words("ASKING")

// place is where a slot is; of what has none, any master.
func (c *conn) place(ctx context.Context, slot int, until time.Time) (string, error) {
	ctx, cancel := context.WithDeadline(ctx, until.Add(hopMost))
	defer cancel()
	switch {
	case slot == hubSlot:
		if _, err := c.f.topo.Current(ctx); err != nil {
			return "", err
		}
		if address := c.f.hubAddress(); address != "" {
			return address, nil
		}
	case slot >= 0:
		return c.f.topo.Find(ctx, uint16(slot))
	default:
		if address := c.homeIn(c.f.topo.Map()); address != "" {
			return address, nil
		}
	}
	return "", errors.New("the cluster has no master")
}

// pause waits before another attempt. False: there is no time for one.
func (c *conn) pause(hop int, until time.Time) bool {
	wait := min(hopMost, hopWait<<min(hop, 10))
	wait = wait/2 + rand.N(wait/2)
	if time.Now().Add(wait).After(until) {
		return false
	}
	select {
	case <-time.After(wait):
		return true
	case <-c.ctx.Done():
		return false
	}
}

// givenUp is the answer to a command that could not be done in time.
func (c *conn) givenUp(refusal []byte) []byte {
	text := string(bytes.TrimRight(refusal, "\r\n"))
	switch {
	case text == "":
		return errorOf(downText)
	case prefixed(text, "-MOVED"), prefixed(text, "-ASK"):
		return errorOf(movingText)
	}
	return refusal // which says itself that it can be tried again
}

func contains(list []string, s string) bool {
	for _, t := range list {
		if s == t {
			return true
		}
	}
	return false
}

// setupError is a node's refusal of who the client is.
type setupError struct{ address, text string }

func (e *setupError) Error() string {
	return fmt.Sprintf("greeting the node %s: %s", e.address, e.text)
}

// isError returns the text of an error reply.
func isError(reply []byte) (string, bool) { return resp.ErrorText(reply), resp.IsError(reply) }
