package conn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/crossfade/crossfade/internal/cluster"
	"github.com/crossfade/crossfade/internal/slot"
)

// A SCAN of a cluster goes through its masters one after the other. What SCAN promises, that
// every key is shown that is there from its beginning to its end, holds for each node alone:
// a key that moves from one that is still to be scanned to one that has been is not shown. So
// each node is asked around each page which slots it has all the keys of:
// a slot of which that was so in all pages has been shown. The others are looked through
// again, slot by slot, until each was while it was at rest. One that stays between two nodes
// is looked through first where it is moved from and then where to. A key may be shown more
// than once.
//
// Where a scan is cannot be told in a number: the cursors that callers get stand for that. One
// may be used again for as long as not very many others were made after it.

// cursorsKept is how many cursors of a cluster are remembered.
const cursorsKept = 4096

// bigSlot is from how many keys on those of a slot are not asked for at a time: then the
// node is scanned as a whole instead.
const bigSlot = 4096

// slotsAtOnce is how many slots at most are asked for their keys at a time.
const slotsAtOnce = 64

// mostRounds is how often in a row slots are looked through without one less to be looked
// through again, before the scan is given up. Each takes as long as the map is not asked for
// again, and so all together some 20 s.
const mostRounds = 50

// place in a scan. It is not changed once a cursor stands for it, nor is what it points to.
type scanAt struct {
	parts  []scanPart
	cursor uint64 // in the first part, where that is a whole node
	run    string // the run id of that node: a cursor is good for one process
	// steady are the slots that were at rest there in all pages; nil at its beginning.
	steady *cluster.Slots

	due    map[uint16]bool // the slots that the parts are for; nil: all
	shown  *cluster.Slots  // those of which all keys were shown while they were at rest; nil: none
	rounds int             // in a row that have left no fewer due
	// open are the slots that were being moved when the parts were chosen; seen are those of
	// them whose nodes are among the parts in the right order.
	open, seen map[uint16]cluster.Opening
}

// scanPart is a node, or some slots of it.
type scanPart struct {
	node  string
	slots []uint16 // nil: all that it has
}

// scan answers one SCAN.
func (h *routed) scan(ctx context.Context, cmd redis.Cmder) error {
	c, is := cmd.(*redis.ScanCmd)
	if !is {
		return Refusal(fmt.Sprintf("ERR nobody reads the answer to SCAN of a cluster from a %T", cmd))
	}
	args := c.Args()
	number, is := args[1].(uint64)
	if !is {
		return Refusal(fmt.Sprintf("ERR the cursor of SCAN is a %T", args[1]))
	}
	var at *scanAt
	if number == 0 {
		var err error
		if at, err = h.beginScan(ctx); err != nil {
			return err
		}
	} else if at = h.p.scanned(number); at == nil {
		return Refusal("ERR nobody remembers this cursor of a cluster: begin the SCAN again")
	}
	keys, next, err := h.scanOn(ctx, *at, args[2:])
	if err != nil {
		return err
	}
	if next == nil {
		c.SetVal(keys, 0)
		return nil
	}
	c.SetVal(keys, h.p.remember(next))
	return nil
}

func (h *routed) beginScan(ctx context.Context) (*scanAt, error) {
	if err := h.t.Refresh(ctx); err != nil {
		return nil, &notSent{err}
	}
	m := h.t.Map()
	if !m.Whole() {
		return nil, &notSent{fmt.Errorf("scanning the cluster %s: it has slots without a master", h.t)}
	}
	open, _, err := h.t.Open(ctx)
	if err != nil {
		return nil, &notSent{err}
	}
	at := &scanAt{open: open}
	for _, n := range m.Masters() {
		at.parts = append(at.parts, scanPart{node: n.Address})
	}
	return at, nil
}

// scanOn scans one step further. next is nil at the end.
func (h *routed) scanOn(ctx context.Context, at scanAt, words []any) (keys []string, next *scanAt, err error) {
	if at.parts[0].slots != nil {
		keys, err = h.slotKeys(ctx, &at, words)
	} else {
		keys, err = h.nodeKeys(ctx, &at, words)
	}
	if err != nil {
		return nil, nil, err
	}
	if len(at.parts) > 0 {
		return keys, &at, nil
	}
	next, err = h.rescan(ctx, at)
	return keys, next, err
}

