package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
)

// What is different where the server that is fenced is a replica: it must be proved to be one
// of ours, on the connection that raises the fence, and it hears of the token by its master.

// errUnheard means that a replica has not heard of our token yet.
var errUnheard = errors.New("it has not heard yet of what its master was told")

// beside returns f for a replica of master's.
func (f fence) beside(master preflight.Standing) fence {
	f.follows = &master
	return f
}

// watchBeside is watch for a replica, which must hear its master. Before one of an attempt
// is fenced it must have heard of the attempt's token; later there may be an older one of
// ours, and none.
func (f fence) watchBeside(ctx context.Context, c *redis.Conn, attempt bool) error {
	p := c.Pipeline()
	watched, token := p.Do(ctx, "WATCH", store.FenceKey), p.Get(ctx, store.FenceKey)
	standing := preflight.QueueStanding(ctx, p)
	err := store.Answered(p.Exec(ctx))
	if err == nil {
		err = watched.Err()
	}
	if err == nil {
		var now preflight.Standing
		if now, err = standing(); err == nil {
			err = now.Hears(*f.follows)
		}
		if err == nil {
			err = f.heard(token, attempt)
		}
		if err != nil {
			_ = c.Do(context.WithoutCancel(ctx), "UNWATCH").Err()
		}
	}
	if err != nil {
		return fmt.Errorf("making ready to fence %s: %w", f.pool, err)
	}
	return nil
}

// heard judges the token that a replica has.
func (f fence) heard(token *redis.StringCmd, attempt bool) error {
	there, err := token.Uint64()
	switch {
	case err == nil && there > f.token:
		return fmt.Errorf("%s is newer than our token: %w", store.FenceKey, store.ErrSuperseded)
	case err == nil && (there == f.token || !attempt):
		return nil
	case err != nil && !errors.Is(err, redis.Nil) && !errors.As(err, new(*strconv.NumError)):
		return err
	case attempt:
		return errUnheard
	}
	return nil
}

// raiseBeside is raise for a replica, outside of an attempt.
func (f fence) raiseBeside(ctx context.Context, st *FenceState) error {
	c := f.db().Conn()
	defer func() { _ = c.Close() }()
	if err := f.watchBeside(ctx, c, false); err != nil {
		return err
	}
	return f.lift(ctx, c, st)
}

// raiseAgain changes the rules of a fence that stands, unless it is a newer coordinator's.
// That it does proves that the server is ours, whatever it replicates.
func (f fence) raiseAgain(ctx context.Context, st *FenceState) error {
	c := f.db().Conn()
	defer func() { _ = c.Close() }()
	p := c.Pipeline()
	may := f.mayLower(ctx, p)
	err := store.Answered(p.Exec(ctx))
	if err == nil {
		err = may()
	}
	if err != nil {
		return fmt.Errorf("making ready to fence %s: %w", f.pool, err)
	}
	f.follows = nil
	return f.lift(ctx, c, st)
}

// notOurs deals with a fence that went up on a server which was no replica of ours any more
// when it did. One that has become a master keeps it: it is ours, and whoever asked for the
// fence knows what to do. Any other one is somebody else's by now, and is opened at once.
func (f fence) notOurs(ctx context.Context, c *redis.Conn, st *FenceState, now preflight.Standing, why error) error {
	err := fmt.Errorf("raising the %s fence on %s: %w: %w", st.Level, f.pool, why, errFenceLost)
	if now.Promoted(*f.follows) {
		return err
	}
	var unpause *redis.Cmd
	cmds, lowering := c.TxPipelined(context.WithoutCancel(ctx), func(p redis.Pipeliner) error {
		_, unpause = f.queueLower(ctx, p, st)
		return nil
	})
	return errors.Join(err, firstBut(unpause, cmds, lowering))
}

// mayRaise tries what lift does with what changes nothing.
func (f fence) mayRaise(ctx context.Context, st *FenceState) error {
	p := f.db().Pipeline()
	switch st.Level {
	case FenceACL:
		p.Do(ctx, "ACL", "SETUSER", f.own)
	case FenceReplicas:
		p.ConfigSet(ctx, "min-replicas-to-write", st.MinReplicas)
	}
	if cmds, err := p.Exec(ctx); firstError(cmds, err) != nil {
		return fmt.Errorf("trying the %s fence on %s: %w", st.Level, f.pool, firstError(cmds, err))
	}
	return nil
}

// keepRules has users that have the words of a fence in their rules, and no mark by which these
// would be known, keep those of before it for the day on which it is lowered. All others' rules are
// what the server says: it was restarted with what an administrator has made of its users since.
func (st *FenceState) keepRules(old *FenceState) {
	for i, u := range st.Users {
		for _, o := range old.Users {
			if u.Name == o.Name && u.saysFence() {
				st.Users[i] = o
			}
		}
	}
	if st.Level == FenceReplicas && old.MinReplicas != "" {
		st.MinReplicas, st.MaxLag = old.MinReplicas, old.MaxLag
	}
}

// saysFence reports whether all that a fence allows is named in a user's rules.
func (u ACLUser) saysFence() bool {
	rules := strings.Fields(u.Commands)
	return !slices.ContainsFunc(fencedRules, func(r string) bool { return !slices.Contains(rules, r) })
}
