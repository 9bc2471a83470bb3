package proxy

import (
	"sync"
	"time"
)

// SlowCall is a command that took long. It holds nothing that a client has
// written: the command's name is the table's, and "other" where it is not in it.
type SlowCall struct {
	ID       uint64 // counts slow commands from 1, those that were not logged too
	Time     time.Time
	Client   string // its address
	Database int    // the client's number for it
	Command  string
	Args     int // its words, the command's included
	Bytes    int // of the request
	Upstream time.Duration
	Total    time.Duration
}

// slowAtOnce is how many of the slow commands are logged that one read answers, or one
// round of a loop: where everything is slow, noting all of it would make it slower.
const slowAtOnce = 8

// slowLog keeps the latest slow commands. least is set before the server serves.
type slowLog struct {
	least int64 // nanoseconds from which on a command is slow

	mu   sync.Mutex
	n    uint64 // slow commands
	next uint64 // … that were logged
	ring []SlowCall
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
	l.n++
	c.ID = l.n
	l.ring[l.next%uint64(len(l.ring))] = c
	l.next++
}

// skip counts slow commands that are not logged.
func (l *slowLog) skip(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n += uint64(n)
}

// count returns how many commands were slow.
func (l *slowLog) count() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// Slow returns the slow commands that are remembered, the latest first. Commands
// that block are never among them.
func (s *Server) Slow() []SlowCall {
	l := &s.slow
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]SlowCall, 0, min(l.next, uint64(len(l.ring))))
	for i := l.next; i > 0 && len(out) < len(l.ring); i-- {
		out = append(out, l.ring[(i-1)%uint64(len(l.ring))])
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
	if l.m.slowNow++; l.m.slowNow > slowAtOnce {
		return
	}
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
