package mirror

import "fmt"

// numbers returns how much is explained of each big key's changes.
func (m *Mirror) numbers() map[*bigKey]int64 {
	var out map[*bigKey]int64
	for _, l := range m.lanes {
		if l.big.n.Load() == 0 {
			continue
		}
		l.big.mu.Lock()
		for _, k := range l.big.known {
			if out == nil {
				out = make(map[*bigKey]int64)
			}
			out[k] = k.book.Number()
		}
		l.big.mu.Unlock()
	}
	return out
}

// findLost has those big keys copied as a whole of which commands have had events that
// nobody was told of, behind a barrier after numbers: a key of which no more is told
// would not be looked at, and one of which more is told later, of others' changes, would
// seem to be explained.
func (m *Mirror) findLost(numbers map[*bigKey]int64) {
	for k, n := range numbers {
		if !k.book.Lost(n) {
			continue
		}
		m.Mark(k.of.l.db, k.key)
		m.errs.add("untold", fmt.Errorf("of key %q in database %s of %s fewer changes were told than went through the proxy", k.key, k.of.l.from, m.cfg.From))
	}
}
