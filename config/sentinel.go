package config

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Sentinel says how the sentinels that a URL names are spoken to.
type Sentinel struct {
	// Username and Password are the sentinels' own; the servers' never go to them.
	Username string `koanf:"username"`
	Password Secret `koanf:"password"`
	// PasswordFile is read when Password is empty.
	PasswordFile string `koanf:"password_file"`
	// TLS is "same" (as the servers that they watch), "on" or "off"; with the files of
	// Server.TLS.
	TLS string `koanf:"tls"`
}

// Watched is a server that sentinels watch: it is where they say, and somewhere else
// after a failover. It is shared and must not be changed.
type Watched struct {
	Name      string   // of the master
	Sentinels []string // HOST:PORT each, at least one
	Username  string
	Password  Secret
	TLS       *tls.Config // of the sentinels; nil: none

	files *reloaded[*tls.Config] // nil: TLS is made of no files
}

// Finder finds the present master of a Watched.
type Finder interface {
	// Find returns the master's address, which was one when it was looked at last.
	Find(ctx context.Context) (address string, err error)
	// Keep is called with a connection that was made to that address. It returns once the
	// server there has said, after that, that it is the master; from then on the finder
	// closes the connection when it is not any more. An error means that it is of no use.
	Keep(ctx context.Context, conn *net.TCPConn, address string) error
	// Doubt says that a connection to that address could not be made, so that the next
	// Find asks.
	Doubt(address string)
	// Present returns the master's address as far as it is known, "" otherwise. It does
	// no I/O.
	Present() string
}

const sentinelForm = "write redis+sentinel://[user:password@]host[:port],host[:port]/NAME, where NAME is the master's among the sentinels, or rediss+sentinel://… for TLS"

func sentinelScheme(scheme string) bool {
	return strings.EqualFold(scheme, "redis+sentinel") || strings.EqualFold(scheme, "rediss+sentinel")
}

// byMaster is what the name of a master may consist of (sentinel.c: sentinelMonitor).
var byMaster = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

// hostsOf takes the list of hosts out of a URL, and puts one in its place that
// net/url reads.
func hostsOf(text string) (hosts []string, plain string) {
	scheme, rest, _ := strings.Cut(text, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	authority := rest[:end]
	user := authority[:strings.LastIndex(authority, "@")+1]
	return strings.Split(authority[len(user):], ","), scheme + "://" + user + "sentinels" + rest[end:]
}

// parseSentinels is parseURL for sentinels. The texts are fixed for the same reason.
func (s Server) parseSentinels() (Endpoint, []error) {
	fail := func(format string, args ...any) (Endpoint, []error) {
		return Endpoint{}, []error{fmt.Errorf("url: "+format, args...)}
	}
	hosts, plain := hostsOf(string(s.URL))
	u, err := url.Parse(plain)
	if err != nil || u.Opaque != "" {
		return fail("%q is not a URL: %s; in a password, percent-encode all but letters and digits (%%40 is @)", s.URL, sentinelForm)
	}
	if u.RawQuery != "" {
		return fail("query parameters (%s) are not known here: use the keys of the configuration, and the database map for databases; a ? in a password is written %%3F", queryNames(u))
	}
	if u.Fragment != "" || strings.HasSuffix(string(s.URL), "#") {
		return fail("%q has a fragment: a # in a password is written %%23", s.URL)
	}
	e, err := s.loginOf(u)
	if err != nil {
		return Endpoint{}, []error{err}
	}
	name, db, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	switch {
	case name == "":
		return fail("%q names no master: %s", s.URL, sentinelForm)
	case db != "" && db != "0":
		return fail("%q names a database: take it out and use the database map (databases, --map)", s.URL)
	case !byMaster.MatchString(name):
		return fail("%q: the name of a master consists of letters, digits, dots, hyphens and underscores: %s", s.URL, sentinelForm)
	}
	e.Watched = &Watched{Name: name}
	for _, host := range hosts {
		address, err := hostPort(host, "26379")
		switch {
		case errors.Is(err, errNoHost):
			return fail("%q: a sentinel has no host name: %s", s.URL, sentinelForm)
		case err != nil:
			return fail("%q: a sentinel's port is out of range: give 1 to 65535", s.URL)
		}
		if slices.Contains(e.Watched.Sentinels, address) {
			return fail("%q names the sentinel %s twice: name it once", s.URL, address)
		}
		e.Watched.Sentinels = append(e.Watched.Sentinels, address)
	}
	e.Network, e.Address = "sentinel", strings.Join(e.Watched.Sentinels, ",")+"/"+name
	return e, nil
}

var (
	errNoHost  = errors.New("no host name")
	errBadPort = errors.New("port out of range")
)

// hostPort reads HOST[:PORT]; usual is the port without one. Its errors are errNoHost and
// errBadPort.
func hostPort(text, usual string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port, err = net.SplitHostPort(text + ":" + usual)
	}
	number, bad := strconv.Atoi(port)
	switch {
	case err != nil || host == "" || strings.ContainsAny(host, " \t\r\n\x00@/"):
		return "", errNoHost
	case bad != nil || number < 1 || number > 65535:
		return "", errBadPort
	}
	return net.JoinHostPort(host, port), nil
}

