package fleet

import (
	"bytes"

	"github.com/crossfade/crossfade/internal/resp"
)

// The elements of KEYS may be more than is to be kept: as soon as every master has said how
// many it has, those of one after the other go out as they come. All of this is called with
// mu held.

// heldOfPart is how many bytes of one master wait for those of another before it is not read
// any more.
const heldOfPart = 1 << 20

// stream is what a fan knows whose parts go out as they come.
type stream struct {
	headed int // parts whose header has come
	count  int // elements that these have
	turn   int // the part whose elements go out
	begun  bool
	failed bool // one part is an error
}

// headed takes the header off a part's reply, when it is there.
func (s *stream) take(part *call) {
	if part.headed || len(part.buf) == 0 || part.buf[0] == '-' || !bytes.Contains(part.buf, []byte("\r\n")) {
		return
	}
	part.headed = true
	_, n, rest, _ := resp.Header(part.buf)
	part.buf = rest
	s.headed++
	s.count += max(0, n)
}

// receivePart takes a piece of one part, and waits where too much of it would be kept.
func (n *node) receivePart(cl *call, piece []byte) {
	c, f := n.c, cl.fan
	if f.lost != nil || f.stream.failed {
		return
	}
	cl.buf = append(cl.buf, piece...)
	c.held += len(piece)
	f.flow(c, cl)
	for len(cl.buf) > heldOfPart && !c.closed && !n.dead && f.lost == nil && !f.stream.failed {
		c.wait()
	}
}

// flow lets out what has its turn; part is one that has become more.
func (f *fan) flow(c *conn, part *call) {
	s := f.stream
	before := len(part.buf)
	s.take(part)
	c.held -= before - len(part.buf)
	if s.failed = s.failed || part.done && !part.headed; s.failed || f.lost != nil {
		for _, p := range f.parts {
			if p.headed {
				c.drop(p)
			}
		}
		c.awaken()
		return
	}
	if s.headed < len(f.parts) {
		return
	}
	if !s.begun {
		s.begun, f.call.begun = true, true
		c.out = header(c.out, '*', s.count)
	}
	for s.turn < len(f.parts) {
		p := f.parts[s.turn]
		c.out = append(c.out, p.buf...)
		c.drop(p)
		if !p.done {
			break
		}
		s.turn++
	}
	c.awaken()
}
