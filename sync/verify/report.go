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

	left    map[Key]bool // those that differ still, up to namedMost
	unclear map[Key]bool // undecided or moving, likewise
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

// Supersedes reports whether a comparison tells what has become of all that an earlier one
// has left: it looked at all keys, all of them later, and what it has not left itself of those
// it saw equal. before is of the same process, since what is read from a file names some
// keys only.
func (r Report) Supersedes(before Report) bool {
	if !r.Complete || r.Sample < 1 || !r.Began.After(before.Ended) {
		return false
	}
	if r.Undecided+r.Moving == 0 {
		return true
	}
	var left, unclear int
	for _, was := range before.Databases {
		left += len(was.left)
		for _, is := range r.Databases {
			for key := range was.left {
				if is.Source == was.Source && is.unclear[key] {
					return false
				}
			}
		}
	}
	for _, is := range r.Databases {
		unclear += len(is.unclear)
	}
	return int64(left) == before.Left() && int64(unclear) == r.Undecided+r.Moving // all of them are known by name
}

// keep takes down a key by name, as far as there is room.
func keep(names *map[Key]bool, key string) {
	if *names == nil {
		*names = make(map[Key]bool)
	}
	if len(*names) < namedMost {
		(*names)[Key(key)] = true
	}
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
	keep(&d.left, s.key)
	d.note(s)
}

func (d *Database) moving(s *suspect) {
	d.Moving++
	keep(&d.unclear, s.key)
	if len(d.MovingKeys) < namedMoving {
		d.MovingKeys = append(d.MovingKeys, Key(s.key))
	}
}

func (d *Database) undecided(s *suspect) {
	d.Undecided++
	keep(&d.unclear, s.key)
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
	delete(d.left, Key(s.key))
	if s.example >= 0 {
		d.Examples[s.example].Repaired = true
	}
}
