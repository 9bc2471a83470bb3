package main

import (
	"context"

	"github.com/crossfade/crossfade/admin"
	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// core is what a sidecar is besides its proxy: a migration, or a member of a fleet, which
// leaves that to another one.
type core interface {
	admin.Operator
	// Recover finds out where clients' commands go, and lets them through.
	Recover(context.Context) error
	// Run works until ctx ends.
	Run(context.Context) error
	// MasterMoved is told of failovers.
	MasterMoved(side router.Side, from, to string)
}

var (
	_ core = (*migration.Migration)(nil)
	_ core = (*migration.Member)(nil)
)

// copies makes the parts of a sidecar that copies and switches (role: full).
func (s *sidecar) copies(ends [2]config.Endpoint, gate *router.Gate) (err error) {
	see := &observer{}
	if s.proxy, err = newProxy(s.config, s.ups, gate, see, s.log); err != nil {
		return err
	}
	only, err := migration.Only(s.config)
	if err != nil {
		return usage(problems(err))
	}
	m := migration.New(migration.Options{
		Only:   only,
		Config: s.config, Source: ends[router.Source], Target: ends[router.Target], Meeting: s.meeting,
		Gate: gate, Traffic: traffic{s.proxy}, File: s.file, Hooks: s.hooks, Audit: s.audit, Tracer: s.traces.Tracer(), Version: buildVersion(),
	}, s.log)
	s.migration, see.Migration = m, m
	return nil
}

// onlyProxies makes those of one that leaves all else to another one (role: proxy).
func (s *sidecar) onlyProxies(ends [2]config.Endpoint, gate *router.Gate) (err error) {
	see := &unseen{}
	if s.proxy, err = newProxy(s.config, s.ups, gate, see, s.log); err != nil {
		return err
	}
	see.member = migration.NewMember(migration.MemberOptions{
		Config: s.config, Source: ends[router.Source], Target: ends[router.Target], Meeting: s.meeting,
		Gate: gate, Traffic: traffic{s.proxy}, File: s.file, Version: buildVersion(),
	}, s.log)
	s.migration = see.member
	return nil
}

// unseen takes what a member's proxy sees of its clients. Whoever copies finds out about it
// as about writers past the proxy: by notifications, and by what the server has counted.
type unseen struct{ member *migration.Member }

func (*unseen) Silent(int, ...string)  {}
func (*unseen) Changed(int, ...string) {}
func (*unseen) Flushed(int)            {}
func (*unseen) Swapped(int, int)       {}
func (*unseen) Functions()             {}

// Guard keeps nobody back: a member has no seat to lose.
func (*unseen) Guard(router.Side) *conn.Guard { return nil }

// Admit has the member look where clients belong, when it has not for a while.
func (u *unseen) Admit(ctx context.Context, side router.Side) error {
	return u.member.Admit(ctx, side)
}

// RefusedByFence has the member find out whether a switch was made without it.
func (u *unseen) RefusedByFence() { u.member.RefusedByFence() }
