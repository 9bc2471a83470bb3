package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// Check makes all checks without a sidecar, for the operator who has not
// started yet.
func Check(ctx context.Context, cfg config.Config) ([]preflight.Finding, error) {
	source, err := cfg.Source.Endpoint()
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	target, err := cfg.Target.Endpoint()
	if err != nil {
		return nil, fmt.Errorf("target: %w", err)
	}
	from := conn.New(source, "check", cfg.Proxy.DialTimeout)
	to := conn.New(target, "check", cfg.Proxy.DialTimeout)
	defer func() { _, _ = from.Close(), to.Close() }()
	pairs := cfg.Databases
	if len(pairs) == 0 {
		if pairs, err = identityPairs(ctx, from, to, cfg.LeaveOut); err != nil {
			pairs = map[int]int{0: 0} // unreachable: the first finding says so
		}
	}
	dbmap, err := router.NewDBMap(pairs)
	if err != nil {
		return nil, err
	}
	only, err := Only(cfg)
	if err != nil {
		return nil, err
	}
	return preflight.Run(ctx, preflight.Env{
		From: from, To: to, FromName: "source", ToName: "target",
		Map: dbmap, Explicit: len(cfg.Databases) > 0, LeaveOut: cfg.LeaveOut,
		Feed: cfg.Sync.Feed, SetNotifications: cfg.Sync.SetNotifications, CreateUser: cfg.Cutover.CreateUser, Unsafe: cfg.Cutover.Unsafe,
		Only: only, AllowPartial: cfg.Cutover.AllowPartial, DropFieldExpiries: cfg.Sync.FieldExpiries == "drop",
	}, preflight.StageCheck), nil
}

// env describes a switch, or the copy before the first one, to the checks.
func (m *Migration) env(from router.Side) preflight.Env {
	return preflight.Env{
		From: m.ids[from].Pool(), To: m.ids[from.Other()].Pool(),
		FromName: from.String(), ToName: from.Other().String(),
		Map: m.mapFrom(from), Explicit: len(m.cfg.Databases) > 0, LeaveOut: m.cfg.LeaveOut,
		Feed: m.cfg.Sync.Feed, SetNotifications: m.cfg.Sync.SetNotifications, CreateUser: m.cfg.Cutover.CreateUser, Unsafe: m.cfg.Cutover.Unsafe,
		Only: m.opt.Only, AllowPartial: m.cfg.Cutover.AllowPartial, DropFieldExpiries: m.dropsFieldExpiries(),
		Resumed: m.record().Copied,
		Proxied: m.traffic.UpstreamAddrs(from),
		User:    m.ids[from].user(),
	}
}

// preflight returns what stands in the way; warnings go to the log.
func (m *Migration) preflight(ctx context.Context, from router.Side, cutover bool) []string {
	stage := preflight.StageCopy
	if cutover {
		stage = preflight.StageCutover
	}
	var problems []string
	for _, f := range preflight.Run(ctx, m.env(from), stage) {
		switch f.Level {
		case preflight.Fail:
			text := f.Check + ": " + f.What
			if f.Do != "" {
				text += "; " + f.Do
			}
			problems = append(problems, text)
		case preflight.Warn:
			m.log.Warn("preflight", "check", f.Check, "what", f.What, "do", f.Do)
		}
	}
	return problems
}

func (m *Migration) fenceLevel(ctx context.Context, from router.Side) (FenceLevel, error) {
	level, why := preflight.FenceLevel(ctx, m.env(from))
	if level == string(FenceACL) && m.ids[from].user() == "" {
		// The fence would stop ourselves as well.
		level, why = string(FenceReplicas), "there is no user of our own: "+m.ids[from].reason
	}
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	m.log.Info("fence", "level", level, "server", m.ids[from].Pool().String(), "why", why)
	return FenceLevel(level), nil
}

// chooseMap settles the database map: the operator's, or every database of the
// source to the same number.
func (m *Migration) chooseMap(ctx context.Context) error {
	pairs := m.cfg.Databases
	if len(pairs) == 0 {
		var err error
		pairs, err = identityPairs(ctx, m.ids[router.Source].Pool(), m.ids[router.Target].Pool(), m.cfg.LeaveOut)
		if err != nil {
			return err
		}
	}
	return m.useMap(pairs, m.cfg.LeaveOut)
}

// identityPairs maps every database that both servers have to itself, but those
// left out. One that only the source has and that holds keys is found by the
// checks.
func identityPairs(ctx context.Context, source, target *conn.Pool, leaveOut []int) (map[int]int, error) {
	n, err := databaseCount(ctx, source)
	if err != nil {
		return nil, err
	}
	t, err := databaseCount(ctx, target)
	if err != nil {
		return nil, err
	}
	pairs := make(map[int]int)
	for db := range min(n, t) {
		pairs[db] = db
	}
	for _, db := range leaveOut {
		delete(pairs, db)
	}
	return pairs, nil
}

