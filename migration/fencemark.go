package migration

import (
	"fmt"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/migration/acl"
)

// A fence may be met where nobody expects it: on a server that was fenced as something else,
// or under another address, or by a process that has died. Taken for what was there before,
// it would never be lowered again. So each fence has a mark, which is in the rules of the
// users that it is raised on, and what they were before is looked up in the record by it.

// markPattern begins the key pattern that tells whose the fence is that a user is behind. It
// is a part of what fenced users may read in any case.
const markPattern = "%R~crossfade:fence:"

// newMark returns a mark that no other fence has, of this migration or of any other.
func newMark(migration string) string { return migration + "." + randomHex(4) }

// selectors are the rules that come behind the fence's others where the server has selectors
// (7.0): they let the operator's own credentials read our control keys, so that a sidecar
// that lost its state file finds its way, and nothing else. The channels
// that u has by selectors it keeps, as it does those of the root permissions: a server hangs up
// on subscribers whose channels are taken away (acl.c: ACLKillPubsubClientsIfNeeded).
func (st *FenceState) selectors(u ACLUser) []string {
	rule := append([]string{"resetchannels"}, u.selectedChannels()...)
	rule = append(rule, "+get", "%R~crossfade:*")
	if st.Mark != "" {
		rule = append(rule, markPattern+st.Mark)
	}
	return []string{"clearselectors", acl.Selector(rule)}
}

// selectedChannels are the rules for channels in the user's selectors.
func (u ACLUser) selectedChannels() []string {
	var out []string
	for _, rule := range slices.Concat(u.Selectors...) {
		switch {
		case rule == "&*": // none may be named beside it
			return []string{rule}
		case strings.HasPrefix(rule, "&") && !slices.Contains(out, rule):
			out = append(out, rule)
		}
	}
	return out
}

// markOf reports whether a user is behind a fence, and that one's mark; "" for one that has
// none, as those of former versions.
func markOf(u ACLUser) (mark string, fenced bool) {
	for _, selector := range u.Selectors {
		for _, rule := range selector {
			if m, ok := strings.CutPrefix(rule, markPattern); ok {
				return m, true
			}
			fenced = fenced || rule == "%R~crossfade:*"
		}
	}
	return "", fenced
}

// originals replaces users that are behind a fence by what they were before it.
func (f fence) originals(users []ACLUser) ([]ACLUser, error) {
	out := slices.Clone(users)
	for i, u := range users {
		mark, fenced := markOf(u)
		if !fenced {
			continue
		}
		was, ok := f.original(mark, u.Name)
		if !ok {
			return nil, fmt.Errorf("ACL user %q is behind a fence already (%s), and what it was before is not known here: whoever has raised that one is to lower it, or you give the user its rights back (ACL SETUSER)", u.Name, quoteOr(mark, "without a mark"))
		}
		out[i] = was
	}
	return out, nil
}

// original is what a user was before the fence with that mark was raised.
func (f fence) original(mark, name string) (ACLUser, bool) {
	var states []*FenceState
	if f.known != nil && mark != "" {
		states = append(states, f.known(mark))
	}
	if id, _, _ := strings.Cut(mark, "."); mark == "" || id == f.migration {
		states = append(states, f.before) // of an earlier attempt of ours
	}
	for _, st := range states {
		if st == nil {
			continue
		}
		if i := slices.IndexFunc(st.Users, func(u ACLUser) bool { return u.Name == name }); i >= 0 {
			return st.Users[i], true
		}
	}
	return ACLUser{}, false
}

// originalMinimum replaces our own min-replicas-to-write by what was there before it.
func (f fence) originalMinimum(st *FenceState) error {
	if st.MinReplicas != maxInt32 {
		return nil
	}
	if f.before == nil || f.before.Level != FenceReplicas || f.before.MinReplicas == maxInt32 {
		return fmt.Errorf("min-replicas-to-write is %s, which is a fence already, and what it was before is not known here: set it back by hand (CONFIG SET)", maxInt32)
	}
	st.MinReplicas, st.MaxLag = f.before.MinReplicas, f.before.MaxLag
	return nil
}

func quoteOr(text, none string) string {
	if text == "" {
		return none
	}
	return fmt.Sprintf("%q", text)
}

// knownFence finds the fence with a mark in the record.
func (r Record) knownFence(mark string) *FenceState {
	for _, k := range r.Servers {
		for _, st := range []*FenceState{k.Fence, k.Lowered} {
			if st != nil && st.Mark == mark {
				return st
			}
		}
	}
	for _, f := range r.Former {
		if f.Kept.Fence != nil && f.Kept.Fence.Mark == mark {
			return f.Kept.Fence
		}
	}
	return nil
}
