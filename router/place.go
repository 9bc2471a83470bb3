package router

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Place is where a source database goes: a database of the target and what the
// names of all its keys begin with there. An empty prefix takes the whole
// database. A place is a plain value, comparable with ==.
type Place struct {
	DB     int    `json:"db"`
	Prefix string `json:"prefix,omitempty"`
}

// OurKeys begins the keys that the sidecar keeps on the servers for itself. They
// belong to no database of a client's, and no prefix may be confused with it.
const OurKeys = "crossfade:"

// maxPrefix is how many bytes a prefix may have: every key on the target has them.
const maxPrefix = 100

// String returns "5", or "0:c3:" for database 0 and the prefix "c3:".
func (p Place) String() string {
	if p.Prefix == "" {
		return strconv.Itoa(p.DB)
	}
	return strconv.Itoa(p.DB) + ":" + p.Prefix
}

// ParsePlace is the inverse of String. What follows the first colon is the prefix,
// whatever is in it; check says whether a prefix may look like that.
func ParsePlace(text string) (Place, error) {
	number, prefix, has := strings.Cut(text, ":")
	db, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil || db < 0 || has && prefix == "" {
		return Place{}, fmt.Errorf("%q is not a place: write a database number and a prefix, such as 0:c3:, or the number alone", text)
	}
	return Place{DB: db, Prefix: prefix}, nil
}

// check says what is wrong with a place by itself.
func (p Place) check() error {
	var errs []error
	if p.DB < 0 {
		errs = append(errs, errors.New("database numbers start at 0"))
	}
	if len(p.Prefix) > maxPrefix {
		errs = append(errs, fmt.Errorf("a prefix of %d bytes is too long: give %d at most", len(p.Prefix), maxPrefix))
	}
	for _, c := range []byte(p.Prefix) {
		if c <= ' ' || c > '~' || strings.IndexByte(`,="'\*`, c) >= 0 {
			errs = append(errs, fmt.Errorf("a prefix may not contain %q: use printable characters without spaces, commas, =, quotes, stars and backslashes", string(rune(c))))
			break
		}
	}
	if p.Prefix != "" && (strings.HasPrefix(p.Prefix, OurKeys) || strings.HasPrefix(OurKeys, p.Prefix)) {
		errs = append(errs, fmt.Errorf("keys that begin with %q are kept by the sidecar for itself: choose a prefix that they do not begin with, nor it with that", OurKeys))
	}
	return errors.Join(errs...)
}

// Add returns the name that a client's key has at the place.
func (p Place) Add(key string) string { return p.Prefix + key }

// AppendKey appends the name that a client's key has at the place.
func (p Place) AppendKey(dst, key []byte) []byte {
	return append(append(dst, p.Prefix...), key...)
}

// Cut returns the client's name of a key at the place, and whether it is there:
// a key that does not begin with the prefix is somebody else's.
func (p Place) Cut(key string) (string, bool) { return strings.CutPrefix(key, p.Prefix) }

// CutBytes is Cut of bytes, which stay those of key.
func (p Place) CutBytes(key []byte) ([]byte, bool) {
	if len(key) < len(p.Prefix) || string(key[:len(p.Prefix)]) != p.Prefix {
		return key, false
	}
	return key[len(p.Prefix):], true
}

// Pattern returns the pattern, as KEYS and MATCH take it, of the keys at the place
// whose names the client's pattern matches: the prefix as it is written, whatever
// characters are in it, and then the pattern.
func (p Place) Pattern(pattern string) string {
	if !strings.ContainsAny(p.Prefix, `*?[]\`) {
		return p.Prefix + pattern
	}
	var b strings.Builder
	for _, c := range []byte(p.Prefix) {
		if strings.IndexByte(`*?[]\`, c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String() + pattern
}

// MarshalJSON writes a number where there is no prefix, as it was before there were
// any, and an object otherwise.
func (p Place) MarshalJSON() ([]byte, error) {
	if p.Prefix == "" {
		return strconv.AppendInt(nil, int64(p.DB), 10), nil
	}
	type plain Place
	return json.Marshal(plain(p))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Place) UnmarshalJSON(b []byte) error {
	var db int
	if json.Unmarshal(b, &db) == nil {
		*p = Place{DB: db}
		return nil
	}
	type plain Place
	var place plain
	if err := json.Unmarshal(b, &place); err != nil {
		return fmt.Errorf("reading a place of the database map: %w", err)
	}
	*p = Place(place)
	return nil
}
