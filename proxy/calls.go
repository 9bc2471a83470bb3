package proxy

import "math"

const (
	trunkCalls   = 1 << 18 // calls remembered on one shared connection
	sessionCalls = 1 << 16 // … and on one client's own
	keptCalls    = 1 << 16 // for how many the memory is kept while nothing is in flight
)

// call is a command in flight, as far as numbers need it. Times are nanoseconds
// since the server was made.
type call struct {
	at   int64  // when the proxy had all of it
	sent int64  // when it was passed on; 0 until then
	size uint32 // bytes
	row  uint16 // of the table
	args uint16 // its words; so many or more at the highest number
	keys uint32 // bytes of the keys that it may change, kept beside; or unkept

	elements bool // it is among those whose elements are kept beside
	shadow   bool // … and whose request is, because the other server is asked too
}

func (sp *spec) call(at int64, args, size int) call {
	return call{at: at, size: uint32(min(size, math.MaxUint32)), row: sp.row, args: uint16(min(args, math.MaxUint16))}
}

// calls are those in flight on one connection, oldest first: a ring. Those past
// the limit are counted and no more, so that no pipeline costs much memory. The
// zero value is ready. Not for concurrent use.
type calls struct {
	ring       []call // its length is a power of two, or 0
	head, tail uint   // how many were taken, and how many were put
	fresh      uint   // those from here on were not passed on yet
	over       int    // not remembered; they follow all that are
	keys       keptKeys
	elements   elementCalls
	shadows    shadowCalls
}

func (q *calls) len() int { return int(q.tail-q.head) + q.over }

// push adds the newest.
func (q *calls) push(c call, limit int) {
	if int(q.tail-q.head) == len(q.ring) && !q.grow(limit) || q.over > 0 {
		q.over++
		q.keys.drop(c.keys)
		if c.elements {
			q.elements.drop()
		}
		if c.shadow {
			q.shadows.drop()
		}
		return
	}
	q.ring[q.tail&uint(len(q.ring)-1)] = c
	q.tail++
}

// grow makes room. False means that there will be none.
func (q *calls) grow(limit int) bool {
	if len(q.ring) >= limit || q.over > 0 {
		return false
	}
	ring := make([]call, max(16, 2*len(q.ring)))
	for i := q.head; i != q.tail; i++ {
		ring[i&uint(len(ring)-1)] = q.ring[i&uint(len(q.ring)-1)]
	}
	q.ring = ring
	return true
}

// pass notes that all of them have been passed on by now.
func (q *calls) pass(now int64) {
	if int(q.fresh-q.head) < 0 {
		q.fresh = q.head
	}
	for ; q.fresh != q.tail; q.fresh++ {
		q.ring[q.fresh&uint(len(q.ring)-1)].sent = now
	}
}

// late gives the newest, if it is still in flight, the figures of what has come of
// it by now.
func (q *calls) late(at, sent int64, size int) {
	if q.tail != q.head && q.over == 0 {
		c := &q.ring[(q.tail-1)&uint(len(q.ring)-1)]
		c.at, c.sent, c.size = at, sent, uint32(min(size, math.MaxUint32))
	}
}

// pop takes the oldest; false means that it was not remembered.
func (q *calls) pop() (call, bool) {
	if q.head == q.tail {
		if q.over > 0 {
			q.over--
		}
		return call{}, false
	}
	c := q.ring[q.head&uint(len(q.ring)-1)]
	q.head++
	if q.head == q.tail && len(q.ring) > keptCalls {
		q.ring = nil
	}
	return c, true
}
