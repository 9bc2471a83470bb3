// Package filter says which keys of a server are copied and compared, by their names and types.
// It owns the patterns, which match as the server's own do, and what of them a SCAN can be told.
// It never does I/O, and keys of ours are none of its business.
package filter

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Filter chooses keys. nil chooses all of them. It does not change and is safe for
// concurrent use.
type Filter struct {
	match []string // as they were given
	globs []glob
	types []string
	scan  string // SCAN's MATCH, "" for none
}

// New returns a filter for keys whose names match one of the patterns, if there are
// any, and that are of one of the types, as TYPE names them, if there are any. Without
// either it is nil.
func New(match, types []string) (*Filter, error) {
	if len(match) == 0 && len(types) == 0 {
		return nil, nil
	}
	var errs []error
	f := &Filter{match: slices.Clone(match), types: slices.Clone(types)}
	for _, m := range match {
		if m == "" {
			errs = append(errs, errors.New("sync.match: an empty pattern matches no key: give one such as user:*"))
			continue
		}
		g, err := parse(m)
		if err != nil {
			errs = append(errs, fmt.Errorf("sync.match: %q: %w", m, err))
		}
		f.globs = append(f.globs, g)
	}
	for _, t := range types {
		if t == "" || t == "none" || strings.ContainsAny(t, " \t\r\n") {
			errs = append(errs, fmt.Errorf("sync.types: %q is no type: give string, list, set, zset, hash, stream, or what TYPE calls a module's", t))
		}
	}
	f.scan = f.common()
	return f, errors.Join(errs...)
}

// common is a pattern for SCAN that matches all that the filter does, and as little
// else as one pattern can.
func (f *Filter) common() string {
	if len(f.match) == 1 {
		return f.match[0]
	}
	prefix := ""
	for i, g := range f.globs {
		text := g.literal()
		if i == 0 {
			prefix = text
		}
		n := 0
		for n < len(prefix) && n < len(text) && prefix[n] == text[n] {
			n++
		}
		prefix = prefix[:n]
	}
	if prefix == "" {
		return ""
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(prefix) + "*"
}

// Name reports whether a key's name is one of those that are chosen.
func (f *Filter) Name(key string) bool {
	if f == nil || len(f.globs) == 0 {
		return true
	}
	if key == "" { // to the server no pattern but this matches it
		return slices.Contains(f.match, "*")
	}
	for _, g := range f.globs {
		if g.match(key) {
			return true
		}
	}
	return false
}

// Type reports whether a type is one of those that are chosen. "none" never is, where
// types are chosen at all.
func (f *Filter) Type(kind string) bool {
	return !f.Typed() || slices.Contains(f.types, kind)
}

// Typed reports whether it depends on a key's type whether it is chosen.
func (f *Filter) Typed() bool { return f != nil && len(f.types) > 0 }

// Scan returns what SCAN is to be told, "" for nothing: MATCH, and TYPE (which servers
// have since Redis 6.0). What it yields has to be looked at all the same.
func (f *Filter) Scan() (match, kind string) {
	if f == nil {
		return "", ""
	}
	if len(f.types) == 1 {
		kind = f.types[0]
	}
	return f.scan, kind
}

// String says what is chosen, in the words of the configuration; "" for all keys.
func (f *Filter) String() string {
	if f == nil {
		return ""
	}
	var parts []string
	if len(f.match) > 0 {
		parts = append(parts, "sync.match: "+strings.Join(f.match, ", "))
	}
	if len(f.types) > 0 {
		parts = append(parts, "sync.types: "+strings.Join(f.types, ", "))
	}
	return strings.Join(parts, "; ")
}
