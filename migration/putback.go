package migration

import (
	"context"
	"errors"
	"fmt"

	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// leaving is a server of a side that is put back. It may have been replaced by somebody
// else's at the same address since it was changed.
type leaving struct {
	Former
	plain *conn.Pool // with the operator's credentials
	ours  *conn.Pool // as our own user; nil: it is not there
	own   string     // the user that a fence there spares
}

// pool returns the connections that may do more.
func (l *leaving) pool() *conn.Pool {
	if l.ours != nil {
		return l.ours
	}
	return l.plain
}

func (l *leaving) close() {
	_ = l.plain.Close()
	if l.ours != nil {
		_ = l.ours.Close()
	}
}

// approach connects to a server that is to be put back.
func (m *Migration) approach(ctx context.Context, f Former) (*leaving, error) {
	id := m.ids[f.Side]
	l := &leaving{Former: f, plain: m.poolBeside(id.url.At(f.Address), id.instance+":former"), own: id.user()}
	if l.own == OwnUser {
		l.own = ""
	}
	if !f.Kept.User {
		return l, nil
	}
	password, err := m.ownPassword()
	if err != nil {
		l.close()
		return nil, err
	}
	as := id.url.At(f.Address)
	as.Username, as.Password = OwnUser, password
	ours := m.poolBeside(as, id.instance+":former")
	switch err := ours.DB(0).Ping(ctx).Err(); {
	case err == nil:
		l.ours, l.own = ours, OwnUser
	case loginRefused(err): // it restarted, and has forgotten all that we did
		_ = ours.Close()
	default:
		_ = ours.Close()
		l.close()
		return nil, err
	}
	return l, nil
}

// isOurs finds out whether a server is the one that we have changed: it knows the password of
// our user, which nobody else has; or it is a replica of the side's master; or its users are
// behind the fence that the record has of it.
func (m *Migration) isOurs(ctx context.Context, l *leaving) (bool, error) {
	if l.ours != nil {
		return true, nil
	}
	st := l.Kept.Fence
	if st != nil && st.Level == FenceACL && st.Mark != "" {
		users, err := (fence{pool: l.plain}).users(ctx)
		if err != nil && !refusedForGood(err) {
			return false, err
		}
		for _, u := range users {
			if mark, _ := markOf(u); mark == st.Mark {
				return true, nil
			}
		}
	}
	here, err := preflight.AskStanding(ctx, l.plain)
	if err != nil {
		return false, err
	}
	if l.Run != "" && here.Run == l.Run {
		return true, nil
	}
	master, err := preflight.AskStanding(ctx, m.ids[l.Side].Pool())
	if err != nil {
		return false, err
	}
	return here.Follows(master) == nil, nil
}

// putBack is cleanUp for a server that is a replica now, or will be. It says what it did.
func (m *Migration) putBack(ctx context.Context, f Former) (did string, err error) {
	l, err := m.approach(ctx, f)
	if err != nil {
		return "", err
	}
	defer l.close()
	ours, err := m.isOurs(ctx, l)
	switch {
	case err != nil:
		return "", err
	case !ours: // users and settings are in a server's memory, unless it was told to write them down
		if f.Kept.Notify != nil {
			got, err := l.plain.DB(0).ConfigGet(ctx, "notify-keyspace-events").Result()
			if err != nil {
				return "", err
			}
			if got["notify-keyspace-events"] != *f.Kept.Notify {
				return "", fmt.Errorf("nothing says that the server at this address is the one that was changed; its notify-keyspace-events is %q, and was %q there", got["notify-keyspace-events"], *f.Kept.Notify)
			}
		}
		return "found nothing of ours left on", stillClosed(ctx, l)
	}
	is, err := m.isMaster(ctx, l)
	switch {
	case err != nil:
		return "", err
	case is && !m.record().Phase.Ended():
		return "it is the master's, under another address:", m.handOver(ctx, l)
	case !is: // a fence that was asked for must not come behind this
		name := l.plain.Name()
		err = mirror.KillNamed(ctx, l.pool().DB(0), func(n string) bool {
			return len(n) > len(mirror.KeyPrefix) && n[:len(mirror.KeyPrefix)] == mirror.KeyPrefix && n != name
		})
		if err != nil {
			return "", err
		}
	}
	if err := m.lowerOn(ctx, l); err != nil {
		return "", m.noteDeniedOn(f, err)
	}
	if f.Kept.Notify != nil {
		if err := l.pool().DB(0).ConfigSet(ctx, "notify-keyspace-events", *f.Kept.Notify).Err(); err != nil {
			return "", fmt.Errorf("putting back notify-keyspace-events: %w", err)
		}
	}
	if l.ours != nil {
		if err := l.plain.DB(0).Do(ctx, "ACL", "DELUSER", OwnUser).Err(); err != nil {
			return "", fmt.Errorf("removing user %s: %w", OwnUser, err)
		}
	}
	if m.ids[f.Side].url.Finder == nil {
		return "put back", m.removeKeysOf(ctx, f, l.plain)
	}
	// The sentinels have had it write down what it was told of us; one without a
	// configuration file, or that forbids it, has not.
	_ = l.plain.DB(0).ConfigRewrite(ctx).Err()
	return "put back", nil
}

// stillClosed returns an error while a server that nothing proves to be ours takes no writes
// as ours did not.
func stillClosed(ctx context.Context, l *leaving) error {
	st := l.Kept.Fence
	if st == nil || !st.Raised || st.Level != FenceReplicas {
		return nil
	}
	got, err := l.plain.DB(0).ConfigGet(ctx, "min-replicas-to-write").Result()
	if err != nil {
		return err
	}
	if got["min-replicas-to-write"] == maxInt32 && st.MinReplicas != maxInt32 {
		return fmt.Errorf("nothing says that the server at this address is the one that was changed; its min-replicas-to-write is %s, and was %s there", maxInt32, st.MinReplicas)
	}
	return nil
}

// isMaster reports whether a server is its side's master by now, which is known by another
// address.
func (m *Migration) isMaster(ctx context.Context, l *leaving) (bool, error) {
	here, err := preflight.AskStanding(ctx, l.pool())
	if err != nil && !refusedForGood(err) {
		return false, err
	}
	if err != nil || here.Role != "master" || here.Run == "" {
		return false, nil
	}
	master, err := preflight.AskStanding(ctx, m.ids[l.Side].Pool())
	return here.Run == master.Run, err
}

// handOver is putBack for the master: we go on working there, so what else was changed is put
// back with it at the end.
func (m *Migration) handOver(ctx context.Context, l *leaving) error {
	if err := m.lowerOn(ctx, l); err != nil {
		return err
	}
	return m.assume(func(r *Record) {
		k := &r.Servers[l.Side]
		if k.User = k.User || l.Kept.User; k.Notify == nil {
			k.Notify = l.Kept.Notify
		}
	})
}

// lowerOn lowers the fence on a server that is put back, unless it is a newer coordinator's.
// Our own key there may go meanwhile, for the master has lost it.
func (m *Migration) lowerOn(ctx context.Context, l *leaving) error {
	if l.Kept.Fence == nil {
		return nil
	}
	st, err := stillFenced(ctx, l.pool(), l.Kept.Fence)
	if err != nil {
		return err
	}
	f := fence{pool: l.pool(), own: l.own, token: m.record().Token}
	for range 3 {
		if err = f.lower(ctx, st); !errors.Is(err, store.ErrSuperseded) || m.lostTo() != nil {
			break
		}
	}
	return err
}

// removeKeysOf removes our keys from a replica that was made a master by hand: it hears no
// more of what happens to them.
func (m *Migration) removeKeysOf(ctx context.Context, f Former, pool *conn.Pool) error {
	here, err := preflight.AskStanding(ctx, pool)
	if err != nil || here.Role != "master" {
		return nil // what cannot be asked was left to others before
	}
	_, err = m.removeKeys(ctx, f.Side, pool)
	return err
}
