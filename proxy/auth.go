package proxy

import (
	"fmt"

	"github.com/crossfade/crossfade/internal/resp"
)

// authenticate forwards AUTH or HELLO with the credentials of the side.
func (s *session) authenticate(it *item, wire []byte) error {
	if s.route.Rewrites() {
		wire = s.translateAuth(it, wire)
	}
	if !s.link.unselected {
		return s.push(it, wire)
	}
	it.wake = true
	if err := s.push(it, wire); err != nil {
		return err
	}
	if err := s.await(it); err != nil {
		return err
	}
	return s.selectLate()
}

// selectLate says the SELECT that a connection could not take before AUTH.
func (s *session) selectLate() error {
	s.mu.Lock()
	db, mapped := s.route.DB(s.st.db)
	authed := s.st.authed
	s.mu.Unlock()
	if !authed {
		return nil
	}
	if mapped && db != 0 {
		n := fmt.Sprint(db)
		replies, err := s.ask(words("SELECT", n))
		if err != nil {
			return err
		}
		if text := resp.ErrorText(replies[0]); text != "" {
			err := &setupError{side: s.route.Side, what: "SELECT " + n, answer: text}
			s.refuseClient(err)
			return err
		}
	}
	s.link.unselected = false
	return nil
}

// translateAuth exchanges the source's URL credentials for the target's.
func (s *session) translateAuth(it *item, wire []byte) []byte {
	source, here := s.srv.cfg.Upstreams[0], s.srv.cfg.Upstreams[s.route.Side]
	args := it.args
	if it.spec.verb == vAuth {
		var user, pass string
		switch len(args) {
		case 2:
			pass = string(args[1])
		case 3:
			user, pass = string(args[1]), string(args[2])
		default:
			return wire
		}
		switch {
		case !source.same(user, pass):
			return wire
		case !here.has():
			it.role, it.text = okReplaced, []byte("+OK\r\n")
			return words("PING")
		case here.Username == "":
			return words("AUTH", here.Password)
		}
		return words("AUTH", here.Username, here.Password)
	}
	for i := 2; i+2 < len(args); i++ {
		if is(args[i], "setname") {
			i++
			continue
		}
		if !is(args[i], "auth") || !source.same(string(args[i+1]), string(args[i+2])) {
			continue
		}
		out := append([][]byte(nil), args[:i]...)
		if here.has() {
			out = append(out, args[i], []byte(orDefault(here.Username)), []byte(here.Password))
		}
		return wireOf(append(out, args[i+3:]...)...)
	}
	return wire
}

// reset forwards RESET and makes of the fresh connection what a new client's is.
func (s *session) reset(it *item, wire []byte) error {
	it.wake = true
	if err := s.push(it, wire); err != nil {
		return err
	}
	if err := s.await(it); err != nil {
		return err
	}
	s.mu.Lock()
	fresh := !s.st.multi && !s.st.authed && s.st.db == 0
	_, mapped := s.route.DB(s.st.db)
	lines := s.srv.setup(&s.st, 0, s.route, false)
	s.mu.Unlock()
	if it.lost || !fresh {
		return nil
	}
	s.multi, s.broken, s.noDB = false, false, !mapped
	s.link.unselected, s.link.open = false, false
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
