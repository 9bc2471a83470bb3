package mirror

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/crossfade/crossfade/sync/conn"
)

// one is To where it is one server, as it was looked at last: what nodes is of a cluster.
type one struct {
	pool *conn.Pool

	mu    sync.Mutex // held over a judgement, which may ask
	line  *line
	turns int // how often it has become another one
}

// look returns what To is: a text that is another one once keys may have been lost, and then
// what has happened. An error means that nobody can say.
func (o *one) look(ctx context.Context) (id, lost string, err error) {
	who, at, err := whoIs(ctx, o.pool.DB(0))
	if err != nil {
		return "", "", fmt.Errorf("asking %s who it is: %w", o.pool, err)
	}
	return o.judge(ctx, who, at)
}

// judge is look at who has answered at a time or later.
func (o *one) judge(ctx context.Context, who standing, at time.Time) (id, lost string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.line == nil {
		o.line = newLine(who, at)
	}
	what, err := o.line.judge(who, at, func() (time.Duration, error) { return backlogTTL(ctx, o.pool) })
	switch {
	case err != nil:
		return "", "", err
	case what == demoted:
		return "", "", fmt.Errorf("%s %s: what it has is another server's", o.pool, what)
	case what != "":
		o.line = newLine(who, at)
		o.turns++
		lost = fmt.Sprintf("%s %s", o.pool, mayLack(what))
	}
	return o.line.first.run + " " + strconv.Itoa(o.turns), lost, nil
}
