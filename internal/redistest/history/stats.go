package history

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Stats is what the writers have seen so far.
type Stats struct {
	Acked      uint64        // writes that the server acknowledged
	Refused    uint64        // writes that did certainly not happen
	Unknown    uint64        // writes whose outcome nobody told the client
	Reads      uint64        // reads that were answered
	Errors     uint64        // errors that clients saw, of every sort, reads included
	Reconnects uint64        // connections that broke and were opened again
	LongestOp  time.Duration // longest time from an operation's start to its outcome
	LongestGap time.Duration // client stall: longest time from the start of an operation until it, or the first after it, succeeded
	LastError  string        // the latest error a client saw; empty if none
}

// counts is the live form of Stats.
type counts struct {
	acked, refused, unknown    atomic.Uint64
	reads, errors, reconnects  atomic.Uint64
	longestOp, longestGap, gap atomic.Int64 // nanoseconds; gap since TakeStall
	lastError                  atomic.Pointer[string]
}

// Stats returns what the writers have seen so far. It may be called at any
// time.
func (h *History) Stats() Stats {
	s := &h.stats
	out := Stats{
		Acked: s.acked.Load(), Refused: s.refused.Load(), Unknown: s.unknown.Load(),
		Reads: s.reads.Load(), Errors: s.errors.Load(), Reconnects: s.reconnects.Load(),
		LongestOp:  time.Duration(s.longestOp.Load()),
		LongestGap: time.Duration(s.longestGap.Load()),
	}
	if text := s.lastError.Load(); text != nil {
		out.LastError = *text
	}
	return out
}

// TakeStall returns the longest client stall (see Stats.LongestGap) that ended
// since the last call, and begins a new measurement. A stall that still lasts
// is reported once it has ended.
func (h *History) TakeStall() time.Duration {
	return time.Duration(h.stats.gap.Swap(0))
}

// String returns the figures on one line.
func (s Stats) String() string {
	return fmt.Sprintf("%d acknowledged, %d refused, %d unknown, %d reads, %d client errors, %d reconnects, longest stall %v",
		s.Acked, s.Refused, s.Unknown, s.Reads, s.Errors, s.Reconnects, s.LongestGap.Round(100*time.Microsecond))
}

func raise(v *atomic.Int64, to time.Duration) {
	for {
		old := v.Load()
		if int64(to) <= old || v.CompareAndSwap(old, int64(to)) {
			return
		}
	}
}

func (c *counts) failed(err error) {
	c.errors.Add(1)
	text := err.Error()
	c.lastError.Store(&text)
}

func (c *counts) outcome(o outcome) {
	switch o {
	case acked:
		c.acked.Add(1)
	case refused:
		c.refused.Add(1)
	default:
		c.unknown.Add(1)
	}
}
