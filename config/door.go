package config

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
)

// SplitDoor splits an address of the operator: as SplitAddress, and tls://HOST:PORT, for
// which secure is true and the address has no scheme.
func SplitDoor(text string) (network, address string, secure bool, err error) {
	if strings.HasPrefix(text, "tls://") {
		l, err := ParseListen(text)
		return l.Network, l.Address, true, err
	}
	network, address, err = SplitAddress(text)
	return network, address, false, err
}

// byCertificate reports whether a certificate may let somebody in without a token: ours
// where others ask, and for who asks, theirs.
func (a Admin) byCertificate() bool {
	return a.TLS.ClientAuth == "required" || a.Client.TLS.CertFile != ""
}

// secured reports whether an address of the door speaks TLS.
func (a Admin) secured() bool {
	return slices.ContainsFunc([]string{a.Address, a.Web}, func(text string) bool {
		_, _, secure, err := SplitDoor(text)
		return err == nil && secure
	})
}

// checkTLS finds what is wrong with the files for either end. Who only asks has no
// certificate of the sidecar's: that it is there is for CheckServing to say.
func (a Admin) checkTLS() (problems []error) {
	given := a.TLS.CertFile != "" || a.TLS.KeyFile != "" || a.TLS.ClientCAFile != ""
	_, client := a.Client.TLS.settings()
	problems = append(problems, prefixed("admin.client", client)...)
	switch {
	case given && a.secured():
		_, more := a.TLS.open(ofAdmin)
		problems = append(problems, prefixed("admin.tls", more)...)
	case given:
		problems = append(problems, errors.New("admin.tls: files without TLS: begin admin.address or admin.web with tls:// or remove them"))
	}
	if len(a.Operators) > 0 && a.TLS.ClientAuth == "none" {
		problems = append(problems, errors.New("admin.operators: without admin.tls.client_auth nobody shows a certificate: give optional or required"))
	}
	return problems
}

// CheckServing says what keeps the door from being opened for others: TLS without a
// certificate, or nothing that keeps other machines out.
func (a Admin) CheckServing() error {
	var problems []error
	if a.secured() && a.TLS.CertFile == "" {
		problems = prefixed("admin.tls", a.TLS.problems(ofAdmin))
	}
	for key, text := range map[string]string{"admin.address": a.Address, "admin.web": a.Web} {
		network, address, secure, err := SplitDoor(text)
		if text == "" || err != nil || network != "tcp" || loopback(address) || a.Token != "" || secure && a.TLS.ClientAuth == "required" {
			continue
		}
		problems = append(problems, fmt.Errorf("admin.token: missing, and %s %q can be reached from other machines: set it, or ask for certificates (admin.tls.client_auth: required)", key, text))
	}
	return errors.Join(problems...)
}

// ServerTLS is for the addresses that begin with tls://. The files are read again when
// they change; log hears of that.
func (a Admin) ServerTLS(log *slog.Logger) (*tls.Config, error) {
	settings, err := a.TLS.server(ofAdmin, log)
	if err != nil {
		return nil, fmt.Errorf("admin.tls.%w", err)
	}
	return settings, nil
}

// ClientTLS is for who asks at address, which is HOST:PORT. The files are read once: a
// verb does not live long.
func (a Admin) ClientTLS(address string) (*tls.Config, error) {
	settings, problems := a.Client.TLS.settings()
	if len(problems) > 0 {
		return nil, errors.Join(prefixed("admin.client", problems)...)
	}
	if settings.ServerName == "" {
		settings.ServerName, _, _ = net.SplitHostPort(address)
	}
	return settings, nil
}
