package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/acl"
	"github.com/crossfade/crossfade/migration/store"
)

// letListen lets those users that the fence denies everything subscribe who might before it, or
// takes that back. Nobody hears by it what was not to be heard: a server does not hang up on
// subscribers whose right to subscribe is taken away.
func (f fence) letListen(ctx context.Context, st *FenceState, allow bool) error {
	if st == nil || !st.Raised || st.Level != FenceACL {
		return nil
	}
	var may mayRun
	if allow {
		catalog, err := acl.ReadCatalog(ctx, f.db())
		switch {
		case errorPrefix(err, "NOPERM"): // where ACL CAT is not ours, all may: nobody is to miss anything
			may = func([]string, string) bool { return true }
		case err != nil:
			return fmt.Errorf("asking %s which users may subscribe: %w", f.pool, err)
		default:
			may = catalog.May
		}
	}
	var needed []redis.Cmder
	_, err := f.db().TxPipelined(ctx, func(p redis.Pipeliner) error {
		for _, u := range st.Users {
			rules, selectors := st.rulesOf(u), st.selectors(u) // the first begin with -@all
			var late []string
			if allow {
				rules = slices.Concat(rules, u.listening(may, listenRules))
				selectors = slices.Concat(selectors, u.listeningSelectors(may))
				late = u.listening(may, newListenRules)
			}
			if st.HasSelectors {
				rules = slices.Concat(rules, selectors)
			}
			needed = append(needed, p.Do(ctx, append([]any{"ACL", "SETUSER", u.Name}, anys(rules)...)...))
			for _, rule := range late {
				p.Do(ctx, "ACL", "SETUSER", u.Name, rule)
			}
		}
		return nil
	})
	if !errorPrefix(err, "EXECABORT") {
		err = firstError(needed, nil)
	}
	if err != nil {
		return fmt.Errorf("letting subscribers in on %s: %w", f.pool, err)
	}
	return nil
}

// mayRun reports whether command rules allow a command, see acl.Catalog.May.
type mayRun func(rules []string, command string) bool

// listening are those rules that allow a user nothing that it might not do before. To subscribe takes
// the right and the channel from the same place, all else may come from a selector.
func (u ACLUser) listening(may mayRun, rules []string) (out []string) {
	for _, rule := range rules {
		its := may(strings.Fields(u.Commands), rule[1:])
		if !slices.Contains(subscribeRules, rule) {
			its = its || slices.ContainsFunc(u.Selectors, func(s []string) bool { return may(commandsIn(s), rule[1:]) })
		}
		if its {
			out = append(out, rule)
		}
	}
	return out
}

// listeningSelectors let the channels of a user's selectors be heard that it might hear by them.
func (u ACLUser) listeningSelectors(may mayRun) (out []string) {
	for _, sel := range u.Selectors {
		rules := []string{"resetchannels"}
		for _, r := range sel {
			if strings.HasPrefix(r, "&") {
				rules = append(rules, r)
			}
		}
		channels := len(rules)
		for _, rule := range subscribeRules {
			if may(commandsIn(sel), rule[1:]) {
				rules = append(rules, rule)
			}
		}
		if channels > 1 && len(rules) > channels {
			out = append(out, acl.Selector(rules))
		}
	}
	return out
}

// commandsIn are the command rules of a selector.
func commandsIn(selector []string) []string {
	return slices.DeleteFunc(slices.Clone(selector), func(r string) bool { return !strings.HasPrefix(r, "+") && !strings.HasPrefix(r, "-") })
}

// lower puts everything back as save found it, unless a newer coordinator's token is
// there: then the fence is its own (ErrSuperseded). It may be repeated. Where all is put back
// but for users whose rules the server does not take, the error is *stillDenied.
func (f fence) lower(ctx context.Context, st *FenceState) error {
	if f.ends {
		if err := f.kill(ctx, nil); err != nil {
			return err
		}
	}
	err := f.db().Watch(ctx, func(tx *redis.Tx) error {
		p := tx.Pipeline()
		may := f.mayLower(ctx, p)
		err := store.Answered(p.Exec(ctx))
		if err == nil {
			err = may()
		}
		if err != nil {
			_ = tx.Unwatch(context.WithoutCancel(ctx)).Err()
			return err
		}
		return f.lowerOn(ctx, tx, st)
	})
	if errors.Is(err, redis.TxFailedErr) {
		err = store.ErrSuperseded
	}
	if err != nil {
		return fmt.Errorf("lowering the %s fence on %s: %w", st.Level, f.pool, err)
	}
	return nil
}

// mayLower is the condition of lower, for who lowers it together with something else.
func (f fence) mayLower(ctx context.Context, p redis.Pipeliner) func() error {
	watched, token := p.Do(ctx, "WATCH", store.FenceKey), p.Get(ctx, store.FenceKey)
	return func() error {
		there, err := token.Uint64()
		switch {
		case watched.Err() != nil:
			return watched.Err()
		case err == nil && f.token > 0 && there > f.token:
			return store.ErrSuperseded
		case err != nil && !errors.Is(err, redis.Nil) && !errors.As(err, new(*strconv.NumError)):
			return err
		}
		return nil
	}
}

func (f fence) lowerOn(ctx context.Context, tx *redis.Tx, st *FenceState) error {
	var unpause *redis.Cmd
	var ours []redis.Cmder
	cmds, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
		ours, unpause = f.queueLower(ctx, p, st)
		if f.ends {
			f.queueEnd(ctx, p, st)
		}
		return nil
	})
	if errorPrefix(err, "EXECABORT") || errors.Is(err, redis.TxFailedErr) {
		return firstBut(unpause, cmds, err)
	}
	left := f.leftDenied(st, ours)
	if f.ends {
		cmds, err = ours, nil // where it cannot close by user, kill has closed them all
	}
	cmds, err = butDenied(left, cmds, err)
	if err := firstBut(unpause, cmds, err); err != nil || left == nil {
		return err
	}
	return left
}

// queueEnd closes, in the same instant in which the fence falls, who has connected behind it
// since kill, and takes the seat away: who connects later finds that the migration is over,
// see Member.Admit.
func (f fence) queueEnd(ctx context.Context, p redis.Pipeliner, st *FenceState) {
	if st.Level != FenceACL { // F2 refuses the write, while the transaction is queued; no fleet is switched with these
		return
	}
	p.Del(ctx, store.SeatKey)
	for _, u := range st.Users {
		for _, kind := range []string{"normal", "pubsub"} { // replicas may log in like them
			p.Do(ctx, "CLIENT", "KILL", "TYPE", kind, "USER", u.Name)
		}
	}
}

// queueLower puts into p what lowers the fence, and returns all of it and, of that, the end
// of a pause.
func (f fence) queueLower(ctx context.Context, p redis.Pipeliner, st *FenceState) (cmds []redis.Cmder, unpause *redis.Cmd) {
	switch st.Level {
	case FenceACL:
		for _, u := range st.Users {
			cmds = append(cmds, p.Do(ctx, append([]any{"ACL", "SETUSER", u.Name}, anys(st.oldRules(u))...)...))
		}
	case FenceReplicas:
		cmds = append(cmds, p.ConfigSet(ctx, "min-replicas-to-write", st.MinReplicas),
			p.ConfigSet(ctx, "min-replicas-max-lag", st.MaxLag))
	}
	unpause = p.Do(ctx, "CLIENT", "UNPAUSE")
	return append(cmds, unpause), unpause
}
