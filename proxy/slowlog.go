package proxy

import (
	"sync"
	"time"
)

// SlowCall is a command that took long. It holds nothing that a client has
// written: the command's name is the table's, and "other" where it is not in it.
type SlowCall struct {
	ID       uint64 // counts from 1
	Time     time.Time
	Client   string // its address
	Database int    // the client's number for it
	Command  string
	Args     int // its words, the command's included
	Bytes    int // of the request
	Upstream time.Duration
	Total    time.Duration
}

// slowLog keeps the latest slow commands. least is set before the server serves.
type slowLog struct {
	least int64 // nanoseconds from which on a command is slow

	mu   sync.Mutex
	next uint64
	ring []SlowCall // by id; its length is the limit
}

// newSlowLog returns a log of so many entries. A negative threshold, or no
// entries, turns it off; a threshold of 0 logs every command.
func newSlowLog(entries int, slowerThan time.Duration) slowLog {
	if entries <= 0 || slowerThan < 0 {
		return slowLog{least: never}
	}
	return slowLog{least: int64(slowerThan), ring: make([]SlowCall, entries)}
}

func (l *slowLog) add(c SlowCall) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	c.ID = l.next
	l.ring[c.ID%uint64(len(l.ring))] = c
}

// count returns how many were added.
func (l *slowLog) count() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// Slow returns the slow commands that are remembered, the latest first. Commands
// that block are never among them.
func (s *Server) Slow() []SlowCall {
	l := &s.slow
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]SlowCall, 0, min(l.next, uint64(len(l.ring))))
	for id := l.next; id > 0 && len(out) < len(l.ring); id-- {
		out = append(out, l.ring[id%uint64(len(l.ring))])
	}
	return out
}

// slowCall is what a call's own figures say.
func (s *Server) slowCall(c call, upstream, total int64) SlowCall {
	name := rows[c.row].name
	if name == "" {
		name = fOther.String()
	}
	return SlowCall{Time: time.Now(), Command: name, Args: int(c.args), Bytes: int(c.size),
		Upstream: time.Duration(upstream), Total: time.Duration(total)}
}

// slowReply logs a command of a guest.
func (l *loop) slowReply(g *guest, c call) {
	e := l.srv.slowCall(c, l.now-c.sent, int64(time.Since(l.base))-c.at)
	e.Client, e.Database = "gone", g.state().db
	if !g.gone {
		e.Client = g.peer()
	}
	l.srv.slow.add(e)
}

// slowReply logs a command of a session. It runs under the session's lock.
func (s *session) slowReply(c call, now int64) {
	e := s.srv.slowCall(c, now-c.sent, now-c.at)
	e.Client, e.Database = s.peer(), s.st.db
	s.srv.slow.add(e)
}
