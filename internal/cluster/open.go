package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/crossfade/crossfade/internal/slot"
)

// Opening is a slot that is being moved: its keys are at two nodes.
type Opening struct{ From, To string } // addresses; "" where the map does not know the node

// Open asks the masters which slots are being moved. All must answer: who cannot be asked
// may have keys that nobody else has. same is that each has the slots that it has by the map.
func (t *Topology) Open(ctx context.Context) (open map[uint16]Opening, same bool, err error) {
	m, err := t.Load(ctx)
	if err != nil {
		return nil, false, err
	}
	masters := append(m.Masters(), m.Empty()...)
	texts := make([]string, len(masters))
	together, tctx := errgroup.WithContext(ctx)
	for i, n := range masters {
		together.Go(func() error {
			c := t.client(n.Address)
			if c == nil {
				return fmt.Errorf("asking node %s which slots are being moved: %w", n.Address, errClosed)
			}
			text, err := c.ClusterNodes(tctx).Result()
			if err != nil {
				t.Doubt(n.Address)
				return fmt.Errorf("asking node %s which slots are being moved: %w", n.Address, err)
			}
			texts[i] = text
			return nil
		})
	}
	if err := together.Wait(); err != nil {
		return nil, false, err
	}
	ids := make(map[string]string)
	for _, n := range m.nodes {
		ids[n.ID] = n.Address
	}
	open, same = make(map[uint16]Opening), true
	for i, n := range masters {
		readOpenings(open, texts[i], n.Address, ids)
	}
	for i, n := range masters {
		rest := AtRest(texts[i])
		for s := range uint16(slot.Count) {
			_, opened := open[s]
			same = same && (opened || rest.Has(s) == (m.Owner(s) == n))
		}
	}
	return open, same, nil
}

// readOpenings adds what a node says of itself in CLUSTER NODES: [93->-id] of a slot that it
// gives away, and [77-<-id] of one that it takes. Of others it does not know that.
func readOpenings(open map[uint16]Opening, text, self string, ids map[string]string) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 9 || !strings.Contains(fields[2], "myself") {
			continue
		}
		for _, f := range fields[8:] {
			f, is := strings.CutPrefix(f, "[")
			if !is {
				continue
			}
			f = strings.TrimSuffix(f, "]")
			number, id, away := strings.Cut(f, "->-")
			if !away {
				number, id, is = strings.Cut(f, "-<-")
			}
			n, err := strconv.ParseUint(number, 10, 16)
			if err != nil || n >= slot.Count || !away && !is {
				continue
			}
			o := open[uint16(n)]
			if away {
				o.From = self
				if o.To == "" {
					o.To = ids[id]
				}
			} else {
				o.To = self
				if o.From == "" {
					o.From = ids[id]
				}
			}
			open[uint16(n)] = o
		}
	}
}

// Slots are some of the slots.
type Slots [slot.Count / 64]uint64

// Has reports whether a slot is among them.
func (s *Slots) Has(n uint16) bool { return s[n/64]>>(n%64)&1 != 0 }

// Set has a slot be among them, or not.
func (s *Slots) Set(n uint16, is bool) {
	if s[n/64] &^= 1 << (n % 64); is {
		s[n/64] |= 1 << (n % 64)
	}
}

// AtRest returns the slots that the node which has answered CLUSTER NODES has, and that are
// not being moved: all their keys are there at that moment.
func AtRest(text string) *Slots {
	at := new(Slots)
	number := func(s string) (uint16, bool) {
		n, err := strconv.ParseUint(s, 10, 16)
		return uint16(n), err == nil && n < slot.Count
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 9 || !strings.Contains(fields[2], "myself") {
			continue
		}
		for _, f := range fields[8:] { // in this order: ranges, and what is being moved
			if open, is := strings.CutPrefix(f, "["); is {
				open, _, _ = strings.Cut(open, "-")
				if n, is := number(open); is {
					at.Set(n, false)
				}
				continue
			}
			from, to, is := strings.Cut(f, "-")
			if !is {
				to = from
			}
			first, ok := number(from)
			last, also := number(to)
			for n := first; ok && also && n <= last; n++ {
				at.Set(n, true)
			}
		}
	}
	return at
}
