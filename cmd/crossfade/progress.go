package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
)

// quietTimes is how many intervals pass between two status lines while nothing
// happens but the following of changes.
const quietTimes = 10

// tellProgress writes a status line to the log at each interval while work goes on
// or something has changed, and now and then else, until ctx ends.
func (s *sidecar) tellProgress(ctx context.Context) error {
	tick := time.NewTicker(s.config.Log.StatusInterval)
	defer tick.Stop()
	var told progressTold
	for {
		select {
		case <-tick.C:
			if st := s.migration.Status(); told.due(st) {
				s.log.LogAttrs(ctx, slog.LevelInfo, "status", statusAttrs(st)...)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// progressTold is what the last status line said.
type progressTold struct {
	last  *migration.Status
	quiet int
}

// due reports whether a status is worth a line, and notes that it was told.
func (p *progressTold) due(st migration.Status) bool {
	same := p.last != nil && p.last.Phase == st.Phase && p.last.Side == st.Side && p.last.Gaps == st.Gaps &&
		p.last.Ready == st.Ready && len(p.last.Reasons) == len(st.Reasons) && len(p.last.Errors) == len(st.Errors)
	if same && !working(st) {
		if p.quiet++; p.quiet < quietTimes {
			return false
		}
	}
	p.last, p.quiet = &st, 0
	return true
}

// working reports whether a scan or a switch is under way.
func working(st migration.Status) bool {
	if st.Phase.Ended() {
		return false
	}
	return st.Phase.Switching() || slices.ContainsFunc(st.Databases, func(d migration.DatabaseStatus) bool { return !d.Done })
}

func statusAttrs(st migration.Status) []slog.Attr {
	attrs := []slog.Attr{slog.String("phase", string(st.Phase)), slog.String("side", st.Side.String()), slog.Bool("ready", st.Ready)}
	if st.Phase.Ended() {
		return attrs
	}
	var dbs []string
	var left, rate float64
	for _, d := range st.Databases {
		if d.Done {
			continue
		}
		dbs = append(dbs, fmt.Sprintf("%d→%s %.1f%%", d.Source, router.Place{DB: d.Target, Prefix: d.Prefix}, d.Percent))
		left, rate = max(left, d.ETA), rate+d.Rate
	}
	if len(dbs) > 0 {
		attrs = append(attrs, slog.String("scanning", strings.Join(dbs, ", ")), slog.Int64("keys_per_second", int64(rate)))
	}
	if left > 0 {
		attrs = append(attrs, slog.String("eta", clock(left)))
	}
	attrs = append(attrs, slog.Int("dirty", st.Dirty), slog.Float64("lag_ms", st.LagMS))
	if !st.Ready && len(st.Reasons) > 0 {
		attrs = append(attrs, slog.String("because", strings.Join(st.Reasons, "; ")))
	}
	return attrs
}
