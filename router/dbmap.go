package router

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// DBMap says into which target database each source database goes. It is
// immutable, injective (PROTOCOL: two source databases never share one target
// database) and so invertible. The zero value maps nothing.
type DBMap struct {
	to   map[int]int
	from map[int]int
}

// NewDBMap checks pairs (source database → target database) and returns the
// map. All problems are reported at once.
func NewDBMap(pairs map[int]int) (DBMap, error) {
	m := DBMap{to: make(map[int]int, len(pairs)), from: make(map[int]int, len(pairs))}
	var errs []error
	for _, s := range slices.Sorted(maps.Keys(pairs)) {
		t := pairs[s]
		if s < 0 || t < 0 {
			errs = append(errs, fmt.Errorf("databases: %d=%d: database numbers start at 0", s, t))
			continue
		}
		if other, taken := m.from[t]; taken {
			errs = append(errs, fmt.Errorf("databases: source databases %d and %d would both go into target database %d and overwrite each other; give each a target database of its own", other, s, t))
			continue
		}
		m.to[s], m.from[t] = t, s
	}
	if len(errs) > 0 {
		return DBMap{}, errors.Join(errs...)
	}
	return m, nil
}

// Identity returns the map of databases 0 … n-1 to themselves.
func Identity(n int) DBMap {
	pairs := make(map[int]int, n)
	for i := range n {
		pairs[i] = i
	}
	m, _ := NewDBMap(pairs) // cannot fail: distinct and not negative
	return m
}

// ParseDBMap reads "0=0,3=5". Spaces around numbers are allowed; a source
// database named twice is an error.
func ParseDBMap(text string) (map[int]int, error) {
	pairs := make(map[int]int)
	var errs []error
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		left, right, ok := strings.Cut(part, "=")
		s, errS := strconv.Atoi(strings.TrimSpace(left))
		t, errT := strconv.Atoi(strings.TrimSpace(right))
		if !ok || errS != nil || errT != nil || s < 0 || t < 0 {
			errs = append(errs, fmt.Errorf("databases: %q is not of the form SOURCE=TARGET with two database numbers, such as 3=5", part))
			continue
		}
		if old, twice := pairs[s]; twice && old != t {
			errs = append(errs, fmt.Errorf("databases: source database %d is mapped twice, to %d and to %d", s, old, t))
			continue
		}
		pairs[s] = t
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return pairs, nil
}

// Target returns where source database s goes.
func (m DBMap) Target(s int) (int, bool) { t, ok := m.to[s]; return t, ok }

// Source returns which source database lives in target database t.
func (m DBMap) Source(t int) (int, bool) { s, ok := m.from[t]; return s, ok }

// Sources returns the mapped source databases in rising order.
func (m DBMap) Sources() []int { return slices.Sorted(maps.Keys(m.to)) }

// Targets returns the target databases in the order of Sources.
func (m DBMap) Targets() []int {
	out := make([]int, 0, len(m.to))
	for _, s := range m.Sources() {
		out = append(out, m.to[s])
	}
	return out
}

// Len returns how many databases are mapped.
func (m DBMap) Len() int { return len(m.to) }

// IsIdentity reports whether every mapped database keeps its number.
func (m DBMap) IsIdentity() bool {
	for s, t := range m.to {
		if s != t {
			return false
		}
	}
	return true
}

// Inverse returns the map from target to source databases: the map of the way
// back.
func (m DBMap) Inverse() DBMap { return DBMap{to: m.from, from: m.to} }

// Pairs returns a copy of the map as source → target.
func (m DBMap) Pairs() map[int]int { return maps.Clone(m.to) }

// Equal reports whether both map the same databases to the same places.
func (m DBMap) Equal(o DBMap) bool { return maps.Equal(m.to, o.to) }

// String returns "0=0,3=5", in rising order of the source database.
func (m DBMap) String() string {
	var b strings.Builder
	for i, s := range m.Sources() {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d=%d", s, m.to[s])
	}
	return b.String()
}
