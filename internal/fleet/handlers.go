package fleet

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/internal/slot"
	"github.com/crossfade/crossfade/internal/spread"
)

// handler serves a command that no one node can answer as one server would.
type handler func(c *conn, args [][]byte, raw []byte) bool

var handlers map[string]handler

func init() { // not a literal: handlers call command, which looks here
	handlers = map[string]handler{
		"auth": (*conn).auth, "hello": (*conn).hello, "reset": (*conn).reset, "quit": (*conn).quit, "client": (*conn).client,
		"multi": (*conn).multi, "exec": (*conn).execAlone, "discard": (*conn).discardAlone, "watch": (*conn).watchKeys, "unwatch": (*conn).unwatch,
		"eval": (*conn).eval, "evalsha": (*conn).eval, "eval_ro": (*conn).eval, "evalsha_ro": (*conn).eval, "fcall": (*conn).eval, "fcall_ro": (*conn).eval,
		"script": (*conn).script, "scan": (*conn).scan, "randomkey": (*conn).randomKey,
		"subscribe": (*conn).subscribe, "psubscribe": (*conn).subscribe, "ssubscribe": (*conn).subscribe,
		"unsubscribe": (*conn).unsubscribe, "punsubscribe": (*conn).unsubscribe, "sunsubscribe": (*conn).unsubscribe,
		"ping": (*conn).ping, "info": (*conn).info, "role": (*conn).role, "debug": (*conn).debug,
		"wait": (*conn).toAnyBlocking, "waitaof": (*conn).toAnyBlocking,
	}
}

// toAnyBlocking is for a WAIT of which the node will say what is wrong with it.
func (c *conn) toAnyBlocking(args [][]byte, raw []byte) bool { return c.toAny(args, raw) }

// settled waits until nothing is in flight, and returns the connection to the home. done
// means that the command was answered, as it has to be, and ok is then its outcome.
func (c *conn) settled() (n *node, done, ok bool) {
	if !c.drain() {
		return nil, true, false
	}
	c.view = c.f.topo.Map()
	n, err := c.homeNode()
	if err != nil {
		return nil, true, c.failed(err)
	}
	return n, false, true
}

// toHome has the home do a command while nothing else is in flight, and returns its answer.
func (c *conn) toHome(raw []byte) (n *node, reply []byte, done, ok bool) {
	n, done, ok = c.settled()
	if done {
		return nil, nil, true, ok
	}
	replies, err := c.ask(n, raw)
	if err != nil { // nobody knows whether it was done
		return nil, nil, true, false
	}
	return n, replies[0], false, true
}

func (c *conn) auth(args [][]byte, raw []byte) bool {
	n, reply, done, ok := c.toHome(raw)
	if done {
		return ok
	}
	if !resp.IsError(reply) {
		c.become(func(me *identity) {
			me.authed, me.user, me.pass = true, nil, bytes.Clone(args[len(args)-1])
			if len(args) == 3 {
				me.user = bytes.Clone(args[1])
			}
		})
		c.unsure = false
		c.renew(n, raw)
	}
	return c.local(reply)
}

func (c *conn) hello(args [][]byte, raw []byte) bool {
	n, reply, done, ok := c.toHome(raw)
	if done {
		return ok
	}
	if resp.IsError(reply) {
		return c.local(reply)
	}
	if len(args) > 1 {
		c.become(func(me *identity) { me.hello(args) })
		c.unsure = false
		c.renew(n, raw)
	}
	return c.local(c.asStandalone(reply))
}

// hello takes over what a HELLO that was obeyed has said.
func (me *identity) hello(args [][]byte) {
	me.proto = 2
	if string(args[1]) == "3" {
		me.proto = 3
	}
	for i := 2; i < len(args); i++ {
		switch {
		case is(args[i], "auth") && i+2 < len(args):
			me.authed, me.user, me.pass = true, bytes.Clone(args[i+1]), bytes.Clone(args[i+2])
			i += 2
		case is(args[i], "setname") && i+1 < len(args):
			me.name = bytes.Clone(args[i+1])
			i++
		}
	}
}

// asStandalone is an answer to HELLO as a standalone master gives it.
func (c *conn) asStandalone(reply []byte) []byte {
	typ, _, _, ok := resp.Header(reply)
	elements := resp.Elements(reply)
	if !ok {
		return reply
	}
	n := len(elements)
	if typ == '%' {
		n /= 2
	}
	b := header(nil, typ, n)
	field := ""
	for i, el := range elements {
		if i%2 == 0 {
			name, _, _ := resp.Text(el)
			field = string(name)
			b = append(b, el...)
			continue
		}
		switch field {
		case "id":
			el = integer(c.id)
		case "mode":
			el = bulk(nil, "standalone")
		case "role":
			el = bulk(nil, "master")
		}
		b = append(b, el...)
	}
	return b
}

func (c *conn) reset(args [][]byte, raw []byte) bool {
	if len(args) != 1 {
		return c.toAny(args, raw)
	}
	if !c.drain() {
		return false
	}
	c.endSubscriptions()
	c.txn, c.watch, c.caching = nil, nil, nil
	c.become(func(me *identity) { *me = identity{proto: 2} })
	c.renew(nil, nil)
	n, done, ok := c.settled()
	if done {
		return ok
	}
	if c.knock(n) != nil {
		return false
	}
	return c.local([]byte("+RESET\r\n"))
}

func (c *conn) quit([][]byte, []byte) bool {
	if c.drain() {
		c.reply(replyOK)
		c.flush()
	}
	return false
}

