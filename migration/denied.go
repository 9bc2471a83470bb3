package migration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/acl"
	"github.com/crossfade/crossfade/sync/conn"
)

// A server may not take a user's old rules any more: they name a command of a module that was
// unloaded since, say. Nobody is kept waiting for that: all other users get theirs, and this
// one stays denied every command, for rights that it had not are not ours to give. The record
// keeps its rules and why, the status says what is to be done, and it is tried again.

// stillDenied is the error of a fence that was lowered but for these users.
type stillDenied struct {
	server string
	state  *FenceState // Users and Refused are of those
}

func (e *stillDenied) Error() string { return strings.Join(e.state.denied(e.server), "; ") }

// denied says of each user that a lowered fence has left denied on a server what is to be done.
// Rules are no secrets: passwords are not among them.
func (st *FenceState) denied(server string) (out []string) {
	for _, u := range st.Users {
		if why := st.Refused[u.Name]; why != "" {
			out = append(out, fmt.Sprintf("ACL user %q stays denied every command on %s, for the server does not take its old rules any more (%s): load the module that they name, and it gets them back, or give it rules by hand there: ACL SETUSER %s %s",
				u.Name, server, why, u.Name, strings.Join(st.oldRules(u), " ")))
		}
	}
	return out
}

// oldRules are what ACL SETUSER gives a user its rights back with.
func (st *FenceState) oldRules(u ACLUser) []string {
	rules := append([]string{"-@all"}, strings.Fields(u.Commands)...)
	if st.HasSelectors {
		rules = append(rules, "clearselectors")
	}
	for _, sel := range u.Selectors {
		rules = append(rules, acl.Selector(sel))
	}
	return rules
}

// leftDenied returns what is left of a fence whose lowering was answered by cmds, of which the
// first are those of its users; nil: nothing. A user whose rules are refused is as it was
// (acl.c: ACL SETUSER changes a copy), and the others of the transaction have theirs.
func (f fence) leftDenied(st *FenceState, cmds []redis.Cmder) *stillDenied {
	left := *st
	left.Raised, left.Users, left.Refused = false, nil, make(map[string]string)
	for i, u := range st.Users {
		if st.Level == FenceACL && rulesRefused(cmds[i].Err()) {
			left.Users = append(left.Users, u)
			left.Refused[u.Name] = cmds[i].Err().Error()
		}
	}
	if len(left.Users) == 0 {
		return nil
	}
	return &stillDenied{f.pool.String(), &left}
}

// rulesRefused reports whether a server says that it knows not what a rule means.
func rulesRefused(err error) bool { return errorPrefix(err, "ERR Error in ACL SETUSER modifier") }

// butDenied takes the answers out of err and cmds that left has.
func butDenied(left *stillDenied, cmds []redis.Cmder, err error) ([]redis.Cmder, error) {
	if left == nil {
		return cmds, err
	}
	if rulesRefused(err) {
		err = nil
	}
	return slices.DeleteFunc(slices.Clone(cmds), func(c redis.Cmder) bool { return rulesRefused(c.Err()) }), err
}

// tellDenied logs what is left of a fence, and returns what the record is to have of it; nil:
// nothing. News is whether that is not what it has, which is before.
func (m *Migration) tellDenied(left *stillDenied, before *FenceState) (rest *FenceState, news bool) {
	if left == nil {
		return nil, true
	}
	if maps.Equal(left.state.Refused, before.Refused) {
		return before, false
	}
	m.log.Error("a fence is lowered, but not for all users", "error", left)
	return left.state, true
}

// deniedUsers says what is left of fences that were lowered.
func (m *Migration) deniedUsers(r Record) (out []string) {
	for side, k := range r.Servers {
		if k.Fence != nil {
			out = append(out, k.Fence.denied(cmp.Or(k.At, m.ids[side].url.String()))...)
		}
	}
	return out
}

// noteDeniedOn notes what is left of the fence on a server that is put back, which is tried
// again. err is why it is not; it is returned.
func (m *Migration) noteDeniedOn(f Former, err error) error {
	left, _ := lowered(err)
	rest, news := m.tellDenied(left, f.Kept.Fence)
	if rest == nil || !news {
		return err
	}
	noted := m.assume(func(r *Record) { r.keep(f.Side, f.Address, f.Run, func(k *Kept) { k.Fence = rest }) })
	return errors.Join(err, noted)
}

// lowered is the error of lower, but for what it has left.
func lowered(err error) (*stillDenied, error) {
	var left *stillDenied
	if errors.As(err, &left) {
		return left, nil
	}
	return nil, err
}

// stillToLower is what of a fence has to be lowered: all, or, where it was before, what it has left
// and nobody has put right by hand.
func stillToLower(ctx context.Context, pool *conn.Pool, st *FenceState) (*FenceState, error) {
	if len(st.Refused) == 0 {
		return st, nil
	}
	return stillFenced(ctx, pool, st)
}

// stillKnown is stillToLower for when nobody waits: who was removed meanwhile is not made again.
func stillKnown(ctx context.Context, pool *conn.Pool, st *FenceState) (*FenceState, error) {
	st, err := stillToLower(ctx, pool, st)
	if err != nil || st.Level != FenceACL {
		return st, err
	}
	names, err := pool.DB(0).Do(ctx, "ACL", "USERS").StringSlice()
	if err != nil {
		return nil, fmt.Errorf("looking who is still known on %s: %w", pool, err)
	}
	now := *st
	now.Users = slices.DeleteFunc(slices.Clone(st.Users), func(u ACLUser) bool { return !slices.Contains(names, u.Name) })
	return &now, nil
}
