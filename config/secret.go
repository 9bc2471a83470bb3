package config

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
)

// Secret is text that must not be shown. Printing, formatting with any verb and
// marshalling give a redacted form; Reveal gives the text itself.
type Secret string

const stars = "***"

// Reveal returns the secret itself. Do not log the result.
func (s Secret) Reveal() string { return string(s) }

// String returns the redacted form: the URL of a server keeps all but what may
// be a password, anything else becomes "***", nothing stays nothing.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	u, err := url.Parse(string(s))
	if err != nil || !serverScheme(u.Scheme) {
		return stars
	}
	// A password with an unescaped / ? or # makes the rest of it look like a
	// path, a query or a fragment: then nothing of the text is safe to show.
	if u.RawQuery != "" || u.Fragment != "" || strings.Contains(u.Host+u.Path+u.Opaque, "@") {
		return stars
	}
	if u.Opaque != "" { // unix:relative/path
		if u.Scheme != "unix" {
			return stars
		}
		return u.Scheme + ":" + u.Opaque
	}
	user := ""
	if u.User != nil {
		user = stars + "@" // a lone name may be a password: redis-cli reads it as one
		if _, has := u.User.Password(); has {
			user = url.User(u.User.Username()).String() + ":" + stars + "@"
		}
	}
	return u.Scheme + "://" + user + u.Host + u.EscapedPath()
}

// Format keeps every verb, the wrong ones included, from showing the secret.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'q' || (verb == 'v' && f.Flag('#')) {
		_, _ = fmt.Fprintf(f, "%q", s.String())
		return
	}
	_, _ = io.WriteString(f, s.String())
}

// MarshalText keeps encoders from showing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// maxSecretFile bounds what is read of a file that should hold one secret, in bytes.
const maxSecretFile = 64 << 10

// readSecret returns the content of the file without its trailing newlines. The
// error names the file and never its content.
func readSecret(path string) (Secret, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("%w: give a file that holds only the secret", err)
	}
	defer func() { _ = file.Close() }()
	data, err := io.ReadAll(io.LimitReader(file, maxSecretFile+1))
	if err != nil {
		return "", err
	}
	if len(data) > maxSecretFile {
		return "", fmt.Errorf("%q is over %d bytes: give a file that holds only the secret", path, maxSecretFile)
	}
	text := strings.TrimRight(string(data), "\r\n")
	if text == "" {
		return "", fmt.Errorf("%q is empty: give a file that holds the secret", path)
	}
	return Secret(text), nil
}
