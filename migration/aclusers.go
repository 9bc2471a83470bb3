package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/acl"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// UserReport is what became of copying ACL users.
type UserReport struct {
	acl.Plan
	// Applied says that the target was written to and says the same.
	Applied bool `json:"applied"`
	// Kept is where the target keeps its users over a restart: acl.InFile, acl.InConfig or
	// acl.Nowhere; "" where that was not asked.
	Kept string `json:"kept,omitempty"`
}

// PlanUsers says what copying the ACL users of the source to the target comes to, for the
// two servers of the configuration and by its database map. Nothing is changed.
func PlanUsers(ctx context.Context, cfg config.Config, o acl.Options) (UserReport, error) {
	u, err := openUsers(ctx, cfg)
	if err != nil {
		return UserReport{}, err
	}
	defer u.close()
	p, err := u.plan(ctx, o)
	return UserReport{Plan: p}, err
}

// ApplyUsers copies them. persist allows CONFIG REWRITE on a target without an aclfile. A
// user that the target cannot have as it is is left out; the plan names it. With an error
// the report has the plan, where there was one.
func ApplyUsers(ctx context.Context, cfg config.Config, o acl.Options, persist bool) (UserReport, error) {
	u, err := openUsers(ctx, cfg)
	if err != nil {
		return UserReport{}, err
	}
	defer u.close()
	p, err := u.plan(ctx, o)
	r := UserReport{Plan: p}
	if err != nil {
		return r, err
	}
	w := acl.Writer{Client: u.to.DB(0), Watch: []string{store.RecordKey, store.JournalKey, store.FenceKey}, May: u.may}
	if err := w.Apply(ctx, p); errors.Is(err, acl.ErrMoved) {
		return r, &Refused{Reasons: []string{fmt.Sprintf("on the target %s: %v", u.to, err)}}
	} else if err != nil {
		return r, fmt.Errorf("copying ACL users to %s: %w", u.to, err)
	}
	r.Applied = true
	if r.Kept, err = w.Save(ctx, persist); err != nil {
		return r, fmt.Errorf("the ACL users are copied, but %s does not keep them over a restart: %w", u.to, err)
	}
	return r, nil
}

// userEnds are both servers while ACL users are copied.
type userEnds struct {
	*ends
	places map[int]router.Place // nil: the map is empty
	raised bool                 // a record on one of the servers says that a fence is up
}

func openUsers(ctx context.Context, cfg config.Config) (*userEnds, error) {
	if to, err := cfg.Target.Endpoint(); err == nil && to.Cluster != nil {
		return nil, fmt.Errorf("copying ACL users to %s: each node of a cluster has users of its own: give the nodes one after the other, replicas too, as --target redis://NODE", to)
	}
	u := &userEnds{places: placesOf(cfg)}
	if len(u.places) == 0 {
		u.places = nil // databases keep their numbers, and keys their names
	} else if _, err := router.NewDBMap(u.places); err != nil {
		return nil, err
	}
	both, err := openEnds(ctx, cfg, "acl")
	u.ends = both
	return u, err
}

func (u *userEnds) plan(ctx context.Context, o acl.Options) (acl.Plan, error) {
	if err := u.still(ctx, u.to.DB(0)); err != nil {
		return acl.Plan{}, err
	}
	var sides [2]acl.Side
	for side, pool := range []*conn.Pool{u.from, u.to} {
		var err error
		sides[side], err = usersOf(ctx, pool.String(), router.Side(side), pool.DB(0))
		if errorPrefix(err, "NOPERM") && u.raised {
			return acl.Plan{}, &Refused{Reasons: []string{fencedUsers(router.Side(side), pool.String(), "we are refused")}}
		}
		if err != nil {
			return acl.Plan{}, err
		}
	}
	from, err := acl.ReadCatalog(ctx, u.from.DB(0))
	if err != nil {
		return acl.Plan{}, fmt.Errorf("reading the ACL categories of the source %s: %w", u.from, err)
	}
	to, err := acl.Look(ctx, u.to.DB(0), acl.CommandRules(sides[router.Source].Users))
	if err != nil {
		return acl.Plan{}, fmt.Errorf("asking the target %s which ACL rules it knows: %w", u.to, err)
	}
	o.Never, o.Places = append(o.Never, OwnUser), u.places
	p, err := acl.Make(sides[router.Source], sides[router.Target], from, to, o)
	p.Source, p.Target = u.from.String(), u.to.String()
	if n := replicaCount(ctx, u.to); n > 0 {
		p.Notes = append(p.Notes, fmt.Sprintf("The target's connected replicas: %d. ACL users are not replicated: do the same with --target for each of them, or a failover loses the users.", n))
	}
	return p, err
}