// nodeKeys is a page of a node.
func (h *routed) nodeKeys(ctx context.Context, at *scanAt, words []any) ([]string, error) {
	node := at.parts[0].node
	pipe := h.p.Node(node).DB(0).Pipeline()
	info := pipe.Info(ctx, "server")
	state := askState(ctx, pipe)
	page := redis.NewScanCmd(ctx, nil, append([]any{"scan", at.cursor}, words...)...)
	_ = pipe.Process(ctx, page) // is queued
	state.again(ctx, pipe)
	stamp(pipe.Exec(ctx))
	keys, cursor := page.Val()
	if err := errors.Join(page.Err(), info.Err(), state.err()); err != nil {
		return nil, h.lostNode(ctx, at, page.Err(), err)
	}
	rest := state.atRest()
	switch run := runIDIn(info.Val()); {
	case at.steady == nil:
		at.run, at.steady = run, rest
	case at.run != run: // what its predecessor has called a cursor means nothing to it
		at.cursor, at.run, at.steady = 0, "", nil
		return nil, nil
	default:
		at.steady = both(at.steady, rest)
	}
	if at.cursor = cursor; cursor == 0 {
		at.shown = either(at.shown, at.steady)
		at.parts, at.run, at.steady = at.parts[1:], "", nil
	}
	return keys, nil
}

// nodeState is what a node says about its slots before and behind what is asked between: in one
// pipeline, which leaves no time for a slot to go and come back. MULTI would leave none at all,
// and is refused where memory is used up.
type nodeState struct {
	info          *redis.StringCmd
	before, after *redis.StringCmd
}

func askState(ctx context.Context, pipe redis.Pipeliner) *nodeState {
	return &nodeState{info: pipe.ClusterInfo(ctx), before: pipe.ClusterNodes(ctx)}
}

func (s *nodeState) again(ctx context.Context, pipe redis.Pipeliner) {
	s.after = pipe.ClusterNodes(ctx)
}

func (s *nodeState) err() error {
	return errors.Join(s.info.Err(), s.before.Err(), s.after.Err())
}

// atRest returns the slots that the node has all the keys of. One that is cut off from the
// others does not know that.
func (s *nodeState) atRest() *cluster.Slots {
	if !strings.Contains(s.info.Val(), "cluster_state:ok") {
		return new(cluster.Slots)
	}
	return both(cluster.AtRest(s.before.Val()), cluster.AtRest(s.after.Val()))
}

// both returns the slots that are in a and in b: a itself where that is so of all of them.
func both(a, b *cluster.Slots) *cluster.Slots {
	next := *a
	for i := range next {
		next[i] &= b[i]
	}
	if next == *a {
		return a
	}
	return &next
}

// either returns the slots that are in a, which may be nil, or in b.
func either(a, b *cluster.Slots) *cluster.Slots {
	if a == nil {
		return b
	}
	next := *a
	for i := range next {
		next[i] |= b[i]
	}
	return &next
}

// lostNode returns the error of a node that does not answer, unless it is no master any more:
// then what it had is elsewhere, and is found there in the end.
func (h *routed) lostNode(ctx context.Context, at *scanAt, answer, err error) error {
	if isReply(answer) && !displaced(answer.Error()) || ctx.Err() != nil {
		return err
	}
	err = &notSent{err} // it was only to be read
	node := at.parts[0].node
	h.t.Doubt(node)
	if h.t.Refresh(ctx) != nil {
		return err
	}
	m := h.t.Map()
	if n := m.Node(node); n != nil && len(m.Slots(n)) > 0 {
		return err
	}
	seen := maps.Clone(at.seen) // others go by the old one
	maps.DeleteFunc(seen, func(_ uint16, o cluster.Opening) bool { return o.From == node || o.To == node })
	at.parts, at.cursor, at.run, at.steady, at.seen = at.parts[1:], 0, "", nil, seen
	return nil
}

// slotKeys are the keys of some slots of a node.
func (h *routed) slotKeys(ctx context.Context, at *scanAt, words []any) ([]string, error) {
	part := at.parts[0]
	n := min(len(part.slots), slotsAtOnce)
	now := part.slots[:n]
	c := h.p.Node(part.node).DB(0)
	pipe := c.Pipeline()
	counts := make([]*redis.IntCmd, n)
	for i, s := range now {
		counts[i] = pipe.ClusterCountKeysInSlot(ctx, int(s))
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, h.lostNode(ctx, at, err, err)
	}
	for i, sum := 0, int64(0); i < n; i++ {
		if sum += counts[i].Val(); sum >= bigSlot {
			if i == 0 {
				at.parts = append([]scanPart{{node: part.node}}, at.parts[1:]...)
				return nil, nil
			}
			n = i
		}
	}
	now = now[:n]
	later := part.slots[n:]
	pipe = c.Pipeline()
	state := askState(ctx, pipe)
	lists := make([]*redis.StringSliceCmd, n)
	for i, s := range now {
		lists[i] = pipe.ClusterGetKeysInSlot(ctx, int(s), 2*bigSlot)
	}
	state.again(ctx, pipe)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, h.lostNode(ctx, at, err, err)
	}
	var keys []string
	rest, shown := state.atRest(), new(cluster.Slots)
	for i, s := range now {
		found := lists[i].Val()
		keys = append(keys, found...)
		shown.Set(s, rest.Has(s) && len(found) < 2*bigSlot)
	}
	at.shown = either(at.shown, shown)
	keys, err := h.picked(ctx, c, keys, words)
	if err != nil {
		return nil, err
	}
	parts := slices.Clone(at.parts[1:])
	if len(later) > 0 {
		parts = append([]scanPart{{part.node, later}}, parts...)
	}
	at.parts = parts
	return keys, nil
}

