package fleet

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/slot"
	"github.com/crossfade/crossfade/internal/spread"
)

// txn is a transaction, on a connection of its own to the master of its first key. Until EXEC
// nothing of it is done, so where its slot goes elsewhere it begins again there, unless keys
// are watched: what has happened to these nobody knows then, and EXEC answers that they have
// changed.
type txn struct {
	slot     int   // of its keys; -1 while it has none
	node     *node // where it is; nil: nowhere yet
	begun    bool  // … and MULTI was said
	asking   bool  // … a node to which the slot is on its way
	cmds     [][]byte
	pages    []int  // those of them that are pages of a key's elements
	queued   int    // of which the node has so many
	answered int    // … and the client knows of so many
	bad      bool   // one was refused, so EXEC is
	caching  []byte // CLIENT CACHING, which was said before it
	watched  bool
	null     bool // what was watched may have changed
}

// watched is what WATCH has been said of.
type watched struct {
	slot   int
	node   *node
	broken bool // the node cannot tell any more
}

const (
	nestedText  = "ERR MULTI calls can not be nested"
	insideText  = "ERR WATCH inside MULTI is not allowed"
	abortText   = "EXECABORT Transaction discarded because of previous errors."
	withinText  = "ERR Crossfade: this command cannot be part of a transaction where the server is a Redis Cluster: no one node could do it"
	strangeText = "ERR Crossfade: the node of the cluster has not begun the transaction: "
)

var (
	multiWire   = words("MULTI")
	execWire    = words("EXEC")
	discardWire = words("DISCARD")
)

func (c *conn) multi(args [][]byte, raw []byte) bool {
	if len(args) != 1 {
		return c.toAny(args, raw)
	}
	if !c.drain() {
		return false
	}
	c.txn = &txn{slot: -1, caching: c.opted()}
	if w := c.watch; w != nil {
		c.txn.slot, c.txn.node, c.txn.watched, c.txn.null = w.slot, w.node, true, w.broken || w.node.gone()
	}
	return c.local(replyOK)
}

func (c *conn) execAlone(args [][]byte, raw []byte) bool    { return c.toAny(args, raw) }
func (c *conn) discardAlone(args [][]byte, raw []byte) bool { return c.toAny(args, raw) }

// inTransaction serves a command between MULTI and EXEC.
func (c *conn) inTransaction(args [][]byte, raw []byte) bool {
	t := c.txn
	alone := len(args) == 1
	switch {
	case is(args[0], "exec") && alone:
		return c.catchUp() && c.exec()
	case is(args[0], "discard") && alone:
		if !c.catchUp() {
			return false
		}
		c.abandon()
		return c.local(replyOK)
	case is(args[0], "multi") && alone:
		return c.catchUp() && c.local(errorOf(nestedText))
	case is(args[0], "watch") && len(args) > 1:
		return c.catchUp() && c.local(errorOf(insideText))
	case is(args[0], "quit"):
		return c.catchUp() && c.quit(args, raw)
	case is(args[0], "reset") && alone:
		if !c.catchUp() {
			return false
		}
		c.abandon()
		return c.reset(args, raw)
	}
	s, refusal := c.slotInside(args)
	if refusal == "" && s >= 0 && t.slot >= 0 && s != t.slot {
		refusal = crossText
	}
	if refusal != "" {
		if !c.catchUp() {
			return false
		}
		t.bad = true
		return c.local(errorOf(refusal))
	}
	if s >= 0 {
		t.slot = s
	}
	if scansElements(args[0]) {
		t.pages = append(t.pages, len(t.cmds))
	}
	t.cmds = append(t.cmds, bytes.Clone(raw))
	return true // catchUp answers it
}

// slotInside is the slot of a command of a transaction, -1 where it has no keys; or why it
// can be no part of one.
func (c *conn) slotInside(args [][]byte) (s int, refusal string) {
	row := spread.Of(args)
	command := c.f.commandOf(args[0])
	switch row.Way {
	case spread.Refused:
		return -1, row.Why
	case spread.Any, spread.Hub:
		return -1, ""
	case spread.Masters:
		return -1, withinText
	case spread.Here:
		switch {
		case is(args[0], "ping"), is(args[0], "unwatch"), is(args[0], "exec"), is(args[0], "discard"), is(args[0], "multi"), is(args[0], "watch"), is(args[0], "reset"):
			return -1, ""
		case !strings.HasPrefix(strings.ToLower(string(args[0])), "eval") && !strings.HasPrefix(strings.ToLower(string(args[0])), "fcall"):
			return -1, withinText
		case len(args) > 1 && (is(args[0], "eval") || is(args[0], "eval_ro")):
			c.f.scripts.remember(args[1])
		}
	case spread.Unknown:
		var err error
		if command, err = c.learn(args[0]); err != nil || command != nil && !command.Exact() {
			return -1, untoldText
		}
	}
	if command == nil {
		return -1, "" // the node says so
	}
	s, one := slotOf(args, command.Keys(nil, args))
	if !one {
		return -1, crossText
	}
	return s, ""
}