// eval sends a script, or a function, to where its keys are.
func (c *conn) eval(args [][]byte, raw []byte) bool {
	if len(args) > 1 && (is(args[0], "eval") || is(args[0], "eval_ro")) {
		c.f.scripts.remember(args[1])
	}
	command := c.f.commandOf(args[0])
	if keys := command.Keys(nil, args); len(keys) == 0 {
		cl := &call{raw: bytes.Clone(raw), slot: -1, scripted: true, reads: readsOnly(command)}
		return c.send(cl, false)
	}
	return c.toSlot(args, raw, command, spread.Row{Way: spread.Here})
}

// script is SCRIPT LOAD and SCRIPT FLUSH.
func (c *conn) script(args [][]byte, raw []byte) bool {
	if is(args[1], "load") && len(args) == 3 {
		c.f.scripts.remember(args[2])
	}
	if is(args[1], "flush") {
		c.f.scripts.forget()
		c.f.brought.Clear()
	}
	return c.toMasters(args, raw, spread.First)
}

// ping is answered by any node; of who has subscribed, by all from which messages come, so
// that it stands behind those that came before.
func (c *conn) ping(args [][]byte, raw []byte) bool {
	if !c.subbed.Load() || len(args) > 2 {
		return c.toAny(args, raw)
	}
	if !c.drain() {
		return false
	}
	if !c.barrier() {
		return false
	}
	text := []byte(nil)
	if len(args) == 2 {
		text = args[1]
	}
	switch {
	case c.me.proto == 2:
		return c.local(bulk(bulk(header(nil, '*', 2), "pong"), text))
	case len(args) == 2:
		return c.local(bulk(nil, text))
	}
	return c.local([]byte("+PONG\r\n"))
}

// role is that of a master without replicas: those of the nodes have a part of the keys only.
func (c *conn) role(args [][]byte, raw []byte) bool {
	if len(args) != 1 {
		return c.toAny(args, raw)
	}
	_, reply, done, ok := c.toHome(raw)
	if done {
		return ok
	}
	if resp.IsError(reply) {
		return c.local(reply)
	}
	offset := []byte(":0\r\n")
	if elements := resp.Elements(reply); len(elements) == 3 {
		if text, _, _ := resp.Text(elements[0]); string(text) == "master" {
			offset = elements[1]
		}
	}
	b := append(bulk(header(nil, '*', 3), "master"), offset...)
	return c.local(append(b, "*0\r\n"...))
}

// debug is what DEBUG says of keys, of which servers tell no places. The rest of it is one
// server's.
func (c *conn) debug(args [][]byte, raw []byte) bool {
	if len(args) < 3 {
		return c.toAny(args, raw)
	}
	at := int(slot.Of(args[2]))
	if is(args[1], "digest-value") {
		for _, key := range args[3:] {
			if int(slot.Of(key)) != at {
				return c.local(errorOf(crossText))
			}
		}
	}
	cl := c.slab.call()
	*cl = call{raw: c.slab.keep(raw), slot: at, reads: true}
	return c.send(cl, false)
}

const (
	noReply = "ERR Crossfade: CLIENT REPLY OFF and SKIP are kept by who stands before this connection"
	noList  = "ERR Crossfade: behind this address are the nodes of a Redis Cluster, each of which has its own clients: ask them"
)

func (c *conn) client(args [][]byte, raw []byte) bool {
	if len(args) < 2 {
		return c.toAny(args, raw)
	}
	sub := strings.ToLower(string(args[1]))
	switch sub {
	case "id":
		if len(args) == 2 {
			return c.local(integer(c.id))
		}
	case "setname", "setinfo", "no-evict", "no-touch":
		return c.tell(sub, args, raw)
	case "info":
		if len(args) == 2 {
			return c.clientInfo(raw)
		}
	case "reply":
		if len(args) == 3 && (is(args[2], "off") || is(args[2], "skip")) {
			return c.local(errorOf(noReply))
		}
	case "tracking":
		return c.track(args, raw)
	case "caching":
		return c.setCaching(args, raw)
	case "list", "kill":
		return c.local(errorOf(noList))
	case "unblock":
		return c.unblock(args, raw)
	}
	return c.toAny(args, raw)
}

// tell says something about the client to all nodes: the home's answer is the client's.
func (c *conn) tell(sub string, args [][]byte, raw []byte) bool {
	home, reply, done, ok := c.toHome(raw)
	if done {
		return ok
	}
	if resp.IsError(reply) {
		return c.local(reply)
	}
	c.become(func(me *identity) {
		switch sub {
		case "setname":
			me.name = bytes.Clone(args[2])
		case "setinfo":
			me.setInfo(string(args[2]), string(args[3]))
		case "no-evict":
			me.noEvict = is(args[2], "on")
		default:
			me.noTouch = is(args[2], "on")
		}
	})
	c.mu.Lock()
	list := make([]*node, 0, len(c.all))
	for n := range c.all {
		if n != home && !n.messages {
			list = append(list, n)
		}
	}
	c.mu.Unlock()
	for _, n := range list {
		if _, err := c.ask(n, raw); err != nil {
			n.close()
		}
	}
	return c.local(reply)
}

func (c *conn) clientInfo(raw []byte) bool {
	_, reply, done, ok := c.toHome(raw)
	if done {
		return ok
	}
	text, _, is := resp.Text(reply)
	if !is || resp.IsError(reply) {
		return c.local(reply)
	}
	_, rest, _ := bytes.Cut(text, []byte(" "))
	line := append(strconv.AppendInt([]byte("id="), c.id, 10), ' ')
	b := bulk(nil, append(line, rest...))
	if reply[0] == '=' { // a verbatim string of RESP3 says of what kind it is
		line = append(append([]byte(nil), text[:4]...), line...)
		line = append(line, rest...)
		b = append(append(header(nil, '=', len(line)), line...), "\r\n"...)
	}
	return c.local(b)
}
