package proxy

import "github.com/crossfade/crossfade/router"

// DropListeners closes the clients that are subscribed on
// another side than this one: what was said on this side since
// the switch they have not heard, and they are to know that. It is for a switch that was
// made without them, and comes before Release.
func (s *Server) DropListeners(side router.Side) {
	var late []*session
	for _, sess := range s.snapshotSessions() {
		sess.mu.Lock()
		if sess.link != nil && sess.link.side != side && sess.st.subscribed() > 0 {
			late = append(late, sess)
		}
		sess.mu.Unlock()
	}
	for _, sess := range late {
		sess.close()
	}
	if len(late) > 0 {
		s.log.Warn("closing subscribers: a switch was made without them, and they may have missed messages", "clients", len(late))
	}
}
