package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// ListenTLS says how clients are met at the tls:// addresses of Listen.
type ListenTLS struct {
	CertFile string `koanf:"cert_file"`
	KeyFile  string `koanf:"key_file"`
	// ClientCAFile signs the certificates of clients.
	ClientCAFile string `koanf:"client_ca_file"`
	// ClientAuth is "none", "optional" or "required": whether clients must show
	// a certificate; one that is shown is always verified.
	ClientAuth string `koanf:"client_auth"`
	// MinVersion is "1.2" or "1.3".
	MinVersion string `koanf:"min_version"`
}

var (
	clientAuths = map[string]tls.ClientAuthType{
		"none":     tls.NoClientCert,
		"optional": tls.VerifyClientCertIfGiven,
		"required": tls.RequireAndVerifyClientCert,
	}
	tlsVersions = map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}
)

// Server reads the files and returns settings that read them again when they
// change; log, which may be nil, hears of that. Its errors begin with the key
// they are about, relative to the section, and all problems are reported at once.
func (t ListenTLS) Server(log *slog.Logger) (*tls.Config, error) { return t.server(ofListen, log) }

// whose names a section, and why it is wanted.
type whose struct{ section, why string }

var (
	ofListen = whose{"proxy.tls", "an address of listen begins with tls://"}
	ofAdmin  = whose{"admin.tls", "an address of the operator begins with tls://"}
)

func (t ListenTLS) server(of whose, log *slog.Logger) (*tls.Config, error) {
	files, problems := t.open(of)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	files.reportTo(log)
	return serverOf(files), nil
}

// serverOf gives each client the settings of its moment.
func serverOf(files *reloaded[*tls.Config]) *tls.Config {
	settings := files.value.Clone()
	settings.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return files.current(), nil }
	return settings
}

// open reads the files for the first time.
func (t ListenTLS) open(of whose) (*reloaded[*tls.Config], []error) {
	problems := t.problems(of)
	names := []string{t.CertFile, t.KeyFile, t.ClientCAFile}
	var contents [3][]byte
	for i, key := range []string{"cert_file", "key_file", "client_ca_file"} {
		if names[i] == "" {
			continue
		}
		var err error
		if contents[i], err = readPEM(names[i]); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w: give a readable PEM file", key, err))
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	first, err := t.build(contents[:])
	if err != nil {
		return nil, []error{err}
	}
	return &reloaded[*tls.Config]{what: of.section, files: names, build: t.build, every: lookEvery,
		value: first, seen: contents[:], looked: time.Now()}, nil
}

// problems are those that can be told without the files.
func (t ListenTLS) problems(of whose) []error {
	var problems []error
	words := func(key, value string, known []string) {
		if !slices.Contains(known, value) {
			problems = append(problems, fmt.Errorf("%s: %q is unknown: give %s", key, value, strings.Join(known, ", ")))
		}
	}
	words("client_auth", t.ClientAuth, slices.Sorted(maps.Keys(clientAuths)))
	words("min_version", t.MinVersion, slices.Sorted(maps.Keys(tlsVersions)))
	if t.CertFile == "" {
		problems = append(problems, errors.New("cert_file: missing: "+of.why))
	}
	if t.KeyFile == "" {
		problems = append(problems, errors.New("key_file: missing: give the key of cert_file"))
	}
	switch asked := clientAuths[t.ClientAuth] != tls.NoClientCert; {
	case asked && t.ClientCAFile == "":
		problems = append(problems, fmt.Errorf("client_ca_file: missing, and client_auth is %q: give the PEM file of the authority that signs clients' certificates", t.ClientAuth))
	case !asked && t.ClientCAFile != "" && t.ClientAuth == "none":
		problems = append(problems, fmt.Errorf("client_ca_file: %q is of no use with client_auth: none: give optional or required", t.ClientCAFile))
	}
	return problems
}

// build makes settings of the certificate, its key and the clients' authority.
func (t ListenTLS) build(contents [][]byte) (*tls.Config, error) {
	settings := &tls.Config{MinVersion: tlsVersions[t.MinVersion], ClientAuth: clientAuths[t.ClientAuth]}
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return nil, fmt.Errorf("cert_file: %q with key_file %q: %w: give a readable PEM certificate and its key", t.CertFile, t.KeyFile, err)
	}
	settings.Certificates = []tls.Certificate{pair}
	if t.ClientCAFile != "" {
		// A resumed session would rest on the authority of its first handshake.
		settings.SessionTicketsDisabled = true
		settings.ClientCAs = x509.NewCertPool()
		if !settings.ClientCAs.AppendCertsFromPEM(contents[2]) {
			return nil, fmt.Errorf("client_ca_file: %q holds no certificate: give a PEM file with BEGIN CERTIFICATE", t.ClientCAFile)
		}
	}
	return settings, nil
}
