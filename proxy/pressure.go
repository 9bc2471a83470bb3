package proxy

import (
	"time"

	"github.com/crossfade/crossfade/internal/epoll"
)

const (
	pauseAt   = 4 << 20                       // bytes that wait for a client at which its upstream is read no further
	pauseUsed = int64(250 * time.Millisecond) // for which a trunk is not read altogether while others wait for it too
	pauseTick = 20 * time.Millisecond
)

// pause ends reading a trunk for as long as the client that its replies go to has
// too many of them waiting, so that they wait in the server, as they would without
// a proxy. Others may have commands in flight behind those: they get a new trunk
// for what they send from now on, and the old one is read on after a while, into
// memory. It reports whether the trunk is paused.
func (l *loop) pause(t *trunk, g *guest) bool {
	if t.dead || t.hungUp || g.gone || len(g.out) <= pauseAt || g.pauses != nil || l.srv.gate.IsShut() {
		return false
	}
	if t.owner == nil {
		if l.trunks[t.key] == t && !t.replacing {
			l.replace(t)
		}
		if t.paused >= pauseUsed && t.awaitedBeside(g) {
			return false
		}
	}
	t.pausedFor, g.pauses = g, t
	t.since = l.now
	l.paused[t] = struct{}{}
	l.listen(t)
	return true
}

// unpause has a trunk read again.
func (l *loop) unpause(t *trunk) {
	if t == nil || t.pausedFor == nil {
		return
	}
	t.paused += l.now - t.since
	t.pausedFor.pauses, t.pausedFor = nil, nil
	t.heard = l.now
	delete(l.paused, t)
	if !t.dead {
		l.listen(t)
	}
}

// avoids reports whether g had better wait until others have a new trunk in the
// place of t, than stand behind what t is paused for.
func (g *guest) avoids(t *trunk) bool {
	return t.replacing && t.pausedFor != nil && t.pausedFor != g && g.inflight == 0
}

// lookAtPaused ends the pauses that have lasted long enough. While the gate is to
// become empty nobody may be waited for.
func (l *loop) lookAtPaused() {
	hurry := l.srv.gate.IsShut()
	for t := range l.paused {
		if hurry || t.owner == nil && t.paused+l.now-t.since >= pauseUsed && t.awaitedBeside(t.pausedFor) {
			l.unpause(t)
		}
	}
}

// awaitedBeside reports whether others than g wait for replies of a trunk.
func (t *trunk) awaitedBeside(g *guest) bool {
	for _, e := range t.fifo[t.head:] {
		if e.g != g && !e.g.gone {
			return true
		}
	}
	return false
}

// listen asks the kernel for what a trunk needs.
func (l *loop) listen(t *trunk) {
	want := epoll.Read
	if t.pausedFor != nil {
		want = epoll.HungUp
	}
	if len(t.out) > 0 {
		want |= epoll.Write
	}
	if want == t.interest {
		return
	}
	t.interest = want
	if err := l.poll.Change(t.fd, want); err != nil {
		l.lose(t, err)
	}
}
