package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// FenceLevel says what keeps the applications from writing to the server that
// was left (PROTOCOL §3).
type FenceLevel string

// The levels, strongest first.
const (
	FenceACL      FenceLevel = "F3" // ACL: every user but ours is denied every command
	FenceReplicas FenceLevel = "F2" // min-replicas-to-write: every write is refused, ours too
	FenceKey      FenceLevel = "F1" // a key that sidecars read, and CLIENT KILL: does not stop others
	FenceNone     FenceLevel = "F0" // nothing; only with --unsafe
)

// FenceState is a fence and what lowering it must put back. It is in the record
// before the fence is raised.
type FenceState struct {
	Level  FenceLevel `json:"level"`
	Raised bool       `json:"raised"` // it may be up
	Users  []ACLUser  `json:"users,omitempty"`
	// HasSelectors says that the server knows ACL selectors.
	HasSelectors bool `json:"has_selectors,omitempty"`
	// MinReplicas and MaxLag are the settings as we found them (F2).
	MinReplicas string `json:"min_replicas,omitempty"`
	MaxLag      string `json:"max_lag,omitempty"`
}

// ACLUser is what the fence takes from a user. Passwords, keys and channels of
// the root permissions stay on the server untouched.
type ACLUser struct {
	Name      string     `json:"name"`
	Commands  string     `json:"commands"`
	Selectors [][]string `json:"selectors,omitempty"` // each: rules as ACL SETUSER takes them
}

// fencedRules deny everything but what a client needs to connect and wait
// politely.
var fencedRules = []string{"-@all", "+ping", "+hello", "+auth", "+select", "+client|setname"}

// listenRules come on top on the way back: the sessions' subscriptions move to
// the fenced server before the commit, so that no message which is published
// right after it is missed. Nobody can publish there before. Subscribers in RESP2 must
// have said all else before, and who redirects its messages must know to whom.
var listenRules = []string{"+subscribe", "+psubscribe", "+ssubscribe", "+client", "+readonly"}

// fencedSelectors comes after fencedRules where the server has selectors (7.0):
// it lets the operator's own credentials read our control keys, so that a
// sidecar that lost its state file finds its way. It reads nothing else.
var fencedSelectors = []string{"clearselectors", "(resetchannels +get %R~crossfade:*)"}

// maxInt32 is the largest value of min-replicas-to-write (config.c: INT_MAX).
const maxInt32 = "2147483647"

// errFenceLost means that somebody may write to the server that was left.
var errFenceLost = errors.New("the fence is gone")

// fence raises, checks and lowers a fence on one server. own is the ACL user
// that the fence must spare.
type fence struct {
	pool *conn.Pool
	own  string
	// token is its coordinator's; 0: nobody looks for a newer one before it is lowered.
	token uint64
	// proxied are the local addresses of the proxy's connections, which hold still
	// while a fence is raised; asked for anew each time.
	proxied func() map[string]struct{}
}

func (f fence) db() *redis.Client { return f.pool.DB(0) }

// save reads what raising a fence of that level will change.
func (f fence) save(ctx context.Context, level FenceLevel) (*FenceState, error) {
	st := &FenceState{Level: level}
	var err error
	switch level {
	case FenceACL:
		if st.Users, err = f.users(ctx); err == nil {
			var info string
			if info, err = f.db().Info(ctx, "server").Result(); err == nil {
				st.HasSelectors = majorVersion(info) >= 7
			}
		}
	case FenceReplicas:
		var got map[string]string
		if got, err = f.db().ConfigGet(ctx, "min-replicas-*").Result(); err == nil {
			st.MinReplicas, st.MaxLag = got["min-replicas-to-write"], got["min-replicas-max-lag"]
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading what the fence on %s will change: %w", f.pool, err)
	}
	return st, nil
}

// users lists every user but ours and replication's.
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
		if !replicationOnly(u) {
			users = append(users, u)
		}
	}
	return users, nil
}

