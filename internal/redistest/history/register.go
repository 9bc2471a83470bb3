package history

import (
	"fmt"
	"time"
)

// mark is one write to a register.
type mark struct {
	seq        int
	del        bool
	sent, done time.Time // the write took effect between them, if at all
}

// register is a key that one writer has for itself: its record needs no lock.
// What the key may hold is the last acknowledged write or a later one of
// unknown outcome. A read that shows an unknown write makes it known.
type register struct {
	issued int // number of the latest write
	acked  mark
	later  []mark // unknown outcome, issued after acked
}

// maxLater bounds the memory of a register whose writer never gets an answer.
const maxLater = 1 << 16

func (r *register) note(m mark, o outcome) {
	switch o {
	case acked:
		r.acked, r.later = m, nil
	case unknown:
		if len(r.later) < maxLater {
			r.later = append(r.later, m)
		}
	}
}

// full reports whether the register can take no more unknown writes.
func (r *register) full() bool { return len(r.later) >= maxLater }

// judge says whether text, or the key's absence, is a legal sight of the
// register; and if so, which write it shows.
func (r *register) judge(owner id, text string, present bool) (mark, *Violation) {
	wrong := func(kind ViolationKind, format string, args ...any) (mark, *Violation) {
		return mark{}, &Violation{Kind: kind, Detail: fmt.Sprintf(format, args...)}
	}
	if !present {
		for _, m := range append([]mark{r.acked}, r.later...) {
			if m.del || m.seq == 0 {
				return m, nil
			}
		}
		return wrong(Lost, "the key is gone; write %d of writer %d was acknowledged", r.acked.seq, owner.writer)
	}
	got, ok := parseID(text)
	if !ok || got.db != owner.db || got.writer != owner.writer {
		return wrong(Stale, "holds %.40q, which is no value of database %d and writer %d", text, owner.db, owner.writer)
	}
	if got.n == r.acked.seq && !r.acked.del {
		return r.acked, nil
	}
	for _, m := range r.later {
		if m.seq == got.n && !m.del {
			return m, nil
		}
	}
	switch {
	case got.n <= r.acked.seq && r.acked.del:
		return wrong(Stale, "holds write %d although its deletion, write %d, was acknowledged", got.n, r.acked.seq)
	case got.n < r.acked.seq:
		return wrong(Stale, "holds write %d although write %d was acknowledged", got.n, r.acked.seq)
	case got.n <= r.issued:
		return wrong(RefusedButApplied, "holds write %d, which was refused", got.n)
	}
	return wrong(Stale, "holds write %d, which was never sent", got.n)
}

// saw makes a write that a read has shown the last known one.
func (r *register) saw(m mark) {
	if m.seq <= r.acked.seq {
		return
	}
	kept := r.later[:0]
	for _, l := range r.later {
		if l.seq > m.seq {
			kept = append(kept, l)
		}
	}
	r.acked, r.later = m, kept
}
