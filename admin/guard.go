package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/admin/web"
	"github.com/crossfade/crossfade/config"
)

// role is what a request may do.
type role string

const (
	looks    role = "viewer"   // may look at everything, and change nothing
	operates role = "operator" // may do all
)

// pageHeader is what the dashboard's requests that change something carry, with the
// server's nonce: a foreign page cannot set it, and does not know that.
const pageHeader = "X-Crossfade-Page"

// guard lets a request in, as whom, or returns why not.
func (s *Server) guard(r *http.Request) (role, *Error) {
	if refusal := s.foreign(r); refusal != nil {
		return "", refusal
	}
	c := s.opt.Config
	if c.Token == "" {
		return s.certified(r), nil
	}
	// Probes carry no secret, and learn one bit; the page itself holds nothing.
	if isProbe(r.URL.Path) || web.Has(r.URL.Path) {
		return looks, nil
	}
	from := s.guesses.from(r)
	if !s.guesses.may(from) {
		return "", &Error{Code: http.StatusTooManyRequests, Message: "too many wrong tokens came from there",
			Hint: "wait some seconds; the unix socket of the machine itself has no such limit"}
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	given = strings.TrimSpace(given)
	operator, viewer := same(given, c.Token.Reveal()), same(given, c.ViewToken.Reveal()) && c.ViewToken != ""
	switch {
	case strings.EqualFold(scheme, "Bearer") && operator:
		return s.certified(r), nil
	case strings.EqualFold(scheme, "Bearer") && viewer:
		return looks, nil
	case given != "" && s.guesses.wrong(from):
		s.log.Warn("wrong tokens are shown at the operator's address", "who", s.whoAsks(r).String())
	}
	return "", &Error{Code: http.StatusUnauthorized, Message: "the admin token is missing or wrong",
		Hint: "set CROSSFADE_ADMIN_TOKEN (or admin.token_file) to what `crossfade run` was given"}
}

// certified is what somebody may do by the certificate that was shown: all, unless there
// is a list of those who may. A connection without TLS is judged by other means alone.
func (s *Server) certified(r *http.Request) role {
	allowed := s.opt.Config.Operators
	if r.TLS == nil || len(allowed) == 0 {
		return operates
	}
	for _, name := range certificateNames(r) {
		if slices.Contains(allowed, name) {
			return operates
		}
	}
	return looks
}

// certificateNames are those of the certificate that was shown and verified.
func certificateNames(r *http.Request) (names []string) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil
	}
	c := r.TLS.VerifiedChains[0][0]
	if c.Subject.CommonName != "" {
		names = append(names, c.Subject.CommonName)
	}
	return slices.Concat(names, c.DNSNames, c.EmailAddresses)
}

// foreign refuses what the page of somebody else may have sent.
//
// A page in a browser on this machine can send requests to loopback, and by DNS
// rebinding read the replies. So what changes something and has an Origin must have
// ours and the nonce, which a foreign page cannot learn; and without a token the Host
// must be one that no foreign page can have. With a token that is not needed: browsers
// send none by themselves, and there are no cookies. Nor is it with TLS: the name of a
// foreign page is not in our certificate.
func (s *Server) foreign(r *http.Request) *Error {
	if s.opt.Config.Token == "" && r.TLS == nil && !s.ownHost(r) {
		return &Error{Code: http.StatusForbidden, Message: "the Host " + quoted(r.Host) + " is not this machine",
			Hint: "ask for an IP address or localhost, or set admin.token"}
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" && r.URL.Path != "/" {
		return &Error{Code: http.StatusForbidden, Message: "requests from other web pages are not taken here"}
	}
	origin := r.Header.Get("Origin")
	if r.Method == http.MethodGet || r.Method == http.MethodHead || origin == "" {
		return nil
	}
	from, err := url.Parse(origin)
	if err != nil || from.Host == "" || !strings.EqualFold(from.Host, r.Host) {
		return &Error{Code: http.StatusForbidden, Message: "requests from other web pages are not taken here", Hint: "leave the Origin header out"}
	}
	if !same(r.Header.Get(pageHeader), s.nonce) {
		return &Error{Code: http.StatusForbidden, Message: "the dashboard is of an earlier run of crossfade, or is none of ours", Hint: "load the page again"}
	}
	return nil
}

// same compares in a time that tells nothing about the token, its length included.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// ownHost reports whether a Host header can only be meant for this machine: an address
// in figures, localhost, or a name that the operator listens on. Through a unix socket
// (forwarded to somebody's port, a page can get there too) any plain name will do, since
// clients make one up and no foreign page can have it.
func (s *Server) ownHost(r *http.Request) bool {
	host := hostOf(r.Host)
	if net.ParseIP(host) != nil || strings.EqualFold(host, "localhost") {
		return true
	}
	if _, network := whoConnected(r); network == "unix" {
		return !strings.Contains(host, ".")
	}
	for _, listen := range []string{s.opt.Config.Address, s.opt.Config.Web} {
		network, address, _, err := config.SplitDoor(listen)
		if err == nil && network == "tcp" && host != "" && strings.EqualFold(host, hostOf(address)) {
			return true
		}
	}
	return false
}

func hostOf(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}
