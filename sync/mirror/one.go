package mirror

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/crossfade/crossfade/sync/conn"
)

// one is To where it is one server, as it was looked at last: what nodes is of a cluster.
type one struct {
	pool *conn.Pool

	mu      sync.Mutex // held over a judgement, which may ask
	line    *line
	turns   int // how often it has become another one
	evicted evicted
}

// errDemoted says that who answers for To is no master, so that what it has is another's.
var errDemoted = errors.New(demoted)

// lookOne is look. Where a replica answers, new connections may lead to somebody else: a
// failover has moved what the address stands for, and those of before lead to the master of
// before, which takes nothing any more. Then they are given up.
func (m *Mirror) lookOne(ctx context.Context) (is being, lost string, err error) {
	is, lost, err = m.toOne.look(ctx)
	if !errors.Is(err, errDemoted) {
		return is, lost, err
	}
	w, failed := m.cfg.To.Wire(ctx, 0)
	if failed != nil {
		return is, lost, err
	}
	who, failed := whoIsAt(w)
	w.Close()
	if failed != nil || who.replica {
		return is, lost, err
	}
	m.cfg.To.Renew()
	m.writer().close() // whoever needs it makes a new one
	return m.toOne.look(ctx)
}

// look returns what To is, and what has happened to it where keys may have been lost since it
// was looked at before. An error means that nobody can say.
func (o *one) look(ctx context.Context) (is being, lost string, err error) {
	who, at, err := whoHolds(ctx, o.pool.DB(0))
	if err != nil {
		return being{}, "", fmt.Errorf("asking %s who it is: %w", o.pool, err)
	}
	return o.judge(ctx, who, at)
}

// judge is look at who has answered at a time or later.
func (o *one) judge(ctx context.Context, who standing, at time.Time) (is being, lost string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.line == nil {
		o.line = newLine(who, at)
	}
	what, err := o.line.judge(who, at, func() (time.Duration, error) { return backlogTTL(ctx, o.pool) })
	switch {
	case err != nil:
		return being{}, "", err
	case what == demoted:
		return being{}, "", fmt.Errorf("%s %w: what it has is another server's", o.pool, errDemoted)
	case what != "":
		o.line = newLine(who, at)
		o.turns++
		lost = fmt.Sprintf("%s %s", o.pool, mayLack(what))
	default:
		lost = o.evicted.more(o.pool.String(), o.line.evicts(who))
	}
	return being{id: o.line.first.run + " " + strconv.Itoa(o.turns), evicted: o.evicted}, lost, nil
}
