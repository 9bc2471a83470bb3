package verify

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/sync/conn"
	"github.com/crossfade/crossfade/sync/value"
)

// errRestarted says that a scan cannot go on, see pager.
var errRestarted = errors.New("the server was restarted meanwhile, or another one answers at its address, or it does not tell (INFO server): begin the comparison again")

// tries and firstWait bound how long a lost connection is waited for: some six
// seconds.
const (
	tries     = 6
	firstWait = 100 * time.Millisecond
)

// awayFor is for how long a part of a cluster may be away: a master that nobody has taken the
// place of yet.
const awayFor = 30 * time.Second

// retry runs what only reads until no connection is lost meanwhile. An answer of a
// server is final, but for that of a cluster which cannot for the moment; who is asked for
// that are the clients of.
func retry(ctx context.Context, read func() error, of ...*redis.Client) error {
	wait, began := firstWait, time.Now()
	spread := slices.ContainsFunc(of, value.Clustered)
	for n := 1; ; n++ {
		err := read()
		if cause := context.Cause(ctx); cause != nil && err != nil {
			return cause
		}
		if spread && conn.Away(err) && time.Since(began) < awayFor {
			if err := sleep(ctx, firstWait); err != nil {
				return err
			}
			n--
			continue
		}
		if !value.Unknown(err) || errors.Is(err, errRestarted) || n == tries {
			return err
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
		wait *= 2
	}
}

// sleep waits for d, or until ctx ends: the error is its cause.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
