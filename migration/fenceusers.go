package migration

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
)

// users lists every user but ours and those that are spared.
func (f fence) users(ctx context.Context) ([]ACLUser, error) {
	names, err := f.db().Do(ctx, "ACL", "USERS").StringSlice()
	if err != nil {
		return nil, err
	}
	var users []ACLUser
	for _, name := range names {
		if name == f.own {
			continue
		}
		u, err := aclUser(ctx, f.db(), name)
		if err != nil {
			return nil, err
		}
		if !spared(u) {
			users = append(users, u)
		}
	}
	return users, nil
}

// aclUser reads a user with ACL GETUSER.
func aclUser(ctx context.Context, c asker, name string) (ACLUser, error) {
	return readUser(name, c.Do(ctx, "ACL", "GETUSER", name))
}

// readUser reads an answer to ACL GETUSER. Redis 7 answers each selector as
// commands, keys and channels in ACL SETUSER's own words (acl.c: aclAddReplySelectorDescription).
func readUser(name string, answer *redis.Cmd) (ACLUser, error) {
	u := ACLUser{Name: name}
	reply, err := answer.Slice()
	if err != nil {
		return u, fmt.Errorf("reading ACL user %q: %w", name, err)
	}
	fields := pairs(reply)
	u.Commands, _ = fields["commands"].(string)
	if u.Commands == "" {
		return u, fmt.Errorf("reading ACL user %q: the server does not say its commands", name)
	}
	selectors, _ := fields["selectors"].([]any)
	for _, s := range selectors {
		list, _ := s.([]any)
		sel := pairs(list)
		// What a new selector starts with is for acl-pubsub-default to say.
		rules := []string{"resetchannels"}
		if _, ok := sel["databases"]; ok { // Valkey 9.1; a new one sees all of them
			rules = append(rules, "resetdbs")
		}
		for _, key := range []string{"commands", "keys", "channels", "databases"} {
			text, _ := sel[key].(string)
			rules = append(rules, strings.Fields(text)...)
		}
		u.Selectors = append(u.Selectors, rules)
	}
	return u, nil
}

func pairs(list []any) map[string]any {
	m := make(map[string]any, len(list)/2)
	for i := 0; i+1 < len(list); i += 2 {
		if k, ok := list[i].(string); ok {
			m[k] = list[i+1]
		}
	}
	return m
}

// spared reports whether a user needs no fence: no application can be it, and it can
// change no key.
func spared(u ACLUser) bool { return replicationOnly(u) || sentinelOnly(u) || probeLeft(u) }

// probeLeft recognises what a check has left that was killed: it has the rules of the fence,
// and was nothing before it.
func probeLeft(u ACLUser) bool {
	return strings.HasPrefix(u.Name, preflight.ProbeUsers) && (&FenceState{}).holds(u)
}

// sentinelRules are what the user of sentinels may do, as their documentation has it.
var sentinelRules = []string{
	"-@all", "+multi", "+exec", "+discard", "+slaveof", "+replicaof", "+ping", "+subscribe", "+config|rewrite", "+role", "+publish", "+info",
	"+client|setname", "+client|kill", "+script|kill", "+hello", "+auth",
}

// sentinelOnly recognises the user of sentinels: without it they could not make a
// replica of a master that a failover has left.
func sentinelOnly(u ACLUser) bool {
	rules := strings.Fields(u.Commands)
	if len(u.Selectors) > 0 || !slices.Contains(rules, "+slaveof") && !slices.Contains(rules, "+replicaof") {
		return false
	}
	return !slices.ContainsFunc(rules, func(r string) bool { return !slices.Contains(sentinelRules, r) })
}

// replicationOnly recognises the user of a replica: it can do nothing but
// replicate, so it cannot write.
func replicationOnly(u ACLUser) bool {
	rules := strings.Fields(u.Commands)
	if len(u.Selectors) > 0 || !slices.Contains(rules, "+psync") {
		return false
	}
	for _, r := range rules {
		if r != "-@all" && r != "+psync" && r != "+replconf" && r != "+ping" {
			return false
		}
	}
	return true
}

// rulesOf returns what the fence lets a user do that was as u is.
func (st *FenceState) rulesOf(u ACLUser) []string {
	rules := fencedRules
	if replicates(u) {
		rules = slices.Concat(rules, replicaRules)
	}
	if st.Watched && administers(u) {
		rules = slices.Concat(rules, promoteRules)
	}
	return rules
}

// administers reports whether a user may do all that makes a replica the master.
func administers(u ACLUser) bool {
	may := false
	for _, r := range strings.Fields(u.Commands) {
		name, _, _ := strings.Cut(strings.TrimPrefix(r, "-"), "|")
		switch {
		case r == "+@all" || r == "allcommands":
			may = true
		case !strings.HasPrefix(r, "-"):
		case strings.HasPrefix(name, "@"), slices.ContainsFunc(promoteRules, func(p string) bool {
			needed, _, _ := strings.Cut(p[1:], "|")
			return needed == name
		}):
			may = false
		}
	}
	return may
}

