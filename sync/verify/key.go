package verify

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Key is the name of a key, of any bytes. In JSON, which has characters only, a name that
// is no UTF-8 stands in double quotes as redis-cli takes it, with \xHH for bytes; so does
// one that begins with such a quote, so that the two can be told apart.
type Key string

// MarshalText writes the name.
func (k Key) MarshalText() ([]byte, error) {
	if utf8.ValidString(string(k)) && !strings.HasPrefix(string(k), `"`) {
		return []byte(k), nil
	}
	out := []byte{'"'}
	for i := range len(k) {
		switch b := k[i]; {
		case b == '"' || b == '\\':
			out = append(out, '\\', b)
		case b < ' ' || b > '~':
			out = fmt.Appendf(out, `\x%02x`, b)
		default:
			out = append(out, b)
		}
	}
	return append(out, '"'), nil
}

// UnmarshalText reads what MarshalText has written.
func (k *Key) UnmarshalText(text []byte) error {
	if len(text) == 0 || text[0] != '"' {
		*k = Key(text)
		return nil
	}
	name, err := strconv.Unquote(string(text))
	if err != nil {
		return fmt.Errorf("reading the name of a key: %w", err)
	}
	*k = Key(name)
	return nil
}
