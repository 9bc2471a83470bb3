package value

import "sync/atomic"

// pace chooses how many things to ask for at once so that the answer stays
// near a bound in bytes, without asking for lengths first (that would be one
// more round trip for every batch). It begins small, doubles while answers are
// small and falls at once when one was too big. Safe for concurrent use; the
// zero value begins at most/8.
type pace struct{ n atomic.Int64 }

func (p *pace) next(most int) int {
	if n := int(p.n.Load()); n > 0 {
		return min(n, most)
	}
	return max(1, most/8)
}

// saw learns from an answer of bytes for n things.
func (p *pace) saw(n int, bytes, bound int64, most int) {
	switch {
	case n == 0:
	case bytes > bound:
		p.n.Store(max(1, int64(n)*bound/bytes/2))
	case bytes < bound/4 && n >= p.next(most):
		p.n.Store(int64(min(2*n, most)))
	}
}
