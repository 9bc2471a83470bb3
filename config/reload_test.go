package config

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/internal/redistest"
)

// shown returns the certificate that a client is shown.
func shown(t *testing.T, settings *tls.Config) string {
	t.Helper()
	now, err := settings.GetConfigForClient(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(now.Certificates[0].Certificate[0])
}

func TestListenTLSFollowsItsFiles(t *testing.T) {
	ca := redistest.NewAuthority(t, "one")
	first := ca.Issue("localhost")
	section := ListenTLS{CertFile: first.CertFile, KeyFile: first.KeyFile, ClientCAFile: ca.File, ClientAuth: "required", MinVersion: "1.3"}
	var log bytes.Buffer
	files, problems := section.open(ofListen)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	files.every = 0
	files.reportTo(slog.New(slog.NewTextHandler(&log, nil)))
	settings := serverOf(files)
	was := shown(t, settings)
	if was != string(first.Pair.Certificate[0]) {
		t.Fatal("another certificate is shown")
	}
	second := ca.Issue("localhost")
	if now := shown(t, settings); now != string(second.Pair.Certificate[0]) || now == was {
		t.Fatal("the new certificate is not shown")
	}
	if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "read again") {
		t.Errorf("the log says %s", text)
	}
	log.Reset()

	// A key that is not the certificate's, and then none at all: each is told once.
	if err := os.WriteFile(first.KeyFile, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if shown(t, settings) != string(second.Pair.Certificate[0]) {
			t.Fatal("the certificate is not the last good one")
		}
	}
	if err := os.Remove(first.KeyFile); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if shown(t, settings) != string(second.Pair.Certificate[0]) {
			t.Fatal("the certificate is not the last good one")
		}
	}
	if text := log.String(); strings.Count(text, "\n") != 2 || strings.Count(text, "cannot be used") != 2 || strings.Contains(text, "no key") {
		t.Errorf("the log says %s", text)
	}
	third := ca.Issue("localhost")
	if shown(t, settings) != string(third.Pair.Certificate[0]) {
		t.Error("the certificate is not the new one")
	}
}

func TestEndpointFollowsItsFiles(t *testing.T) {
	ca, other := redistest.NewAuthority(t, "one"), redistest.NewAuthority(t, "two")
	mine := ca.Issue("client")
	e, err := Server{URL: "rediss://h", TLS: TLS{CAFile: ca.File, CertFile: mine.CertFile, KeyFile: mine.KeyFile}}.Endpoint()
	if err != nil {
		t.Fatal(err)
	}
	e.files.every = 0
	copied := e
	if now := copied.ClientTLS(); !now.RootCAs.Equal(ca.Pool) || now.ServerName != "h" || string(now.Certificates[0].Certificate[0]) != string(mine.Pair.Certificate[0]) {
		t.Errorf("the settings are not those of the files: %+v", now)
	}
	pem, err := os.ReadFile(other.File)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca.File, pem, 0o600); err != nil {
		t.Fatal(err)
	}
	newer := ca.Issue("client")
	if now := copied.ClientTLS(); !now.RootCAs.Equal(other.Pool) || now.ServerName != "h" || now.InsecureSkipVerify ||
		string(now.Certificates[0].Certificate[0]) != string(newer.Pair.Certificate[0]) {
		t.Errorf("the settings are not those of the changed files: %+v", now)
	}
	if err := os.WriteFile(ca.File, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if now := copied.ClientTLS(); !now.RootCAs.Equal(other.Pool) {
		t.Errorf("an authority that cannot be read is in use: %+v", now)
	}
	plain, err := Server{URL: "redis://h"}.Endpoint()
	if err != nil || plain.ClientTLS() != nil {
		t.Errorf("got %v, %v", plain.ClientTLS(), err)
	}
}

func TestListenTLSProblems(t *testing.T) {
	ca := redistest.NewAuthority(t, "one")
	pair, other := ca.Issue("a"), ca.Issue("b")
	tests := []struct {
		section ListenTLS
		want    []string // all problems, by how they begin
	}{
		{ListenTLS{pair.CertFile, pair.KeyFile, "", "none", "1.2"}, nil},
		{ListenTLS{pair.CertFile, pair.KeyFile, ca.File, "optional", "1.3"}, nil},
		{ListenTLS{"", "", "", "none", "1.2"}, []string{"cert_file: missing", "key_file: missing"}},
		{ListenTLS{"/none/c", "/none/k", "", "some", "1.1"}, []string{`client_auth: "some" is unknown: give none, optional, required`,
			`min_version: "1.1" is unknown: give 1.2, 1.3`, "cert_file: open /none/c", "key_file: open /none/k"}},
		{ListenTLS{pair.CertFile, pair.KeyFile, "", "required", "1.3"}, []string{"client_ca_file: missing"}},
		{ListenTLS{pair.CertFile, pair.KeyFile, ca.File, "none", "1.3"}, []string{"client_ca_file: "}},
		{ListenTLS{pair.CertFile, other.KeyFile, "", "none", "1.2"}, []string{"cert_file: "}},
		{ListenTLS{pair.CertFile, pair.KeyFile, pair.KeyFile, "required", "1.2"}, []string{"client_ca_file: "}},
	}
	for i, test := range tests {
		c := Default()
		c.Listen, c.Proxy.TLS = []string{"127.0.0.1:0", "tls://127.0.0.1:0"}, test.section
		var got []string
		if err := c.Validate(); err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		good := len(got) == len(test.want)
		for j := 0; good && j < len(got); j++ {
			good = strings.HasPrefix(got[j], "proxy.tls."+test.want[j])
		}
		if !good {
			t.Errorf("%d: got %q, want %q", i, got, test.want)
		}
	}
}