// aclUser reads a user with ACL GETUSER. Redis 7 answers each selector as
// commands, keys and channels in ACL SETUSER's own words (acl.c: aclAddReplySelectorDescription).
func aclUser(ctx context.Context, c redis.Cmdable, name string) (ACLUser, error) {
	u := ACLUser{Name: name}
	reply, err := c.(interface {
		Do(context.Context, ...any) *redis.Cmd
	}).Do(ctx, "ACL", "GETUSER", name).Slice()
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
		for _, key := range []string{"commands", "keys", "channels"} {
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

// arm puts our token where raise expects it.
func (f fence) arm(ctx context.Context, token uint64) error {
	if err := f.db().Set(ctx, store.FenceKey, token, 0).Err(); err != nil {
		return fmt.Errorf("writing %s on %s: %w", store.FenceKey, f.pool, err)
	}
	return nil
}

// disarm takes our token away, unless a newer coordinator's is there by now.
func (f fence) disarm(ctx context.Context) error {
	err := f.db().Watch(ctx, func(tx *redis.Tx) error {
		there, err := tx.Get(ctx, store.FenceKey).Result()
		if errors.Is(err, redis.Nil) || err == nil && there != strconv.FormatUint(f.token, 10) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			p.Del(ctx, store.FenceKey)
			return nil
		})
		return err
	}, store.FenceKey)
	if err != nil && !errors.Is(err, redis.TxFailedErr) {
		return fmt.Errorf("removing %s from %s: %w", store.FenceKey, f.pool, err)
	}
	return nil
}

// raise stops every write of others from the instant at which EXEC runs on the
// server, if token is still the newest (ErrSuperseded otherwise). It also ends a
// CLIENT PAUSE: the writers that it stalled are then refused, not run.
func (f fence) raise(ctx context.Context, st *FenceState, token uint64) error {
	err := f.db().Watch(ctx, func(tx *redis.Tx) error {
		there, err := tx.Get(ctx, store.FenceKey).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		if there != strconv.FormatUint(token, 10) {
			return fmt.Errorf("%s does not hold our token (it was overwritten or flushed): %w", store.FenceKey, store.ErrSuperseded)
		}
		var unpause *redis.Cmd
		cmds, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
			f.queueRaise(ctx, p, st)
			unpause = p.Do(ctx, "CLIENT", "UNPAUSE")
			return nil
		})
		return firstBut(unpause, cmds, err)
	}, store.FenceKey)
	if errors.Is(err, redis.TxFailedErr) {
		err = store.ErrSuperseded
	}
	if err != nil {
		return fmt.Errorf("raising the %s fence on %s: %w", st.Level, f.pool, err)
	}
	switch st.Level {
	case FenceACL:
		return f.raiseLateUsers(ctx, st)
	case FenceKey, FenceNone:
		var spared map[string]struct{}
		if f.proxied != nil {
			spared = f.proxied()
		}
		return f.kill(ctx, spared)
	}
	return nil
}

func (f fence) queueRaise(ctx context.Context, p redis.Pipeliner, st *FenceState) {
	switch st.Level {
	case FenceACL:
		for _, u := range st.Users {
			rules := fencedRules
			if st.HasSelectors {
				rules = slices.Concat(fencedRules, fencedSelectors)
			}
			p.Do(ctx, append([]any{"ACL", "SETUSER", u.Name}, anys(rules)...)...)
		}
	case FenceReplicas:
		p.ConfigSet(ctx, "min-replicas-to-write", maxInt32)
		p.ConfigSet(ctx, "min-replicas-max-lag", "10")
	}
}

// raiseLateUsers fences users that were made after save.
func (f fence) raiseLateUsers(ctx context.Context, st *FenceState) error {
	names, err := f.db().Do(ctx, "ACL", "USERS").StringSlice()
	if err != nil {
		return fmt.Errorf("looking for users that the fence on %s has missed: %w", f.pool, err)
	}
	for _, name := range names {
		known := slices.ContainsFunc(st.Users, func(u ACLUser) bool { return u.Name == name })
		if known || name == f.own {
			continue
		}
		u, err := aclUser(ctx, f.db(), name)
		if err != nil {
			return err
		}
		if !replicationOnly(u) && !fenced(u) {
			return fmt.Errorf("raising the fence on %s: ACL user %q appeared during the cutover", f.pool, name)
		}
	}
	return nil
}

// check returns errFenceLost when the fence is not up, and other errors when
// that cannot be told.
func (f fence) check(ctx context.Context, st *FenceState) error { return f.checkOn(ctx, f.db(), st) }

