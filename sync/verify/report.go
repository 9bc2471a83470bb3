package verify

import (
	"fmt"
	"strings"
	"time"

	"github.com/crossfade/crossfade/sync/value"
)

// MaxExamples is how many differing keys a database's report names.
const MaxExamples = 100

// Report is what Run found.
type Report struct {
	Began     time.Time  `json:"began"`
	Seconds   float64    `json:"seconds"`
	Sample    float64    `json:"sample"`   // share of the keys that was looked at
	Complete  bool       `json:"complete"` // false when Run ended with an error
	Keys      int64      `json:"keys"`     // sums over the databases
	Differing int64      `json:"differing"`
	Moving    int64      `json:"moving"`
	Bytes     int64      `json:"bytes"`
	Databases []Database `json:"databases"`
}

// Database is the report of one pair of databases.
type Database struct {
	Source     int                  `json:"source"` // database numbers
	Target     int                  `json:"target"`
	Keys       int64                `json:"keys"`        // source keys compared; SCAN may show one twice
	TargetKeys int64                `json:"target_keys"` // target keys looked up on the source
	Again      int64                `json:"again"`       // comparisons repeated because keys differed at first
	Differing  int64                `json:"differing"`   // keys whose difference lasted
	Moving     int64                `json:"moving"`      // keys that never were equal, but changed on both sides between the last two looks
	Kinds      map[value.Kind]int64 `json:"kinds,omitempty"`
	Examples   []Example            `json:"examples,omitempty"`
	Bytes      int64                `json:"bytes"` // of payload read from the source
	Seconds    float64              `json:"seconds"`
}

// Example is one key that differs.
type Example struct {
	Key   string     `json:"key"`
	Kind  value.Kind `json:"kind"`
	Words string     `json:"words"`
}

// OK reports whether the comparison came to its end and no difference lasted.
func (r Report) OK() bool { return r.Complete && r.Differing == 0 }

func (r *Report) finish(began time.Time) {
	r.Seconds = time.Since(began).Seconds()
	r.Keys, r.Differing, r.Moving, r.Bytes = 0, 0, 0, 0
	for _, d := range r.Databases {
		r.Keys += d.Keys
		r.Differing += d.Differing
		r.Moving += d.Moving
		r.Bytes += d.Bytes
	}
}

func (d *Database) add(key string, diff value.Diff) {
	d.Differing++
	if d.Kinds == nil {
		d.Kinds = make(map[value.Kind]int64)
	}
	d.Kinds[diff.Kind]++
	if len(d.Examples) < MaxExamples {
		d.Examples = append(d.Examples, Example{Key: key, Kind: diff.Kind, Words: diff.Words})
	}
}

const width = 80

// String is the report for people, in lines of at most 80 columns.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-9s %-9s %12s %10s %8s %10s %8s\n",
		"source db", "target db", "keys", "differing", "moving", "bytes", "seconds")
	for _, d := range r.Databases {
		fmt.Fprintf(&b, "%-9d %-9d %12d %10d %8d %10s %8.1f\n",
			d.Source, d.Target, d.Keys, d.Differing, d.Moving, size(d.Bytes), d.Seconds)
	}
	for _, d := range r.Databases {
		for i, e := range d.Examples {
			if i == 10 {
				fmt.Fprintf(&b, "  … and %d more in database %d\n", d.Differing-10, d.Source)
				break
			}
			fmt.Fprintf(&b, "  db %d %s\n", d.Source, clip(fmt.Sprintf("%-8s%q", e.Kind, e.Key), width-10))
			fmt.Fprintf(&b, "      %s\n", clip(e.Words, width-6))
		}
	}
	switch {
	case !r.Complete:
		b.WriteString("The comparison did not come to its end.\n")
	case r.Differing > 0:
		fmt.Fprintf(&b, "%d keys differ.\n", r.Differing)
	case r.Sample < 1:
		fmt.Fprintf(&b, "No difference in a sample of %g %% of the keys.\n", 100*r.Sample)
	default:
		b.WriteString("No difference.\n")
	}
	return b.String()
}

// clip shortens s to n columns.
func clip(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-1]) + "…"
}

func size(n int64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}