// databaseCount asks CONFIG, or tries SELECT where that is forbidden.
func databaseCount(ctx context.Context, p *conn.Pool) (int, error) {
	got, err := p.DB(0).ConfigGet(ctx, "databases").Result()
	if err == nil {
		if n, err := strconv.Atoi(got["databases"]); err == nil && n > 0 {
			return n, nil
		}
	}
	var reply redis.Error
	if err != nil && !errors.As(err, &reply) {
		return 0, fmt.Errorf("asking %s for its number of databases: %w", p, err)
	}
	cn := p.DB(0).Conn()
	defer func() {
		_ = cn.Do(context.WithoutCancel(ctx), "SELECT", 0).Err()
		_ = cn.Close()
	}()
	has := func(n int) bool { return cn.Do(ctx, "SELECT", n).Err() == nil }
	high := 1
	for high < 1<<14 && has(high) {
		high *= 2
	}
	low := high / 2 // has low, has not high
	for low+1 < high {
		if mid := (low + high) / 2; has(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	return low + 1, nil
}

// carryScripts loads every script body that clients used on the server that is
// to be entered, so that EVALSHA works there from the first command on.
func (a *attempt) carryScripts(ctx context.Context) error {
	if a.scripts == nil {
		a.scripts = make(map[string]bool)
	}
	pipe := a.ids[a.to].Pool().DB(0).Pipeline()
	var bodies []string
	for _, body := range a.traffic.Scripts() {
		if !a.scripts[body] {
			bodies = append(bodies, body)
			pipe.ScriptLoad(ctx, body)
		}
	}
	if len(bodies) == 0 {
		return nil
	}
	cmds, err := pipe.Exec(ctx)
	for i, c := range cmds {
		var reply redis.Error
		if e := c.Err(); e != nil && !errors.As(e, &reply) {
			return fmt.Errorf("loading scripts on %s: %w", a.ids[a.to].Pool(), e)
		}
		a.scripts[bodies[i]] = true // one that does not compile there cannot be run there either
	}
	if len(cmds) == 0 && err != nil {
		return fmt.Errorf("loading scripts on %s: %w", a.ids[a.to].Pool(), err)
	}
	return nil
}

// frozenCheck compares what neither side changes now: the number of keys of each
// database and a sample of them. It takes at most half of the stall budget.
func (a *attempt) frozenCheck(ctx context.Context) error {
	if err := a.save(false, func(r *Record) { r.Phase = Verifying }); err != nil {
		return err
	}
	return a.compareFrozen(ctx)
}

// compareFrozen is the comparison itself.
func (a *attempt) compareFrozen(ctx context.Context) error {
	from, to := a.ids[a.from].Pool(), a.ids[a.to].Pool()
	fromCounts, err := keyCounts(ctx, from)
	if err != nil {
		return err
	}
	toCounts, err := keyCounts(ctx, to)
	if err != nil {
		return err
	}
	if err := a.unmappedHold(fromCounts); err != nil {
		return err
	}
	dm := a.mapFrom(a.from)
	for _, db := range dm.Sources() {
		other, _ := dm.Target(db)
		f, t := fromCounts[db], toCounts[other]
		// A key past its expiry counts until the server gets round to removing it,
		// and RESTORE does not create it; ours (control keys) are a handful.
		slack := max(f.expires, t.expires) + 8
		if d := f.keys - t.keys; a.Migration.opt.Only == nil && (d > slack || -d > slack) { // with a filter they have no reason to be alike
			return fmt.Errorf("comparing while frozen: database %d of %s holds %d keys, database %d of %s %d", db, from, f.keys, other, to, t.keys)
		}
	}
	return a.checkSample(ctx, dm, fromCounts)
}

// unmappedHold refuses when a database that is not moved came to hold keys.
func (a *attempt) unmappedHold(counts map[int]keyCount) error {
	if a.from != router.Source {
		return nil
	}
	dm := a.databases()
	left := make(map[int]bool)
	for _, db := range a.record().LeaveOut {
		left[db] = true
	}
	for db, n := range counts {
		if _, mapped := dm.Target(db); mapped || left[db] || n.keys == 0 || db == 0 && n.keys <= 8 {
			continue
		}
		return fmt.Errorf("database %d of the source holds %d keys and is neither mapped nor left out", db, n.keys)
	}
	return nil
}

type keyCount struct{ keys, expires int64 }

// keyCounts reads INFO keyspace: one round trip for all databases.
func keyCounts(ctx context.Context, p *conn.Pool) (map[int]keyCount, error) {
	text, err := p.DB(0).Info(ctx, "keyspace").Result()
	if err != nil {
		return nil, fmt.Errorf("counting the keys of %s: %w", p, err)
	}
	counts := make(map[int]keyCount)
	for line := range strings.Lines(text) {
		var db int
		var c keyCount
		if n, _ := fmt.Sscanf(strings.TrimSpace(line), "db%d:keys=%d,expires=%d", &db, &c.keys, &c.expires); n == 3 {
			counts[db] = c
		}
	}
	return counts, nil
}

// checkSample compares random keys for at most sampleTime, a chunk of each
// database in turn: clients wait meanwhile.
func (a *attempt) checkSample(ctx context.Context, dm router.DBMap, counts map[int]keyCount) error {
	until := time.Now().Add(min(a.opt.MaxStall/4, sampleTime))
	comparer := value.Comparer{NoFieldExpiries: a.dropsFieldExpiries()}
	for a.report.Checked < a.cfg.Cutover.CheckSample {
		before := a.report.Checked
		for _, db := range dm.Sources() {
			if counts[db].keys == 0 {
				continue
			}
			if time.Now().After(until) {
				return nil
			}
			other, _ := dm.Target(db)
			if err := a.compareSome(ctx, &comparer, db, other); err != nil {
				return err
			}
		}
		if a.report.Checked == before {
			return nil
		}
	}
	return nil
}

// compareSome compares a chunk of random keys of one database.
func (a *attempt) compareSome(ctx context.Context, comparer *value.Comparer, db, other int) error {
	from, to := a.ids[a.from].Pool().DB(db), a.ids[a.to].Pool().DB(other)
	keys, err := randomKeys(ctx, from, min(sampleChunk, a.cfg.Cutover.CheckSample-a.report.Checked))
	if err == nil {
		keys, err = a.chosen(ctx, from, keys)
	}
	if err != nil || len(keys) == 0 {
		return err
	}
	small, big, err := a.bySize(ctx, from, keys)
	if err != nil {
		return err
	}
	diffs, err := comparer.Compare(ctx, from, to, small)
	for i := 0; err == nil && i < len(big); i++ {
		var d value.Diff
		d, err = value.Glance(ctx, from, to, big[i])
		diffs = append(diffs, d)
	}
	if err != nil {
		return fmt.Errorf("comparing while frozen: %w", err)
	}
	keys = append(small, big...)
	for i, d := range diffs {
		if !d.Equal() {
			return fmt.Errorf("comparing while frozen: key %q of database %d differs: %s", keys[i], db, d.Words)
		}
	}
	a.report.Checked += len(keys)
	return nil
}

// chosen returns those of keys that are copied.
func (a *attempt) chosen(ctx context.Context, c *redis.Client, keys []string) ([]string, error) {
	only := a.Migration.opt.Only
	keys = slices.DeleteFunc(keys, func(k string) bool { return !only.Name(k) })
	if !only.Typed() || len(keys) == 0 {
		return keys, nil
	}
	pipe := c.Pipeline()
	kinds := make(map[string]*redis.StatusCmd, len(keys))
	for _, k := range keys {
		kinds[k] = pipe.Type(ctx, k)
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fmt.Errorf("asking for the types of keys to compare: %w", err)
	}
	return slices.DeleteFunc(keys, func(k string) bool { return !only.Type(kinds[k].Val()) }), nil
}

// bigSample is the size in the server's memory from which a key of the sample is
// but glanced at: to read 100 MB of each side takes longer than clients may wait.
const bigSample = 1 << 20

// bySize tells the keys that are compared in full from the big ones.
func (a *attempt) bySize(ctx context.Context, c *redis.Client, keys []string) (small, big []string, err error) {
	sizes, err := a.scale.Weigh(ctx, c, keys)
	if err != nil {
		return nil, nil, err
	}
	for i, k := range keys {
		if sizes[i] > bigSample {
			big = append(big, k)
		} else {
			small = append(small, k)
		}
	}
	return small, big, nil
}

func randomKeys(ctx context.Context, c *redis.Client, n int) ([]string, error) {
	pipe := c.Pipeline()
	found := make([]*redis.StringCmd, n)
	for i := range found {
		found[i] = pipe.RandomKey(ctx)
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fmt.Errorf("choosing keys to compare: %w", err)
	}
	seen := make(map[string]bool)
	var keys []string
	for _, f := range found {
		k := f.Val()
		if k != "" && !seen[k] && !strings.HasPrefix(k, "crossfade:") {
			seen[k] = true
			keys = append(keys, k)
		}
	}
	return keys, nil
}
