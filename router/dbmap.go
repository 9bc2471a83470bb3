package router

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// DBMap says to which place of the target each source database goes. It is
// immutable and injective: two source databases share a target database only
// with prefixes of which none begins another, so that the first bytes of a key
// tell whose it is, and no two keys collide. The zero value maps nothing.
type DBMap struct {
	to    map[int]Place
	at    map[int][]home // by target database, in the order of the prefixes
	whole bool           // see Within
}

// home is a source database within a target database.
type home struct {
	prefix string
	source int
}

// NewDBMap checks pairs (source database → place, or target database) and returns
// the map. All problems are reported at once.
func NewDBMap[P int | Place](pairs map[int]P) (DBMap, error) {
	m := DBMap{to: make(map[int]Place, len(pairs)), at: make(map[int][]home)}
	var errs []error
	for _, s := range slices.Sorted(maps.Keys(pairs)) {
		p := placeOf(pairs[s])
		err := p.check()
		if s < 0 && p.DB >= 0 {
			err = errors.Join(errors.New("database numbers start at 0"), err)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("databases: %d=%s: %w", s, p, err))
			continue
		}
		free := true
		for _, other := range m.at[p.DB] {
			if err := apart(p.DB, other, home{p.Prefix, s}); err != nil {
				errs = append(errs, err)
				free = false
			}
		}
		if free {
			m.to[s], m.at[p.DB] = p, append(m.at[p.DB], home{p.Prefix, s})
		}
	}
	if len(errs) > 0 {
		return DBMap{}, errors.Join(errs...)
	}
	for _, homes := range m.at {
		slices.SortFunc(homes, func(a, b home) int { return cmp.Compare(a.prefix, b.prefix) })
	}
	return m, nil
}

func placeOf[P int | Place](p P) Place {
	switch p := any(p).(type) {
	case Place:
		return p
	case int:
		return Place{DB: p}
	}
	return Place{}
}

