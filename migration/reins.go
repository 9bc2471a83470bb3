package migration

import (
	"context"
	"fmt"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/mirror"
)

// takeReins opens the connection by which the server that is left is paused and
// fenced, under a name of its own. When the budget ends before an answer has come,
// that connection is closed at the server: a pause or a fence that was asked for must
// not come behind what takes it back, and hold clients up that were let go.
func (a *attempt) takeReins(ctx context.Context) error {
	id := a.ids[a.from]
	a.reins = conn.New(id.Pool().Endpoint(), id.instance+":"+a.from.String()+":reins", a.cfg.Proxy.DialTimeout)
	if err := a.reins.DB(0).Ping(ctx).Err(); err != nil { // no time for a handshake later
		return fmt.Errorf("connecting to %s for the fence: %w", a.reins, err)
	}
	return nil
}

func (a *attempt) dropReins() {
	if a.reins != nil {
		_ = a.reins.Close()
	}
}

// rein is the fence on the server that is left, by that connection.
func (a *attempt) rein() fence {
	f := a.fence(a.from)
	f.pool = a.reins
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
