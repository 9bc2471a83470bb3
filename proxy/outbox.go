package proxy

import (
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	outboxHigh = 1 << 20   // bytes that may wait for a client before its upstream is read no further
	outboxMax  = 256 << 20 // bytes that may wait where nobody can wait for the client; then it is closed
)

// outbox is what waits to be written to one client. Appending is memory only, so
// it may happen under the session's lock and keeps the order of replies; flushing
// does the I/O. While the gate shuts, nobody waits for a slow client: a drainer
// goroutine takes the writing over.
type outbox struct {
	conn  net.Conn
	limit int         // bytes that may wait
	hurry func() bool // nobody may wait: the gate shuts, or the session is being moved
	lost  func()      // the client cannot be written to any more; called once, without locks
	over  func()      // told before that when too much waits for it; without waiting, with locks

	mu       sync.Mutex
	cond     *sync.Cond
	brought  backlog // comes before pend; the drainer's, once there was a kick
	pend     []byte
	spare    []byte
	held     int  // bytes of memory that hold what is being written
	writing  bool // somebody is in conn.Write
	draining bool // … and it is the drainer
	dead     bool
	closing  bool // a deadline is final
	drainers sync.WaitGroup
	sent     int64
	unsent   atomic.Int64 // bytes of the write under way that the client has not taken
	since    atomic.Int64 // when the write under way began, in Unix nanoseconds; 0 while there is none
}

const pieceSize = 256 << 10 // bytes written at a time, so that it is seen whether the client takes any

// write writes to the client, without the lock.
func (o *outbox) write(b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		o.unsent.Store(int64(len(b) - n))
		o.since.Store(time.Now().UnixNano())
		var k int
		k, err = o.conn.Write(b[n:min(len(b), n+pieceSize)])
		n += k
	}
	o.since.Store(0)
	o.unsent.Store(0)
	return n, err
}

// stuck returns for how long a write has waited for the client to take anything.
func (o *outbox) stuck(now time.Time) time.Duration {
	since := o.since.Load()
	if since == 0 {
		return 0
	}
	return time.Duration(now.UnixNano() - since)
}

func newOutbox(conn net.Conn, limit int, hurry func() bool, lost, over func()) *outbox {
	o := &outbox{conn: conn, limit: limit, hurry: hurry, lost: lost, over: over}
	o.cond = sync.NewCond(&o.mu)
	return o
}

// append adds bytes; flush must follow, without locks held.
func (o *outbox) append(b []byte) {
	if len(b) == 0 {
		return
	}
	o.mu.Lock()
	if !o.dead {
		o.pend = append(o.pend, b...)
	}
	o.mu.Unlock()
}

// inherit takes over what waits for the client elsewhere, before anything is appended; kick
// must follow. It may be many large replies, which are not to be there twice.
func (o *outbox) inherit(b *backlog) { o.brought, *b = *b, backlog{} }

// tooMuch reports whether more waits than may. It runs under the lock.
func (o *outbox) tooMuch() bool { return len(o.pend)+o.brought.size+int(o.unsent.Load()) > o.limit }

// flush writes what was appended. It waits while the client is slow and more
// than outboxHigh bytes wait, unless there is a hurry.
func (o *outbox) flush() {
	o.mu.Lock()
	if o.tooMuch() {
		if !o.dead {
			o.over()
		}
		o.die()
		return
	}
	for o.writing && len(o.pend) > outboxHigh && !o.dead && !o.hurry() {
		o.cond.Wait()
	}
	if o.writing || o.dead || len(o.pend) == 0 {
		o.mu.Unlock()
		return
	}
	o.writing = true
	if o.hurry() {
		o.startDrain()
		o.mu.Unlock()
		return
	}
	for len(o.pend) > 0 && !o.dead {
		b := o.take()
		o.mu.Unlock()
		n, err := o.write(b)
		o.mu.Lock()
		o.sent += int64(n)
		if err != nil && (o.closing || !errors.Is(err, os.ErrDeadlineExceeded)) {
			o.writing = false
			o.die()
			return
		}
		if n < len(b) { // poked
			o.pend = append(append([]byte(nil), b[n:]...), o.pend...)
			if o.hurry() {
				o.held = 0
				o.startDrain()
				o.mu.Unlock()
				return
			}
			_ = o.conn.SetWriteDeadline(time.Time{})
		}
		o.give(b)
	}
	o.writing = false
	o.cond.Broadcast()
	o.mu.Unlock()
}

