package migration

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/fleet"
	"github.com/crossfade/crossfade/migration/fleet/etcd"
	"github.com/crossfade/crossfade/migration/preflight"
)

// meet returns where the sidecars of a migration meet. It connects to nothing yet. id returns
// that of the migration, "" while it is not known.
func meet(at *config.Meeting, target func() *redis.Client, id func() string, timeout time.Duration) fleet.Store {
	if at == nil {
		return fleet.Target{Client: target}
	}
	return etcd.New(*at, id, timeout)
}

// meetsIn names a meeting place in the record; "" is the target. Members may reach an etcd by
// other addresses of it.
func meetsIn(at *config.Meeting) string {
	if at == nil {
		return ""
	}
	return "etcd, below " + at.Prefix
}

// missed says that a member meets others elsewhere than the one that copies; nothing where it
// does not.
func (r Record) missed(at *config.Meeting) []string {
	if r.ID == "" || r.Meets == meetsIn(at) {
		return nil
	}
	name := func(place string) string { return "in " + cmp.Or(place, "the target") }
	return []string{fmt.Sprintf("the one that copies meets others %s, and this sidecar %s: it hears nothing of a switch, of which its clients find out by the fence; give all the same fleet settings", name(r.Meets), name(meetsIn(at)))}
}

// absence is since when something does not answer, and why. Its owner guards it.
type absence struct {
	since time.Time // zero: it does
	err   error
}

// note takes what became of asking, and reports whether that is new.
func (a *absence) note(err error) bool {
	was := a.err
	switch a.err = err; {
	case err == nil:
		a.since = time.Time{}
	case was == nil:
		a.since = time.Now()
	}
	return (was == nil) != (err == nil)
}

// why says so behind a text; nothing while it answers.
func (a absence) why(text string) []string {
	if a.err == nil {
		return nil
	}
	return []string{fmt.Sprintf("%s, since %s: %v", text, a.since.Format(time.TimeOnly), a.err)}
}

// noteAway notes whether the store answers, and says so when that changes.
func (c *crew) noteAway(err error) {
	c.mu.Lock()
	changed := c.away.note(err)
	c.mu.Unlock()
	switch {
	case err != nil && changed && c.elsewhere():
		c.m.log.Warn("where the sidecars meet does not answer: clients are served, and no switch is made until it does", "error", err)
	case changed && c.elsewhere():
		c.m.log.Info("where the sidecars meet answers again")
	}
}

// elsewhere reports whether the sidecars meet on another server than the two.
func (c *crew) elsewhere() bool { return c.m.opt.Meeting != nil }

// gates is one for a meeting place of its own: no switch is begun of which nobody could be told.
// That of a target which is away others tell.
func (c *crew) gates() []Gate {
	if !c.elsewhere() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return []Gate{gate("fleet", "where the sidecars meet answers", c.away.why("where the sidecars meet does not answer")...)}
}

// clear removes what the fleet has left in a meeting place of its own; from the target it goes
// with all other keys.
func (c *crew) clear(ctx context.Context) (done []string, err error) {
	if !c.elsewhere() {
		return nil, nil
	}
	if err := c.store.Clear(ctx); err != nil {
		return nil, fmt.Errorf("%w; complete again removes them, and by themselves they end within a day", err)
	}
	return []string{fmt.Sprintf("removed the fleet's keys from %v", c.store)}, nil
}

// meetingFindings are those about a meeting place of its own; nil: it is the target.
func meetingFindings(ctx context.Context, st fleet.Store) []preflight.Finding {
	place, is := st.(*etcd.Store)
	if !is {
		return nil
	}
	finding := preflight.Finding{Check: "fleet-store", Level: preflight.Pass}
	all, err := place.Probe(ctx)
	var fine, bad []string
	for _, p := range all {
		if p.Err != nil {
			bad = append(bad, fmt.Sprintf("%s: %v", p.Address, p.Err))
			continue
		}
		fine = append(fine, fmt.Sprintf("%s is version %s", p.Address, p.Version))
	}
	switch {
	case err != nil || len(fine) == 0:
		finding.Level = preflight.Fail
		if err != nil {
			bad = append([]string{err.Error()}, bad...)
		}
		finding.What = "the sidecars cannot meet in " + place.String() + ": " + strings.Join(bad, "; ")
		finding.Do = "look at fleet.etcd: endpoints, tls, username and password, and whether that user may read and write below prefix; it has to be etcd 3.4 or later"
	case len(bad) > 0:
		finding.Level = preflight.Warn
		finding.What = "not all of etcd will do: " + strings.Join(bad, "; ")
		finding.Do = "bring those members back, or take them out of fleet.etcd.endpoints"
	default:
		finding.What = "the sidecars meet in etcd: " + strings.Join(fine, ", ")
	}
	return []preflight.Finding{finding}
}