// catchUp has the node queue what the client has said so far, and answers it.
func (c *conn) catchUp() bool {
	t := c.txn
	if t == nil || t.answered == len(t.cmds) {
		return true
	}
	if t.slot < 0 && t.node == nil && c.allKnown(t.cmds[t.answered:]) {
		// Where it will be is not known yet, and which node queues these makes no difference.
		for range t.cmds[t.answered:] {
			c.reply(replyQueued)
		}
		t.answered = len(t.cmds)
		c.flush()
		return true
	}
	replies, ok := c.queueAll(t, nil, time.Time{})
	if !ok {
		return false
	}
	for _, r := range replies[t.answered:] {
		c.reply(r)
	}
	t.answered = len(t.cmds)
	c.flush()
	return true
}

// allKnown reports whether a server would queue these commands, as far as that can be told
// without one.
func (c *conn) allKnown(cmds [][]byte) bool {
	for _, raw := range cmds {
		args := parsed(raw)
		if len(args) == 0 {
			return false
		}
		command := c.f.commandOf(args[0])
		if command == nil || command.Arity > 0 && len(args) != command.Arity || len(args) < -command.Arity || len(command.Subs) > 0 {
			return false
		}
	}
	return true
}

// queueAll has a node queue all commands of t, from one node to the next where it must be.
// The replies are those to all of t.cmds; those that were given before are left as nil.
func (c *conn) queueAll(t *txn, to *cluster.Redirect, until time.Time) (replies [][]byte, ok bool) {
	if until.IsZero() {
		until = c.limit(&call{slot: t.slot})
	}
	var refusal []byte
	for hop := 0; ; hop++ {
		if t.null {
			return c.allSame(t, replyQueued), true
		}
		if hop > 0 && (to == nil || hop > 3) && !c.pause(hop, until) {
			t.bad = true
			return c.allSame(t, c.givenUp(refusal)), !c.isClosed()
		}
		replies, again, err := c.queueOnce(t, to)
		var refused *setupError
		switch {
		case err == nil && again == nil:
			return replies, true
		case c.isClosed():
			return nil, false
		case errors.As(err, &refused):
			t.bad = true
			return c.allSame(t, errorOf(refused.text)), true
		}
		// Nothing of it is done yet.
		t.node.close()
		t.node, t.begun, t.queued = nil, false, 0
		to, refusal = nil, nil
		if again != nil {
			to, refusal = again.to, again.refusal
		}
		if t.watched {
			t.null = true
		}
	}
}

// allSame are replies to all that has not been answered.
func (c *conn) allSame(t *txn, reply []byte) [][]byte {
	replies := make([][]byte, len(t.cmds))
	for i := range replies {
		replies[i] = reply
	}
	return replies
}

