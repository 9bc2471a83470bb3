package migration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/config"
	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/router"
	"github.com/crossfade/crossfade/sync/conn"
)

// OwnUser is the ACL user that we create where we may: the fence denies every
// other user, and must not stop us.
const OwnUser = "crossfade"

// identity is how we log in to one server: as the operator's URL says, and, as
// soon as it exists, as our own user.
type identity struct {
	side     router.Side
	instance string // of this process: part of the connections' names
	url      config.Endpoint
	timeout  time.Duration

	mu     sync.Mutex
	pool   *conn.Pool // as whom we work now
	own    bool       // pool logs in as our own user
	reason string     // why there is no own user
}

// Pool returns the connections as whom we work now.
func (id *identity) Pool() *conn.Pool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.pool
}

// first returns the connections to database 0, as whoever we are at that moment.
func (id *identity) first() *redis.Client { return id.Pool().DB(0) }

func (id *identity) isOwn() bool {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.own
}

func newIdentity(side router.Side, url config.Endpoint, instance string, timeout time.Duration) *identity {
	return &identity{side: side, instance: instance, url: url, timeout: timeout, pool: conn.New(url, instance+":"+side.String(), timeout)}
}

// master returns the address of the server that is meant now, where sentinels watch it and
// it is known; "" otherwise.
func (id *identity) master() string {
	if id.url.Finder == nil {
		return ""
	}
	return id.url.Finder.Present()
}

// user returns the name of the ACL user that the fence must spare, or "".
func (id *identity) user() string {
	switch {
	case id.isOwn():
		return OwnUser
	case id.url.Username != "" && id.url.Username != "default":
		return id.url.Username
	}
	return ""
}

// become logs in as our own user, and creates it with that password when it is
// not there. Where the server does not let us, the operator's credentials stay and reason says why.
func (id *identity) become(ctx context.Context, password string) error {
	if id.url.Cluster != nil { // nobody fences it, so nothing need be spared
		if err := id.Pool().Control().Ping(ctx).Err(); err != nil {
			return fmt.Errorf("logging in to %s: %w", id.url, err)
		}
		id.mu.Lock()
		id.reason = fmt.Sprintf("%s is a cluster, which is not fenced", id.url)
		id.mu.Unlock()
		return nil
	}
	if id.url.Username == OwnUser {
		return fmt.Errorf("logging in to %s: user %q is the one that is made and removed here; give another user in the URL, or set cutover.create_user to false", id.url, OwnUser)
	}
	own := id.Pool()
	if !id.isOwn() {
		as := id.url
		as.Username, as.Password = OwnUser, password
		own = own.Like(as, id.instance+":"+id.side.String(), id.timeout)
		defer func() {
			if !id.isOwn() {
				_ = own.Close()
			}
		}()
	}
	err := known(ctx, own, password)
	if err == nil {
		id.use(own, true)
		return nil
	}
	if !loginRefused(err) {
		return fmt.Errorf("logging in to %s: %w", own, err)
	}
	plain := own.Like(id.url, id.instance+":"+id.side.String(), id.timeout)
	create := []any{"ACL", "SETUSER", OwnUser, "reset", "on", "#" + hash(password), "~*", "+@all"}
	err = plain.DB(0).Do(ctx, append(create, "&*")...).Err()
	if errorPrefix(err, "ERR Error in ACL SETUSER modifier '&*'") { // before 6.2 all may listen to all channels
		err = plain.DB(0).Do(ctx, create...).Err()
	}
	_ = plain.Close()
	if err == nil {
		err = known(ctx, own, password)
	}
	if err == nil {
		id.use(own, true)
		return nil
	}
	if !refusedForGood(err) {
		return fmt.Errorf("creating user %s on %s: %w", OwnUser, id.url, err)
	}
	id.mu.Lock()
	id.reason = fmt.Sprintf("user %q cannot be created on %s: %v", OwnUser, id.url, err)
	id.mu.Unlock()
	return nil
}

// known asks a server whether it knows our user by this password. That a connection answers
// says nothing of the next one: who sets another password closes none of them.
func known(ctx context.Context, own *conn.Pool, password string) error {
	return own.DB(0).Do(ctx, "AUTH", OwnUser, password).Err()
}

// enter logs in as our own user where that is there already. Otherwise the credentials stay
// as they are, and the error says why.
func (id *identity) enter(ctx context.Context, password string) error {
	as := id.url
	as.Username, as.Password = OwnUser, password
	own := id.Pool().Like(as, id.instance+":"+id.side.String(), id.timeout)
	if err := own.DB(0).Ping(ctx).Err(); err != nil {
		_ = own.Close()
		return err
	}
	id.use(own, true)
	return nil
}

// stepBack goes back to the operator's credentials, where our user is not there any more.
func (id *identity) stepBack() {
	id.use(id.Pool().Like(id.url, id.instance+":"+id.side.String(), id.timeout), false)
}

// hash returns what ACL SETUSER takes after "#": some servers repeat in their
// refusal what they were sent, and that ends in the log.
func hash(password string) string {
	sum := sha256.Sum256([]byte(password))
	return hex.EncodeToString(sum[:])
}

func (id *identity) use(p *conn.Pool, own bool) {
	id.mu.Lock()
	old := id.pool
	id.pool, id.own = p, own
	id.mu.Unlock()
	if old != p {
		_ = old.Close()
	}
}

// leave goes back to the operator's credentials and removes our user, and those that checks
// have left which were killed. The fence must be down.
func (id *identity) leave(ctx context.Context) error {
	if id.isOwn() {
		id.stepBack()
	}
	users := []any{"ACL", "DELUSER", OwnUser}
	if names, err := id.Pool().DB(0).Do(ctx, "ACL", "USERS").StringSlice(); err == nil {
		for _, name := range names {
			if strings.HasPrefix(name, preflight.ProbeUsers) {
				users = append(users, name)
			}
		}
	}
	if err := id.Pool().DB(0).Do(ctx, users...).Err(); err != nil {
		return fmt.Errorf("removing user %s from %s: %w", OwnUser, id.url, err)
	}
	return nil
}

// loginRefused reports whether the server said that user or password are wrong.
func loginRefused(err error) bool {
	return errorPrefix(err, "WRONGPASS", "NOAUTH", "ERR AUTH", "ERR invalid password", "ERR wrong number of arguments for 'auth'")
}

// refusedForGood reports whether trying again would not help.
func refusedForGood(err error) bool {
	return errorPrefix(err, "NOPERM", "ERR unknown command", "ERR unknown subcommand", "ERR Unknown", "WRONGPASS", "NOAUTH")
}

func errorPrefix(err error, prefixes ...string) bool {
	for e := err; e != nil; e = errors.Unwrap(e) {
		for _, p := range prefixes {
			if strings.HasPrefix(e.Error(), p) {
				return true
			}
		}
	}
	return false
}
