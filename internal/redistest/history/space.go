package history

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
)

// space is what the writers know of one database. Key names are the same in
// all databases, so that a database that overwrites another is noticed; the
// values name the database, so that one taken for another is noticed too.
type space struct {
	db       int
	counters []*counter          // Incr
	fields   []*counter          // HIncrBy: hashFields for each key
	series   map[Kind][]*series  // RPush, ZAdd, XAdd, Transfer, Script
	regs     map[Kind][]register // Register, SetEx: Keys for each writer
}

// hashFields is how many fields of a hash are incremented.
const hashFields = 4

func newSpace(db int, cfg Config) *space {
	s := &space{db: db, series: make(map[Kind][]*series), regs: make(map[Kind][]register)}
	for _, kind := range cfg.Kinds {
		switch kind {
		case Incr:
			for k := range cfg.Keys {
				s.counters = append(s.counters, &counter{key: fmt.Sprintf("%s:incr:%d", cfg.Prefix, k)})
			}
		case HIncrBy:
			for k := range cfg.Keys * hashFields {
				s.fields = append(s.fields, &counter{
					key:   fmt.Sprintf("%s:hash:%d", cfg.Prefix, k/hashFields),
					field: "f" + strconv.Itoa(k%hashFields),
				})
			}
		case Register, SetEx:
			s.regs[kind] = make([]register, cfg.Writers*cfg.Keys)
		default:
			for k := range cfg.Keys {
				s.series[kind] = append(s.series[kind], &series{kind: kind, prefix: cfg.Prefix, key: k, writers: cfg.Writers, most: cfg.ItemsPerKey})
			}
		}
	}
	return s
}

// counter is a number on the server that all writers increment by one.
type counter struct {
	key, field string // field is empty for a plain counter

	mu                      sync.Mutex
	acked, unknown, refused int64
	high                    int64    // highest reply
	seen                    []uint64 // a bit for each reply
}

// maxReply bounds the memory for seen; a higher reply is wrong in itself.
const maxReply = 1 << 30

// note records an increment's outcome and, if acknowledged, its reply. It
// returns false when the same reply was given before.
func (c *counter) note(o outcome, reply int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch o {
	case refused:
		c.refused++
		return true
	case unknown:
		c.unknown++
		return true
	}
	c.acked++
	if reply < 1 || reply > maxReply {
		return false
	}
	c.high = max(c.high, reply)
	word, bit := int(reply/64), uint64(1)<<(reply%64)
	if word >= len(c.seen) {
		c.seen = append(c.seen, make([]uint64, word+1-len(c.seen)+word/2)...)
	}
	fresh := c.seen[word]&bit == 0
	c.seen[word] |= bit
	return fresh
}

// series is a row of keys of one kind, all writers appending to the last one
// until it is full: so no key grows without bound.
type series struct {
	kind    Kind
	prefix  string
	key     int
	writers int
	most    int

	mu   sync.Mutex
	gens []*items
	used int // ids in the last of gens
}

// items is the record of one such key. Slices are indexed by writer, then by
// the writer's own count: a writer touches its own only.
type items struct {
	name     string
	gen      int
	outcomes [][]outcome
	places   [][]uint32 // what the reply said of the place; 0 for nothing
	last     []place    // of the writer's latest reply
	counter  counter    // Script only
}

// place is a reply that must rise with every operation: an index, or an id of
// a stream.
type place struct{ hi, lo uint64 }

func (p place) after(o place) bool { return p.hi > o.hi || p.hi == o.hi && p.lo > o.lo }

// reserve gives writer w the key to append to and the number of its next id.
func (s *series) reserve(w int) (*items, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.gens) == 0 || s.used >= s.most {
		gen := len(s.gens)
		s.gens = append(s.gens, &items{
			name: s.name(gen), gen: gen,
			outcomes: make([][]outcome, s.writers), places: make([][]uint32, s.writers), last: make([]place, s.writers),
		})
		s.used = 0
	}
	s.used++
	it := s.gens[len(s.gens)-1]
	it.outcomes[w] = append(it.outcomes[w], unknown)
	it.places[w] = append(it.places[w], 0)
	return it, len(it.outcomes[w]) - 1
}

func (s *series) name(gen int) string {
	switch s.kind {
	case Transfer:
		return fmt.Sprintf("%s:{multi:%d}:journal:%d", s.prefix, s.key, gen)
	case Script:
		return fmt.Sprintf("%s:{eval:%d:%d}:list", s.prefix, s.key, gen)
	}
	return fmt.Sprintf("%s:%s:%d:%d", s.prefix, s.kind, s.key, gen)
}

// account returns the name of one of the two accounts of a Transfer series.
func (s *series) account(which string) string {
	return fmt.Sprintf("%s:{multi:%d}:%s", s.prefix, s.key, which)
}

// scriptCounter returns the counter's key that belongs to a Script list.
func scriptCounter(list string) string { return strings.TrimSuffix(list, "list") + "count" }

// id is what a value says of itself: database, writer, and the writer's own
// number within the key.
type id struct{ db, writer, n int }

func (i id) String() string { return fmt.Sprintf("%d.%d.%d", i.db, i.writer, i.n) }

func parseID(text string) (id, bool) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return id{}, false
	}
	var out id
	for i, p := range []*int{&out.db, &out.writer, &out.n} {
		v, err := strconv.Atoi(parts[i])
		if err != nil || v < 0 {
			return id{}, false
		}
		*p = v
	}
	return out, true
}

// amount is what the transfer with this id moves.
func (i id) amount(gen int) int64 { return int64(1 + (i.writer*31+i.n*7+gen)%97) }
