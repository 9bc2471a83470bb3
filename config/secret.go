package config

import "net/url"

// Secret is text that must not be shown. Printing, formatting and marshalling
// it give a redacted form; Reveal gives the text itself.
type Secret string

// Reveal returns the secret itself. Do not log the result.
func (s Secret) Reveal() string { return string(s) }

// String returns the redacted form: a URL keeps all but its password, anything
// else becomes "***", nothing stays nothing.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	u, err := url.Parse(string(s))
	if err != nil || u.Scheme == "" || (u.Host == "" && u.Path == "") {
		return "***"
	}
	if _, has := u.User.Password(); has {
		u.User = url.UserPassword(u.User.Username(), "***")
		return unescapeStars(u.String())
	}
	return u.String()
}

// GoString keeps %#v from showing the secret.
func (s Secret) GoString() string { return s.String() }

// MarshalText keeps encoders from showing the secret.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

func unescapeStars(text string) string {
	const escaped = "%2A%2A%2A"
	for i := 0; i+len(escaped) <= len(text); i++ {
		if text[i:i+len(escaped)] == escaped {
			return text[:i] + "***" + text[i+len(escaped):]
		}
	}
	return text
}
