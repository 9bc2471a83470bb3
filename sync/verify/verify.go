// Package verify compares two servers' databases both ways: every key of one, and what the other has besides.
// It owns the walk, the keys that are to be looked at again, the proof of a difference and the report.
// It never writes to a server but by the caller's Repair, and never puts a value into a report.
package verify

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/filter"
	"github.com/crossfade/crossfade/sync/throttle"
	"github.com/crossfade/crossfade/sync/value"
)

// Config says what is compared and how. Source, Target and Databases are needed.
//
// One side is the truth: the one that is written, which the other one follows. A
// difference counts once it is proved: the key stood still on the truth over three
// looks, and what was written there before had the time to arrive.
type Config struct {
	// Source and Target return the clients for a place, where keys have their clients'
	// names; they stay the caller's.
	Source, Target func(router.Place) *redis.Client
	Databases      map[int]router.Place // source database to place of the target
	// Reverse says that the target is the truth.
	Reverse bool

	Parallel  int           // comparisons at the same time; 0 means 4
	Batch     int           // keys of one SCAN page; 0 means 512
	Tolerance time.Duration // between expiries; 0 means 5 ms
	Big       int64         // bytes from which a key is compared in chunks; 0 means 1 MiB
	Settle    time.Duration // until a differing key is compared again; 0 means 500 ms
	Rounds    int           // how often one that moves is; 0 means 8
	Sample    float64       // share of the keys, in (0, 1]; 0 means all
	Pending   int           // differing keys remembered at a time; 0 means 20000

	// Limits bound the keys and bytes a second that are compared, for one database
	// at a time.
	Limits throttle.Limits

	// NoFieldExpiries is value.Comparer's.
	NoFieldExpiries bool
	// Only says which keys are compared; nil: all. A key of the truth that is not of a
	// type that is chosen counts as one that is not there, and one of the follower is not
	// looked at.
	Only *filter.Filter
	// Ignore leaves keys out, on both sides. nil leaves out "crossfade:*".
	Ignore func(key string) bool
	// Settled says which of the keys of a source database have surely arrived at
	// the follower, as far as they were written on the truth before the call. nil
	// takes what is older than Settle for arrived. An error means that nobody can
	// say now; the keys are asked for again.
	Settled func(ctx context.Context, db int, keys []string) ([]bool, error)
	// Repair makes keys of a source database equal that were proved to differ;
	// they are compared again afterwards. It is called by several goroutines, never
	// with the same key at a time. nil: nothing is repaired.
	Repair func(ctx context.Context, db int, keys []string) error
	// OnDiffer is called for each key that is proved to differ, with the source's
	// database, once. Progress is called after every page. Each is called by one
	// goroutine at a time.
	OnDiffer func(db int, key string, d value.Diff)
	Progress func(Progress)
}

// Progress is where Run is in one database.
type Progress struct {
	Source    int    `json:"source"` // database numbers
	Target    int    `json:"target"`
	Prefix    string `json:"prefix,omitempty"` // of the keys in the target's database
	Step      string `json:"step"`             // "compare", "extras" or "settle"
	Done      int64  `json:"done"`             // keys looked at in this step
	Total     int64  `json:"total"`            // about how many there are
	Unsettled int    `json:"unsettled"`        // keys that differ and will be looked at again
	Differing int64  `json:"differing"`        // keys proved to differ so far, in this database
	Bytes     int64  `json:"bytes"`            // of payload read from the source so far
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Source == nil || c.Target == nil {
		errs = append(errs, errors.New("source and target are needed"))
	}
	if len(c.Databases) == 0 {
		errs = append(errs, errors.New("no database to compare"))
	}
	if c.Sample < 0 || c.Sample > 1 || math.IsNaN(c.Sample) {
		errs = append(errs, fmt.Errorf("sample %v is no share between 0 and 1", c.Sample))
	}
	or := func(n *int, def int) {
		if *n <= 0 {
			*n = def
		}
	}
	or(&c.Parallel, 4)
	or(&c.Batch, 512)
	or(&c.Rounds, 8)
	or(&c.Pending, 20_000)
	if c.Settle <= 0 {
		c.Settle = 500 * time.Millisecond
	}
	if c.Sample == 0 {
		c.Sample = 1
	}
	if c.Ignore == nil {
		c.Ignore = func(key string) bool { return strings.HasPrefix(key, "crossfade:") }
	}
	if c.OnDiffer == nil {
		c.OnDiffer = func(int, string, value.Diff) {}
	}
	if c.Progress == nil {
		c.Progress = func(Progress) {}
	}
	return c, errors.Join(errs...)
}

// Run compares the databases one after the other. Memory is bounded by Parallel
// times 8 MiB of values, and by Pending. With an error (a connection or ctx ended, a
// command refused) the report says how far Run came.
func Run(ctx context.Context, cfg Config) (Report, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return Report{}, fmt.Errorf("comparing source and target: %w", err)
	}
	report := Report{Sample: cfg.Sample, Only: cfg.Only.String(), Began: time.Now()}
	for _, db := range slices.Sorted(maps.Keys(cfg.Databases)) {
		w := newWalk(cfg, db)
		err := w.run(ctx)
		report.Databases = append(report.Databases, w.report)
		if err != nil {
			report.finish()
			return report, fmt.Errorf("comparing source database %d with target database %s: %w", db, cfg.Databases[db], err)
		}
	}
	report.Complete = true
	report.finish()
	return report, nil
}
