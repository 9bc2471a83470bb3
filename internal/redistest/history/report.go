package history

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ViolationKind names what is wrong.
type ViolationKind string

// The kinds of violations.
const (
	Lost              ViolationKind = "lost"                // an acknowledged write is not there
	Doubled           ViolationKind = "doubled"             // a write took effect more than once, or from nowhere
	Reordered         ViolationKind = "reordered"           // writes are there in another order than acknowledged
	Stale             ViolationKind = "stale"               // an older state was shown or is there
	RefusedButApplied ViolationKind = "refused-but-applied" // a refused write took effect
)

// Violation is one thing that is wrong. Database is the writers' one, before
// any mapping; the detail holds values of this history only.
type Violation struct {
	Kind     ViolationKind
	Database int
	Key      string
	Detail   string
}

// String returns the violation on one line.
func (v Violation) String() string {
	return fmt.Sprintf("%s: database %d, key %s: %s", v.Kind, v.Database, v.Key, v.Detail)
}

// findings collects violations; all are counted, the first ones kept.
type findings struct {
	list  []Violation
	count map[ViolationKind]int
}

// maxListed is how many violations are kept with their details.
const maxListed = 1000

func (f *findings) add(v Violation) {
	if f.count == nil {
		f.count = make(map[ViolationKind]int)
	}
	f.count[v.Kind]++
	if len(f.list) < maxListed {
		f.list = append(f.list, v)
	}
}

func (f *findings) clone() findings {
	return findings{list: slices.Clone(f.list), count: maps.Clone(f.count)}
}

// Report is the outcome of Verify.
type Report struct {
	Violations []Violation           // the first 1000
	Count      map[ViolationKind]int // all of them
	Keys       int                   // keys that were read
	Items      int                   // ids found in lists, sets and streams
	Stats      Stats
}

// OK reports whether nothing is wrong.
func (r Report) OK() bool { return len(r.Violations) == 0 }

// String returns the verdict on one line, followed by the first few
// violations, one a line.
func (r Report) String() string {
	verdict := "ok"
	if !r.OK() {
		verdict = "BROKEN"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d lost, %d doubled, %d reordered, %d stale, %d refused but applied (%s; %d keys and %d items read)",
		verdict, r.Count[Lost], r.Count[Doubled], r.Count[Reordered], r.Count[Stale], r.Count[RefusedButApplied],
		r.Stats, r.Keys, r.Items)
	const most = 5
	for i, v := range r.Violations {
		if i == most {
			fmt.Fprintf(&b, "\n  … and %d more listed", len(r.Violations)-most)
			break
		}
		fmt.Fprintf(&b, "\n  %v", v)
	}
	return b.String()
}