// pass is append and flush of bytes that need no copy where nothing waits before
// them.
func (o *outbox) pass(b []byte) {
	o.mu.Lock()
	if o.writing || o.dead || len(o.pend) > 0 || o.hurry() {
		o.mu.Unlock()
		o.append(b)
		o.flush()
		return
	}
	o.writing = true
	o.mu.Unlock()
	n, err := o.write(b)
	o.mu.Lock()
	o.writing = false
	o.sent += int64(n)
	if err != nil && (o.closing || !errors.Is(err, os.ErrDeadlineExceeded)) {
		o.die()
		return
	}
	if n < len(b) { // poked
		o.pend = append(append([]byte(nil), b[n:]...), o.pend...)
		if !o.closing {
			_ = o.conn.SetWriteDeadline(time.Time{})
		}
	}
	o.cond.Broadcast()
	more := len(o.pend) > 0
	o.mu.Unlock()
	if more {
		o.flush()
	}
}

// kick has what was appended written by a goroutine, so that the caller never
// waits for the client.
func (o *outbox) kick() {
	o.mu.Lock()
	if o.tooMuch() {
		if !o.dead {
			o.over()
		}
		o.die()
		return
	}
	if !o.writing && !o.dead && len(o.pend)+o.brought.size > 0 {
		o.writing = true
		o.startDrain()
	}
	o.mu.Unlock()
}

// room waits, after kick, until no more than n bytes wait for the client, unless
// there is a hurry.
func (o *outbox) room(n int) {
	o.mu.Lock()
	for o.writing && len(o.pend) > n && !o.dead && !o.hurry() {
		o.cond.Wait()
	}
	o.mu.Unlock()
}

// take hands out what waits and puts the spare buffer in its place.
func (o *outbox) take() []byte {
	b := o.pend
	o.pend, o.spare, o.held = o.spare[:0], nil, cap(b)
	return b
}

// next is take, but for what was brought along, which comes first.
func (o *outbox) next() []byte {
	if o.brought.size == 0 {
		return o.take()
	}
	o.held = chunkSize
	return o.brought.take()
}

// give returns a written buffer for the next round; an idle client keeps little.
func (o *outbox) give(b []byte) {
	o.held = 0
	if cap(b) > 64<<10 {
		b = nil
	}
	if len(o.pend) == 0 && o.pend != nil && cap(o.pend) > 64<<10 {
		o.pend = nil
	}
	o.spare = b[:0]
}

// startDrain hands the writing over to a goroutine. The lock is held, and
// writing is true.
func (o *outbox) startDrain() {
	o.draining = true
	if !o.closing {
		_ = o.conn.SetWriteDeadline(time.Time{})
	}
	o.cond.Broadcast()
	o.drainers.Add(1)
	go o.drain()
}

func (o *outbox) drain() {
	defer o.drainers.Done()
	o.mu.Lock()
	for len(o.pend)+o.brought.size > 0 && !o.dead {
		b := o.next()
		o.mu.Unlock()
		n, err := o.write(b)
		o.mu.Lock()
		o.sent += int64(n)
		if err != nil {
			o.writing, o.draining = false, false
			o.die()
			return
		}
		o.give(b)
		o.cond.Broadcast()
	}
	o.writing, o.draining = false, false
	o.cond.Broadcast()
	o.mu.Unlock()
}

// die gives the client up. The lock is held on entry and released.
func (o *outbox) die() {
	was := o.dead
	o.dead, o.brought, o.pend, o.spare, o.held = true, backlog{}, nil, nil, 0
	o.cond.Broadcast()
	o.mu.Unlock()
	if !was {
		o.lost()
	}
}

// poke wakes whoever waits for a slow client; called when a hurry begins.
func (o *outbox) poke() {
	o.mu.Lock()
	if o.writing && !o.draining && !o.closing {
		_ = o.conn.SetWriteDeadline(time.Unix(1, 0))
	}
	o.cond.Broadcast()
	o.mu.Unlock()
}

// within gives all writing d to end; there is no wait for the client after it.
func (o *outbox) within(d time.Duration) {
	o.mu.Lock()
	o.closing = true
	_ = o.conn.SetWriteDeadline(time.Now().Add(d))
	o.mu.Unlock()
}

// finish writes what is left and waits for the drainer. within was called before,
// and nothing is appended any more.
func (o *outbox) finish() {
	o.drainers.Wait()
	o.mu.Lock()
	b, dead := o.pend, o.dead
	o.pend = nil
	o.mu.Unlock()
	if !dead && len(b) > 0 {
		n, _ := o.write(b)
		o.mu.Lock()
		o.sent += int64(n)
		o.mu.Unlock()
	}
}

// bytes returns how many were written.
func (o *outbox) bytes() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sent
}

// size returns how many bytes wait, or are kept to wait in.
func (o *outbox) size() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return int64(cap(o.pend) + cap(o.spare) + o.brought.kept() + o.held)
}

// idle reports whether nothing waits and nobody writes.
func (o *outbox) idle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.dead && !o.writing && len(o.pend) == 0
}
