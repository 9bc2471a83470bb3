package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/crossfade/crossfade/sync/value"
)

// where copies keys whose slots have moved to another node of a cluster, or are being moved:
// what was read of them is gone, so they are read again, and written to wherever they belong.
// It returns those that are copied, those that go in chunks, those that cannot be copied by
// RESTORE or of which types matter, and those that have to be tried again.
func (w *worker) where(keys []string) (good, big, refused, bad []string) {
	l := w.l
	if l.typed.Manner.Takes != nil {
		return nil, nil, keys, nil
	}
	keys = slices.DeleteFunc(slices.Clone(keys), func(k string) bool {
		known := l.big.knows(k) // RESTORE would free what is there at once
		if known {
			big = append(big, k)
		}
		return known
	})
	to := l.m.writer()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.m.ctx), 2*l.m.cfg.Timeout)
	defer cancel()
	batch := value.Batch{MaxPayload: l.bigSize()}
	outcomes, err := batch.Copy(ctx, l.src(), to.pool.At(l.to), keys)
	for i, o := range outcomes {
		switch {
		case o.Err == nil:
			l.count.add(o)
			good = append(good, keys[i])
			continue
		case errors.Is(o.Err, value.ErrTooBig):
			big = append(big, keys[i])
			continue
		case errors.Is(o.Err, value.ErrRestoreRefused):
			refused = append(refused, keys[i])
			continue
		}
		bad = append(bad, keys[i])
		if l.m.ctx.Err() == nil && (err == nil || i == 0) {
			l.m.errs.add("copy", fmt.Errorf("copying database %s from %s to %s: %w", l.from, l.m.cfg.From, l.m.cfg.To, o.Err))
		}
	}
	if err != nil {
		l.m.replaceWriter(to)
	}
	return good, big, refused, bad
}
