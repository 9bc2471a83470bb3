// Package logqueue keeps those who log from waiting for who reads the log.
// It owns a bounded queue of lines and the goroutine that writes them; lines that find it full are dropped and counted.
// It never holds what must not be lost: the audit log and the journal have files of their own.
package logqueue

import (
	"bytes"
	"io"
	"sync"
	"time"
)

// most is how many bytes of lines wait; as many may be on their way to the reader.
const most = 1 << 20

// Queue is an io.Writer for a log: each Write is whole lines. The methods may be called
// from any goroutine, and Write waits for nobody.
type Queue struct {
	to   io.Writer
	lost func(w io.Writer, lines int)

	mu      sync.Mutex
	waiting []byte
	spare   []byte // room that was used before
	dropped int    // lines, since this was said last
	closed  bool

	more  chan struct{} // something waits, or the queue is closed
	ended chan struct{}
}

// New returns a queue of lines for to. lost writes the line that says how many were dropped;
// it is called, like to, by the queue's goroutine, which Close ends.
func New(to io.Writer, lost func(w io.Writer, lines int)) *Queue {
	q := &Queue{to: to, lost: lost, more: make(chan struct{}, 1), ended: make(chan struct{})}
	go q.run()
	return q
}

// Write has lines written, or dropped where too much waits. Its error is always nil: who
// logs can do nothing about it.
func (q *Queue) Write(lines []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.waiting)+len(lines) > most {
		q.dropped += bytes.Count(lines, []byte{'\n'})
		return len(lines), nil
	}
	q.waiting = append(q.waiting, lines...)
	q.wake()
	return len(lines), nil
}

func (q *Queue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// run writes what waits until the queue is closed and empty.
func (q *Queue) run() {
	defer close(q.ended)
	for range q.more {
		lines, dropped, closed := q.take()
		for line := range bytes.Lines(lines) { // one at a time, as whoever else writes there does
			_, _ = q.to.Write(line) // a reader that is gone is no reason to end
		}
		if dropped > 0 { // after those that waited: it is then that there was no room
			q.lost(q.to, dropped)
		}
		if closed {
			return
		}
		q.mu.Lock()
		if cap(lines) <= most/8 {
			q.spare = lines[:0]
		}
		q.mu.Unlock()
	}
}

// take takes all that waits.
func (q *Queue) take() (lines []byte, dropped int, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	lines, dropped = q.waiting, q.dropped
	q.waiting, q.spare, q.dropped = q.spare, nil, 0
	return lines, dropped, q.closed
}

// Close has what waits written, for up to patience, and reports whether all of it was.
// Lines that come later are dropped.
func (q *Queue) Close(patience time.Duration) bool {
	q.mu.Lock()
	q.closed = true
	q.wake()
	q.mu.Unlock()
	select {
	case <-q.ended:
		return true
	case <-time.After(patience):
		return false
	}
}