// asker is a client, or one connection.
type asker interface {
	redis.Cmdable
	Do(ctx context.Context, args ...any) *redis.Cmd
}

// checkOn is check on a connection of the caller's.
func (f fence) checkOn(ctx context.Context, c asker, st *FenceState) error {
	switch st.Level {
	case FenceACL:
		names, err := c.Do(ctx, "ACL", "USERS").StringSlice()
		if err != nil {
			return fmt.Errorf("checking the fence on %s: %w", f.pool, err)
		}
		for _, name := range names {
			if name == f.own {
				continue
			}
			u, err := aclUser(ctx, c, name)
			if err != nil {
				return err
			}
			if !fenced(u) && !replicationOnly(u) {
				return fmt.Errorf("checking the fence on %s: ACL user %q may write: %w", f.pool, name, errFenceLost)
			}
		}
	case FenceReplicas:
		got, err := c.ConfigGet(ctx, "min-replicas-to-write").Result()
		if err != nil {
			return fmt.Errorf("checking the fence on %s: %w", f.pool, err)
		}
		if got["min-replicas-to-write"] != maxInt32 {
			return fmt.Errorf("checking the fence on %s: min-replicas-to-write is %q: %w", f.pool, got["min-replicas-to-write"], errFenceLost)
		}
	}
	return nil
}

// letListen lets the users that the fence denies everything subscribe, or takes
// that back.
func (f fence) letListen(ctx context.Context, st *FenceState, allow bool) error {
	if st == nil || !st.Raised || st.Level != FenceACL || !st.HasSelectors { // SSUBSCRIBE is as old as they are
		return nil
	}
	rules := fencedRules // begins with -@all
	if allow {
		rules = slices.Concat(fencedRules, listenRules)
	}
	cmds, err := f.db().TxPipelined(ctx, func(p redis.Pipeliner) error {
		for _, u := range st.Users {
			p.Do(ctx, append([]any{"ACL", "SETUSER", u.Name}, anys(rules)...)...)
		}
		return nil
	})
	if err := firstError(cmds, err); err != nil {
		return fmt.Errorf("letting subscribers in on %s: %w", f.pool, err)
	}
	return nil
}

// fenced reports whether a user has no more than the fence lets it have.
func fenced(u ACLUser) bool {
	for _, r := range strings.Fields(u.Commands) {
		if !slices.Contains(fencedRules, r) && !slices.Contains(listenRules, r) {
			return false
		}
	}
	for _, sel := range u.Selectors {
		for _, r := range sel {
			if strings.HasPrefix(r, "+") && r != "+get" || strings.Contains(r, "~") && r != "%R~crossfade:*" {
				return false
			}
		}
	}
	return true
}

// lower puts everything back as save found it, unless a newer coordinator's token is
// there: then the fence is its own (ErrSuperseded). It may be repeated.
func (f fence) lower(ctx context.Context, st *FenceState) error {
	err := f.db().Watch(ctx, func(tx *redis.Tx) error {
		there, err := tx.Get(ctx, store.FenceKey).Uint64()
		if err == nil && f.token > 0 && there > f.token {
			return store.ErrSuperseded
		}
		if err != nil && !errors.Is(err, redis.Nil) && !errors.As(err, new(*strconv.NumError)) {
			return err
		}
		return f.lowerOn(ctx, tx, st)
	}, store.FenceKey)
	if errors.Is(err, redis.TxFailedErr) {
		err = store.ErrSuperseded
	}
	if err != nil {
		return fmt.Errorf("lowering the %s fence on %s: %w", st.Level, f.pool, err)
	}
	return nil
}

func (f fence) lowerOn(ctx context.Context, tx *redis.Tx, st *FenceState) error {
	var unpause *redis.Cmd
	cmds, err := tx.TxPipelined(ctx, func(p redis.Pipeliner) error {
		switch st.Level {
		case FenceACL:
			for _, u := range st.Users {
				rules := append([]string{"-@all"}, strings.Fields(u.Commands)...)
				if st.HasSelectors {
					rules = append(rules, "clearselectors")
				}
				for _, sel := range u.Selectors {
					rules = append(rules, selector(sel))
				}
				p.Do(ctx, append([]any{"ACL", "SETUSER", u.Name}, anys(rules)...)...)
			}
		case FenceReplicas:
			p.ConfigSet(ctx, "min-replicas-to-write", st.MinReplicas)
			p.ConfigSet(ctx, "min-replicas-max-lag", st.MaxLag)
		}
		unpause = p.Do(ctx, "CLIENT", "UNPAUSE")
		return nil
	})
	return firstBut(unpause, cmds, err)
}

