package proxy

import (
	"errors"

	"github.com/crossfade/crossfade/router"
)

// errSevered means that the server at the other end is not the side's any more.
var errSevered = errors.New("the server has changed meanwhile")

// Sever closes every connection to a side that was made before the call: the server at
// the other end is not the side's any more. It is for servers that sentinels watch, after
// a failover. Clients see what they would see from a server that goes away: who has
// commands in flight, or a connection of its own, is closed, and nothing is sent again.
// Those who share connections and wait for nothing go on with the new server.
func (s *Server) Sever(side router.Side) {
	s.mu.Lock()
	s.severed[side]++
	for l := range s.links {
		if l.side == side {
			l.severed.Store(true)
		}
	}
	s.mu.Unlock()
	// The loops first: a connection that one of them lets a session have has to be
	// closed there.
	for _, l := range s.eventLoops() {
		l.call(l.sever)
	}
	for _, sess := range s.snapshotSessions() {
		sess.sever()
	}
	s.pool.distrust(side)
}

// cuts counts the calls of Sever for a side.
func (s *Server) cuts(side router.Side) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.severed[side]
}

// sever loses the trunks that are severed.
func (l *loop) sever() {
	is := func(t *trunk) bool { return t != nil && t.ready && !t.dead && t.link.severed.Load() }
	for _, t := range l.trunks {
		if is(t) {
			l.lose(t, errSevered)
		}
	}
	for t := range l.retired {
		if is(t) {
			l.lose(t, errSevered)
		}
	}
	for g := range l.guests {
		if is(g.warm) {
			l.release(g.warm)
			g.warm = nil
		}
		if t := g.trunk; is(t) {
			l.lose(t, errSevered)
		}
	}
}

// sever closes the session's connections that are severed. Its reader does what is to be
// done for the client when that is the one in use.
func (s *session) sever() {
	s.mu.Lock()
	var lost []*link
	for _, l := range []*link{s.link, s.warm, s.ahead} {
		if l != nil && l.severed.Load() {
			lost = append(lost, l)
		}
	}
	s.mu.Unlock()
	closeAll(lost...)
}
