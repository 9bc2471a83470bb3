package proxy

import (
	"bytes"
	"strings"

	"github.com/crossfade/crossfade/internal/resp"
	"github.com/crossfade/crossfade/router"
)

// authenticate forwards AUTH or HELLO with the credentials of the side.
func (s *session) authenticate(it *item) error {
	if err := s.sayWho(it); err != nil {
		return err
	}
	return s.askListed()
}

func (s *session) sayWho(it *item) error {
	if len(s.srv.identities) > 0 || s.srv.cfg.Users || it.spec.verb == vAuth || saysWho(it.args) {
		// Who the connection is now counts, so earlier answers are awaited. And
		// servers since Redis 7.2 give no answer at all to who is refused while an
		// earlier reply has yet to be written.
		if err := s.awaitEmpty(); err != nil {
			return err
		}
	}
	if it.spec.verb == vHello && s.srv.cfg.Users && !saysWho(it.args) && !s.isAuthed() && isHello(it.args) {
		return s.refuseHello()
	}
	wire := s.translateAuth(it)
	if !s.link.unselected && !s.srv.cfg.Users {
		return s.push(it, wire)
	}
	if err := s.pushAwait(it, wire); err != nil {
		return err
	}
	if !s.link.unselected {
		return nil
	}
	return s.selectLate()
}

// selectLate says the SELECT, and the like, that a connection could not take before AUTH.
func (s *session) selectLate() error {
	s.mu.Lock()
	authed := s.st.authed
	var lines []line
	if s.st.proto == 3 {
		lines = greetingOf(3, "", "", false)
	}
	lines = append(lines, s.st.says(s.route, true)...)
	s.mu.Unlock()
	if !authed {
		return nil
	}
	s.link.unselected, s.link.busy = false, nil
	return s.tell(lines)
}

// tell says lines of a setup on the connection in use.
func (s *session) tell(lines []line) error {
	for _, ln := range lines {
		replies, err := s.ask(ln.wire)
		if err != nil {
			return err
		}
		if text := resp.ErrorText(replies[0]); text != "" {
			if err := s.link.refused(ln, text); err != nil {
				s.refuseClient(err)
				return err
			}
		}
	}
	return nil
}

// translateAuth says a client's AUTH or HELLO with what the server here knows it by.
func (s *session) translateAuth(it *item) []byte {
	return s.srv.authenticates(s.route.Side, it, !s.multi && !s.isAuthed())
}

// authenticates returns AUTH or HELLO with what the server of a side knows a client
// by. With fresh the connection is nobody's yet, so where no password is wanted,
// none is said.
func (s *Server) authenticates(side router.Side, it *item, fresh bool) []byte {
	args := it.args
	if it.spec.verb == vHello {
		return s.greets(side, it.args, fresh)
	}
	var user, pass string
	switch len(args) {
	case 2:
		pass = string(args[1])
	case 3:
		user, pass = string(args[1]), string(args[2])
	default:
		return wireOf(args...)
	}
	switch here, own := s.loginAt(side, user, pass); {
	case own:
		return wireOf(args...)
	case !here.has() && fresh:
		it.role, it.text = okReplaced, []byte("+OK\r\n")
		return words("PING")
	case !here.has():
		return words("AUTH", "default", "-") // any password will do, where none is wanted
	case here.User == "":
		return words("AUTH", here.Password)
	default:
		return words("AUTH", here.User, here.Password)
	}
}

// greets is authenticates for HELLO. Every AUTH option is exchanged: some servers
// obey the last, some each.
func (s *Server) greets(side router.Side, args [][]byte, fresh bool) []byte {
	n := min(2, len(args))
	out := args[:n:n]
	for i := 2; i < len(args); i++ {
		switch {
		case is(args[i], "auth") && i+2 < len(args):
			here, own := s.loginAt(side, string(args[i+1]), string(args[i+2]))
			switch {
			case own:
				out = append(out, args[i:i+3]...)
			case here.has():
				out = append(out, args[i], []byte(orDefault(here.User)), []byte(here.Password))
			case !fresh:
				out = append(out, args[i], []byte("default"), []byte("-"))
			}
			i += 2
		case is(args[i], "setname") && i+1 < len(args):
			out = append(out, args[i:i+2]...)
			i++
		default:
			return wireOf(append(out, args[i:]...)...) // an error to every server
		}
	}
	return wireOf(out...)
}

// saysWho reports whether a HELLO says who the client is.
func saysWho(args [][]byte) bool {
	for i := 2; i < len(args); i++ {
		switch {
		case is(args[i], "auth"):
			return true
		case is(args[i], "setname"):
			i++
		}
	}
	return false
}

// isHello reports whether servers find no fault with a HELLO that does not say who the
// client is. Faults come before the question who it is.
func isHello(args [][]byte) bool {
	if len(args) > 1 {
		if v, ok := resp.Integer(args[1]); !ok || v != 2 && v != 3 {
			return false
		}
	}
	for i := 2; i < len(args); i += 2 {
		if !is(args[i], "setname") || i+1 == len(args) || bytes.ContainsFunc(args[i+1], func(c rune) bool { return c < '!' || c > '~' }) {
			return false
		}
	}
	return true
}

// refuseHello answers the HELLO of a client whom the proxy does not know as the server
// does, which is asked, or would if it wanted to know its clients.
func (s *session) refuseHello() error {
	replies, err := s.ask(words("HELLO"))
	if err != nil {
		return err
	}
	text := resp.ErrorText(replies[0])
	if !strings.HasPrefix(text, "NOAUTH") {
		how := "HELLO <proto> AUTH"
		if p := resp.ProgramOf(replies[0]); p.Name == "redis" && p.Before(7, 2) {
			how = "HELLO AUTH"
		}
		text = "NOAUTH HELLO must be called with the client already authenticated, otherwise the " + how +
			" <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
	}
	return s.refuse(text)
}

// reset forwards RESET and makes of the fresh connection what a new client's is.
func (s *session) reset(it *item, wire []byte) error {
	if err := s.pushAwait(it, wire); err != nil {
		return err
	}
	s.mu.Lock()
	fresh := !s.st.multi && !s.st.authed && s.st.db == 0
	_, mapped := s.route.DB(s.st.db)
	anew := s.st
	anew.info = nil // which RESET does not take back
	lines := s.srv.setup(&anew, s.route, greeted)
	s.mu.Unlock()
	if it.lost || !fresh {
		return nil
	}
	s.multi, s.noDB, s.queuedIn = false, !mapped, 0
	s.link.unselected, s.link.open, s.link.busy = false, false, nil
	return s.tell(lines)
}
