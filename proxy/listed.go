package proxy

import (
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// A server lists its clients by the address of their end, and those at its unix socket all by
// the path of that. Which of them are ours is told there by their ids.

// asksListed asks a Nameless server for the connection's id. Whoever is let in may say HELLO:
// a user who has no right to CLIENT would be written down in the ACL LOG for that.
func (s *Server) asksListed(side router.Side) []line {
	if !s.cfg.Upstreams[side].Nameless {
		return nil
	}
	return []line{{wire: words("HELLO"), what: asksListed, lenient: true, lists: true}}
}

const asksListed = "asking HELLO for the connection's id"

// asksOlder is what a server is asked that does not know HELLO, and so no rights: before 6.0.
func asksOlder() line {
	return line{wire: words("CLIENT", "ID"), what: "asking for the connection's id", lenient: true, lists: true}
}

func isUnknownCommand(text string) bool { return strings.HasPrefix(text, "ERR unknown command") }

// askListed asks once more behind an AUTH or HELLO: the server has not told who had yet to
// authenticate. The answers are waited for: nothing of them keeps the gate from getting
// empty, and the session must not change its connection before they are there.
func (s *session) askListed() error {
	lines := s.srv.asksListed(s.link.side)
	if len(lines) == 0 || s.link.listed.Load() != 0 || s.link.unselected {
		return nil
	}
	replies, err := s.ask(lines[0].wire)
	if err == nil && isUnknownCommand(resp.ErrorText(replies[0])) {
		replies, err = s.ask(asksOlder().wire)
	}
	if err != nil {
		return err
	}
	if s.link.isListed(replies[0]) {
		s.mu.Lock()
		s.upID = s.link.listed.Load()
		s.mu.Unlock()
	}
	return nil
}

// isListed notes the connection's id, if the answer to CLIENT ID or HELLO tells it.
func (l *link) isListed(answer []byte) bool {
	id, ok := idIn(answer)
	if !ok {
		id, ok = resp.IDOf(answer)
	}
	if ok {
		l.listed.Store(id)
	}
	return ok
}

// listedAs is how a server names the connection in its list: by its address, or else by its
// id, as "id=17". It is "" where neither is known.
func (l *link) listedAs() string {
	if !l.srv.cfg.Upstreams[l.side].Nameless {
		return l.local
	}
	if id := l.listed.Load(); id != 0 {
		return "id=" + strconv.FormatInt(id, 10)
	}
	return ""
}
