package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/crossfade/crossfade/internal/resp"
)

const (
	nodeFlush   = 64 << 10        // bytes gathered for one write to a node
	nodeBuffer  = 2 << 10         // bytes that are read of a node at a time while little comes
	nodeBurst   = 64 << 10        // … and while much does
	writingFor  = 5 * time.Minute // a node that takes nothing for as long is given up
	heldMost    = 8 << 20         // bytes of replies that wait for their turn
	outAtOnce   = 256 << 10       // bytes for the client after which they are written
	callsInLine = 64 << 10        // calls of one connection under way
	bytesInLine = 64 << 20        // … and their bytes
)

var (
	errNodeGone = errors.New("the node has closed the connection")
	errSilent   = errors.New("it has taken the connection, and says nothing")
	errCut      = errors.New("the node is no master any more, or has failed, and does not answer")
	bursts      = sync.Pool{New: func() any { return new([nodeBurst]byte) }}
)

// node is one connection to a node, of one connection of a client's.
type node struct {
	c       *conn
	address string
	sock    net.Conn
	wmu     sync.Mutex // one writer at a time; before c.mu

	// Guarded by c.mu.
	out      []byte
	sent     []*call
	head     int
	seq      uint64 // calls that were appended
	written  uint64 // … of which so many may have reached the node
	dead     bool
	tracks   bool   // it tells what has changed of what was read
	gen      uint64 // of what it was told of the client
	messages bool   // what it says is looked at as messages of subscriptions
	begins   bool   // it has accepted MULTI
	id       int64
	since    time.Time // when the oldest call was sent, or the last reply came

	// Of the reader.
	fr resp.Framer
	el []byte // an element that nobody has asked for, or that may be a message
}

// begin makes a node of a socket, and reads it.
func (c *conn) beginNode(address string, sock net.Conn) (*node, error) {
	n := &node{c: c, address: address, sock: sock}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		_ = sock.Close()
		return nil, errClosed
	}
	c.all[n] = struct{}{}
	c.readers.Add(1)
	c.mu.Unlock()
	go n.read()
	return n, nil
}

// append puts a call in line. c.mu is held.
func (n *node) append(cl *call, before ...[]byte) {
	for _, raw := range before { // of which the replies do not matter
		n.push(&call{raw: raw, slot: -1, lone: true, silent: true})
	}
	n.push(cl)
}

func (n *node) push(cl *call) {
	if n.head > 256 && n.head > len(n.sent)/2 {
		k := copy(n.sent, n.sent[n.head:])
		clear(n.sent[k:])
		n.sent, n.head = n.sent[:k], 0
	}
	n.seq++
	cl.node, cl.seq, cl.done, cl.lost, cl.written = n, n.seq, false, nil, false
	cl.collect = cl.lone || cl.fan != nil || cl.scans || cl.pages != nil
	if n.head == len(n.sent) {
		n.since = time.Now()
	}
	n.sent = append(n.sent, cl)
	raw := cl.raw
	if cl.scans {
		raw = n.c.f.forNode(raw, n.address)
	}
	n.out = append(n.out, raw...)
}

// flush writes what was appended.
func (n *node) flush() {
	n.wmu.Lock()
	defer n.wmu.Unlock()
	n.c.mu.Lock()
	b := n.out
	n.out = nil
	n.written = n.seq
	n.c.mu.Unlock()
	if len(b) == 0 {
		return
	}
	_ = n.sock.SetWriteDeadline(time.Now().Add(writingFor))
	if _, err := n.sock.Write(b); err != nil {
		_ = n.sock.Close() // the reader says so
	}
	if cap(b) <= 4*nodeFlush {
		n.c.mu.Lock()
		if n.out == nil {
			n.out = b[:0]
		}
		n.c.mu.Unlock()
	}
}

// read takes the node's replies until the connection ends.
func (n *node) read() {
	defer n.c.readers.Done()
	var small [nodeBuffer]byte
	var err error
	for err == nil {
		var k int
		k, err = n.sock.Read(small[:])
		if k > 0 {
			err = errors.Join(n.hear(small[:k]), err)
		}
		if k == len(small) && err == nil {
			err = n.readMuch()
		}
	}
	n.c.mu.Lock()
	n.fail(fmt.Errorf("node %s: %w", n.address, errors.Join(errNodeGone, err)))
	n.c.mu.Unlock()
	n.c.flush()
}

// readMuch reads in large pieces until a small one comes.
func (n *node) readMuch() error {
	buf := bursts.Get().(*[nodeBurst]byte)
	defer bursts.Put(buf)
	for {
		k, err := n.sock.Read(buf[:])
		if k > 0 {
			err = errors.Join(n.hear(buf[:k]), err)
		}
		if err != nil || k < nodeBuffer {
			return err
		}
	}
}