// queueOnce is queueAll at one node. again is the refusal of one that is not, or no more,
// the right one.
func (c *conn) queueOnce(t *txn, to *cluster.Redirect) (replies [][]byte, again *call, err error) {
	if t.node == nil {
		address := ""
		if to != nil {
			address, t.asking = to.Address, to.Ask
		} else {
			t.asking = false
			if address, err = c.place(c.ctx, t.slot, time.Now().Add(c.f.opts.Patience)); err != nil {
				return nil, nil, err
			}
		}
		if t.node, err = c.private(address); err != nil {
			return nil, nil, err
		}
	}
	n := t.node
	if err := c.bringScripts(n, t.cmds[t.queued:], t.begun); err != nil {
		return nil, nil, err
	}
	var calls []*call
	c.mu.Lock()
	if n.dead {
		c.mu.Unlock()
		return nil, nil, errNodeGone
	}
	begin := (*call)(nil)
	if !t.begun {
		begin = &call{raw: multiWire, slot: -1, lone: true}
		switch {
		case t.asking: // which holds until EXEC; within, it would be a command like others
			n.append(begin, askingWire)
		case t.caching != nil:
			n.append(begin, t.caching)
		default:
			n.append(begin)
		}
	}
	if begin != nil && !n.begins { // whom it refuses it, it would do at once what was to be queued
		c.mu.Unlock()
		n.flush()
		if err := c.hasBegun(n, begin); err != nil {
			return nil, nil, err
		}
		begin = nil
		c.mu.Lock()
		if n.begins = true; n.dead {
			c.mu.Unlock()
			return nil, nil, errNodeGone
		}
	}
	for i := t.queued; i < len(t.cmds); i++ {
		_, scans := slices.BinarySearch(t.pages, i)
		cl := &call{raw: t.cmds[i], slot: t.slot, scans: scans, lone: true}
		n.append(cl)
		calls = append(calls, cl)
	}
	c.mu.Unlock()
	n.flush()
	if begin != nil {
		if err := c.hasBegun(n, begin); err != nil {
			return nil, nil, err
		}
	}
	replies = make([][]byte, len(t.cmds))
	for i, cl := range calls {
		if err := c.await(cl); err != nil {
			return nil, nil, err
		}
		replies[t.queued+i] = cl.buf
		if !resp.IsError(cl.buf) {
			continue
		}
		if r, is := c.f.refused(cl, cl.buf); is {
			cl.refusal, cl.to = cl.buf, r.to
			if again == nil {
				again = cl
			}
			continue
		}
		t.bad = true
	}
	if again == nil {
		t.begun, t.queued = true, len(t.cmds)
	}
	return replies, again, nil
}

// bringScripts gives a node the scripts that EVALSHA names in a transaction, where they are
// known: within it nothing can be sent again.
func (c *conn) bringScripts(n *node, cmds [][]byte, begun bool) error {
	for _, raw := range cmds {
		if !bytes.Contains(bytes.ToLower(raw[:min(len(raw), 40)]), []byte("evalsha")) {
			continue
		}
		args := parsed(raw)
		if len(args) < 2 || !is(args[0], "evalsha") && !is(args[0], "evalsha_ro") {
			continue // the node says what is wrong with it
		}
		body := c.f.scripts.body(args[1])
		digest := sha1.Sum([]byte(body))
		mark := n.address + " " + hex.EncodeToString(digest[:])
		if _, known := c.f.brought.Load(mark); known || body == "" {
			continue
		}
		at := n
		if begun { // it would only queue it
			var err error
			if at, err = c.main(n.address); err != nil {
				return err
			}
		}
		replies, err := c.ask(at, words("SCRIPT", "LOAD", body))
		if err != nil {
			return err
		}
		if !resp.IsError(replies[0]) {
			c.f.brought.Store(mark, true)
		}
	}
	return nil
}

func (c *conn) exec() bool {
	t := c.txn
	switch {
	case t.bad:
		c.abandon()
		return c.local(errorOf(abortText))
	case t.null:
		c.abandon()
		return c.local(c.nullArray())
	case len(t.cmds) == 0 && !t.watched:
		c.txn = nil
		return c.local([]byte("*0\r\n"))
	}
	if !t.begun {
		if _, ok := c.queueAll(t, nil, time.Time{}); !ok {
			return false
		}
		if t.bad || t.null {
			return c.exec()
		}
	}
	cl := &call{raw: execWire, slot: t.slot, txn: t, pages: t.pages}
	n := t.node // t is settle's from when the EXEC is to be said again until that is answered
	c.mu.Lock()
	c.enlist(cl)
	if n.dead {
		c.redoLater(cl, nil)
	} else {
		n.append(cl)
	}
	c.mu.Unlock()
	n.flush()
	c.txn, c.watch = nil, nil
	if !c.drain() {
		return false
	}
	if t.caching != nil && t.asking { // it was not tracked
		c.mu.Lock()
		c.stale()
		c.mu.Unlock()
	}
	c.retire(t.node)
	return true
}

// hasBegun waits for the answer to MULTI.
func (c *conn) hasBegun(n *node, begin *call) error {
	if err := c.await(begin); err != nil {
		return err
	}
	if text, is := isError(begin.buf); is {
		return &setupError{n.address, strangeText + text}
	}
	return nil
}

