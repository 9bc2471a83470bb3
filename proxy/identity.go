package proxy

import (
	"crypto/subtle"

	"github.com/crossfade/crossfade/router"
)

// Login is how somebody authenticates. Without a User it is AUTH with the password
// alone, which means default. The zero Login does not authenticate.
type Login struct{ User, Password string }

func (l Login) has() bool { return l != Login{} }

// same reports whether a client's words are exactly this login.
func (l Login) same(user, pass string) bool {
	return l.has() && orDefault(l.User) == orDefault(user) && subtle.ConstantTimeCompare([]byte(l.Password), []byte(pass)) == 1
}

// Identity is one client by all its names.
type Identity struct {
	Client Login    // what the client says
	Sides  [2]Login // what each server is told then, indexed by router.Side
}

// identitiesOf adds the credentials of the operator's URLs, which belong together
// too: an application may have been given those.
func identitiesOf(cfg Config) []Identity {
	all := cfg.Identities
	source, target := cfg.Upstreams[router.Source].login(), cfg.Upstreams[router.Target].login()
	if !cfg.Users && (source.has() || target.has()) {
		all = append(all[:len(all):len(all)], Identity{Client: source, Sides: [2]Login{source, target}})
	}
	return all
}

// identify finds out who a client is by what it says at a side: what it says
// everywhere, or, unless it is a user of the proxy, what the server there calls it.
// nil is somebody whom that server alone knows.
func (s *Server) identify(side router.Side, user, pass string) *Identity {
	for i := range s.identities {
		if s.identities[i].Client.same(user, pass) {
			return &s.identities[i]
		}
	}
	if s.cfg.Users {
		return nil
	}
	var found *Identity
	for i := range s.identities {
		if s.identities[i].Sides[side].same(user, pass) {
			if found != nil {
				return nil // which of them it is cannot be told
			}
			found = &s.identities[i]
		}
	}
	return found
}

// wantsAuth reports whether a client has to authenticate to the proxy first.
func (s *Server) wantsAuth(st *state) bool { return s.cfg.Users && !st.authed }

// loginAt returns what the server of a side is told for what a client says. Who is nobody
// the proxy knows, where it must know everybody, gets a name that no server can
// have, for its space: so the refusal is the server's own, as is the note in its
// ACL LOG. own says that these are the client's own words, whatever they are.
func (s *Server) loginAt(side router.Side, user, pass string) (here Login, own bool) {
	who := s.identify(side, user, pass)
	switch {
	case who != nil:
		return who.Sides[side], who.Sides[side].same(user, pass)
	case s.cfg.Users:
		return Login{User: orDefault(user) + " (refused by the proxy)", Password: "-"}, false
	}
	return Login{User: user, Password: pass}, true
}

// isAuthed reports whether the connection is somebody's, as far as it was answered.
func (s *session) isAuthed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.st.authed
}
