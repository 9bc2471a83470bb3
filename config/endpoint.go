package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Endpoint is where a server is and as whom to speak to it: a Server made ready
// to dial. It is a value; TLS is shared and must not be changed. Username and
// Password are empty when the server wants none.
type Endpoint struct {
	Network  string // "tcp", "unix", "sentinel" or "cluster"
	Address  string // HOST:PORT, the path of the socket, HOST:PORT,HOST:PORT/NAME, or redis+cluster://HOST:PORT,HOST:PORT
	Username string
	Password string
	TLS      *tls.Config // nil: no TLS; its ServerName is set, but with Watched and Cluster
	// Watched is set where Network is "sentinel"; then Finder must be set before the
	// server is dialled.
	Watched *Watched
	Finder  Finder
	// Cluster is set where Network is "cluster"; then only its nodes are dialled, see At,
	// and Nodes must be set before. TLS has a ServerName where one is configured, and
	// otherwise none.
	Cluster *Cluster
	Nodes   Nodes

	files *reloaded[*tls.Config] // nil: TLS is made of no files
}

// ClientTLS returns the settings for a connection that is made now, nil without
// TLS: the files of TLS are read again when they have changed.
func (e Endpoint) ClientTLS() *tls.Config {
	if e.files == nil {
		return e.TLS
	}
	return e.files.current()
}

// ReportTo says who is told when TLS files were read again, or cannot be. It holds
// for all copies of e.
func (e Endpoint) ReportTo(log *slog.Logger) {
	if e.files != nil {
		e.files.reportTo(log)
	}
	if e.Watched != nil && e.Watched.files != nil {
		e.Watched.files.reportTo(log)
	}
}

// String returns scheme, user and address, never the password.
func (e Endpoint) String() string {
	user := ""
	switch {
	case e.Username != "":
		user = url.User(e.Username).String() + "@"
	case e.Password != "":
		user = "default@"
	}
	switch {
	case e.Network == "unix":
		return "unix://" + user + e.Address
	case e.Cluster != nil && e.TLS != nil:
		return "rediss+cluster://" + user + strings.Join(e.Cluster.Seeds, ",")
	case e.Cluster != nil:
		return "redis+cluster://" + user + strings.Join(e.Cluster.Seeds, ",")
	case e.Watched != nil && e.TLS != nil:
		return "rediss+sentinel://" + user + e.Address
	case e.Watched != nil:
		return "redis+sentinel://" + user + e.Address
	case e.TLS != nil:
		return "rediss://" + user + e.Address
	default:
		return "redis://" + user + e.Address
	}
}

// Format keeps every verb from showing the password.
func (e Endpoint) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, e.String()) }

// MarshalText keeps encoders from showing the password.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// Endpoint reads the URL, the password file and the TLS files. Its errors begin
// with the key they are about, relative to the server ("url: …", "tls.ca_file: …"),
// and hold no secret; all problems are reported at once.
func (s Server) Endpoint() (Endpoint, error) {
	e, problems := s.address()
	if s.wantsTLS() || s.wantsSentinelTLS() {
		if s.TLS.ServerName == "" && e.Watched == nil && e.Cluster == nil {
			s.TLS.ServerName, _, _ = net.SplitHostPort(e.Address)
		}
		settings, more := s.TLS.settings()
		problems = append(problems, more...)
		if len(problems) == 0 {
			s.useTLS(&e, settings)
		}
	}
	if len(problems) > 0 {
		return Endpoint{}, errors.Join(problems...)
	}
	return e, nil
}

// useTLS gives the settings to those that speak it.
func (s Server) useTLS(e *Endpoint, settings *tls.Config) {
	if s.wantsTLS() {
		e.TLS = settings
	}
	files := s.TLS.watch(e.String(), settings)
	if s.wantsTLS() {
		e.files = files
	}
	if s.wantsSentinelTLS() && e.Watched != nil {
		e.Watched.TLS, e.Watched.files = settings, files
	}
}

func serverScheme(scheme string) bool {
	return scheme == "redis" || scheme == "rediss" || scheme == "unix" || sentinelScheme(scheme) || clusterScheme(scheme)
}

func (s Server) wantsTLS() bool {
	scheme, _, _ := strings.Cut(string(s.URL), ":")
	return strings.EqualFold(scheme, "rediss") || strings.EqualFold(scheme, "rediss+sentinel") || strings.EqualFold(scheme, "rediss+cluster")
}

const urlForm = "write redis://[user:password@]host[:port], rediss://… for TLS, unix:///path, redis+sentinel://host[:port],…/NAME, or redis+cluster://host[:port],…"

// address is Endpoint without TLS.
func (s Server) address() (Endpoint, []error) {
	e, problems := s.parseURL()
	if s.Username != "" {
		e.Username = s.Username
	}
	switch {
	case s.Password != "":
		e.Password = s.Password.Reveal()
	case s.PasswordFile != "":
		password, err := readSecret(s.PasswordFile)
		if err != nil {
			problems = append(problems, fmt.Errorf("password_file: %w", err))
		}
		e.Password = password.Reveal()
	}
	problems = append(problems, s.sentinels(&e)...)
	if s.TLS != (TLS{}) && s.URL != "" && !s.wantsTLS() && !s.wantsSentinelTLS() {
		problems = append(problems, errors.New("tls: settings without TLS: begin the URL with rediss:// or remove them"))
	}
	return e, problems
}

