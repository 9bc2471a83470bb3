package migration

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/sync/conn"
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
	// Mark is in the rules of the users that are behind it; "": it has none.
	Mark  string    `json:"mark,omitempty"`
	Users []ACLUser `json:"users,omitempty"`
	// HasSelectors says that the server knows ACL selectors.
	HasSelectors bool `json:"has_selectors,omitempty"`
	// Watched says that sentinels may have to make the server, a replica, the master.
	Watched bool `json:"watched,omitempty"`
	// MinReplicas and MaxLag are the settings as we found them (F2).
	MinReplicas string `json:"min_replicas,omitempty"`
	MaxLag      string `json:"max_lag,omitempty"`
	// Refused is why the server does not take the old rules of a user, by its name, when the
	// fence was lowered: Users are those that are left then, see denied.go.
	Refused map[string]string `json:"refused,omitempty"`
}

// ACLUser is what the fence takes from a user. Passwords, keys and channels of
// the root permissions stay on the server untouched.
type ACLUser struct {
	Name      string     `json:"name"`
	Commands  string     `json:"commands"`
	Selectors [][]string `json:"selectors,omitempty"` // each: rules as ACL SETUSER takes them
}

// fencedRules deny everything but what a client needs to connect and wait politely.
var fencedRules = []string{"-@all", "+ping", "+hello", "+auth", "+select", "+client|setname"}

// replicaRules stay with who has them, for a replica may log in like the applications:
// a master hangs up on one whose acknowledgements it must refuse (networking.c:
// afterErrorReply). Nobody is given them who had them not: they are a way to all data.
var replicaRules = []string{"+psync", "+replconf"}

// promoteRules stay on a replica with who administers it: without them sentinels that log
// in like the applications could make no other server the master. None of them writes a key.
var promoteRules = []string{
	"+info", "+role", "+multi", "+exec", "+slaveof", "+replicaof", "+config|rewrite", "+client|kill", "+subscribe",
}

// listenRules come on top on the way back: the sessions' subscriptions move to
// the fenced server before the commit, so that no message which is published
// right after it is missed. Nobody can publish there before. Subscribers in RESP2 must
// have said all else before, and who redirects its messages must know to whom.
//
// None of these takes in many commands: servers before 7.2 say of a user what it may do in
// words of their own, by categories where those take fewer, which holds would not know again.
var listenRules = []string{"+subscribe", "+psubscribe", "+client|id", "+client|tracking", "+client|caching", "+readonly"}

// newListenRules are those of them that some servers do not know: each is said by itself.
var newListenRules = []string{"+ssubscribe", "+client|no-evict", "+client|no-touch", "+client|setinfo"}

// subscribeRules are what lets channels be heard; who has selectors knows all.
var subscribeRules = []string{"+subscribe", "+psubscribe", "+ssubscribe"}

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
	// run is the run id of the process on which it was raised. Another one in its place
	// counts as one without a fence, whatever its users may; "": any will do.
	run string
	// follows is the master of which the server must be a replica when the fence goes up, so
	// that it is ours to fence, and nobody but its master has written there before; nil:
	// it may be any.
	follows *preflight.Standing
	// migration is the id of who raises it. known finds a fence of the record by its mark,
	// nil: there is none; before is what the record has of this very server.
	migration string
	known     func(mark string) *FenceState
	before    *FenceState
	// proxied are the local addresses of the proxy's connections, or their ids as "id=17",
	// which hold still while a fence is raised; asked for anew each time.
	proxied func() map[string]struct{}
	// shared says that other sidecars have connections there, see killWaiting.
	shared bool
	// ends says that lowering it is the migration's end: nobody may go on there by a
	// connection from before.
	ends bool
}

func (f fence) db() *redis.Client { return f.pool.DB(0) }

