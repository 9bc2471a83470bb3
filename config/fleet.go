package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Fleet is where the sidecars of a migration meet, when there are several.
type Fleet struct {
	// Store is "target": control keys there, or "etcd".
	Store string `koanf:"store"`
	Etcd  Etcd   `koanf:"etcd"`
}

// Etcd is an etcd, for Store "etcd".
type Etcd struct {
	// Endpoints are http://HOST:PORT or https://HOST:PORT of its members, all alike.
	Endpoints []string `koanf:"endpoints"`
	Username  string   `koanf:"username"`
	Password  Secret   `koanf:"password"`
	// PasswordFile is read when Password is empty.
	PasswordFile string `koanf:"password_file"`
	TLS          TLS    `koanf:"tls"`
	// Prefix begins the names of all keys there, before the id of the migration.
	Prefix string `koanf:"prefix"`
}

// Meeting is an Etcd made ready to dial. It is a value; what it holds is shared and must
// not be changed. Username and Password are empty where it wants none.
type Meeting struct {
	Addresses []string // HOST:PORT
	Username  string
	Password  string
	Prefix    string      // ends with a slash
	TLS       *tls.Config // nil: no TLS; it has a ServerName where one is configured

	files *reloaded[*tls.Config] // nil: TLS is made of no files
}

// ClientTLS returns the settings for a connection that is made now, nil without TLS.
func (m Meeting) ClientTLS() *tls.Config {
	if m.files == nil {
		return m.TLS
	}
	return m.files.current()
}

// ReportTo says who is told when TLS files were read again, or cannot be.
func (m Meeting) ReportTo(log *slog.Logger) {
	if m.files != nil {
		m.files.reportTo(log)
	}
}

// String names it without secrets.
func (m Meeting) String() string { return "etcd " + strings.Join(m.Addresses, ",") }

// Format keeps every verb from showing the password.
func (m Meeting) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, m.String()) }

// MarshalText keeps encoders from showing the password.
func (m Meeting) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// Meeting reads the settings, the password file and the TLS files; nil: the sidecars meet on
// the target. Its errors begin with the key they are about and hold no secret; all problems
// are reported at once.
func (f Fleet) Meeting() (*Meeting, error) {
	if f.Store != "etcd" {
		return nil, nil
	}
	m, problems := f.Etcd.place()
	if f.Etcd.Password != "" {
		m.Password = f.Etcd.Password.Reveal()
	} else if f.Etcd.PasswordFile != "" {
		password, err := readSecret(f.Etcd.PasswordFile)
		if err != nil {
			problems = append(problems, fmt.Errorf("password_file: %w", err))
		}
		m.Password = password.Reveal()
	}
	if len(problems) == 0 && f.Etcd.secure() {
		m.TLS, problems = f.Etcd.TLS.settings()
		m.files = f.Etcd.TLS.watch(m.String(), m.TLS)
	}
	if len(problems) > 0 {
		return nil, errors.Join(prefixed("fleet.etcd", problems)...)
	}
	return &m, nil
}

// byPrefix is what a prefix may consist of, so that nothing in it needs quoting anywhere.
var byPrefix = regexp.MustCompile(`^/?[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*/?$`)

// place is Meeting without files.
func (e Etcd) place() (m Meeting, problems []error) {
	const form = "write http://HOST:PORT, or https://HOST:PORT for TLS, of its members, with commas between"
	note := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	m = Meeting{Username: e.Username, Prefix: strings.TrimSuffix(e.Prefix, "/") + "/"}
	if len(e.Endpoints) == 0 {
		note("endpoints: missing, and fleet.store is etcd: %s", form)
	}
	for _, text := range e.Endpoints {
		scheme, host, _ := strings.Cut(text, "://")
		u, err := url.Parse(text)
		switch {
		case strings.Contains(text, "@"):
			note("endpoints: one has a user: give fleet.etcd.username and password")
			continue
		case err != nil || scheme != "http" && scheme != "https":
			note("endpoints: %q is no address of an etcd: %s", brief(text), form)
			continue
		case u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
			note("endpoints: %q has more than an address: %s", brief(text), form)
			continue
		case (scheme == "https") != e.secure():
			note("endpoints: some have TLS and some have not: begin all with https://, or none")
		}
		address, err := hostPort(strings.TrimSuffix(host, "/"), "2379")
		switch {
		case errors.Is(err, errNoHost):
			note("endpoints: %q names no host: %s", brief(text), form)
		case err != nil:
			note("endpoints: %q has a port out of range: give 1 to 65535", brief(text))
		case slices.Contains(m.Addresses, address):
			note("endpoints: %q is named twice: name it once", brief(text))
		default:
			m.Addresses = append(m.Addresses, address)
		}
	}
	switch has := e.Password != "" || e.PasswordFile != ""; {
	case e.Username != "" && !has:
		note("password: missing next to fleet.etcd.username %q: give it, or password_file", e.Username)
	case e.Username == "" && has:
		note("username: missing next to the password: give the user whose it is")
	}
	if !byPrefix.MatchString(e.Prefix) {
		note("prefix: %q: give letters, digits, dots, hyphens and underscores, with slashes between, such as crossfade", brief(e.Prefix))
	}
	if e.TLS != (TLS{}) && !e.secure() && len(e.Endpoints) > 0 {
		note("tls: settings without TLS: begin the endpoints with https:// or remove them")
	}
	return m, problems
}

// secure reports whether it speaks TLS.
func (e Etcd) secure() bool {
	return len(e.Endpoints) > 0 && strings.HasPrefix(e.Endpoints[0], "https://")
}

// checkFleet finds what can be told without connecting. Where nobody meets in etcd, its
// settings must not be there: somebody means them to count.
func (c Config) checkFleet() []error {
	e := c.Fleet.Etcd
	if c.Fleet.Store == "etcd" {
		_, problems := e.place()
		_, more := e.TLS.settings()
		return prefixed("fleet.etcd", append(problems, more...))
	}
	if len(e.Endpoints) > 0 {
		return []error{errors.New("fleet.etcd.endpoints: given, and fleet.store is not etcd: set that as well, or remove them")}
	}
	return nil
}
