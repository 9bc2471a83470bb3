// Package preflight finds out, before anything is moved, what would go wrong: one file a check.
// It owns the checks, their order, their words and the probe keys that it writes and takes away again.
// It never leaves a change behind, never moves a key and never shows a secret or a value.
package preflight

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/filter"
)

// Level is how serious a finding is.
type Level string

// The levels: nothing to do, something to know, something that stops the stage.
const (
	Pass Level = "pass"
	Warn Level = "warn"
	Fail Level = "fail"
)

// Finding is one result of one check.
type Finding struct {
	Check string `json:"check"`
	Level Level  `json:"level"`
	// What was found, with figures.
	What string `json:"what"`
	// Do says what to do. A line that begins with a command stands alone.
	Do string `json:"do,omitempty"`
}

// Stage is the moment at which the checks are made.
type Stage int

// The stages, each with the checks that make sense at it.
const (
	StageCheck   Stage = iota // the operator asks: everything
	StageCopy                 // before the copy begins
	StageCutover              // before a switch, there or back
)

// Env is what is checked. It is only read.
type Env struct {
	// From is the server that is left, To the one that is entered; exchanged for
	// a rollback. Both stay the caller's.
	From, To *conn.Pool
	// Beside guards connections to other servers than these; nil: nothing does.
	Beside *conn.Guard
	// FromName and ToName are "source" and "target", or exchanged.
	FromName, ToName string
	// Map is From's databases → To's.
	Map router.DBMap
	// Explicit: the operator gave the map; otherwise it is the identity over
	// the source's databases.
	Explicit bool
	// LeaveOut are From's databases that are not moved although they hold keys.
	LeaveOut []int
	// Feed is sync.feed: auto, notifications or tracking.
	Feed string
	// SetNotifications: we may CONFIG SET notify-keyspace-events.
	SetNotifications bool
	// CreateUser: we may create a user of ours.
	CreateUser bool
	// Unsafe: the operator accepts a switch that cannot be fenced.
	Unsafe bool
	// Only says which keys are copied; nil: all.
	Only *filter.Filter
	// AllowPartial: clients need no other keys than those.
	AllowPartial bool
	// DropFieldExpiries: hashes may lose the expiries of their fields.
	DropFieldExpiries bool
	// Resumed: the keys on To are ours from an earlier run.
	Resumed bool
	// Brought reports whether a function library of the target was brought by this migration,
	// Foreign whether it is others'. nil: none is.
	Brought, Foreign func(name string) bool
	// Proxied are the addresses ("ip:port", as From sees them) of the proxy's
	// session connections at From, or their ids ("id=17") where those tell nothing.
	Proxied map[string]struct{}
	// User is our own ACL user's name at From, or "".
	User string
}

// back reports whether this is the way back: From is then the target, which may
// hold other people's databases that were never ours to move.
func (e Env) back() bool { return e.FromName == "target" }

// side is From's.
func (e Env) side() router.Side {
	if e.back() {
		return router.Target
	}
	return router.Source
}

// at returns where a source database is on one of the servers.
func (in *inspection) at(s *server, db int) router.Place {
	side := in.side()
	if s == in.to {
		side = side.Other()
	}
	place, _ := in.Map.At(side, db)
	return place
}

// databasesOf are those of one of the servers that hold mapped keys.
func (in *inspection) databasesOf(s *server) []int {
	if s == in.to {
		return in.Map.On(in.side().Other())
	}
	return in.Map.On(in.side())
}

// which tells a check what it needs; without it the check is not run.
type which int

const (
	nothing which = iota // looks itself at in.sides()
	fromOnly
	toOnly
	both
)

type check struct {
	name   string
	needs  which
	stages []Stage
	run    func(context.Context, *inspection) []Finding
}