// selector writes rules as ACL SETUSER reads them: split like words of redis-cli
// (sds.c: sdssplitargs), so that a key pattern with a quote must be quoted. A
// selector that it cannot split becomes an empty one without an error.
func selector(rules []string) string {
	quoted := make([]string, len(rules))
	for i, r := range rules {
		if strings.ContainsAny(r, `"'`) {
			r = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(r) + `"`
		}
		quoted[i] = r
	}
	return "(" + strings.Join(quoted, " ") + ")"
}

// pause stalls writers that bypass the proxy, without an error, for at most d.
// It is no fence: when it expires they run.
func (f fence) pause(ctx context.Context, d time.Duration) error {
	err := f.db().Do(ctx, "CLIENT", "PAUSE", d.Milliseconds(), "WRITE").Err()
	if err != nil {
		return fmt.Errorf("pausing the writers of %s: %w", f.pool, err)
	}
	return nil
}

func (f fence) unpause(ctx context.Context) error {
	if err := f.db().Do(ctx, "CLIENT", "UNPAUSE").Err(); err != nil {
		return fmt.Errorf("ending the pause of the writers of %s: %w", f.pool, err)
	}
	return nil
}

// killOthers closes every application connection on the server.
func (f fence) killOthers(ctx context.Context) error { return f.kill(ctx, nil) }

// kill closes every application connection on the server but those that come
// from an address in spared.
func (f fence) kill(ctx context.Context, spared map[string]struct{}) error {
	clients, err := applicationClients(ctx, f.db(), f.own, spared)
	if err != nil {
		return fmt.Errorf("closing the applications' connections to %s: %w", f.pool, err)
	}
	pipe := f.db().Pipeline()
	for _, id := range clients {
		pipe.ClientKillByFilter(ctx, "ID", id)
	}
	if len(clients) == 0 {
		return nil
	}
	if cmds, err := pipe.Exec(ctx); firstError(cmds, err) != nil {
		return fmt.Errorf("closing the applications' connections to %s: %w", f.pool, firstError(cmds, err))
	}
	return nil
}

// applicationClients returns the ids of connections that are neither ours nor
// replication's, and do not come from an address in spared.
func applicationClients(ctx context.Context, c *redis.Client, own string, spared map[string]struct{}) ([]string, error) {
	list, err := c.ClientList(ctx).Result()
	if err != nil {
		return nil, err
	}
	var ids []string
	for line := range strings.Lines(list) {
		f := make(map[string]string)
		for field := range strings.FieldsSeq(line) {
			if k, v, ok := strings.Cut(field, "="); ok {
				f[k] = v
			}
		}
		ours := strings.HasPrefix(f["name"], mirror.KeyPrefix) || own != "" && f["user"] == own
		_, spare := spared[f["addr"]]
		if f["id"] == "" || ours || spare || strings.ContainsAny(f["flags"], "SM") {
			continue
		}
		ids = append(ids, f["id"])
	}
	return ids, nil
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

// firstError returns the first command's own error: a pipeline's error alone
// may be assigned to the wrong command.
func firstError(cmds []redis.Cmder, err error) error {
	for _, c := range cmds {
		if e := c.Err(); e != nil && !errors.Is(e, redis.Nil) {
			return e
		}
	}
	return err
}

// firstBut is firstError, but a server that does not know CLIENT UNPAUSE (before
// 6.2) is forgiven: it does not know a pause of writers only either.
func firstBut(unpause *redis.Cmd, cmds []redis.Cmder, err error) error {
	if e := unpause.Err(); errorPrefix(e, "ERR Unknown subcommand", "ERR unknown subcommand") {
		cmds = slices.DeleteFunc(slices.Clone(cmds), func(c redis.Cmder) bool { return c == unpause })
		if errors.Is(err, e) {
			err = nil
		}
	}
	return firstError(cmds, err)
}

func anys(texts []string) []any {
	out := make([]any, len(texts))
	for i, t := range texts {
		out[i] = t
	}
	return out
}
