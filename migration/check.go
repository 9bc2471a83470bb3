package migration

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// Check makes all checks without a sidecar, for the operator who has not
// started yet.
func Check(ctx context.Context, cfg config.Config) ([]preflight.Finding, error) {
	both, err := openEnds(ctx, cfg, "check")
	if err != nil {
		return nil, err
	}
	defer both.close()
	from, to := both.from, both.to
	pairs := placesOf(cfg)
	if len(pairs) == 0 {
		if pairs, err = identityPairs(ctx, from, to, cfg.LeaveOut); err != nil {
			pairs = map[int]router.Place{0: {}} // unreachable: the first finding says so
		}
	}
	dbmap, err := router.NewDBMap(pairs)
	if err != nil {
		return nil, err
	}
	if n, err := databaseCount(ctx, to); err == nil { // else the first finding says so
		dbmap = dbmap.Within(n)
	}
	only, err := Only(cfg)
	if err != nil {
		return nil, err
	}
	at, err := cfg.Fleet.Meeting()
	if err != nil {
		return nil, err
	}
	findings := preflight.Run(ctx, preflight.Env{
		From: from, To: to, FromName: "source", ToName: "target",
		Map: dbmap, Explicit: len(cfg.Databases) > 0, LeaveOut: cfg.LeaveOut,
		Feed: cfg.Sync.Feed, SetNotifications: cfg.Sync.SetNotifications, CreateUser: cfg.Cutover.CreateUser, Unsafe: cfg.Cutover.Unsafe,
		Only: only, AllowPartial: cfg.Cutover.AllowPartial, DropFieldExpiries: cfg.Sync.FieldExpiries == "drop",
	}, preflight.StageCheck)
	return append(findings, lookAtFleet(ctx, at, both, cfg.Proxy.DialTimeout)...), nil
}

// env describes a switch, or the copy before the first one, to the checks.
func (m *Migration) env(from router.Side) preflight.Env {
	return preflight.Env{
		From: m.ids[from].Pool(), To: m.ids[from.Other()].Pool(), Beside: m.guardBeside(),
		FromName: from.String(), ToName: from.Other().String(),
		Map: m.databases(), Explicit: len(m.cfg.Databases) > 0, LeaveOut: m.cfg.LeaveOut,
		Feed: m.cfg.Sync.Feed, SetNotifications: m.cfg.Sync.SetNotifications, CreateUser: m.cfg.Cutover.CreateUser, Unsafe: m.cfg.Cutover.Unsafe,
		Only: m.opt.Only, AllowPartial: m.cfg.Cutover.AllowPartial, DropFieldExpiries: m.dropsFieldExpiries(),
		Resumed: m.record().Copied, Brought: m.brought, Foreign: m.foreignLibrary,
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
	level, why, err := preflight.FenceLevel(ctx, m.env(from))
	if err != nil {
		return "", err
	}
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
	pairs := placesOf(m.cfg)
	if len(pairs) == 0 {
		var err error
		pairs, err = identityPairs(ctx, m.ids[router.Source].Pool(), m.ids[router.Target].Pool(), m.cfg.LeaveOut)
		if err != nil {
			return err
		}
	}
	return m.useMap(pairs, m.cfg.LeaveOut)
}

// placesOf returns the operator's map; it is empty when there is none.
func placesOf(cfg config.Config) map[int]router.Place {
	pairs := make(map[int]router.Place, len(cfg.Databases))
	for db, place := range cfg.Databases {
		pairs[db] = router.Place(place)
	}
	return pairs
}

// identityPairs maps every database that both servers have to itself, but those
// left out. One that only the source has and that holds keys is found by the
// checks.
func identityPairs(ctx context.Context, source, target *conn.Pool, leaveOut []int) (map[int]router.Place, error) {
	n, err := databaseCount(ctx, source)
	if err != nil {
		return nil, err
	}
	t, err := databaseCount(ctx, target)
	if err != nil {
		return nil, err
	}
	pairs := make(map[int]router.Place)
	for db := range min(n, t) {
		pairs[db] = router.Place{DB: db}
	}
	for _, db := range leaveOut {
		delete(pairs, db)
	}
	return pairs, nil
}

// databaseCount asks CONFIG, or tries SELECT where that is forbidden.
func databaseCount(ctx context.Context, p *conn.Pool) (int, error) {
	if p.Endpoint().Cluster != nil {
		return 1, nil
	}
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
	var failed error
	has := func(n int) bool {
		err := cn.Do(ctx, "SELECT", n).Err()
		if err != nil && !errors.As(err, &reply) {
			failed = err
		}
		return err == nil
	}
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
	if failed != nil {
		return 0, fmt.Errorf("asking %s for its number of databases: %w", p, failed)
	}
	return low + 1, nil
}

// carryScripts loads every script body that clients used on the server that is
// to be entered, so that EVALSHA works there from the first command on.
func (a *attempt) carryScripts(ctx context.Context) error {
	// Asked before anything is loaded: one that restarts meanwhile has another name.
	if on := a.forward.Entered(); a.scripts == nil || on != a.scriptsOn {
		a.scripts, a.scriptsOn = make(map[string]bool), on // which a restart has taken, where there were any
	}
	pipe := a.ids[a.to].Pool().DB(0).Pipeline()
	var bodies []string
	dm := a.databases()
	for _, body := range a.traffic.Scripts() {
		if !a.scripts[body] && mayGo(body, a.to, dm) {
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