// save reads what raising a fence of that level will change. A fence that stands already is
// none of that: what was there before it is taken from the record, and where that does not
// know it there is an error.
func (f fence) save(ctx context.Context, level FenceLevel) (*FenceState, error) {
	st := &FenceState{Level: level}
	var err error
	switch level {
	case FenceACL:
		if f.before != nil {
			st.Mark = f.before.Mark
		}
		st.Mark = cmp.Or(st.Mark, newMark(f.migration))
		if st.Users, err = f.users(ctx); err == nil {
			st.Users, err = f.originals(st.Users)
		}
		if err == nil {
			var info string
			if info, err = f.db().Info(ctx, "server").Result(); err == nil {
				st.HasSelectors = majorVersion(info) >= 7
			}
		}
	case FenceReplicas:
		var got map[string]string
		if got, err = f.db().ConfigGet(ctx, "min-replicas-*").Result(); err == nil {
			st.MinReplicas, st.MaxLag = got["min-replicas-to-write"], got["min-replicas-max-lag"]
			err = f.originalMinimum(st)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading what the fence on %s will change: %w", f.pool, err)
	}
	return st, nil
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

// raise is watch and lift at once, on a connection of its own.
func (f fence) raise(ctx context.Context, st *FenceState, token uint64) error {
	c := f.db().Conn()
	defer func() { _ = c.Close() }()
	if err := f.watch(ctx, c, token); err != nil {
		return err
	}
	return f.lift(ctx, c, st)
}

// watch makes sure that token is still the newest (ErrSuperseded otherwise), and that a
// lift on the same connection finds out when it is not any more.
func (f fence) watch(ctx context.Context, c *redis.Conn, token uint64) error {
	p := c.Pipeline()
	watched, there := p.Do(ctx, "WATCH", store.FenceKey), p.Get(ctx, store.FenceKey)
	err := store.Answered(p.Exec(ctx))
	if err == nil {
		err = watched.Err()
	}
	if err == nil {
		if err = there.Err(); errors.Is(err, redis.Nil) {
			err = nil
		}
		if err == nil && there.Val() != strconv.FormatUint(token, 10) {
			err = fmt.Errorf("%s does not hold our token (it was overwritten or flushed): %w", store.FenceKey, store.ErrSuperseded)
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

// lift stops every write of others from the instant at which EXEC runs on the server, if
// nobody has touched the token since watch (ErrSuperseded otherwise). It also ends a
// CLIENT PAUSE: the writers that it stalled are then refused, not run.
func (f fence) lift(ctx context.Context, c *redis.Conn, st *FenceState) error {
	var unpause, users *redis.Cmd
	var standing func() (preflight.Standing, error)
	cmds, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
		f.queueRaise(ctx, p, st)
		unpause = p.Do(ctx, "CLIENT", "UNPAUSE")
		if f.follows != nil {
			standing = preflight.QueueStanding(ctx, p)
		}
		if st.Level == FenceACL {
			users = p.Do(ctx, "ACL", "USERS")
		}
		return nil
	})
	err = firstBut(unpause, cmds, err)
	if errors.Is(err, redis.TxFailedErr) {
		err = store.ErrSuperseded
	}
	if err != nil {
		return fmt.Errorf("raising the %s fence on %s: %w", st.Level, f.pool, err)
	}
	if standing != nil {
		now, err := standing()
		if err == nil {
			err = now.Follows(*f.follows)
		}
		if err != nil {
			return f.notOurs(ctx, c, st, now, err)
		}
	}
	switch st.Level {
	case FenceACL:
		return f.lateUsers(ctx, st, users)
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
			rules := st.rulesOf(u)
			if st.HasSelectors {
				rules = slices.Concat(rules, st.selectors(u))
			}
			p.Do(ctx, append([]any{"ACL", "SETUSER", u.Name}, anys(rules)...)...)
		}
	case FenceReplicas:
		p.ConfigSet(ctx, "min-replicas-to-write", maxInt32)
		p.ConfigSet(ctx, "min-replicas-max-lag", "10")
	}
}

// lateUsers returns an error when there are users that were made after save. They are
// listed in the transaction of the fence: nobody makes users behind it.
func (f fence) lateUsers(ctx context.Context, st *FenceState, users *redis.Cmd) error {
	names, err := users.StringSlice()
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
		if !spared(u) && !st.holds(u) {
			return fmt.Errorf("raising the fence on %s: ACL user %q appeared during the cutover", f.pool, name)
		}
	}
	return nil
}

// pause stalls writers that bypass the proxy, without an error, for at most d.
// It is no fence: when it expires they run.
func (f fence) pause(ctx context.Context, c asker, d time.Duration) error {
	err := c.Do(ctx, "CLIENT", "PAUSE", d.Milliseconds(), "WRITE").Err()
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

// isBusy reports whether a server refuses everything for the moment, because of a script.
func isBusy(err error) bool { return errorPrefix(err, "BUSY ") }

// whileBusy repeats what a server refuses because it is busy, until ctx ends.
func whileBusy(ctx context.Context, f func(context.Context) error) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := f(ctx)
		if !isBusy(err) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}

// killOthers closes every application connection on the server.
func (f fence) killOthers(ctx context.Context) error {
	if f.shared {
		return f.killWaiting(ctx)
	}
	return f.kill(ctx, nil)
}

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
	text, err := c.ClientList(ctx).Result()
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, one := range listed(text) {
		if one.isClients() && !preflight.IsProxied(spared, one.id, one.addr) && (own == "" || one.user != own) {
			ids = append(ids, one.id)
		}
	}
	return ids, nil
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
