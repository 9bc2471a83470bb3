package admin

import (
	"crypto/tls"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/internal/audit"
	"github.com/crossfade/crossfade/internal/redistest"
)

// secured are settings for a door that speaks TLS, and for clients that trust it.
func secured(t *testing.T, ca *redistest.Authority, clientAuth string) config.Admin {
	t.Helper()
	pair := ca.Issue("127.0.0.1", "localhost")
	c := config.Admin{Address: "tls://127.0.0.1:0", TLS: config.ListenTLS{CertFile: pair.CertFile, KeyFile: pair.KeyFile, ClientAuth: clientAuth, MinVersion: "1.2"}}
	if clientAuth != "none" {
		c.TLS.ClientCAFile = ca.File
	}
	c.Client.TLS.CAFile = ca.File
	return c
}

func TestDoorWithTLS(t *testing.T) {
	ca, foreign := redistest.NewAuthority(t, "ours"), redistest.NewAuthority(t, "foreign")
	settings := secured(t, ca, "none")
	settings.Token = "sesame"
	s, c, _ := start(t, settings, &fake{}, nil)
	if !strings.HasPrefix(s.Addr(), "tls://127.0.0.1:") || !strings.HasPrefix(s.Page(), "https://127.0.0.1:") {
		t.Errorf("it is at %s, the page at %s", s.Addr(), s.Page())
	}
	if st, err := dial(t, c).Status(t.Context()); err != nil || st.ID != "id" {
		t.Errorf("%+v, %v", st, err)
	}
	var e *Error
	wrong := c
	wrong.Token = "wrong"
	if _, err := dial(t, wrong).Status(t.Context()); !errors.As(err, &e) || e.Code != 401 {
		t.Errorf("a wrong token: %v", err)
	}
	other := c
	other.Client.TLS.CAFile = foreign.File
	if _, err := dial(t, other).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "admin.client.tls.ca_file") || strings.Contains(err.Error(), "sesame") {
		t.Errorf("an authority that is not trusted: %v", err)
	}
	plain := c
	plain.Address = strings.TrimPrefix(c.Address, "tls://")
	if _, err := dial(t, plain).Status(t.Context()); err == nil {
		t.Error("the token was taken without TLS")
	}
}

// TestDoorByCertificate: a certificate lets in, and its name says as whom.
func TestDoorByCertificate(t *testing.T) {
	ca, foreign := redistest.NewAuthority(t, "ours"), redistest.NewAuthority(t, "foreign")
	log, err := audit.Open(filepath.Join(t.TempDir(), "audit"), discard())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	settings := secured(t, ca, "required")
	settings.Operators = []string{"alice", "team.example"}
	_, c, _ := startWith(t, Options{Config: settings, Operator: &fake{}, Serving: func() bool { return true }, Audit: log})
	as := func(a *redistest.Authority, names ...string) *Client {
		pair := a.Issue(names...)
		mine := c
		mine.Client.TLS.CertFile, mine.Client.TLS.KeyFile = pair.CertFile, pair.KeyFile
		return dial(t, mine)
	}
	if _, err := dial(t, c).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "admin.client.tls.cert_file") {
		t.Errorf("without a certificate: %v", err)
	}
	if _, err := as(foreign, "alice").Status(t.Context()); err == nil {
		t.Error("a certificate of somebody else's authority was taken")
	}
	for _, client := range []*Client{as(ca, "alice"), as(ca, "carol", "team.example")} {
		if _, err := client.Cutover(t.Context(), SwitchRequest{DryRun: true}); err != nil {
			t.Error(err)
		}
	}
	if list := log.Last(10); len(list) != 4 || list[0].Who == nil || list[0].Who.Certificate != "alice" || !strings.HasPrefix(list[0].Who.String(), "alice at 127.0.0.1:") {
		t.Errorf("the audit log: %+v", list)
	}
	bob := as(ca, "bob")
	if _, err := bob.Status(t.Context()); err != nil {
		t.Errorf("who may look: %v", err)
	}
	var e *Error
	if _, err := bob.Cutover(t.Context(), SwitchRequest{DryRun: true}); !errors.As(err, &e) || e.Code != 403 {
		t.Errorf("who may look only: %v", err)
	}

	// A foreign page makes a browser show the certificate: the Origin gives it away.
	pair := ca.Issue("alice")
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: ca.Pool, Certificates: []tls.Certificate{pair.Pair}}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https"+strings.TrimPrefix(c.Address, "tls")+pathAbort, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Origin", "https://evil.example")
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != 403 {
		t.Errorf("from a foreign page: %d", response.StatusCode)
	}
}

// TestCertificateAndToken: where both are wanted, one does not do, and who may do less by
// either may do that.
func TestCertificateAndToken(t *testing.T) {
	ca := redistest.NewAuthority(t, "ours")
	settings := secured(t, ca, "required")
	settings.Token, settings.ViewToken, settings.Operators = "all", "some", []string{"alice"}
	_, c, _ := start(t, settings, &fake{}, nil)
	for _, want := range []struct {
		name, token string
		look, do    int // statuses, 0 for done
	}{{"alice", "all", 0, 0}, {"alice", "some", 0, 403}, {"bob", "all", 0, 403}, {"alice", "", 401, 401}} {
		pair := ca.Issue(want.name)
		mine := c
		mine.Token = config.Secret(want.token)
		mine.Client.TLS.CertFile, mine.Client.TLS.KeyFile = pair.CertFile, pair.KeyFile
		client := dial(t, mine)
		code := func(err error) int {
			var e *Error
			switch {
			case err == nil:
				return 0
			case errors.As(err, &e):
				return e.Code
			}
			t.Error(err)
			return -1
		}
		_, looked := client.Status(t.Context())
		_, did := client.Cutover(t.Context(), SwitchRequest{DryRun: true})
		if code(looked) != want.look || code(did) != want.do {
			t.Errorf("%s with %q: %v, %v", want.name, want.token, looked, did)
		}
	}
}

// TestDoorStaysShut where others could come in.
func TestDoorStaysShut(t *testing.T) {
	for name, c := range map[string]config.Admin{
		"admin.token: missing":       {Address: "tls://0.0.0.0:0", TLS: config.ListenTLS{CertFile: "c", KeyFile: "k", ClientAuth: "optional", MinVersion: "1.2"}},
		"admin.tls.cert_file: missi": {Address: "tls://127.0.0.1:0", TLS: config.ListenTLS{ClientAuth: "none", MinVersion: "1.2"}},
		"admin.tls.cert_file: open ": {Address: "tls://127.0.0.1:0", TLS: config.ListenTLS{CertFile: "/none/c", KeyFile: "/none/k", ClientAuth: "none", MinVersion: "1.2"}},
	} {
		s := New(Options{Config: c}, discard())
		if err := s.Listen(t.Context()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q: %v", name, err)
			s.Close()
		}
	}
}
