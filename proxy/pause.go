package proxy

import (
	"errors"
	"slices"
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
)

// A large reply to a slow client is on its way on a shared connection, and nothing
// behind it can be read before it. A little of it is kept in memory. When that is
// used up, the connection is retired, so that nobody else gets behind it, and is
// read no faster than the client reads. Who was behind it already waits, but not
// for ever: after slowLimit a client that has read nothing at all is closed, and
// what comes for one that reads slowly is kept in memory after all, up to its limit,
// so that the others get theirs. On a connection of one client alone, what is not
// read waits at the server, whose limits it is up to, and commands go on being sent:
// a client may send all before it reads. Only where they are kept, because a fence may refuse
// them, their answers are kept in memory instead once there is too much of them.
const (
	spillMax  = 32 << 20 // bytes of one loop that may wait for its guests before that
	slowLimit = 5 * time.Second
)

var errRetired = errors.New("a shared connection is retired")

// ease is called when t was read: it pauses t if need be, and closes it when it
// was retired and has nothing left to say.
func (l *loop) ease(t *trunk) {
	switch {
	case t.dead:
	case t.head == len(t.fifo):
		if t.retired {
			l.lose(t, errRetired)
		}
	case !l.hurry && l.blocks(t, t.fifo[t.head].g):
		l.pause(t)
	}
}

// blocks reports whether t has to wait for the guest in front.
func (l *loop) blocks(t *trunk, g *guest) bool {
	switch {
	case g.gone:
		return false
	case t.owner != nil:
		// It may not read before it has sent all, and of that too much is kept already.
		return g.out.size > outboxHigh && g.stop&tooDeep == 0
	case t.rushed:
		return false
	}
	return g.out.size > shareReply && l.spill > spillMax
}

func (l *loop) pause(t *trunk) {
	t.paused, t.slow, t.slowAt = true, t.fifo[t.head].g.out.size, l.now
	if t.pausedAt == 0 {
		t.pausedAt = l.now
	}
	l.paused = append(l.paused, t)
	if !l.attend(t) || t.owner != nil {
		return
	}
	l.retire(t)
}

// takes reports whether the guest in front of t has taken anything since this was
// asked last. The kernel tells of room only when there is much of it.
func (l *loop) takes(t *trunk, g *guest) bool {
	was, size := t.taken, t.slow
	t.taken, _ = epoll.Taken(g.fd)
	t.slow = g.out.size
	return g.out.size < size || t.taken > was
}

// retire has t take no more commands.
func (l *loop) retire(t *trunk) {
	t.retired = true
	l.retired[t] = struct{}{}
	if l.trunks[t.key] == t {
		delete(l.trunks, t.key)
	}
	waiters := t.waiters
	t.waiters = nil
	for _, g := range waiters {
		l.goOn(g, forTrunk)
	}
}

// recheck lets those connections go on that need to wait no longer.
func (l *loop) recheck() {
	for i := len(l.paused) - 1; i >= 0; i-- {
		t := l.paused[i]
		g := t.fifo[t.head].g
		crowded := t.owner != nil && g.stop&tooDeep != 0 // see blocks
		if !l.hurry && !g.gone && !crowded && g.out.size > shareReply/2 {
			limit := l.srv.cfg.OutputTimeout
			others := slices.ContainsFunc(t.fifo[t.head:], func(e entry) bool { return e.g != g })
			if others {
				limit = slowLimit
			}
			switch {
			case l.takes(t, g) || limit <= 0:
				t.slowAt = l.now
				t.rushed = others && time.Duration(l.now-t.pausedAt) > slowLimit
			case time.Duration(l.now-t.slowAt) > limit:
				l.srv.log.Warn("closing a client that does not read its replies", "client", g.peer(), "for", limit.String(), "bytes", g.out.size)
				l.srv.overflowed.Add(1)
				l.drop(g)
			}
			if !t.rushed {
				continue
			}
		}
		l.paused = slices.Delete(l.paused, i, i+1)
		t.paused = false
		if l.attend(t) {
			l.trunkEvent(t, epoll.Read)
		}
	}
}

// hasten has nobody wait for slow guests any more, until the next reroute.
func (l *loop) hasten() { l.hurry = true }