// picked returns those of keys that a SCAN with these words would show. Of a pattern only
// what begins it counts here, without any signs: the callers look at names themselves.
func (h *routed) picked(ctx context.Context, c *redis.Client, keys []string, words []any) ([]string, error) {
	kind := ""
	for i := 0; i+1 < len(words); i += 2 {
		value := fmt.Sprint(words[i+1])
		switch fmt.Sprint(words[i]) {
		case "match":
			if signs := strings.IndexAny(value, `*?[\`); signs >= 0 {
				value = value[:signs]
			}
			keys = slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, value) })
		case "type":
			kind = value
		}
	}
	if kind == "" || len(keys) == 0 {
		return keys, nil
	}
	pipe := c.Pipeline()
	kinds := make([]*redis.StatusCmd, len(keys))
	for i, k := range keys {
		kinds[i] = pipe.Type(ctx, k)
	}
	stamp(pipe.Exec(ctx))
	var out []string
	for i, k := range keys {
		switch err := kinds[i].Err(); {
		case err != nil && (!isReply(err) || !displaced(err.Error())):
			return nil, err
		case err != nil || kinds[i].Val() == kind: // one that has moved on is shown in any case
			out = append(out, k)
		}
	}
	return out, nil
}

// rescan returns how a scan goes on that is through with its parts: nil where all keys of the
// slots that these were for have been shown.
func (h *routed) rescan(ctx context.Context, at scanAt) (*scanAt, error) {
	due := at.unshown()
	if len(due) == 0 {
		return nil, nil
	}
	// In this order: what is opened behind the first answer, and closed before the second
	// one, is seen by where it is.
	open, _, err := h.t.Open(ctx)
	if err != nil {
		return nil, &notSent{err}
	}
	if err := h.t.Refresh(ctx); err != nil {
		return nil, &notSent{err}
	}
	m := h.t.Map()
	if !m.Whole() {
		return nil, &notSent{fmt.Errorf("scanning the cluster %s: it has slots without a master", h.t)}
	}
	for s := range due {
		if o, is := at.seen[s]; is && o == open[s] { // between two nodes all the time, and seen in both
			delete(due, s)
		}
	}
	if len(due) == 0 {
		return nil, nil
	}
	next := &scanAt{due: due, open: open, seen: make(map[uint16]cluster.Opening)}
	if at.due != nil && len(due) >= len(at.due) {
		if next.rounds = at.rounds + 1; next.rounds > mostRounds {
			return nil, Refusal(fmt.Sprintf("ERR the scan of the cluster %s does not end: %d slots, %d among them, go from one master to another again and again, or stay between two of which one is unknown, or their master is cut off", h.t, len(due), slices.Min(slices.Collect(maps.Keys(due)))))
		}
	}
	owners, takers := make(map[string][]uint16), make(map[string][]uint16)
	for s := range due {
		owner := m.Owner(s).Address
		owners[owner] = append(owners[owner], s)
		o, is := open[s]
		if !is || o.From != owner || o.To == "" {
			continue
		}
		if o.To != owner {
			takers[o.To] = append(takers[o.To], s)
		}
		next.seen[s] = o
	}
	for _, list := range []map[string][]uint16{owners, takers} { // in this order, see above
		for _, node := range slices.Sorted(maps.Keys(list)) {
			slices.Sort(list[node])
			next.parts = append(next.parts, scanPart{node, list[node]})
		}
	}
	return next, nil
}

// unshown returns the slots that the parts were for and that were never looked through at
// rest, or were found at two nodes of which not both are among the parts in the right order.
func (at *scanAt) unshown() map[uint16]bool {
	left := make(map[uint16]bool)
	for s := range uint16(slot.Count) {
		if at.due != nil && !at.due[s] {
			continue
		}
		o, opened := at.open[s]
		if opened && at.seen[s] != o || at.shown == nil || !at.shown.Has(s) {
			left[s] = true
		}
	}
	return left
}

// runIDIn finds the run id in the answer to INFO server.
func runIDIn(text string) string {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, "run_id:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// remember returns the cursor that stands for a place in a scan.
func (p *Pool) remember(at *scanAt) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastCursor++
	p.cursors[p.lastCursor] = at
	delete(p.cursors, p.lastCursor-cursorsKept)
	return p.lastCursor
}

func (p *Pool) scanned(cursor uint64) *scanAt {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cursors[cursor]
}
