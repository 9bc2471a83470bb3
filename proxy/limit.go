package proxy

import (
	"strings"

	"github.com/crossfade/crossfade/internal/resp"
)

const (
	unsureAhead = 128 << 10 // bytes read from a client while it is asked whether it has to authenticate
	strangerHas = 16 << 10  // bytes of the proxy's own refusals that may wait for one before it is read no further
)

// narrow has the limits of those who have yet to authenticate hold where it is the proxy
// that lets them in, and needs nobody to be asked.
func (s *session) narrow() {
	if !s.srv.cfg.Users {
		return
	}
	if stranger := !s.isAuthed(); stranger != s.in.Strict {
		s.in.Strict = stranger
		if stranger {
			s.in.Restart()
		}
	}
}

// limit holds a client who has yet to authenticate to Redis' limits, so that it
// costs no memory. Whether the server wants AUTH is asked once, when a command is
// coming that would be over them. again says that there is to be looked for a
// command once more: it may have come whole meanwhile.
func (s *session) limit() (again bool, err error) {
	if !s.in.Over() || s.in.Strict || s.link.open || s.multi {
		return false, nil
	}
	s.unsure = true
	defer func() { s.unsure = false }()
	if err := s.awaitEmpty(); err != nil {
		return false, err
	}
	s.mu.Lock()
	known := s.st.authed || !s.clean() // who has yet to authenticate has no state at the server
	s.mu.Unlock()
	if known {
		s.link.open = true
		return true, nil
	}
	if err := s.enter(); err != nil {
		return false, err
	}
	defer s.leave()
	replies, err := s.ask(words("PING"))
	if err != nil {
		return false, err
	}
	if !isNoAuth(replies[0]) {
		s.link.open = true
		return true, nil
	}
	s.in.Strict = true
	s.in.Restart()
	return true, nil
}

// admits reports whether a command of g may be over the limits of those who have
// yet to authenticate. Where that is not known g is pinned, or has to wait for
// its trunk, which says so.
func (l *loop) admits(g *guest) bool {
	t := g.trunk
	switch {
	case g.st != nil && g.st.authed:
		return true
	case l.srv.cfg.Shared: // nobody shares with a server that wants AUTH
		return t != nil && !t.dead && g.gen == l.gen || l.bind(g) != nil
	case t != nil && t.ready && !t.dead && t.link.open:
		return true
	}
	l.pin(g)
	return false
}

func isNoAuth(reply []byte) bool {
	text := resp.ErrorText(reply)
	return strings.HasPrefix(text, "NOAUTH")
}
