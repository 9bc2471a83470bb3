package migration

import "sync/atomic"

// losses counts how often a fence was found gone. found and over are the guard's; it may
// take several looks until a fence is raised again, which are one loss.
type losses struct {
	count atomic.Int64
	gone  bool
}

func (l *losses) found() {
	if !l.gone {
		l.count.Add(1)
	}
	l.gone = true
}

func (l *losses) over() { l.gone = false }