// replicates reports whether a user may follow the server as a replica does. Later rules
// win; PSYNC is in the categories named here (its flags and acl_categories).
func replicates(u ACLUser) bool {
	may := false
	for _, r := range strings.Fields(u.Commands) {
		switch r {
		case "+@all", "allcommands", "+@admin", "+@slow", "+@dangerous", "+psync":
			may = true
		case "-@all", "nocommands", "-@admin", "-@slow", "-@dangerous", "-psync":
			may = false
		}
	}
	return may
}

// asker is a client, or one connection.
type asker = store.Asker

// check returns errFenceLost when the fence is not up, and other errors when
// that cannot be told.
func (f fence) check(ctx context.Context, st *FenceState) error {
	p := f.db().Pipeline()
	a := f.ask(ctx, p, st)
	if p.Len() > 0 {
		if err := store.Answered(p.Exec(ctx)); err != nil {
			return fmt.Errorf("checking the fence on %s: %w", f.pool, err)
		}
	}
	return f.judge(ctx, f.db(), st, a)
}

// stands is check as a condition of what is to be written on the same server.
func (f fence) stands(st *FenceState) store.Condition {
	return func(ctx context.Context, p redis.Pipeliner) func(store.Asker, store.Entry) error {
		a := f.ask(ctx, p, st)
		return func(c store.Asker, _ store.Entry) error { return f.judge(ctx, c, st, a) }
	}
}

// answers are those of a server about its fence.
type answers struct {
	users   *redis.Cmd
	each    map[string]*redis.Cmd // of the users that we have fenced
	minimum *redis.MapStringStringCmd
	server  *redis.StringCmd // nil where it may be any process
}

func (f fence) ask(ctx context.Context, p redis.Pipeliner, st *FenceState) (a answers) {
	switch st.Level {
	case FenceACL:
		a.users, a.each = p.Do(ctx, "ACL", "USERS"), make(map[string]*redis.Cmd, len(st.Users))
		for _, u := range st.Users {
			a.each[u.Name] = p.Do(ctx, "ACL", "GETUSER", u.Name)
		}
	case FenceReplicas:
		a.minimum = p.ConfigGet(ctx, "min-replicas-*")
	}
	if f.run != "" {
		a.server = p.Info(ctx, "server")
	}
	return a
}

// judge looks at the answers, and asks c about users that nobody knew of.
func (f fence) judge(ctx context.Context, c asker, st *FenceState, a answers) error {
	if a.server != nil {
		text, err := a.server.Result()
		if err != nil {
			return fmt.Errorf("checking the fence on %s: %w", f.pool, err)
		}
		if runIDIn(text) != f.run {
			return fmt.Errorf("checking the fence on %s: it is not the process that was fenced: %w", f.pool, errFenceLost)
		}
	}
	switch st.Level {
	case FenceACL:
		names, err := a.users.StringSlice()
		if err != nil {
			return fmt.Errorf("checking the fence on %s: %w", f.pool, err)
		}
		for _, name := range names {
			if name == f.own {
				continue
			}
			answer := a.each[name]
			if answer == nil {
				answer = c.Do(ctx, "ACL", "GETUSER", name)
			}
			u, err := readUser(name, answer)
			if err != nil {
				return err
			}
			if !st.holds(u) && !spared(u) {
				return fmt.Errorf("checking the fence on %s: ACL user %q may write: %w", f.pool, name, errFenceLost)
			}
		}
	case FenceReplicas:
		got, err := a.minimum.Result()
		if err != nil {
			return fmt.Errorf("checking the fence on %s: %w", f.pool, err)
		}
		if got["min-replicas-to-write"] != maxInt32 {
			return fmt.Errorf("checking the fence on %s: min-replicas-to-write is %q: %w", f.pool, got["min-replicas-to-write"], errFenceLost)
		}
		if got["min-replicas-max-lag"] == "0" { // server.c: then the number is not looked at
			return fmt.Errorf("checking the fence on %s: min-replicas-max-lag is 0: %w", f.pool, errFenceLost)
		}
	}
	return nil
}

// holds reports whether a user has no more than the fence lets it have.
func (st *FenceState) holds(u ACLUser) bool {
	allowed := [][]string{fencedRules, replicaRules, listenRules, newListenRules}
	if st.Watched {
		allowed = append(allowed, promoteRules)
	}
	for _, r := range strings.Fields(u.Commands) {
		if !slices.ContainsFunc(allowed, func(rules []string) bool { return slices.Contains(rules, r) }) {
			return false
		}
	}
	for _, r := range slices.Concat(u.Selectors...) {
		switch {
		case strings.HasPrefix(r, "&"), r == "+get", slices.Contains(subscribeRules, r), r == "%R~crossfade:*", strings.HasPrefix(r, markPattern):
		case strings.HasPrefix(r, "+"), strings.Contains(r, "~"):
			return false
		}
	}
	return true
}

// runIDIn finds it in the answer to INFO server, "" where it is not said.
func runIDIn(text string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "run_id:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// majorVersion reads redis_version of INFO server; Valkey answers 7.2.4 there,
// which has what 7 has.
func majorVersion(info string) int {
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "redis_version:"); ok {
			major, _, _ := strings.Cut(v, ".")
			n, _ := strconv.Atoi(strings.TrimSpace(major))
			return n
		}
	}
	return 0
}