func (n *node) hear(b []byte) error {
	n.c.mu.Lock()
	err := n.take(b)
	n.c.mu.Unlock()
	n.c.flush()
	return err
}

// take finds the replies in what the node said. c.mu is held, but for while it waits.
func (n *node) take(b []byte) error {
	c := n.c
	for len(b) > 0 {
		if n.dead {
			return errNodeGone
		}
		if n.fr.AtStart() {
			n.el = nil
			if n.messages || b[0] == '>' {
				n.el = []byte{}
			} else if n.head == len(n.sent) {
				line, _, _ := bytes.Cut(b, []byte("\r\n"))
				return fmt.Errorf("nobody has asked for what it says: %.80q", line)
			} else if b[0] == '-' {
				n.sent[n.head].collect = true
			}
		}
		k, done := 0, true
		if n.fr.AtStart() {
			k = resp.Whole(b)
		}
		if k == 0 {
			var err error
			if k, done, err = n.fr.Feed(b); err != nil {
				return err
			}
		}
		piece := b[:k]
		b = b[k:]
		if n.el != nil {
			n.el = append(n.el, piece...)
			if done {
				n.message(n.el)
			}
			continue
		}
		cl := n.sent[n.head]
		if n.receive(cl, piece); n.dead {
			return errNodeGone
		}
		if done {
			n.pop()
			if cl.scans || cl.pages != nil {
				n.turnPages(cl)
			}
			c.finish(cl)
		}
		if len(c.out) > outAtOnce {
			c.mu.Unlock()
			c.flush()
			c.mu.Lock()
		}
	}
	return nil
}

// receive takes a piece of the reply to cl: it goes out where it is its turn, and is kept
// otherwise. The reader waits where too much is kept, but for when something must be sent
// again: what has its turn may come behind what is read here then.
func (n *node) receive(cl *call, piece []byte) {
	c := n.c
	if cl.fan != nil && cl.fan.stream != nil {
		n.receivePart(cl, piece)
		return
	}
	for (!cl.collect || cl.scans && !cl.lone) && !c.first(cl) && c.held > heldMost && !c.settling.Load() && !c.closed && !n.dead {
		c.wait()
	}
	if n.dead {
		return
	}
	if !cl.collect && c.first(cl) {
		c.out = append(c.out, piece...)
		cl.begun = true
		return
	}
	cl.buf = append(cl.buf, piece...)
	c.held += len(piece)
}

// turnPages has the pages of elements in a reply be what the client is told.
func (n *node) turnPages(cl *call) {
	was := len(cl.buf)
	if cl.scans {
		cl.buf = n.c.f.fromNode(cl.buf, n.address)
	} else {
		cl.buf = n.c.f.pagesOf(cl.buf, cl.pages, n.address)
	}
	n.c.held += len(cl.buf) - was
}

// pop takes the oldest call out of the line.
func (n *node) pop() *call {
	cl := n.sent[n.head]
	n.sent[n.head] = nil
	n.head++
	if n.head == len(n.sent) {
		n.sent, n.head = n.sent[:0], 0
	} else {
		n.since = time.Now()
	}
	return cl
}

// fail ends a connection to a node. What has not been sent, or changes nothing, is sent
// again elsewhere. Of the rest nobody knows whether it was done. c.mu is held.
func (n *node) fail(err error) {
	if n.dead {
		return
	}
	n.dead = true
	_ = n.sock.Close()
	c := n.c
	delete(c.all, n)
	if c.nodes[n.address] == n {
		delete(c.nodes, n.address)
	}
	changed := n.mayHaveChanged()
	for n.head < len(n.sent) {
		cl := n.pop()
		cl.written = cl.seq <= n.written
		switch {
		case cl.lone, cl.begun, cl.written && !cl.reads, cl.seq < changed[cl.slot], cl.seq < changed[-1], cl.fan != nil && cl.fan.stream != nil:
			cl.lost = err
			c.complete(cl)
		default:
			c.drop(cl)
			cl.refusal = nil
			c.redoLater(cl, nil)
		}
	}
	n.out = nil
	c.lostNode(n)
	c.awaken()
}

// mayHaveChanged returns the last call of each slot that may have been done and changes
// something. What was asked before it can be asked no more: the answer could have it in it.
// c.mu is held.
func (n *node) mayHaveChanged() map[int]uint64 {
	last := make(map[int]uint64)
	for _, cl := range n.sent[n.head:] {
		if cl.seq <= n.written && !cl.reads && !cl.silent {
			last[cl.slot] = cl.seq
		}
	}
	return last
}

// close ends it when nothing is in flight on it.
func (n *node) close() {
	if n == nil {
		return
	}
	n.c.mu.Lock()
	n.fail(errClosed)
	n.c.mu.Unlock()
}

// gone reports whether the connection has ended.
func (n *node) gone() bool {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return n.dead
}
