package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/config"
)

// guard lets a request in, or returns why not.
//
// A page in a browser on this machine can send requests to loopback, and by DNS
// rebinding read the replies: so nothing with an Origin may change anything, and
// without a token the Host must be one that no foreign page can have.
func (s *Server) guard(r *http.Request) *Error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Header.Get("Origin") != "" {
		return &Error{Code: http.StatusForbidden, Message: "requests from web pages are not taken here", Hint: "leave the Origin header out"}
	}
	token := s.opt.Config.Token.Reveal()
	if token == "" {
		if s.network == "tcp" && !ownHost(r.Host, s.opt.Config.Address) {
			return &Error{Code: http.StatusForbidden, Message: "the Host " + quoted(r.Host) + " is not this machine",
				Hint: "ask for an IP address or localhost, or set admin.token"}
		}
		return nil
	}
	// Probes carry no secret, and learn one bit.
	if slices.Contains(Probes(), r.URL.Path) {
		return nil
	}
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || !same(strings.TrimSpace(given), token) {
		return &Error{Code: http.StatusUnauthorized, Message: "the admin token is missing or wrong",
			Hint: "set CROSSFADE_ADMIN_TOKEN (or admin.token_file) to what `crossfade run` was given"}
	}
	return nil
}

// same compares in a time that tells nothing about the token, its length included.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// ownHost reports whether a Host header can only be meant for this machine: an
// address in figures, localhost, or the name that the operator listens on.
func ownHost(header, listen string) bool {
	host := hostOf(header)
	if net.ParseIP(host) != nil || strings.EqualFold(host, "localhost") {
		return true
	}
	_, address, err := config.SplitAddress(listen)
	return err == nil && host != "" && strings.EqualFold(host, hostOf(address))
}

func hostOf(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.Trim(hostport, "[]")
}
