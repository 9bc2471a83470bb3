package migration

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// reins are the connection by which the server that is left is paused and fenced, under
// a name of its own. When the budget ends before an answer has come, that connection is
// closed at the server: a pause or a fence that was asked for must not come behind what
// takes it back, and hold clients up that were let go.
type reins struct {
	*conn.Pool
	conn *redis.Conn // the one that has looked at the fence's token; nil before
}

// takeReins opens them.
func (a *attempt) takeReins(ctx context.Context) error {
	id := a.ids[a.from]
	p := id.Pool()
	a.reins = &reins{Pool: p.Like(p.Endpoint(), id.instance+":"+a.from.String()+":reins", a.cfg.Proxy.DialTimeout)}
	if err := a.reins.DB(0).Ping(ctx).Err(); err != nil { // no time for a handshake later
		return fmt.Errorf("connecting to %s for the fence: %w", a.reins, err)
	}
	return nil
}

// watchFence makes sure that the fence is still this attempt's to raise. From here on the
// server would notice if it became another's.
func (a *attempt) watchFence(ctx context.Context) error {
	a.reins.conn = a.reins.DB(0).Conn() // a server may have closed the one of before for being idle
	p := a.reins.conn.Pipeline()
	standing := preflight.QueueStanding(ctx, p)
	var left preflight.Standing
	err := store.Answered(p.Exec(ctx))
	if err == nil {
		left, err = standing()
	}
	if err != nil {
		return fmt.Errorf("asking %s for its run id: %w", a.reins, err)
	}
	if err := a.forward.Follows(left.Run); err != nil {
		return err
	}
	a.left = left
	a.watchReplicas(ctx)
	return a.rein().watch(ctx, a.reins.conn, a.record().Token)
}

func (a *attempt) dropReins() {
	if a.reins == nil {
		return
	}
	if a.reins.conn != nil {
		_ = a.reins.conn.Close()
		a.reins.conn = nil
	}
	_ = a.reins.Close()
}

// rein is the fence on the server that is left, by that connection.
func (a *attempt) rein() fence {
	f := a.fence(a.from)
	f.pool = a.reins.Pool
	return f
}

// noteStray remembers that nobody knows whether what was said has run, or will.
func (a *attempt) noteStray(err error) {
	if err != nil && !certain(err) {
		a.stray = true
	}
}

// callBack returns once nothing that was said by the reins can run any more.
func (a *attempt) callBack(ctx context.Context) error {
	if !a.stray {
		return nil
	}
	a.dropReins()
	kill := func() error {
		return mirror.KillNamed(ctx, a.ids[a.from].Pool().DB(0), func(name string) bool { return name == a.reins.Name() })
	}
	err := kill()
	if err != nil {
		a.relogin(ctx, err) // a restarted server has forgotten our user, and the connection
		err = kill()
	}
	if err != nil {
		return fmt.Errorf("making sure that nothing late reaches %s: %w", a.reins, err)
	}
	a.stray = false
	return nil
}