// usersOf reads users, and refuses those of a server that is fenced: its users have the
// fence's rules instead of their own, and to give them others would open it. What a check has
// left that was killed looks like one of them and is nobody's: a source is read without it.
func usersOf(ctx context.Context, name string, side router.Side, c acl.Asker) (acl.Side, error) {
	users, self, err := acl.Read(ctx, c)
	if err != nil {
		return acl.Side{}, fmt.Errorf("reading the ACL users of the %s %s: %w", side, name, err)
	}
	kept := users[:0]
	for _, u := range users {
		probe := strings.HasPrefix(u.Name, preflight.ProbeUsers)
		if wearsFence(u) && !probe {
			return acl.Side{}, &Refused{Reasons: []string{fencedUsers(side, name, fmt.Sprintf("ACL user %q has the fence's rules", u.Name))}}
		}
		if side == router.Target || !probe {
			kept = append(kept, u)
		}
	}
	return acl.Side{Users: kept, Self: self}, nil
}

func fencedUsers(side router.Side, name, seen string) string {
	if side == router.Target {
		return fmt.Sprintf("the target %s is fenced (%s): to write users there would open it; copy them before a cutover or after crossfade complete", name, seen)
	}
	return fmt.Sprintf("the source %s is fenced (%s), so its users do not have their own rules: copy the users before a cutover or after crossfade complete", name, seen)
}

// wearsFence reports whether a user has the rules of a fence.
func wearsFence(u acl.User) bool {
	have := make(map[string]bool)
	for _, r := range u.Root.Commands {
		have[r] = true
	}
	for _, r := range fencedRules {
		if !have[r] {
			return false
		}
	}
	f := ACLUser{Name: u.Name, Commands: strings.Join(u.Root.Commands, " ")}
	for _, s := range u.Selectors {
		f.Selectors = append(f.Selectors, append(append([]string{}, s.Keys...), s.Commands...))
	}
	if _, marked := markOf(f); marked {
		return true
	}
	return (&FenceState{Watched: true}).holds(f) // of a server without selectors
}

// may is asked while nobody else can begin a switch unnoticed.
func (u *userEnds) may(ctx context.Context, tx *redis.Tx) error {
	if err := u.still(ctx, tx); err != nil {
		return err
	}
	_, err := usersOf(ctx, u.to.String(), router.Target, tx)
	return err
}

// still refuses while a switch of these servers is under way: then their users are about to
// be saved, fenced or put back. to is the target, or a connection to it.
func (u *userEnds) still(ctx context.Context, to redis.Cmdable) error {
	newest := make(map[string]store.Entry)
	for _, at := range []struct {
		pool *conn.Pool
		c    redis.Cmdable
	}{{u.from, u.from.DB(0)}, {u.to, to}} {
		for _, key := range []string{store.RecordKey, store.JournalKey} {
			text, err := at.c.Get(ctx, key).Bytes()
			if errors.Is(err, redis.Nil) {
				continue
			}
			if err != nil {
				return fmt.Errorf("asking %s for %s, whether a switch is under way: %w", at.pool, key, err)
			}
			var e store.Entry
			if err := json.Unmarshal(text, &e); err != nil {
				return fmt.Errorf("reading %s of %s: it does not hold a record of ours: %w", key, at.pool, err)
			}
			if old, ok := newest[e.ID]; !ok || e.After(old) {
				newest[e.ID] = e
			}
		}
	}
	for _, e := range newest {
		r, err := decode(e)
		if err != nil {
			return err
		}
		for _, kept := range r.Servers {
			u.raised = u.raised || kept.Fence != nil && kept.Fence.Raised
		}
		if r.Phase.Switching() || r.Phase == Committing || r.Phase == Committed {
			return &Refused{Reasons: []string{fmt.Sprintf("a switch of %s and %s is under way (%s): ACL users are left alone until it is over", r.Source, r.Target, r.Phase)}}
		}
	}
	return nil
}

func replicaCount(ctx context.Context, p *conn.Pool) (n int) {
	info, _ := p.DB(0).Info(ctx, "replication").Result()
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "connected_slaves:"); ok {
			_, _ = fmt.Sscan(v, &n)
		}
	}
	return n
}
