package verify

import (
	"time"

	"github.com/crossfade/crossfade/sync/value"
)

// MaxExamples is how many differing keys a database's report names.
const MaxExamples = 100

// namedMoving is how many keys it names that change all the time.
const namedMoving = 20

// Report is what Run found, and what its caller knows about it.
type Report struct {
	// By is who asked: "operator", "background" or "stand-alone".
	By     string `json:"by,omitempty"`
	Source string `json:"source,omitempty"` // addresses, without secrets
	Target string `json:"target,omitempty"`

	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"`
	Seconds  float64   `json:"seconds"`
	Sample   float64   `json:"sample"`          // share of the keys that was looked at
	Only     string    `json:"only,omitempty"`  // which keys, "" for all
	Complete bool      `json:"complete"`        // false when Run ended with an error
	Error    string    `json:"error,omitempty"` // that error
	Verdict  Verdict   `json:"verdict"`

	Keys      int64 `json:"keys"`      // sums over the databases
	Differing int64 `json:"differing"` // found, mended ones too
	Repaired  int64 `json:"repaired"`  // of them, those that are equal now
	Undecided int64 `json:"undecided"`
	Moving    int64 `json:"moving"`
	Bytes     int64 `json:"bytes"`

	// Changes counts what was written on the applications' side since Began, as
	// far as the asker knows; Stale says that there was something.
	Changes int64 `json:"changes_since"`
	Stale   bool  `json:"stale"`

	Databases []Database `json:"databases"`
}

// Verdict is the short answer.
type Verdict string

// The verdicts.
const (
	Equal     Verdict = "equal"     // nothing differs, or nothing any more
	Different Verdict = "different" // something does
	Unknown   Verdict = "unknown"   // nobody can tell: an error, or keys that could not be decided about
)

// Database is the report of one pair of databases.
type Database struct {
	Source     int                  `json:"source"` // database numbers
	Target     int                  `json:"target"`
	Prefix     string               `json:"prefix,omitempty"`      // of the keys in the target's database
	Keys       int64                `json:"keys"`                  // keys compared; SCAN may show one twice
	TargetKeys int64                `json:"target_keys"`           // keys of the side that follows, looked up on the other
	Again      int64                `json:"again"`                 // comparisons repeated because keys differed at first
	Differing  int64                `json:"differing"`             // keys proved to differ
	Repaired   int64                `json:"repaired"`              // of them, those that were made equal
	Undecided  int64                `json:"undecided"`             // keys about which nobody can say
	Followed   int64                `json:"followed"`              // keys that are written all the time, seen to follow
	Moving     int64                `json:"moving"`                // keys that change all the time on both sides and were never seen alike
	Watched    int                  `json:"watched"`               // keys that were watched closely for that
	MovingKeys []Key                `json:"moving_keys,omitempty"` // some of those that move
	Kinds      map[value.Kind]int64 `json:"kinds,omitempty"`
	Examples   []Example            `json:"examples,omitempty"`
	Trouble    string               `json:"trouble,omitempty"` // the latest error of a repair
	Bytes      int64                `json:"bytes"`             // of payload read from the source
	Seconds    float64              `json:"seconds"`
}

// Example is one key that differs, or about which nobody can say.
type Example struct {
	Key      Key        `json:"key"`
	Kind     value.Kind `json:"kind"`
	Words    string     `json:"words"`
	Repaired bool       `json:"repaired,omitempty"`
}

// Left returns how many keys differ still.
func (r Report) Left() int64 { return r.Differing - r.Repaired }

// OK reports whether the comparison came to its end, and nothing differs any more.
func (r Report) OK() bool { return r.verdict() == Equal }

// Clears reports whether a comparison shows that what an earlier one has left is equal
// now: it looked at all keys, all of them later, and could tell about those.
func (r Report) Clears(before Report) bool {
	if !r.Complete || r.Sample < 1 || r.Left() > 0 || !r.Began.After(before.Ended) {
		return false
	}
	left, all := before.named(func(e Example) bool { return e.Kind != value.Unsure && !e.Repaired })
	unsure, allUnsure := r.named(func(e Example) bool { return e.Kind == value.Unsure })
	if r.Undecided == 0 {
		return true
	}
	for at := range left {
		if unsure[at] {
			return false
		}
	}
	return all == before.Left() && allUnsure == r.Undecided // all of them have their names here
}

// named returns the examples that are wanted, and how many they are.
func (r Report) named(wanted func(Example) bool) (keys map[keyOf]bool, n int64) {
	keys = make(map[keyOf]bool)
	for _, d := range r.Databases {
		for _, e := range d.Examples {
			if wanted(e) {
				keys[keyOf{d.Source, e.Key}] = true
				n++
			}
		}
	}
	return keys, n
}

type keyOf struct {
	db  int
	key Key
}

func (r Report) verdict() Verdict {
	switch {
	case r.Left() > 0:
		return Different
	case !r.Complete || r.Undecided > 0:
		return Unknown
	}
	return Equal
}

func (r *Report) finish() {
	r.Ended = time.Now()
	r.Seconds = r.Ended.Sub(r.Began).Seconds()
	r.Keys, r.Differing, r.Repaired, r.Undecided, r.Moving, r.Bytes = 0, 0, 0, 0, 0, 0
	for _, d := range r.Databases {
		r.Keys += d.Keys
		r.Differing += d.Differing
		r.Repaired += d.Repaired
		r.Undecided += d.Undecided
		r.Moving += d.Moving
		r.Bytes += d.Bytes
	}
	r.Verdict = r.verdict()
}

func (d *Database) differing(s *suspect) {
	d.Differing++
	d.note(s)
}

func (d *Database) moving(s *suspect) {
	d.Moving++
	if len(d.MovingKeys) < namedMoving {
		d.MovingKeys = append(d.MovingKeys, Key(s.key))
	}
}

func (d *Database) undecided(s *suspect) {
	d.Undecided++
	if s.diff.Kind != value.Unsure {
		why := s.why
		if why == "" {
			why = "changes did not arrive"
		}
		s.diff.Words = "not decided, as " + why + ": " + s.diff.Words
	}
	s.diff.Kind = value.Unsure
	d.note(s)
}

func (d *Database) note(s *suspect) {
	if d.Kinds == nil {
		d.Kinds = make(map[value.Kind]int64)
	}
	d.Kinds[s.diff.Kind]++
	if len(d.Examples) < MaxExamples {
		s.example = len(d.Examples)
		d.Examples = append(d.Examples, Example{Key: Key(s.key), Kind: s.diff.Kind, Words: s.diff.Words})
	}
}

func (d *Database) repaired(s *suspect) {
	d.Repaired++
	if s.example >= 0 {
		d.Examples[s.example].Repaired = true
	}
}