// sentinels adds to e what is set for its sentinels; without any, nothing may be.
func (s Server) sentinels(e *Endpoint) []error {
	var problems []error
	set := s.Sentinel
	if set.TLS != "" && !slices.Contains(sentinelTLS, set.TLS) {
		problems = append(problems, fmt.Errorf("sentinel.tls: %q is not known: give same, on or off", set.TLS))
	}
	if !s.namesSentinels() {
		if set.TLS == "same" {
			set.TLS = ""
		}
		if set != (Sentinel{}) && s.URL != "" {
			problems = append(problems, errors.New("sentinel: settings without sentinels: begin the URL with redis+sentinel:// or remove them"))
		}
		return problems
	}
	if e.Watched == nil { // the URL is wrong
		return problems
	}
	w := e.Watched
	w.Username, w.Password = set.Username, set.Password
	if set.Password == "" && set.PasswordFile != "" {
		password, err := readSecret(set.PasswordFile)
		if err != nil {
			problems = append(problems, fmt.Errorf("sentinel.password_file: %w", err))
		}
		w.Password = password
	}
	if w.Username != "" && w.Password == "" {
		problems = append(problems, fmt.Errorf("sentinel.password: missing next to sentinel.username %q: give it, or sentinel.password_file", w.Username))
	}
	return problems
}

// wantsSentinelTLS tells whether the sentinels speak TLS.
func (s Server) wantsSentinelTLS() bool {
	return s.namesSentinels() && (s.Sentinel.TLS == "on" || s.Sentinel.TLS != "off" && s.wantsTLS())
}

func (s Server) namesSentinels() bool {
	scheme, _, _ := strings.Cut(string(s.URL), ":")
	return sentinelScheme(scheme)
}

// OfSentinel returns the endpoint of one of the sentinels.
func (e Endpoint) OfSentinel(address string) Endpoint {
	w := e.Watched
	return Endpoint{Network: "tcp", Address: address, Username: w.Username, Password: w.Password.Reveal(), TLS: w.TLS, files: w.files}
}

// At returns e as it is where a master is, or was, or a node of a cluster.
func (e Endpoint) At(address string) Endpoint {
	e.Network, e.Address, e.Watched, e.Finder = "tcp", address, nil, nil
	e.Cluster, e.Nodes = nil, nil
	return e
}

// Where returns where the server is now: for one that sentinels watch the master's
// address as far as it is known, and for others their own.
//
// A cluster is where its first seed is: a node, to ask something of it by hand.
func (e Endpoint) Where() (network, address string) {
	if e.Cluster != nil {
		return "tcp", e.Cluster.Seeds[0]
	}
	if e.Watched == nil {
		return e.Network, e.Address
	}
	if e.Finder == nil {
		return "tcp", ""
	}
	return "tcp", e.Finder.Present()
}

// SamePlace tells whether an address, as an endpoint's Address was once written down, is
// e's. Sentinels come and go: one that both name is enough, with the master's name. So do
// nodes of a cluster.
func (e Endpoint) SamePlace(address string) bool {
	if e.Cluster != nil {
		return NamesCluster(address) && anyPlace(seedsOf(address), e.Cluster.Seeds)
	}
	if e.Watched == nil || e.Address == address {
		return e.Address == address
	}
	list, name, ok := cutLast(address, "/")
	if !ok || name != e.Watched.Name {
		return false
	}
	return anyPlace(strings.Split(list, ","), e.Watched.Sentinels)
}

// anyPlace tells whether two lists of HOST:PORT have one in common.
func anyPlace(list, others []string) bool {
	return slices.ContainsFunc(list, func(one string) bool {
		return slices.ContainsFunc(others, func(other string) bool { return samePlace("tcp", one, "tcp", other) })
	})
}

// same tells whether two endpoints are one server, one master among sentinels, or a cluster
// and a node of it.
func (e Endpoint) same(other Endpoint) bool {
	if other.Cluster != nil {
		return slices.ContainsFunc(other.Cluster.Seeds, func(seed string) bool { return e.at("tcp", seed) })
	}
	if e.Watched == nil || other.Watched == nil {
		return e.Watched == other.Watched && samePlace(e.Network, e.Address, other.Network, other.Address)
	}
	return e.SamePlace(other.Address)
}

// at tells whether the endpoint, or one of its sentinels or nodes, is at an address.
func (e Endpoint) at(network, address string) bool {
	if e.Cluster != nil {
		return network == "tcp" && anyPlace([]string{address}, e.Cluster.Seeds)
	}
	if e.Watched == nil {
		return samePlace(network, address, e.Network, e.Address)
	}
	return slices.ContainsFunc(e.Watched.Sentinels, func(one string) bool { return samePlace(network, address, "tcp", one) })
}

// NamesSentinels tells whether an address that was written down is one of a master that
// sentinels watch.
func NamesSentinels(address string) bool {
	return !strings.HasPrefix(address, "/") && !NamesCluster(address) && strings.Contains(address, ":") && strings.Contains(address, "/")
}

func cutLast(text, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(text, sep); i >= 0 {
		return text[:i], text[i+len(sep):], true
	}
	return text, "", false
}