// replay does a transaction whose EXEC was refused, or could not be said: nothing of it was
// done.
func (c *conn) replay(_ context.Context, t *txn, until time.Time) ([]byte, error) {
	var to *cluster.Redirect
	for {
		t.node.close()
		t.node, t.begun, t.queued = nil, false, 0
		if t.watched {
			return c.nullArray(), nil
		}
		replies, ok := c.queueAll(t, to, until)
		switch {
		case !ok:
			return nil, errClosed
		case t.bad:
			t.node.close() // it is within a MULTI
			t.node = nil
			for _, r := range replies {
				if resp.IsError(r) && !prefixed(string(r[1:]), "ERR") {
					return r, nil // why it could not be done in time
				}
			}
			return errorOf(abortText), nil
		}
		cl := &call{raw: execWire, slot: t.slot, pages: t.pages, lone: true}
		c.mu.Lock()
		if t.node.dead {
			c.mu.Unlock()
			continue
		}
		t.node.append(cl)
		c.mu.Unlock()
		t.node.flush()
		err := c.await(cl)
		if err != nil && (cl.written || c.isClosed()) {
			return nil, err
		}
		if err == nil {
			r, again := c.f.refused(cl, cl.buf)
			if !again {
				return cl.buf, nil
			}
			to = r.to
		}
		if !c.pause(1, until) {
			return errorOf(movingText), nil
		}
	}
}

// abandon ends a transaction that is not to be done, and what is watched.
func (c *conn) abandon() {
	t := c.txn
	c.txn, c.watch = nil, nil
	if t.node == nil {
		return
	}
	end := discardWire
	if !t.begun {
		end = unwatchWire
	}
	if _, err := c.ask(t.node, end); err != nil {
		t.node.close()
	}
	c.retire(t.node)
}

var unwatchWire = words("UNWATCH")

// watchKeys is WATCH: at the master of the keys, which must be in one slot with those that
// are watched already.
func (c *conn) watchKeys(args [][]byte, raw []byte) bool {
	if len(args) < 2 {
		return c.toAny(args, raw)
	}
	if !c.drain() {
		return false
	}
	at := int(slot.Of(args[1]))
	for _, key := range args[2:] {
		if int(slot.Of(key)) != at {
			return c.local(errorOf(crossText))
		}
	}
	if w := c.watch; w != nil {
		if w.slot != at {
			return c.local(errorOf(crossText))
		}
		if w.broken = w.broken || w.node.gone(); w.broken {
			return c.local(replyOK)
		}
		reply, err := c.watchAt(w.node, at, raw)
		if err != nil || reply == nil {
			w.broken = true
			return c.local(replyOK)
		}
		return c.local(reply)
	}
	until := c.limit(&call{slot: at})
	for hop := 0; ; hop++ {
		if hop > 0 && !c.pause(hop, until) {
			return c.local(errorOf(movingText))
		}
		address, err := c.place(c.ctx, at, until)
		if err != nil {
			continue
		}
		n, err := c.private(address)
		var refused *setupError
		switch {
		case errors.As(err, &refused):
			return c.local(errorOf(refused.text))
		case err != nil:
			continue
		}
		reply, err := c.watchAt(n, at, raw)
		if err != nil || reply == nil {
			n.close()
			continue
		}
		if resp.IsError(reply) {
			c.retire(n)
		} else {
			c.watch = &watched{slot: at, node: n}
		}
		return c.local(reply)
	}
}

// watchAt says a WATCH to a node; the reply is nil where it has not the slot.
func (c *conn) watchAt(n *node, at int, raw []byte) ([]byte, error) {
	cl := &call{raw: bytes.Clone(raw), slot: at, lone: true}
	if err := c.pose(n, cl); err != nil {
		return nil, err
	}
	if _, again := c.f.refused(cl, cl.buf); again {
		return nil, nil
	}
	return cl.buf, nil
}

func (c *conn) unwatch(args [][]byte, raw []byte) bool {
	if len(args) != 1 {
		return c.toAny(args, raw)
	}
	if !c.drain() {
		return false
	}
	if w := c.watch; w != nil {
		c.watch = nil
		if _, err := c.ask(w.node, unwatchWire); err == nil {
			c.retire(w.node)
		}
	}
	return c.local(replyOK)
}

// nullArray is what EXEC answers where a watched key has changed.
func (c *conn) nullArray() []byte {
	if c.me.proto == 3 {
		return []byte("_\r\n")
	}
	return []byte("*-1\r\n")
}
