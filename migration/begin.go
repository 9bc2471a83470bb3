package migration

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/failpoint"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/mirror"
)

// begin starts the mirror that the record asks for.
func (m *Migration) begin(ctx context.Context) error {
	m.verb.Lock()
	defer m.verb.Unlock()
	r := m.record()
	if r.Phase.Ended() {
		return nil
	}
	if err := m.login(ctx, router.Source, router.Target); err != nil {
		m.setProblems(err.Error())
		return err
	}
	if r.oneWay() {
		m.setProblems()
		return m.save(false, func(r *Record) {
			if r.Side == router.Target {
				r.Phase = ReverseLost
			}
		})
	}
	if err := m.countDatabases(ctx); err != nil {
		m.setProblems(err.Error())
		return err
	}
	if r.Side == router.Source {
		if err := m.save(false, func(r *Record) { r.Phase = Preflight }); err != nil {
			return err
		}
		if problems := m.preflight(ctx, router.Source, false); len(problems) > 0 {
			m.setProblems(problems...)
			return errors.New(problems[0])
		}
	}
	mi := m.newMirror(r.Side)
	m.setMirror(mi) // first: what clients do that no feed tells, once it has begun to scan, is its to know
	if err := m.start(ctx, mi); err != nil {
		m.setMirror(nil)
		mi.Stop()
		m.setProblems(err.Error())
		return err
	}
	m.setProblems()
	return nil
}

// beginning is one step of the copy's beginning: its failpoints are those of a recovery.
type beginning struct {
	name string
	run  func(*Migration, context.Context, *mirror.Mirror) error
}

// stepsBegin bring a mirror to life with a scan of everything: for the first time,
// or after a restart, which is a gap in the feed.
var stepsBegin = []beginning{
	// No connection of an earlier sidecar of this migration is left on either server: what
	// it had sent could arrive late.
	{"begin-seat", func(m *Migration, ctx context.Context, _ *mirror.Mirror) error {
		return m.sit(ctx, router.Source, router.Target)
	}},
	{"begin-listen", func(_ *Migration, ctx context.Context, mi *mirror.Mirror) error { return mi.Listen(ctx) }},
	{"begin-note", (*Migration).noteBegin},
	// One that has forgotten the switch since noteBegin asked is not told, see unforgotten.
	{"begin-tell", func(m *Migration, ctx context.Context, _ *mirror.Mirror) error {
		return m.publishIf(ctx, router.Target, store.RecordKey, m.unforgotten(router.Target))
	}},
	{"begin-follow", func(m *Migration, ctx context.Context, mi *mirror.Mirror) error { return m.follow(ctx, mi, true) }},
}

func (m *Migration) start(ctx context.Context, mi *mirror.Mirror) error {
	for _, s := range stepsBegin {
		failpoint.Hit("recover." + s.name + ":before")
		if err := s.run(m, ctx, mi); err != nil {
			return err
		}
		failpoint.Hit("recover." + s.name + ":after")
	}
	return nil
}

func (m *Migration) noteBegin(ctx context.Context, _ *mirror.Mirror) error {
	if err := m.notEnded(ctx, m.record()); err != nil { // a server may have been away before
		return err
	}
	err := m.save(false, func(r *Record) {
		if !r.Copied {
			r.Libraries = mirror.Libraries{}
		}
		r.Copied, r.Meets = true, meetsIn(m.opt.Meeting)
		if r.Side == router.Source {
			r.Phase = Copying
		} else {
			r.Phase = ReverseLost
		}
	})
	if err != nil {
		return err
	}
	return m.remembers(ctx, m.record().Side, m.ids[m.record().Side].Pool()) // before it is told anew
}

// killOlder makes sure that no connection of another sidecar of this migration is left on
// a server.
func killOlder(ctx context.Context, id *identity) error {
	mine, member := mirror.KeyPrefix+id.instance+":", mirror.KeyPrefix+memberInstance
	older := func(name string) bool {
		return name != cluster.ConnName && len(name) > len(mirror.KeyPrefix) && name[:len(mirror.KeyPrefix)] == mirror.KeyPrefix &&
			(len(name) < len(mine) || name[:len(mine)] != mine) && !strings.HasPrefix(name, member)
	}
	err := everyNode(ctx, id.Pool(), func(ctx context.Context, c *redis.Client) error { return mirror.KillNamed(ctx, c, older) })
	if err != nil {
		return fmt.Errorf("closing connections of an earlier run on %s: %w", id.Pool(), err)
	}
	return nil
}