// parseURL gives fixed texts for what is wrong: net/url quotes pieces of the URL
// that may belong to the password.
func (s Server) parseURL() (Endpoint, []error) {
	fail := func(format string, args ...any) (Endpoint, []error) {
		return Endpoint{}, []error{fmt.Errorf("url: "+format, args...)}
	}
	if s.URL == "" {
		return fail("missing: %s", urlForm)
	}
	if !strings.Contains(string(s.URL), ":") || strings.HasPrefix(string(s.URL), "/") {
		return fail("no scheme: %s", urlForm)
	}
	if s.namesSentinels() {
		return s.parseSentinels()
	}
	if s.namesCluster() {
		return s.parseCluster()
	}
	u, err := url.Parse(string(s.URL))
	if err != nil {
		return fail("%q is not a URL: %s; in a password, percent-encode all but letters and digits (%%40 is @)", s.URL, urlForm)
	}
	if !serverScheme(u.Scheme) {
		return fail("%q has an unknown scheme: %s", s.URL, urlForm)
	}
	if u.RawQuery != "" {
		return fail("query parameters (%s) are not known here: use the keys of the configuration; a ? in a password is written %%3F", queryNames(u))
	}
	if u.Fragment != "" || strings.HasSuffix(string(s.URL), "#") {
		return fail("%q has a fragment: a # in a password is written %%23", s.URL)
	}
	e, err := s.loginOf(u)
	if err != nil {
		return Endpoint{}, []error{err}
	}
	e.Network = "tcp"
	if u.Scheme == "unix" {
		e.Network, e.Address = "unix", u.Opaque+u.Path
		if u.Host != "" {
			return fail("%q has a host: a path begins after three slashes, unix:///run/redis.sock", s.URL)
		}
		if err := checkSocketPath(e.Address); err != nil {
			return fail("%w", err)
		}
		if NamesCluster(e.Address) {
			return fail("%q is a cluster and a socket: %s", s.URL, urlForm)
		}
		return e, nil
	}
	if u.Path != "" && u.Path != "/" && u.Path != "/0" {
		return fail("%q names a database: take it out and use the database map (databases, --map)", s.URL)
	}
	port := u.Port()
	if port == "" {
		port = "6379"
	}
	if number, err := strconv.Atoi(port); err != nil || number < 1 || number > 65535 {
		return fail("%q has a port out of range: give 1 to 65535", s.URL)
	}
	if u.Hostname() == "" || strings.ContainsAny(u.Hostname(), " \t\r\n\x00") {
		return fail("%q names no host: %s", s.URL, urlForm)
	}
	e.Address = net.JoinHostPort(u.Hostname(), port)
	return e, nil
}

// loginOf returns what the URL says of user and password.
func (s Server) loginOf(u *url.URL) (Endpoint, error) {
	password, has := u.User.Password()
	e := Endpoint{Username: u.User.Username(), Password: password}
	if e.Username != "" && !has && s.Password == "" && s.PasswordFile == "" {
		return Endpoint{}, fmt.Errorf("url: %q has one word before the @: write redis://user:password@… or redis://:password@…, or set password", s.URL)
	}
	return e, nil
}

// queryNames lists the names of the parameters without their values, and none of
// them when the whole may be the rest of a password.
func queryNames(u *url.URL) string {
	if strings.Contains(u.RawQuery, "@") {
		return stars
	}
	var names []string
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, has := strings.Cut(pair, "=")
		if !has {
			name = stars
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}

// settings reads the files. It returns usable settings next to the problems.
func (t TLS) settings() (*tls.Config, []error) { return t.parse(readPEM) }

// watch returns settings as they follow their files, nil when there are none; what
// names whose they are.
func (t TLS) watch(what string, settings *tls.Config) *reloaded[*tls.Config] {
	files := []string{t.CAFile, t.CertFile, t.KeyFile}
	if t.CAFile == "" && t.CertFile == "" {
		return nil
	}
	build := func(contents [][]byte) (*tls.Config, error) {
		settings, problems := t.parse(func(name string) ([]byte, error) { return contents[slices.Index(files, name)], nil })
		return settings, errors.Join(problems...)
	}
	return &reloaded[*tls.Config]{what: what, files: files, build: build, every: lookEvery, value: settings}
}

// parse makes settings of what read gives for the names of the files.
func (t TLS) parse(read func(name string) ([]byte, error)) (*tls.Config, []error) {
	var problems []error
	settings := &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         t.ServerName,
		InsecureSkipVerify: t.InsecureSkipVerify, //nolint:gosec // the operator's explicit wish
	}
	if t.CAFile != "" {
		pem, err := read(t.CAFile)
		pool := x509.NewCertPool()
		switch {
		case err != nil:
			problems = append(problems, fmt.Errorf("tls.ca_file: %w: give a readable PEM file", err))
		case !pool.AppendCertsFromPEM(pem):
			problems = append(problems, fmt.Errorf("tls.ca_file: %q holds no certificate: give a PEM file with BEGIN CERTIFICATE", t.CAFile))
		}
		settings.RootCAs = pool
	}
	switch {
	case t.CertFile != "" && t.KeyFile == "":
		problems = append(problems, fmt.Errorf("tls.key_file: missing next to tls.cert_file %q: give the key of that certificate", t.CertFile))
	case t.CertFile == "" && t.KeyFile != "":
		problems = append(problems, fmt.Errorf("tls.cert_file: missing next to tls.key_file %q: give the certificate of that key", t.KeyFile))
	case t.CertFile != "":
		certificate, err := read(t.CertFile)
		if err == nil {
			var key []byte
			if key, err = read(t.KeyFile); err == nil {
				var pair tls.Certificate
				pair, err = tls.X509KeyPair(certificate, key)
				settings.Certificates = []tls.Certificate{pair}
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("tls.cert_file: %q with tls.key_file %q: %w: give a readable PEM certificate and its key", t.CertFile, t.KeyFile, err))
		}
	}
	return settings, problems
}
