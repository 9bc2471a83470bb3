package migration

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/migration/preflight"
	"github.com/crossfade/crossfade/migration/store"
)

// The server that a switch enters may be fenced since an earlier one. The guard keeps it so, but
// stands still while an attempt is under way, and that may wait for long. One that was restarted
// without its users would take writes past the proxy all the while, and those behind the scan
// that follows would stay: behind the switch they would be there in the place of the
// applications'. So an attempt looks for itself as long as nobody waits for it, and enters the
// very process that it has looked at.

// entered is what an attempt knows of that fence.
type entered struct {
	at  time.Time // when it was looked at
	err error     // why it is not known to have stood then
	run string    // the process that it stood on last
}

// fenceEntered returns the fence that has to stand on the server that is entered; nil: none.
func (a *attempt) fenceEntered() *FenceState {
	if st := a.record().Servers[a.to].Fence; st != nil && st.Raised {
		return st
	}
	return nil
}

// keepEntered does for that fence what the guard does, as often. An error is that it is not
// known to stand.
func (a *attempt) keepEntered(ctx context.Context) error {
	if a.fenceEntered() == nil {
		return nil
	}
	if time.Since(a.entered.at) >= guardEvery {
		a.entered.err = a.lookAtEntered(ctx)
		a.entered.at = time.Now()
	}
	return a.entered.err
}

func (a *attempt) lookAtEntered(ctx context.Context) error {
	a.loginWhereForgotten(ctx)
	a.guardFence(ctx, a.to, a.fenceEntered())
	here, err := preflight.AskStanding(ctx, a.ids[a.to].Pool())
	if err != nil {
		return err
	}
	f := a.fence(a.to)
	f.run = here.Run
	if err := f.check(ctx, a.fenceEntered()); err != nil {
		return err
	}
	if a.unclear {
		return errors.New("who came while the fence was gone may be connected still")
	}
	a.entered.run = here.Run
	return nil
}

// standsEntered is the condition that nobody was let in on the entered server since keepEntered
// has looked. Only ACL users are what a restart forgets, and what may be looked at.
func (a *attempt) standsEntered(ctx context.Context, p redis.Pipeliner) func(store.Asker) error {
	st := a.fenceEntered()
	if st == nil || st.Level != FenceACL {
		return func(store.Asker) error { return nil }
	}
	f := a.fence(a.to)
	f.run = a.entered.run
	holds := f.stands(st)(ctx, p)
	return func(c store.Asker) error {
		if err := holds(c, store.Entry{}); err != nil {
			return fmt.Errorf("nobody was to write on the %s before the switch: %w", a.to, err)
		}
		return nil
	}
}

// closeToListeners takes openToListeners back. That gives users the rules of the fence on a server
// that has lost it, too, where nobody would notice then that it was gone.
func (a *attempt) closeToListeners(ctx context.Context) error {
	st := a.fenceEntered()
	if st == nil || st.Level != FenceACL {
		return nil
	}
	f := a.fence(a.to)
	f.run = a.entered.run
	err := f.check(ctx, st)
	switch {
	case err == nil:
		return f.letListen(ctx, st, false)
	case !errors.Is(err, errFenceLost):
		return err // the guard lets nobody in who was not to be
	case !a.raiseLost(ctx, a.to, st, err):
		a.mirrorCounts("the other server was restarted during an attempt, and its fence may have been gone")
	}
	return nil
}
