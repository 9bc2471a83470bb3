package migration

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
	"github.com/crossfade/crossfade/sync/verify"
)

// VerifyServers compares two servers without a sidecar: those of the configuration,
// by its database map. The source is the truth. With Repair the target is made equal
// directly, so nobody else may be copying there; where the servers tell of a migration, that
// is refused. progress may be nil. With an error
// the report says how far it came.
func VerifyServers(ctx context.Context, cfg config.Config, o VerifyOptions, progress func(verify.Progress)) (verify.Report, error) {
	both, err := openEnds(ctx, cfg, "verify")
	if err != nil {
		return verify.Report{}, err
	}
	defer both.close()
	from, to := both.from, both.to
	pairs := placesOf(cfg)
	if len(pairs) == 0 {
		if pairs, err = identityPairs(ctx, from, to, cfg.LeaveOut); err != nil {
			return verify.Report{}, err
		}
		if err := oneSided(ctx, from, to, pairs, cfg.LeaveOut); err != nil {
			return verify.Report{}, err
		}
	}
	if _, err := router.NewDBMap(pairs); err != nil {
		return verify.Report{}, err
	}
	only, err := Only(cfg)
	if err != nil {
		return verify.Report{}, err
	}
	vc := verify.Config{
		Source:    from.At,
		Target:    to.At,
		Databases: pairs, Sample: o.Sample, Parallel: cfg.Verify.Parallel, Progress: progress,
		Only: only, NoFieldExpiries: cfg.Sync.FieldExpiries == "drop",
	}
	if o.Repair {
		mend := verify.Mender(vc)
		if err := unattended(ctx, from, to); err != nil {
			return verify.Report{}, err
		}
		if err := checkLost(ctx, cfg, from, to, pairs); err != nil {
			return verify.Report{}, err
		}
		vc.Repair = func(ctx context.Context, db int, keys []string) error {
			if err := unattended(ctx, from, to); err != nil { // a sidecar may have been started since
				return err
			}
			return mend(ctx, db, keys)
		}
	}
	before := stampOf(ctx, from)
	r, err := verify.Run(ctx, vc)
	r.By, r.Source, r.Target = "stand-alone", from.String(), to.String()
	if err != nil {
		r.Error = err.Error()
		return r, err
	}
	r.Changes = stampOf(ctx, from).since(before)
	r.Stale = r.Changes != 0
	return r, nil
}

// checkLost returns an error where the source has so much fewer keys than the target that it
// seems to have lost its data: a repair would take from the target what may be the only copy
// left. Where a part of the keys is compared, or others' are in the same databases, nobody has
// counted those.
func checkLost(ctx context.Context, cfg config.Config, from, to *conn.Pool, pairs map[int]router.Place) error {
	if cfg.Sync.AcceptLoss || len(cfg.Sync.Match)+len(cfg.Sync.Types) > 0 {
		return nil
	}
	left, err := keyCounts(ctx, from)
	if err != nil {
		return err
	}
	right, err := keyCounts(ctx, to)
	if err != nil {
		return err
	}
	var has, had int64
	for source, place := range pairs {
		if place.Prefix != "" {
			return nil
		}
		has, had = has+left[source].keys, had+right[place.DB].keys
	}
	if mirror.Lost(has, had) {
		return fmt.Errorf("%s has %d keys and %s has %d: it seems to have lost its data, so nothing is repaired; bring the data back, or give --sync.accept_loss to have all that is too much removed", from, has, to, had)
	}
	return nil
}

// oneSided returns an error where one of two servers has keys in a database that the other one
// does not have: nobody has said that they do not matter, and they would not be looked at.
func oneSided(ctx context.Context, from, to *conn.Pool, pairs map[int]router.Place, leaveOut []int) error {
	for _, p := range [][2]*conn.Pool{{from, to}, {to, from}} {
		counts, err := keyCounts(ctx, p[0])
		if err != nil {
			return err
		}
		for _, db := range slices.Sorted(maps.Keys(counts)) {
			if _, both := pairs[db]; both || slices.Contains(leaveOut, db) {
				continue
			}
			return fmt.Errorf("database %d of %s has %d keys, and %s has no such database: say where they are with --map, or that they are not to be compared with --leave-out %d", db, p[0], counts[db].keys, p[1], db)
		}
	}
	return nil
}

// unattended returns an error where one of the servers has the record of a migration that is not
// over, or whose clients are on the target. A repair by ourselves would overtake the copies of
// its sidecar, or put what clients have left behind over what they have written since.
func unattended(ctx context.Context, servers ...*conn.Pool) error {
	for _, p := range servers {
		for _, key := range []string{store.RecordKey, store.JournalKey} {
			e, found, err := store.Load(ctx, p.Control(), key)
			if err != nil {
				return fmt.Errorf("asking %s whether it is part of a migration, before anything is repaired: %w", p, err)
			}
			if !found {
				continue
			}
			r, err := decode(e)
			if err != nil {
				return fmt.Errorf("on %s: %w", p, err)
			}
			if !r.Phase.Ended() || r.Side == router.Target {
				return fmt.Errorf("nothing is repaired directly: %s has the record of a migration from %s to %s (%s, its clients are on the %s); what differs is mended by its sidecar, by crossfade verify --repair without --direct, --source and --target. If that migration was given up, and its clients are on the source, remove %s first",
					p, r.Source, r.Target, r.Phase, r.Side, key)
			}
		}
	}
	return nil
}

// stamp tells whether a server was written to.
type stamp struct {
	run     string
	changes int64 // since it was saved last
	saved   string
}

func stampOf(ctx context.Context, p *conn.Pool) stamp {
	text, err := p.DB(0).Info(ctx).Result()
	if err != nil {
		return stamp{}
	}
	var s stamp
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "run_id":
			s.run = value
		case "rdb_last_save_time":
			s.saved = value
		case "rdb_changes_since_last_save":
			s.changes, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return s
}

// since returns how many changes there were, -1 when that is not known.
func (s stamp) since(before stamp) int64 {
	if s.run == "" || s.run != before.run || s.saved != before.saved {
		return -1
	}
	return s.changes - before.changes
}