// checks is the fixed order: what others rest on comes first.
func checks() []check {
	always := []Stage{StageCheck, StageCopy, StageCutover}
	before := []Stage{StageCheck, StageCopy}
	return []check{
		{"permissions", nothing, always, checkPermissions},
		{"version", nothing, always, checkVersion},
		{"cluster", nothing, always, checkCluster},
		{"role", nothing, always, checkRole},
		{"restore", both, before, checkRestore},
		{"field-expiries", both, always, checkFieldExpiries},
		{"notifications", nothing, always, checkNotifications},
		{"databases", both, always, checkDatabases},
		{"prefixes", both, before, checkPrefixes},
		{"users", both, before, checkUsers},
		{"filter", both, always, checkFilter},
		{"memory", both, always, checkMemory},
		{"eviction", both, always, checkEviction},
		{"foreign-keys", toOnly, before, checkForeignKeys},
		{"clients", fromOnly, always, checkClients},
		{"fence", nothing, always, checkFence},
		{"replicas", fromOnly, []Stage{StageCheck}, checkReplicas},
		{"big-keys", fromOnly, before, checkBigKeys},
		{"commands", fromOnly, before, checkCommands},
		{"modules", both, before, checkModules},
		{"functions", both, always, checkFunctions},
		{"clock", both, always, checkClock},
	}
}

// perCheck bounds one check. Most take a few milliseconds.
const perCheck = 15 * time.Second

// Run makes the checks of a stage one after the other and returns all findings
// in a fixed order. It never returns early with a clean result: when ctx ends in
// the middle, the last finding is a failure that says so. Every probe key is
// removed again, even then.
func Run(ctx context.Context, env Env, stage Stage) []Finding {
	in := inspect(env, stage)
	findings := named("sentinel", checkSentinels(ctx, in))
	findings = append(findings, named("reach", checkReach(ctx, in))...)
	var skipped []string
	for _, c := range checks() {
		if ctx.Err() != nil {
			break
		}
		if !c.at(stage) {
			continue
		}
		if !in.can(c.needs) {
			skipped = append(skipped, c.name)
			continue
		}
		bounded, cancel := context.WithTimeoutCause(ctx, perCheck, fmt.Errorf("the check took longer than %v", perCheck))
		findings = append(findings, named(c.name, c.run(bounded, in))...)
		cancel()
	}
	if ctx.Err() != nil {
		return append(findings, Finding{"interrupted", Fail, fmt.Sprintf("the checks were not finished: %v", context.Cause(ctx)), "Run them again."})
	}
	if len(skipped) > 0 {
		findings = append(findings, Finding{"not-run", Warn,
			fmt.Sprintf("%s could not be looked at, so these checks were not made: %s", in.missing(), strings.Join(skipped, ", ")),
			"Mend what is above first, then check again."})
	}
	return findings
}

func (c check) at(stage Stage) bool {
	for _, s := range c.stages {
		if s == stage {
			return true
		}
	}
	return false
}

func named(check string, findings []Finding) []Finding {
	for i := range findings {
		findings[i].Check = check
	}
	return findings
}

// Failed reports whether a finding forbids going on.
func Failed(findings []Finding) bool {
	for _, f := range findings {
		if f.Level == Fail {
			return true
		}
	}
	return false
}

func pass(format string, args ...any) Finding {
	return Finding{Level: Pass, What: fmt.Sprintf(format, args...)}
}

func warn(do, format string, args ...any) Finding {
	return Finding{Level: Warn, Do: do, What: fmt.Sprintf(format, args...)}
}

func fail(do, format string, args ...any) Finding {
	return Finding{Level: Fail, Do: do, What: fmt.Sprintf(format, args...)}
}

func one(f Finding) []Finding { return []Finding{f} }

// unknown is the finding of a check that was not allowed to look.
func unknown(s *server, doing string, err error) Finding {
	do := "Look at the server, then check again."
	if refused(err) {
		do = "Allow the command (see permissions), or look yourself."
	}
	if errors.Is(err, context.DeadlineExceeded) {
		do = "The server is slow to answer: check again when it is calmer."
	}
	return warn(do, "%s: %s: %v", s, doing, err)
}
