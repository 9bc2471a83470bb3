package migration

import (
	"context"
	"strconv"
	"strings"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/verify"
)

// VerifyServers compares two servers without a sidecar: those of the configuration,
// by its database map. The source is the truth. With Repair the target is made equal
// directly, so nobody else may be copying there. progress may be nil. With an error
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
		vc.Repair = verify.Mender(vc)
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
