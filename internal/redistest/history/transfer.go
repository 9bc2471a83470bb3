package history

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"
)

// transfer moves an amount between the two accounts of row and notes its id in
// the journal, all in one MULTI: half of them as a single pipeline, the others
// with EXEC sent once the commands are queued. It returns the journal's length
// after it.
func (w *writer) transfer(ctx context.Context, s *space, row *series, it *items, value id) (uint64, outcome, error) {
	c := w.client(s.db)
	amount := value.amount(it.gen)
	pipe := c.Pipeline()
	queued := []*redis.Cmd{
		pipe.Do(ctx, "MULTI"),
		pipe.Do(ctx, "DECRBY", row.account("from"), amount),
		pipe.Do(ctx, "INCRBY", row.account("to"), amount),
		pipe.Do(ctx, "RPUSH", it.name, value.String()),
	}
	var exec *redis.Cmd
	if w.rng.IntN(2) == 0 {
		exec = pipe.Do(ctx, "EXEC")
		_, _ = pipe.Exec(ctx) // each command has its own error
	} else {
		_, _ = pipe.Exec(ctx)
		for _, cmd := range queued {
			if err := cmd.Err(); err != nil && !isReply(err) {
				return 0, refused, err // EXEC was never sent
			}
		}
		// Should the connection be a new one by now, EXEC finds no MULTI
		// and does nothing.
		exec = c.Do(ctx, "EXEC")
	}
	if w.escaped(s, it, queued) {
		return 0, unknown, errors.New("commands ran outside their MULTI")
	}
	if err := exec.Err(); err != nil {
		if isReply(err) && strings.Contains(err.Error(), "EXEC without MULTI") {
			return 0, refused, err
		}
		return 0, w.h.cfg.classify(err), err
	}
	return w.execReply(s, row, it, exec)
}

// escaped reports whether a command was carried out at once instead of being
// queued, which tears the transaction.
func (w *writer) escaped(s *space, it *items, queued []*redis.Cmd) bool {
	for _, cmd := range queued[1:] {
		if cmd.Err() != nil {
			continue
		}
		if text, ok := cmd.Val().(string); !ok || text != "QUEUED" {
			w.violate(s, RefusedButApplied, it.name, "%s of a transaction ran on its own, outside MULTI", cmd.Name())
			return true
		}
	}
	return false
}

// execReply reads what EXEC answered: two balances, whose sum is 0, and a
// length; or refusals of all three.
func (w *writer) execReply(s *space, row *series, it *items, exec *redis.Cmd) (uint64, outcome, error) {
	replies, err := exec.Slice()
	if err != nil || len(replies) != 3 {
		return 0, unknown, fmt.Errorf("EXEC answered something else than three replies: %w", errors.Join(err, errOdd))
	}
	var numbers [3]int64
	var failed []error
	for i, r := range replies {
		switch v := r.(type) {
		case int64:
			numbers[i] = v
		case error:
			failed = append(failed, v)
		default:
			failed = append(failed, errOdd)
		}
	}
	switch {
	case len(failed) == 3 && w.h.cfg.refuses(failed[0].Error()):
		return 0, refused, failed[0]
	case len(failed) > 0:
		w.violate(s, Lost, it.name, "EXEC carried out %d of 3 commands", 3-len(failed))
		return 0, unknown, errors.Join(failed...)
	}
	if sum := numbers[0] + numbers[1]; sum != 0 {
		w.violate(s, Stale, row.account("from"), "EXEC answered balances whose sum is %d instead of 0", sum)
	}
	return uint64(max(numbers[2], 0)), acked, nil
}

var errOdd = errors.New("unexpected reply")