// apart says why two source databases cannot live in one target database.
func apart(db int, a, b home) error {
	switch {
	case a.prefix == "" && b.prefix == "":
		return fmt.Errorf("databases: source databases %d and %d would both go into target database %d and overwrite each other; give each a target database of its own, or each a prefix", a.source, b.source, db)
	case a.prefix == "" || b.prefix == "":
		if b.prefix == "" {
			a, b = b, a
		}
		return fmt.Errorf("databases: source database %d would have target database %d for itself, and %d has the prefix %q there; give each a prefix, or a target database of its own", a.source, db, b.source, b.prefix)
	case a.prefix == b.prefix:
		return fmt.Errorf("databases: source databases %d and %d would both have the prefix %q in target database %d; give each another one", a.source, b.source, a.prefix, db)
	case strings.HasPrefix(b.prefix, a.prefix):
		a, b = b, a
		fallthrough
	case strings.HasPrefix(a.prefix, b.prefix):
		return fmt.Errorf("databases: in target database %d the prefix %q of source database %d begins with %q, that of %d, so that a key might be either's; choose prefixes of which none begins another", db, a.prefix, a.source, b.prefix, b.source)
	}
	return nil
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

// ParseDBMap reads "0=0,3=5,4=6:c4:": in each pair a source database, and its
// place as ParsePlace reads it. Spaces around numbers are allowed; a source
// database that is named twice with two places is an error.
func ParseDBMap(text string) (map[int]Place, error) {
	pairs := make(map[int]Place)
	var errs []error
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		left, right, ok := strings.Cut(part, "=")
		s, errS := strconv.Atoi(strings.TrimSpace(left))
		p, errP := ParsePlace(strings.TrimSpace(right))
		if !ok || errS != nil || errP != nil || s < 0 {
			errs = append(errs, fmt.Errorf("databases: %q is not of the form SOURCE=TARGET or SOURCE=TARGET:PREFIX, such as 3=0:c3: or 3=5", part))
			continue
		}
		if old, twice := pairs[s]; twice && old != p {
			errs = append(errs, fmt.Errorf("databases: source database %d is mapped twice, to %s and to %s", s, old, p))
			continue
		}
		pairs[s] = p
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return pairs, nil
}

// Place returns where source database s goes.
func (m DBMap) Place(s int) (Place, bool) { p, ok := m.to[s]; return p, ok }

// Target returns the target database of source database s, which may be others' too.
func (m DBMap) Target(s int) (int, bool) { p, ok := m.to[s]; return p.DB, ok }

// Source returns whose a key of target database t is: the source database, and how
// many bytes of the key's name are the prefix. It is nobody's when ok is false.
func (m DBMap) Source(t int, key []byte) (s, prefix int, ok bool) {
	h, ok := homeOf(m.at[t], key)
	return h.source, len(h.prefix), ok
}

// SourceOf is Source of a string; it returns the client's name of the key.
func (m DBMap) SourceOf(t int, key string) (s int, name string, ok bool) {
	h, ok := homeOf(m.at[t], []byte(key))
	if !ok {
		return 0, "", false
	}
	return h.source, key[len(h.prefix):], true
}

// homeOf finds the one prefix that a key begins with. No prefix begins another,
// so what lies between it and the key in order begins with it, and is no prefix.
func homeOf(homes []home, key []byte) (home, bool) {
	low, high := 0, len(homes)
	for low < high { // the first prefix that is greater than the key
		if mid := (low + high) / 2; homes[mid].prefix > string(key) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	if low == 0 {
		return home{}, false
	}
	h := homes[low-1]
	if len(key) < len(h.prefix) || string(key[:len(h.prefix)]) != h.prefix {
		return home{}, false
	}
	return h, true
}

// At returns where client database n is on a side: on the source it is itself.
func (m DBMap) At(side Side, n int) (Place, bool) {
	p, ok := m.to[n]
	if side == Source {
		p = Place{DB: n}
	}
	return p, ok
}

// Find is the inverse of At: whose a key of a side's database is, and its name.
func (m DBMap) Find(side Side, db int, key string) (n int, name string, ok bool) {
	if side == Target {
		return m.SourceOf(db, key)
	}
	_, ok = m.to[db]
	return db, key, ok
}

// Sources returns the mapped source databases in rising order.
func (m DBMap) Sources() []int { return slices.Sorted(maps.Keys(m.to)) }

// Targets returns the target databases in rising order, each once.
func (m DBMap) Targets() []int { return slices.Sorted(maps.Keys(m.at)) }

// On returns the databases of a side that hold mapped keys, in rising order.
func (m DBMap) On(side Side) []int {
	if side == Target {
		return m.Targets()
	}
	return m.Sources()
}

// SourcesAt returns the source databases that live in target database t, in rising
// order.
func (m DBMap) SourcesAt(t int) []int {
	var out []int
	for _, h := range m.at[t] {
		out = append(out, h.source)
	}
	slices.Sort(out)
	return out
}

// Shared reports whether target database t may hold keys besides those of one source
// database: others', or somebody else's.
func (m DBMap) Shared(t int) bool {
	homes := m.at[t]
	return len(homes) > 0 && homes[0].prefix != ""
}

// Prefixed reports whether keys of any database have other names on the target.
func (m DBMap) Prefixed() bool {
	for t := range m.at {
		if m.Shared(t) {
			return true
		}
	}
	return false
}

// Len returns how many databases are mapped.
func (m DBMap) Len() int { return len(m.to) }

// IsIdentity reports whether every mapped database keeps its number, and every key
// its name. There may be databases besides: see IsWhole.
func (m DBMap) IsIdentity() bool {
	for s, p := range m.to {
		if p != (Place{DB: s}) {
			return false
		}
	}
	return true
}

// Within returns the map into a target that has so many databases, 0: nobody knows how many.
func (m DBMap) Within(databases int) DBMap {
	m.whole = databases > 0 && m.IsIdentity()
	for db := 0; m.whole && db < databases; db++ {
		_, m.whole = m.to[db]
	}
	return m
}

// IsWhole reports whether nothing need be rewritten or refused on the target: every database
// keeps its number, every key its name, and the target has no database that is not mapped.
// That is known of a map from Within only.
func (m DBMap) IsWhole() bool { return m.whole }

// Pairs returns a copy of the map as source → place.
func (m DBMap) Pairs() map[int]Place { return maps.Clone(m.to) }

// Equal reports whether both map the same databases to the same places. What else the target
// has makes no difference to that.
func (m DBMap) Equal(o DBMap) bool { return maps.Equal(m.to, o.to) }

// String returns "0=0,3=5,4=6:c4:", in rising order of the source database.
func (m DBMap) String() string {
	var b strings.Builder
	for i, s := range m.Sources() {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d=%s", s, m.to[s])
	}
	return b.String()
}
